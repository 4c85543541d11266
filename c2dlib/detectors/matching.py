"""What the one-stage detectors share: matching anchors to objects, and gathering the positives."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from c2dlib.detectors.train_output import MatchedPositives


def fp32_anchors(generator: nn.Module, batch: ImageList, features: dict[str, Tensor]) -> list[Tensor]:
    """torchvision's anchors per image [A, 4] xyxy; in fp32 also where autocast computes the maps in bf16.

    torchvision gives anchors the dtype of the maps, and between 512 and 1023 pixels bf16 has steps of four.
    """
    shapes = [m.new_empty((), dtype=torch.float32).expand(m.shape) for m in features.values()]  # no memory
    return generator(batch, shapes)


def fp32_outputs(head: nn.Module, features: dict[str, Tensor]) -> dict[str, Tensor]:
    """A one-stage head's logits and deltas in fp32, so that losses and boxes are computed in it."""
    return {name: output.float() for name, output in head(list(features.values())).items()}


def match_anchors(matcher, anchors: list[Tensor], targets: list[dict]) -> list[Tensor]:
    """Per image [A]: the row of the target each anchor is matched to; negative if none."""
    matches = []
    for anchor, target in zip(anchors, targets, strict=True):
        if len(target["boxes"]) == 0:
            matches.append(torch.full((len(anchor),), -1, dtype=torch.int64, device=anchor.device))
        else:
            matches.append(matcher(box_iou(target["boxes"], anchor)))
    return matches


def gather_positives(
    matches: list[Tensor],
    targets: list[dict],
    anchors: list[Tensor],
    cls_logits: Tensor,
    box_deltas: Tensor,
    decode: Callable[[Tensor, Tensor], Tensor],
    softmax: bool,
) -> MatchedPositives:
    """The anchors matched to an object, of all images.

    Args:
        matches: per image [A].
        anchors: per image [A, 4].
        cls_logits: [B, A, C + 1]; column 0 is background (softmax) or unused (sigmoid).
        box_deltas: [B, A, 4].
        decode: box_deltas and anchors [P, 4] -> boxes.
    """
    rows, picked, gt_rows, labels = [], [], [], []
    for row, (match, target) in enumerate(zip(matches, targets, strict=True)):
        positive = (match >= 0).nonzero()[:, 0]
        gt = match[positive]
        rows.append(torch.full_like(gt, row))
        picked.append(positive)
        gt_rows.append(gt)
        labels.append(target["labels"][gt] - 1)
    image_index, anchor_index = torch.cat(rows), torch.cat(picked)
    matched_anchors = torch.cat([a[p] for a, p in zip(anchors, picked, strict=True)])
    logits = cls_logits[image_index, anchor_index]  # [P, C + 1]
    return MatchedPositives(
        image_index=image_index,
        gt_index=torch.cat(gt_rows),
        labels=torch.cat(labels),
        class_logits=logits[:, 1:],
        background_logits=logits[:, 0] if softmax else None,
        pred_boxes=decode(box_deltas[image_index, anchor_index], matched_anchors),
    )


def mean_and_std(transform, images: Tensor) -> tuple[Tensor, Tensor]:
    """A torchvision detection transform's normalisation as two tensors [3]."""
    return images.new_tensor(transform.image_mean), images.new_tensor(transform.image_std)


def feature_maps(backbone: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """A backbone's maps by name, as torchvision names them: one map alone is "0"."""
    maps = backbone(images)
    return {"0": maps} if isinstance(maps, Tensor) else maps


def on_demand(build: Callable) -> Callable:
    """A function that returns ``build``'s result, which is made at the first call.

    The result is part of the step's graph even if that call is made under ``no_grad``.
    """
    return cache(torch.enable_grad()(build))


def true_class(deltas: Tensor, labels: Tensor) -> Tensor:
    """Four numbers per class [R, 4 K] -> those of each row's own class [R, 4]."""
    return deltas.unflatten(1, (-1, 4))[torch.arange(len(labels), device=labels.device), labels]
