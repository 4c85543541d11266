"""What the detector-to-detector methods share: the frozen teacher, adapters, masks, and the distance most of
them take.

Most are one formula, a sum over the neck's levels of a weight times reduce(mask * distance(norm(adapter(S)),
norm(T))); each file here names the adapter, norm, distance, mask and weight of its method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.rpn import concat_box_prediction_layers

from c2dlib.detectors.matching import true_class
from c2dlib.detectors.train_output import TrainOutput
from c2dlib.distillation.distiller import Distiller
from c2dlib.distillation.remembered import Remembered

SIDE = 56  # pixels: objects below twice this side belong to the finest level; times the scale of the anchors


@dataclass(frozen=True)
class Necks:
    """The shapes of the two detectors' necks, for which a method builds its adapters."""

    student: list[int]  # channels per level, without Faster R-CNN's subsampled last one
    teacher: list[int]
    one_stage: bool
    anchor_scale: float = 1.0

    def __post_init__(self):
        if len(self.student) != len(self.teacher):
            raise ValueError(f"{len(self.student)} student and {len(self.teacher)} teacher levels")


@dataclass(frozen=True)
class TeacherStudentBatch:
    """What both detectors compute of one batch."""

    out: TrainOutput  # the student's step
    # name -> student's and teacher's map [B, C, H, W] in fp32, finest first
    levels: dict[str, tuple[Tensor, Tensor]]
    # name -> the teacher's logits and deltas for the boxes of ``out.heads()``
    heads: dict[str, tuple[Tensor, Tensor]]

    def maps(self) -> list[tuple[Tensor, Tensor]]:
        return list(self.levels.values())


class Imitation(nn.Module):
    """A method: a TeacherStudentBatch -> named, weighted terms; its parameters are its adapters."""

    needs_heads = False  # whether it compares predictions too, not only the necks' maps


class FromDetector(Distiller):
    """A distiller whose teacher is a frozen detector: ``TrainOutput -> {name: weighted term}``.

    The teacher reads the student's own normalised batch, so it must take its image mean and std. Where the
    method has ``needs_heads``, it also reads the student's anchors and proposals. The method's adapters train
    with the student.

    Args:
        remembered_images: how many images' maps are kept, see ``Remembered``; 0: none.
    """

    def __init__(self, teacher: nn.Module, method: Imitation, remembered_images: int = 0):
        backbone: Any = teacher.backbone
        self.teacher: Any = teacher.requires_grad_(False).eval()
        self.method = method
        self.remembered = Remembered(backbone, remembered_images) if remembered_images else None

    def __call__(self, out: TrainOutput) -> dict[str, Tensor]:
        """One step's terms, computed in fp32 also under autocast.

        Raises:
            ValueError: where the two detectors do not correspond.
        """
        read = self.remembered or self.teacher.backbone
        with torch.no_grad():
            teacher_maps = read(out.images)
            heads = self._heads(teacher_maps, out) if self.method.needs_heads else {}
        batch = TeacherStudentBatch(out, pair_levels(out.features, teacher_maps), heads)
        with torch.autocast(out.images.device.type, enabled=False):
            return self.method(batch)

    def adapters(self) -> dict[str, nn.Module]:
        return {"imitation": self.method}

    def forget(self) -> None:
        self.remembered = None

    def _heads(self, maps: dict[str, Tensor], out: TrainOutput) -> dict[str, tuple[Tensor, Tensor]]:
        """The teacher's logits and deltas for the boxes of the student's heads."""
        teacher = self.teacher
        student, levels = out.heads(), list(maps.values())
        if "dense" in student:
            head = teacher.head(levels)
            predictions = {"dense": (head["cls_logits"].flatten(0, 1), head["bbox_regression"].flatten(0, 1))}
        else:
            rcnn, roi = student["rcnn"], teacher.roi_heads
            sizes = [tuple(out.images.shape[2:])] * len(out.images)
            logits, deltas = roi.box_predictor(roi.box_head(roi.box_roi_pool(maps, rcnn.boxes, sizes)))
            predictions = {
                "rpn": concat_box_prediction_layers(*teacher.rpn.head(levels)),
                "rcnn": (logits, true_class(deltas, rcnn.labels)),
            }
        for name, (logits, _) in predictions.items():
            if logits.shape != student[name].logits.shape:
                raise ValueError(
                    f"the {name} head has {tuple(student[name].logits.shape)} logits in the student but "
                    f"{tuple(logits.shape)} in the teacher; their anchors and classes must agree"
                )
        return {name: (logits.float(), deltas.float()) for name, (logits, deltas) in predictions.items()}


def pair_levels(student: dict[str, Tensor], teacher: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """The levels of two necks by name, all but "pool", which is P5 subsampled.

    Raises:
        ValueError: where a level is missing or of another size.
    """
    student, teacher = ({k: v.float() for k, v in m.items() if k != "pool"} for m in (student, teacher))
    for a, b, who in ((student, teacher, "teacher"), (teacher, student, "student")):
        if missing := a.keys() - b.keys():
            raise ValueError(
                f"the {who}'s neck has no level {', '.join(sorted(missing))}; "
                "use a teacher with the student's levels"
            )
    for key, s in student.items():
        if s.shape[2:] != teacher[key].shape[2:]:
            raise ValueError(
                f"level {key} is {tuple(s.shape[2:])} (H, W) in the student but "
                f"{tuple(teacher[key].shape[2:])} in the teacher; their strides must agree"
            )
    return {key: (s, teacher[key]) for key, s in student.items()}


def adapters(necks: Necks, kernel: int, std: float = 0.0, spare_equal: bool = False) -> nn.ModuleList:
    """A convolution per level from the student's channels to the teacher's.

    Args:
        std: of its initial weights, a truncated normal; 0: torch's own.
        spare_equal: none where the channels are equal already.
    """
    layers = nn.ModuleList()
    for student, teacher in zip(necks.student, necks.teacher, strict=True):
        layer = nn.Conv2d(student, teacher, kernel, padding=kernel // 2)
        if std:
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.constant_(layer.get_parameter("bias"), 0.0)
        layers.append(nn.Identity() if spare_equal and student == teacher else layer)
    return layers


def adapted(layers: nn.ModuleList, maps: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """The pairs of maps, the student's through its level's adapter."""
    return [(layer(s), t) for layer, (s, t) in zip(layers, maps, strict=True)]


def half_square(s: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
    """Half the mean of (s - t)^2 over the cells of ``mask`` [B, 1, H, W], or all; 0 for an empty mask."""
    squares = (s - t).square() / 2
    if mask is None:
        return squares.mean()
    return (squares * mask).sum() / (mask.sum() * s.shape[1]).clamp(min=1)


def level_of(boxes: Tensor, side: float, levels: int) -> Tensor:
    """The level of an object's size, floor(log2(sqrt(w h) / side)): [N, 4] -> [N] in 0..levels - 1."""
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6).prod(1)
    return (area.sqrt() / side).log2().floor().clamp(0, levels - 1).long()
