"""The words the rest is written in: what a detector's training step yields, and what a teacher says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class MatchedPositives:
    """The P predictions the detector's own matcher gave to an object. P may be 0.

    Boxes are xyxy pixels of ``TrainOutput.images``, after the detector's resizing.
    """

    image_index: Tensor  # [P] row of TrainOutput.images
    gt_index: Tensor  # [P] row of that image's targets
    labels: Tensor  # [P] 0..C-1, the teacher's class order
    class_logits: Tensor  # [P, C] foreground classes
    background_logits: Tensor | None  # [P]; None: each class has its own sigmoid
    pred_boxes: Tensor  # [P, 4] decoded, with gradient


@dataclass(frozen=True)
class Head:
    """The outputs of one head for its M boxes, those of all images one after the other, and their targets.

    The RPN's and RetinaNet's boxes are the anchors, A per image; those of Faster R-CNN's second head are its
    sampled proposals.
    """

    boxes: list[Tensor]  # per image [A, 4]
    logits: (
        Tensor  # [M, K]; column 0 is background (softmax) or unused (RetinaNet); the RPN has one, objectness
    )
    deltas: Tensor  # [M, 4] of the true class, where there are four numbers per class
    labels: Tensor  # [M] 0: background, -1: neither
    targets: Tensor  # [M, 4] what the deltas should be; of positives only
    coder: object  # torchvision's: deltas and anchors -> boxes
    matcher: object  # torchvision's: IoU [G, A] -> row of the object each anchor gets


@dataclass(frozen=True)
class TrainOutput:
    """One training step of a detector, before any backward pass."""

    images: Tensor  # [B, 3, H, W] as the network saw them (normalised, resized, padded)
    image_mean: Tensor  # [3] what the detector's transform subtracted, for images in 0..1
    image_std: Tensor  # [3] what it divided by
    targets: list[dict]  # boxes [N, 4] in the same pixels, labels [N] 1..C (0 is background)
    features: dict[str, Tensor]  # the neck's maps, for the imitation baselines
    task_losses: dict[str, Tensor]
    positives: MatchedPositives
    heads: Callable[[], dict[str, Head]] = (
        dict  # "rpn" and "rcnn", or "dense"; SSD and FCOS have none to imitate
    )
    divisors: dict[str, Tensor | int] = field(
        default_factory=dict
    )  # task loss -> how many it is a mean over, if not images
    # loc and KD_loc compare only boxes with at least this IoU with their object; 0: all
    least_iou: float = 0.0

    def pixels(self) -> Tensor:
        """The images in 0..255 units, [B, 3, H, W]: the units of loc's and KD_loc's weights (section 4)."""
        mean, std = self.image_mean[:, None, None], self.image_std[:, None, None]
        return (self.images * std + mean) * 255


@dataclass(frozen=True)
class GroundTruth:
    """All G boxes of a batch in one list, and where each positive's box stands in it."""

    boxes: Tensor  # [G, 4]
    labels: Tensor  # [G] 0..C-1
    image_index: Tensor  # [G]
    of_positive: Tensor  # [P] row of this list

    @staticmethod
    def of(out: TrainOutput) -> GroundTruth:
        counts = torch.tensor([len(t["boxes"]) for t in out.targets], device=out.images.device)
        first = counts.cumsum(0) - counts  # [B]
        return GroundTruth(
            boxes=torch.cat([t["boxes"] for t in out.targets]),
            labels=torch.cat([t["labels"] for t in out.targets]) - 1,
            image_index=torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts),
            of_positive=first[out.positives.image_index] + out.positives.gt_index,
        )


@dataclass(frozen=True)
class TeacherReading:
    """What the classifier says of G crops."""

    logits: Tensor  # [G, C]
    maps: list[Tensor]  # early feature maps asked for, each [G, C_l, H_l, W_l]
