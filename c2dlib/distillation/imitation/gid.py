"""GID: imitate the boxes on which teacher and student disagree most (Dai et al., CVPR 2021)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign, nms

from c2dlib.detectors.matching import match_anchors
from c2dlib.detectors.train_output import Head
from c2dlib.distillation.imitation.common import Imitation, Necks, TeacherStudentBatch

# Per image: number of candidate boxes, their smallest side in pixels, their largest IoU, number of instances.
CANDIDATES, SMALLEST, OVERLAP, KEPT = 3000, 10.0, 0.3, 10
CELLS = 10
FEATURE, RELATION, CLASS, BOX = 5e-4, 40.0, 0.1, 1.0  # the released weights for RetinaNet


class GID(Imitation):
    """Features, pairwise distances and responses of the general instances; two-stage detectors': of the RPN.

    One 3x3 convolution, shared over the levels, adapts the student's maps (the released code configures and
    skips it).
    """

    needs_heads = True

    def __init__(self, necks: Necks, factor: float = 1.0):
        super().__init__()
        if len({*necks.student}) > 1 or len({*necks.teacher}) > 1:
            raise ValueError("GID needs as many channels in every level")
        self.adapter, self.factor = nn.Conv2d(necks.student[0], necks.teacher[0], 3, padding=1), factor

    def forward(self, batch: TeacherStudentBatch) -> dict[str, Tensor]:
        name, head = next(iter(batch.out.heads().items()))
        logits, deltas = batch.heads[name]
        first = 1 if name == "dense" else 0  # RetinaNet's column 0 is never used
        student, teacher = head.logits[:, first:].float(), logits[:, first:]
        instances = general_instances(head, student.detach(), teacher, deltas, batch.out.images)
        s, t = self._pooled(batch, instances)
        matches = torch.cat(
            match_anchors(head.matcher, head.boxes, [{"boxes": boxes} for boxes in instances])
        )
        near = matches >= 0
        count = max(1, int(near.sum()))
        terms = {
            "gid_feature": FEATURE * (s - t).square().sum() / (CELLS**2 * max(1, len(s))),
            "gid_relation": RELATION * relation(s.flatten(1), t.flatten(1)),
            "gid_class": CLASS
            * F.binary_cross_entropy_with_logits(student[near], teacher[near].sigmoid(), reduction="sum")
            / count,
            "gid_box": BOX * (head.deltas[near].float() - deltas[near]).abs().sum() / count,
        }
        return {name: self.factor * term for name, term in terms.items()}

    def _pooled(self, batch: TeacherStudentBatch, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Both pyramids' features of the instances, each from the level of its size: twice [G, C, 10, 10]."""
        sizes = [tuple(batch.out.images.shape[2:])] * len(boxes)
        pool = MultiScaleRoIAlign(list(batch.levels), CELLS, 2)
        return (
            pool({name: self.adapter(s) for name, (s, _) in batch.levels.items()}, boxes, sizes),
            pool({name: t for name, (_, t) in batch.levels.items()}, boxes, sizes),
        )


@torch.no_grad()
def general_instances(
    head: Head, student: Tensor, teacher: Tensor, deltas: Tensor, images: Tensor
) -> list[Tensor]:
    """Per image the boxes [<= 10, 4] where the surest class of the two differs most, none overlapping another
    much.

    Args:
        student, teacher: [M, K] logits of the head's boxes. deltas: [M, 4] the teacher's.
        images: [B, 3, H, W].
    """
    student_score, teacher_score = (x.max(1).values.sigmoid() for x in (student, teacher))
    surer = torch.where((teacher_score > student_score)[:, None], deltas, head.deltas.detach().float())
    coder: Any = head.coder
    boxes = coder.decode(surer, head.boxes).reshape(-1, 4)
    height, width = images.shape[2:]
    boxes = torch.stack([boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)], 2).flatten(1)
    counts, instances = [len(b) for b in head.boxes], []
    differences = (teacher_score - student_score).abs().split(counts)
    for image_boxes, score in zip(boxes.split(counts), differences, strict=True):
        best = score.topk(min(CANDIDATES, len(score))).indices
        best = best[((image_boxes[best, 2:] - image_boxes[best, :2]) > SMALLEST).all(1)]
        kept = nms(image_boxes[best], score[best], OVERLAP)[:KEPT]
        instances.append(image_boxes[best[kept]])
    return instances


def relation(s: Tensor, t: Tensor) -> Tensor:
    """Smooth L1 between the instances' pairwise distances over their mean: [G, D] -> scalar, 0 for G < 3."""
    if len(s) < 3:
        return s.sum() * 0.0
    student, teacher = (d / d.mean().clamp(min=1e-12) for d in (torch.pdist(s), torch.pdist(t)))
    return F.smooth_l1_loss(student, teacher)
