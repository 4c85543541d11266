"""RoIAlign on a CPU against torchvision's own."""

import pytest
import torch
from torchvision import ops

from c2dlib.config.experiment import experiment
from c2dlib.detectors.build import build_student
from c2dlib.detectors.roi_align import pool_regions, roi_align


def boxes_in_and_out(count: int, side: float) -> torch.Tensor:
    """Boxes of all sizes, some beyond the image's edges, some without area."""
    torch.manual_seed(1)
    centre, half = torch.rand(count, 2) * side, torch.rand(count, 2) * side / 2
    boxes = torch.cat([centre - half, centre + half], 1)
    boxes[0] = torch.tensor([-side, -side, -side / 2, -side / 2])  # outside
    boxes[1, 2:] = boxes[1, :2]
    boxes[2] = torch.tensor([0.0, 0.0, side, side])
    return boxes


@pytest.mark.parametrize("samples", [1, 2])
def test_equals_torchvision_in_value_and_gradient(samples):
    level = torch.randn(2, 5, 9, 12, requires_grad=True)
    regions = torch.cat([torch.arange(40).remainder(2)[:, None].float(), boxes_in_and_out(40, 90.0)], 1)
    direction = torch.randn(40, 5, 3, 3)
    results = []
    for operator in (ops.roi_align, None):
        level.grad = None
        if operator:
            pooled = operator(level, regions, (3, 3), 1 / 8, samples)
        else:
            pooled = roi_align(level, regions, 1 / 8, 3, samples)
        (pooled * direction).sum().backward()
        results.append((pooled.detach(), level.grad.clone()))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-4, atol=1e-5)


def test_one_cell_by_hand():
    """A region of 2 x 2 pixels in one cell with one sample: the sample lies between four pixels."""
    level = torch.arange(16.0).reshape(1, 1, 4, 4)
    region = torch.tensor([[0.0, 0.5, 0.5, 2.5, 2.5]])  # its middle is at (1.5, 1.5)
    assert roi_align(level, region, 1.0, 1, 1).item() == pytest.approx((5 + 6 + 9 + 10) / 4)


def test_every_box_is_pooled_from_the_level_torchvision_takes():
    sides = {"0": 28, "1": 14, "2": 7, "pool": 4}
    maps = {name: torch.randn(2, 4, side, side) for name, side in sides.items()}
    boxes = [boxes_in_and_out(count, 224.0).clamp(0, 224) for count in (20, 3)]
    pool, sizes = ops.MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2), [(224, 224)] * 2
    expected = pool(maps, boxes, sizes)
    torch.testing.assert_close(pool_regions(pool, maps, boxes, sizes), expected, rtol=1e-4, atol=1e-5)


def test_no_boxes():
    pool = ops.MultiScaleRoIAlign(["0"], 7, 2)
    pooled = pool_regions(pool, {"0": torch.randn(1, 4, 8, 8)}, [torch.zeros(0, 4)], [(64, 64)])
    assert pooled.shape == (0, 4, 7, 7)


def test_a_step_of_faster_rcnn_has_torchvisions_losses():
    e = experiment("smoke", "FasterRCNN-QR50", backbone_weights="none")
    images = [torch.rand(3, 64, 64), torch.rand(3, 64, 64)]
    boxes = torch.tensor([[4.0, 4.0, 40.0, 40.0], [20.0, 10.0, 60.0, 50.0]])
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 2])} for _ in images]
    losses = {}
    for how in ("operator", "weighted_sum"):
        torch.manual_seed(0)
        step = build_student(e.replace(roi_align=how), 3, "none")
        step.model.train()
        torch.manual_seed(1)
        losses[how] = step(images, targets).task_losses
    torch.testing.assert_close(losses["weighted_sum"], losses["operator"], rtol=1e-4, atol=1e-5)
