"""What the detector-to-detector methods share: the frozen teacher, adapters, masks, and the distance most of them take.

Most are one formula, a sum over the neck's levels of a weight times reduce(mask * distance(norm(adapter(S)), norm(T)));
each file here says which adapter, norm, distance and mask its method has, and with what weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection.rpn import concat_box_prediction_layers

from c2dlib.detectors.matching import true_class
from c2dlib.detectors.train_output import TrainOutput

SIDE = 56  # pixels: objects below twice this side belong to the finest level; times the scale of the anchors


@dataclass(frozen=True)
class Necks:
    """What a method must know of the two detectors to build its adapters."""

    student: list[int]  # channels per level, without Faster R-CNN's subsampled last one
    teacher: list[int]
    one_stage: bool
    anchor_scale: float = 1.0

    def __post_init__(self):
        if len(self.student) != len(self.teacher):
            raise ValueError(f"{len(self.student)} student and {len(self.teacher)} teacher levels")


@dataclass(frozen=True)
class TeacherStudentBatch:
    """One batch as both detectors see it."""

    out: TrainOutput  # the student's step
    levels: dict[
        str, tuple[Tensor, Tensor]
    ]  # name -> student's and teacher's map [B, C, H, W] in fp32, finest first
    heads: dict[
        str, tuple[Tensor, Tensor]
    ]  # name -> the teacher's logits and deltas for the boxes of ``out.heads()``

    def maps(self) -> list[tuple[Tensor, Tensor]]:
        return list(self.levels.values())


class FromDetector:
    """A distiller whose teacher is a frozen detector: ``TrainOutput -> {name: weighted term}``.

    The teacher reads the student's own normalised batch, so it must take its image mean and std; with ``asks_heads`` of
    its method also the student's anchors and proposals. It is no submodule of anything: no optimizer, checkpoint or
    ``train()`` reaches it. The method's adapters train with the student.
    """

    def __init__(self, teacher: nn.Module, method: nn.Module):
        self.teacher, self.method = teacher.requires_grad_(False).eval(), method

    def __call__(self, out: TrainOutput) -> dict[str, Tensor]:
        """One step's terms, computed in fp32 also under autocast.

        Raises:
            ValueError: where the two detectors do not correspond.
        """
        with torch.no_grad():
            theirs = self.teacher.backbone(out.images)
            heads = self._heads(theirs, out) if getattr(self.method, "asks_heads", False) else {}
        seen = TeacherStudentBatch(out, pair_levels(out.features, theirs), heads)
        with torch.autocast(out.images.device.type, enabled=False):
            return self.method(seen)

    def divisors(self, out: TrainOutput) -> dict[str, int]:
        """None: across processes these terms are averaged per image, as their authors' code does."""
        return {}

    def _heads(self, maps: dict[str, Tensor], out: TrainOutput) -> dict[str, tuple[Tensor, Tensor]]:
        student, teacher, levels = out.heads(), self.teacher, list(maps.values())
        if "dense" in student:
            said = teacher.head(levels)
            found = {"dense": (said["cls_logits"].flatten(0, 1), said["bbox_regression"].flatten(0, 1))}
        else:
            rcnn, roi = student["rcnn"], teacher.roi_heads
            sizes = [tuple(out.images.shape[2:])] * len(out.images)
            logits, deltas = roi.box_predictor(roi.box_head(roi.box_roi_pool(maps, rcnn.boxes, sizes)))
            found = {
                "rpn": concat_box_prediction_layers(*teacher.rpn.head(levels)),
                "rcnn": (logits, true_class(deltas, rcnn.labels)),
            }
        for name, (logits, _) in found.items():
            if logits.shape != student[name].logits.shape:
                raise ValueError(
                    f"the {name} head says {tuple(student[name].logits.shape)} numbers in the student but "
                    f"{tuple(logits.shape)} in the teacher; their anchors and classes must agree"
                )
        return {name: (logits.float(), deltas.float()) for name, (logits, deltas) in found.items()}


def pair_levels(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """The levels of two necks by name, all but "pool", which is P5 subsampled.

    Raises:
        ValueError: where a level is missing or of another size.
    """
    ours, theirs = ({k: v.float() for k, v in m.items() if k != "pool"} for m in (ours, theirs))
    for a, b, who in ((ours, theirs, "teacher"), (theirs, ours, "student")):
        if missing := a.keys() - b.keys():
            raise ValueError(
                f"the {who}'s neck has no level {', '.join(sorted(missing))}; "
                "use a teacher with the student's levels"
            )
    for key, s in ours.items():
        if s.shape[2:] != theirs[key].shape[2:]:
            raise ValueError(
                f"level {key} is {tuple(s.shape[2:])} (H, W) in the student but "
                f"{tuple(theirs[key].shape[2:])} in the teacher; their strides must agree"
            )
    return {key: (s, theirs[key]) for key, s in ours.items()}


def adapters(necks: Necks, kernel: int, std: float = 0.0, spare_equal: bool = False) -> nn.ModuleList:
    """A convolution per level from the student's channels to the teacher's.

    Args:
        std: of its initial weights, a truncated normal; 0: torch's own.
        spare_equal: none where the channels are equal already.
    """
    made = nn.ModuleList()
    for ours, theirs in zip(necks.student, necks.teacher, strict=True):
        layer = nn.Conv2d(ours, theirs, kernel, padding=kernel // 2)
        if std:
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(layer.bias)
        made.append(nn.Identity() if spare_equal and ours == theirs else layer)
    return made


def adapted(layers: nn.ModuleList, maps: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """The pairs of maps, the student's through its level's adapter."""
    return [(layer(s), t) for layer, (s, t) in zip(layers, maps, strict=True)]


def half_square(s: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
    """Half the mean of (s - t)^2 over the cells of ``mask`` [B, 1, H, W], or all: a scalar, 0 for an empty mask."""
    squares = (s - t).square() / 2
    if mask is None:
        return squares.mean()
    return (squares * mask).sum() / (mask.sum() * s.shape[1]).clamp(min=1)


def level_of(boxes: Tensor, side: float, levels: int) -> Tensor:
    """Which level an object belongs to by its size: floor(log2(sqrt(w h) / side)), [N, 4] -> [N] in 0..levels - 1."""
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6).prod(1)
    return (area.sqrt() / side).log2().floor().clamp(0, levels - 1).long()
