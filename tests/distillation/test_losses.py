"""Every loss against the official code's vectors, hand values, zeros and gradients."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from c2dlib.distillation.losses import average_pool, gradients_of, kd_cls, pooled_l1, with_gradient
from c2dlib.teacher.crops import crop_regions


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module", params=["part", "whole"])
def vectors(request):
    """Inputs and outputs of the official loss code (github.com/NVlabs/DICOD) on random data: arrays of
    numbers, no code.

    The part beside this file is shortened: images are zero where no box lies and whole multiples of
    ``image_step`` grey levels elsewhere, large arrays have half precision. The whole, with every number as
    the official code saw it, is in ../shared.
    """
    if request.param == "part":
        path = Path(__file__).with_name("official_loss_vectors.npz")
    else:
        path = request.getfixturevalue("shared") / "reference/official_loss_vectors.npz"
    vectors = {key: torch.from_numpy(array) for key, array in np.load(path).items()}
    for key, value in vectors.items():
        if value.dtype == torch.float16:
            vectors[key] = value.float()
        elif value.dtype == torch.int16:
            vectors[key] = value * vectors[key.replace("/images", "/image_step")]
    return vectors


def agrees(loss, gradient, vectors, case):
    """Value to 1e-4 relative, direction of the gradient to a cosine of 0.999, and its length to 1 %."""
    torch.testing.assert_close(loss.detach(), vectors[f"{case}/loss"], rtol=1e-4, atol=0)
    official = vectors[f"{case}/grad"]
    assert F.cosine_similarity(gradient.flatten(), official.flatten(), 0) > 0.999
    torch.testing.assert_close(gradient.norm(), official.norm(), rtol=1e-2, atol=0)


@pytest.mark.parametrize("case", ["cls_softmax_T2", "cls_softmax_T1", "cls_sigmoid_T2"])
def test_kd_cls_agrees_with_the_official_code(vectors, case):
    student = vectors[f"{case}/student_logits"].clone().requires_grad_()
    teacher, sigmoid = vectors[f"{case}/teacher_logits"], vectors[f"{case}/sigmoid"].item()
    classes = teacher.shape[1]  # the official code puts background last
    background = None if sigmoid else student[:, classes]
    loss = vectors[f"{case}/weight"].item() * kd_cls(
        student[:, :classes], background, teacher, vectors[f"{case}/T"].item()
    )
    loss.backward()
    agrees(loss, student.grad, vectors, case)


@pytest.mark.parametrize("case, reduce", [("loc_obj_l0", torch.sum), ("loc_l0_l1", torch.mean)])
def test_localisation_agrees_with_the_official_code(vectors, case, reduce):
    """obj and l0 are two losses, added; l0 and l1 are layers of one loss, averaged."""
    v = {k.split("/")[1]: x for k, x in vectors.items() if k.startswith(case)}

    def views(boxes):
        index = torch.repeat_interleave(torch.arange(len(v["counts"])), v["counts"])
        crops = crop_regions(v["images"], boxes, index, v["out_size"].item())
        stem = F.conv2d(crops, v["conv_w"], stride=2, padding=3)
        stem = F.batch_norm(stem, v["bn_m"], v["bn_v"], v["bn_w"], v["bn_b"])
        l0 = F.max_pool2d(stem.relu(), 3, 2, 1)
        maps = {
            -1: lambda: crops,
            0: lambda: l0,
            1: lambda: F.conv2d(l0, v["l1_w"], v["l1_b"], padding=1).relu(),
        }
        return [maps[layer]() for layer in v["layers"].tolist()]

    pred = v["pred"].clone().requires_grad_()
    triples = zip(views(pred), views(v["target"]), v["pool"].tolist(), strict=True)
    loss = reduce(torch.stack([pooled_l1(a, b, pool) for a, b, pool in triples]))
    loss.backward()
    agrees(loss, pred.grad, vectors, case)


def softmax(values):
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


def test_kd_cls_softmax_by_hand():
    """Two positives, two classes and background, T = 2; background has teacher probability 0."""
    rows = [([1.0, -0.5], 0.3, [2.0, 0.0]), ([0.0, 4.0], -1.0, [-1.0, 1.0])]
    expected = 0.0
    for logits, background, teacher in rows:
        p, q = softmax([z / 2 for z in [*logits, background]]), softmax([z / 2 for z in teacher])
        expected += 4 * (q[0] * math.log(q[0] / p[0]) + q[1] * math.log(q[1] / p[1])) / 2
    logits, background, teacher = (torch.tensor(x) for x in zip(*rows, strict=True))
    assert kd_cls(logits, background, teacher, 2.0).item() == pytest.approx(expected, rel=1e-5)


def test_kd_cls_sigmoid_by_hand():
    """Two positives, two classes, T = 2; a two-outcome KL per class, averaged over classes."""
    rows = [([1.0, -0.5], [2.0, 0.0]), ([0.0, 4.0], [-1.0, 1.0])]
    expected = 0.0
    for logits, teacher in rows:
        for z, t in zip(logits, teacher, strict=True):
            p, q = 1 / (1 + math.exp(-z / 2)), 1 / (1 + math.exp(-t / 2))
            expected += 4 * (q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))) / (2 * 2)
    logits, teacher = (torch.tensor(x) for x in zip(*rows, strict=True))
    assert kd_cls(logits, None, teacher, 2.0).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("background", [torch.full((6,), -1e9), None])
def test_kd_cls_of_equal_distributions_is_zero(background):
    logits = (3 * torch.randn(6, 5)).requires_grad_()
    loss = kd_cls(logits, background, logits.detach().clone())
    loss.backward()
    assert abs(loss.item()) < 1e-6 and logits.grad.abs().max() < 1e-6


@pytest.mark.parametrize("background", [torch.zeros(3), None])
def test_kd_cls_sends_no_gradient_to_the_teacher_and_survives_extreme_logits(background):
    student = torch.tensor([[1e4, -1e4], [0.0, 0.0], [-1e4, 1e4]], requires_grad=True)
    teacher = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [1e4, -1e4]], requires_grad=True)
    kd_cls(student, background, teacher).backward()
    assert teacher.grad is None and student.grad.isfinite().all() and student.grad.abs().max() > 0


@pytest.mark.parametrize("background", [torch.zeros(0), None])
def test_no_positives_give_a_finite_zero(background):
    logits, crops = torch.zeros(0, 5, requires_grad=True), torch.zeros(0, 3, 8, 8, requires_grad=True)
    loss = kd_cls(logits, background, torch.zeros(0, 5)) + pooled_l1(crops, torch.zeros(0, 3, 8, 8), 4)
    loss.backward()
    assert loss.item() == 0 and logits.grad.shape == (0, 5) and crops.grad.shape == (0, 3, 8, 8)


def test_kd_cls_errors():
    for temperature in (0.0, -1.0):
        with pytest.raises(ValueError, match="temperature"):
            kd_cls(torch.zeros(2, 3), None, torch.zeros(2, 3), temperature)
    with pytest.raises(ValueError, match=r"\(2, 4\).*\(2, 3\)"):
        kd_cls(torch.zeros(2, 4), None, torch.zeros(2, 3))


def test_pooled_l1_by_hand():
    pred = torch.arange(16.0).reshape(1, 1, 4, 4).requires_grad_()  # cells have means 2.5, 4.5, 10.5, 12.5
    target = torch.tensor([[2.5, 5.5], [8.5, 12.5]]).reshape(1, 1, 2, 2).requires_grad_()
    loss = pooled_l1(pred, target, 2)
    assert loss.item() == (0 + 1 + 2 + 0) / 4
    loss.backward()
    assert target.grad is None
    assert pred.grad[0, 0, 0, 2] == -1 / 16 and pred.grad[0, 0, 3, 0] == 1 / 16  # 1/4 cell x 1/4 pixel
    assert pooled_l1(pred, pred.detach().clone(), 2).item() == 0


@pytest.mark.parametrize(("shape", "cells"), [((3, 5, 28, 28), 8), ((2, 3, 9, 14), 4), ((2, 4, 3, 3), 8)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_average_pool_equals_torchs(shape, cells, layout):
    """Also where cells overlap, or are smaller than a pixel, and not rounded under autocast."""
    maps = torch.randn(shape).to(memory_format=layout).requires_grad_()
    expected = F.adaptive_avg_pool2d(maps, cells)
    weight = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad((expected * weight).sum(), maps)
    with torch.autocast("cpu", torch.bfloat16):
        pooled = average_pool(maps, cells)
    torch.testing.assert_close(pooled, expected)
    torch.testing.assert_close(torch.autograd.grad((pooled * weight).sum(), maps)[0], gradient)


def test_average_pool_after_a_first_use_in_inference_mode():
    with torch.inference_mode():
        average_pool(torch.zeros(1, 1, 7, 7), 3)
    maps = torch.zeros(1, 1, 7, 7, requires_grad=True)
    average_pool(maps, 3).sum().backward()
    assert maps.grad.sum().item() == pytest.approx(9)


@pytest.mark.parametrize("chunk", [1, 3, 7, 50])
def test_gradients_of_parts_equal_direct_autograd(chunk):
    weight = torch.randn(7, 4)

    def sums(boxes, part):
        return [(weight[part] * boxes.sin()).sum(), boxes.square().sum()]

    boxes = torch.randn(7, 4)
    direct = boxes.clone().requires_grad_()
    expected = torch.stack(sums(direct, slice(0, 7)))
    (expected * torch.tensor([2.0, -3.0])).sum().backward()
    values, gradients = torch.zeros(2), []
    for part in torch.arange(7).split(chunk):
        part_boxes = boxes[part].requires_grad_()
        losses = sums(part_boxes, part)
        values = values + torch.stack(losses).detach()
        gradients.append(gradients_of(losses, part_boxes))
    leaf = boxes.clone().requires_grad_()
    result = with_gradient(values, torch.cat(gradients, dim=1), leaf * 1.0)
    torch.testing.assert_close(result.detach(), expected.detach())
    (result * torch.tensor([2.0, -3.0])).sum().backward()
    torch.testing.assert_close(leaf.grad, direct.grad)
