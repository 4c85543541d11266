"""crop_regions: eq. 8-9 against hand values and torch's own affine grid; crop_batch on top of it."""

import pytest
import torch
import torch.nn.functional as F

from c2dlib.teacher import crops as module
from c2dlib.teacher.crops import crop_batch, crop_regions


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def ramp(height, width):
    """[1, 3, H, W]: x, y and 100 x + y of the pixel centres; bilinear sampling gives these back exactly."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y, 100 * x + y])[None]


def batch(images=3, boxes=7, dtype=torch.float32):
    """Images 20 high and 30 wide, boxes inside them in mixed order; image 1 has none."""
    start = torch.rand(boxes, 2, dtype=dtype) * torch.tensor([15, 8], dtype=dtype) + 1
    extent = torch.rand(boxes, 2, dtype=dtype) * torch.tensor([10, 8], dtype=dtype) + 2
    return (
        torch.rand(images, 3, 20, 30, dtype=dtype),
        torch.cat([start, start + extent], 1),
        torch.tensor([2, 0, 2, 0, 0, 2, 0])[:boxes],
    )


def affine_crops(images, boxes, image_index, size):
    """The same by the book: eq. 8's matrix and a copy of the image per box."""
    height, width = images.shape[-2:]
    x1, y1, x2, y2 = boxes.unbind(1)
    zero = torch.zeros_like(x1)
    rows = [
        torch.stack([(x2 - x1) / width, zero, -1 + (x1 + x2) / width], 1),
        torch.stack([zero, (y2 - y1) / height, -1 + (y1 + y2) / height], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), [len(boxes), 3, size, size], align_corners=False)
    return F.grid_sample(images[image_index], grid, align_corners=False)


def test_a_ramp_gives_the_ramp():
    crop = crop_regions(ramp(10, 12), torch.tensor([[2.0, 1.0, 10.0, 5.0]]), torch.tensor([0]), 4)[0]
    xs, ys = torch.tensor([3.0, 5, 7, 9]), torch.tensor([1.5, 2.5, 3.5, 4.5])  # centres of 4 cells
    torch.testing.assert_close(crop[0], xs[None].expand(4, 4))
    torch.testing.assert_close(crop[1], ys[:, None].expand(4, 4))
    torch.testing.assert_close(crop[2], 100 * xs[None] + ys[:, None])


def test_boxes_are_clamped_to_the_image_and_clamped_sides_get_no_gradient():
    boxes = torch.tensor([[-100.0, -7.0, 8.0, 200.0]], requires_grad=True)
    crop = crop_regions(ramp(16, 20), boxes, torch.tensor([0]), 4)[0]
    torch.testing.assert_close(crop[0, 0], torch.tensor([1.0, 3, 5, 7]))  # 0..8 in four cells
    torch.testing.assert_close(crop[1, :, 0], torch.tensor([2.0, 6, 10, 14]))  # 0..16
    crop[0].sum().backward()  # x2 moves the centres by 1/8, 3/8, 5/8, 7/8 of itself, in each of four rows
    torch.testing.assert_close(boxes.grad, torch.tensor([[0.0, 0, 8, 0]]))


def test_boxes_outside_the_image_are_finite():
    boxes = torch.tensor([[-9.0, -9, -3, -3], [40, 40, 50, 50], [5, 5, 5, 5], [8, 8, 4, 4]]).requires_grad_()
    crops = crop_regions(ramp(16, 16), boxes, torch.zeros(4, dtype=torch.int64), 3)
    crops.sum().backward()
    assert crops.isfinite().all() and boxes.grad.isfinite().all()


def test_equals_affine_grid_and_grid_sample_in_value_and_gradient():
    images, boxes, image_index = batch(dtype=torch.float64)
    boxes[0] = torch.tensor([0.0, 0, 30, 20])  # the whole image, edges included
    ours, reference = boxes.clone().requires_grad_(), boxes.clone().requires_grad_()
    weight = torch.randn(7, 3, 9, 9, dtype=torch.float64)
    a, b = crop_regions(images, ours, image_index, 9), affine_crops(images, reference, image_index, 9)
    torch.testing.assert_close(a, b)
    (a[1:] * weight[1:]).sum().backward()
    (b[1:] * weight[1:]).sum().backward()
    torch.testing.assert_close(ours.grad, reference.grad)


def test_gradient_in_the_boxes():
    images, boxes, image_index = batch(boxes=4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda b: crop_regions(images, b, image_index, 3), boxes.requires_grad_())


def test_order_and_one_at_a_time():
    images, boxes, image_index = batch()
    together = crop_regions(images, boxes, image_index, 5)
    for p in range(len(boxes)):
        alone = crop_regions(images[image_index[p]][None], boxes[p][None], torch.tensor([0]), 5)
        torch.testing.assert_close(together[p], alone[0])
    constant = torch.tensor([10.0, 20, 30])[:, None, None, None].expand(3, 3, 20, 30)
    torch.testing.assert_close(
        crop_regions(constant, boxes, image_index, 2).mean((1, 2, 3)),
        torch.tensor([30.0, 10, 30, 10, 10, 30, 10]),
    )


def test_flipping_image_and_boxes_mirrors_the_crops():
    images, boxes, image_index = batch()
    mirrored = torch.stack([30 - boxes[:, 2], boxes[:, 1], 30 - boxes[:, 0], boxes[:, 3]], 1)
    torch.testing.assert_close(
        crop_regions(images.flip(-1), mirrored, image_index, 6),
        crop_regions(images, boxes, image_index, 6).flip(-1),
    )


def test_no_image_is_copied_per_box(monkeypatch):
    images, boxes, image_index = batch()
    seen = []

    def grid_sample(input, grid, **options):
        seen.append((len(input), (input.data_ptr() - images.data_ptr()) / (images.stride(0) * 4)))
        return F.grid_sample(input, grid, **options)

    monkeypatch.setattr(module, "F", type("F", (), {"grid_sample": staticmethod(grid_sample)}))
    crop_regions(images, boxes, image_index, 4)
    assert sorted(seen) == [(1, 0.0), (1, 2.0)]  # a call per image with boxes, on the batch's memory


def test_no_boxes():
    crops = crop_regions(torch.rand(2, 3, 8, 8), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 5)
    assert crops.shape == (0, 3, 5, 5)


@pytest.mark.parametrize(
    "boxes, image_index, size, message",
    [
        (torch.zeros(2, 5), torch.zeros(2), 4, "boxes"),
        (torch.zeros(2, 4), torch.zeros(3), 4, "image_index"),
        (torch.ones(2, 4), torch.tensor([0, 2]), 4, "0..2"),
        (torch.ones(2, 4), torch.tensor([-1, 0]), 4, "-1..0"),
        (torch.ones(1, 4), torch.tensor([0]), 0, "size"),
    ],
)
def test_errors(boxes, image_index, size, message):
    with pytest.raises(ValueError, match=message):
        crop_regions(torch.rand(2, 3, 8, 8), boxes, image_index.long(), size)


def test_crop_batch_reads_every_box_in_0_to_255():
    images = [ramp(16, 16)[0] / 255, ramp(8, 8)[0], ramp(10, 20)[0] / 255]
    boxes = [[[2.0, 2, 6, 6], [4.0, 4, 12, 8]], [], [[10.0, 1, 18, 9]]]
    targets = [
        {"boxes": torch.tensor(b).reshape(-1, 4), "labels": torch.tensor(x, dtype=torch.int64)}
        for b, x in zip(boxes, [[3, 1], [], [2]], strict=True)
    ]
    crops, labels = crop_batch(images, targets, 2)
    assert labels.tolist() == [2, 0, 1]
    torch.testing.assert_close(crops[:, 0, 0], torch.tensor([[3.0, 5], [6, 10], [12, 16]]))
    torch.testing.assert_close(crops[:, 1, :, 0], torch.tensor([[3.0, 5], [5, 7], [3, 7]]))
    moved, _ = crop_batch(images, targets, 2, jitter=0.1)  # each side by at most a tenth of the extent
    assert 0.2 < (moved - crops)[:, 0].abs().max() <= 0.8 + 1e-4
    empty, none = crop_batch(images[1:2], targets[1:2], 4)
    assert empty.shape == (0, 3, 4, 4) and none.shape == (0,)
