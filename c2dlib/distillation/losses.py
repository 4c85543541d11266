"""The paper's losses: a pure function per equation. Weights are applied by whoever calls them."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


def kd_cls(
    class_logits: Tensor, background_logits: Tensor | None, teacher_logits: Tensor, temperature: float = 2.0
) -> Tensor:
    """KD_cls: the teacher tells the positives *what* they are (section 3.1, eq. 3-6).

    With ``background_logits`` the softmax form: KL between the teacher's softmax over C classes, with
    probability 0 appended for background, and the student's softmax over C + 1. Without, the sigmoid form:
    per class the KL between two-outcome distributions, averaged over the C classes. Both times T².

    Args:
        class_logits: [P, C] the student's foreground logits.
        background_logits: [P], or None if each class has its own sigmoid.
        teacher_logits: [P, C]; no gradient is sent to them.
        temperature: T > 0.

    Returns:
        Scalar, the mean over the P positives; a finite zero that supports ``backward()`` if P = 0.
    """
    if class_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"kd_cls: student logits {tuple(class_logits.shape)} and teacher logits "
            f"{tuple(teacher_logits.shape)} must have the same shape [P, C]"
        )
    if temperature <= 0:
        raise ValueError(f"kd_cls: temperature must be positive, got {temperature}")
    if len(class_logits) == 0:
        return class_logits.sum() * 0.0
    student, teacher = class_logits.float() / temperature, teacher_logits.detach().float() / temperature
    if background_logits is None:
        gain = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))  # [P, C] outcome "is c"
        loss = gain + (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
        return loss.sum() / class_logits.numel() * temperature**2
    with_background = torch.cat([student, background_logits.float()[:, None] / temperature], dim=1)
    log_p = with_background.log_softmax(dim=1)[:, :-1]  # background has teacher probability 0
    log_q = teacher.log_softmax(dim=1)
    return (log_q.exp() * (log_q - log_p)).sum() / len(class_logits) * temperature**2


def pooled_l1(pred: Tensor, target: Tensor, pool: int) -> Tensor:
    """Mean absolute difference after adaptive average pooling to ``pool`` x ``pool``.

    On image crops this is loc (eq. 11), on the teacher's early feature maps one layer of KD_loc (eq. 10).

    Args:
        pred: [P, C, H, W], carries the gradient.
        target: [P, C, H', W'], a constant; H', W' equal H, W or are already ``pool``.

    Returns:
        Scalar, the mean over P, C and the pooled cells; a finite zero if P = 0.
    """
    if len(pred) == 0:
        return pred.sum() * 0.0
    return (average_pool(pred, pool) - average_pool(target.detach(), pool)).abs().mean()


def average_pool(maps: Tensor, cells: int) -> Tensor:
    """``F.adaptive_avg_pool2d``: [P, C, H, W] -> [P, C, cells, cells].

    On a CPU it is two matrix products, over the rows and over the columns. They are equal to it up to
    rounding, and their backward pass takes less time.
    """
    if maps.device.type != "cpu":
        return F.adaptive_avg_pool2d(maps, cells)
    count, channels, height, width = maps.shape
    if (height, width) == (cells, cells):
        return maps
    with torch.autocast("cpu", enabled=False):
        pixels = maps.permute(0, 2, 3, 1).reshape(count, height, width * channels)
        pooled = (_shares(height, cells).to(maps) @ pixels).unflatten(2, (width, channels))
        return (_shares(width, cells).to(maps) @ pooled).permute(0, 3, 1, 2)


@cache
def _shares(side: int, cells: int) -> Tensor:
    """[cells, side] the share of each pixel of a side in each cell."""
    with torch.inference_mode(False):  # a later step may need it with gradients
        return F.adaptive_avg_pool1d(torch.eye(side), cells).T.contiguous()


def paired_iou(boxes: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union row by row: two [P, 4] xyxy -> [P] in 0..1; 0 for a box without area."""
    corner, far = torch.maximum(boxes[:, :2], truth[:, :2]), torch.minimum(boxes[:, 2:], truth[:, 2:])
    shared = (far - corner).clamp(min=0).prod(1)
    areas = [(b[:, 2:] - b[:, :2]).clamp(min=0).prod(1) for b in (boxes, truth)]
    return shared / (areas[0] + areas[1] - shared).clamp(min=1e-6)


def matched_l1(like: Tensor, boxes: Tensor, truth: Tensor) -> Tensor:
    """A control: the plain mean |boxes - truth|, scaled so that its gradient is as long as that of ``like``.

    It sees no image; all it has of ``like`` is one number per step, how strongly that pulled at the boxes.

    Args:
        like: scalar that depends on ``boxes``.
        boxes: [P, 4] pixels, carries the gradient. truth: [P, 4] the boxes they were matched to.

    Returns:
        Scalar; zero where ``like`` has no gradient or every box is right.
    """
    (wanted,) = torch.autograd.grad(like, boxes, retain_graph=True)
    plain = (boxes - truth).abs().mean()
    (own,) = torch.autograd.grad(plain, boxes, retain_graph=True)
    return plain * (wanted.norm() / own.norm().clamp(min=1e-12)).detach()


def gradients_of(losses: list[Tensor], boxes: Tensor) -> Tensor:
    """The gradient of each of K losses with respect to boxes [P, 4]: [K, P, 4]. Their graph is freed."""
    last = len(losses) - 1
    return torch.stack(
        [torch.autograd.grad(loss, boxes, retain_graph=k < last)[0] for k, loss in enumerate(losses)]
    )


def with_gradient(values: Tensor, gradients: Tensor, boxes: Tensor) -> Tensor:
    """``values`` with given gradients with respect to ``boxes``.

    The graph of a loss over many boxes can so be freed part by part, as soon as its gradient is known.
    Several thousand crops then pass a teacher's first layers in the memory of one part.

    Args:
        values: [K] losses. gradients: [K, P, 4]. boxes: [P, 4].

    Returns:
        [K], differentiable in ``boxes`` (once).
    """
    step = boxes - boxes.detach()  # zero, with gradient one
    return values + (gradients.detach() * step).sum(dim=(1, 2))
