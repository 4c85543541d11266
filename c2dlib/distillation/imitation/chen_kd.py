"""KD: soft labels, regression bounded by the teacher's, and a hint (Chen et al., NeurIPS 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from c2dlib.distillation.imitation.common import (
    Imitation,
    Necks,
    TeacherStudentBatch,
    adapted,
    adapters,
    half_square,
)

# The paper leaves some weights open; MU and the classes' are those of its ports. Margin m = 0.
MU = 0.8  # share of the labels' loss; the soft one's is 1 - MU
BACKGROUND, OBJECT = 1.5, 1.0  # weights of the columns in the soft loss
NU = 0.5  # of the bounded regression
GAMMA = 0.5  # of the hint


class ChenKD(Imitation):
    """Three kinds of terms beside the detector's own losses, for each of its heads.

    The detector's classification loss keeps its weight 1, so the soft one has (1 - MU) / MU. One-stage heads
    are treated as the RPN is: every class has its own yes and no.
    """

    needs_heads = True

    def __init__(self, necks: Necks, factor: float = 1.0):
        super().__init__()
        self.adapters, self.factor = adapters(necks, 1), factor

    def forward(self, batch: TeacherStudentBatch) -> dict[str, Tensor]:
        hint = torch.stack([2 * half_square(s, t) for s, t in adapted(self.adapters, batch.maps())]).mean()
        terms = {"kd_hint": GAMMA * hint}
        for name, head in batch.out.heads().items():
            logits, deltas = batch.heads[name]
            used, positive = head.labels >= 0, head.labels > 0
            soft = softmax_soft if name == "rcnn" else sigmoid_soft
            first = 1 if name == "dense" else 0  # RetinaNet's column 0 is never used
            terms[f"kd_{name}_class"] = (
                (1 - MU) / MU * soft(head.logits[used, first:].float(), logits[used, first:])
            )
            terms[f"kd_{name}_box"] = NU * bounded(
                head.deltas[positive].float(), deltas[positive], head.targets[positive]
            )
        return {name: self.factor * term for name, term in terms.items()}


def softmax_soft(student: Tensor, teacher: Tensor) -> Tensor:
    """Weighted cross-entropy to the teacher's softmax, background first: two [R, K] -> mean over R."""
    weight = torch.full_like(student[0], OBJECT)
    weight[0] = BACKGROUND
    return -(weight * teacher.softmax(1) * student.log_softmax(1)).sum(1).mean()


def sigmoid_soft(student: Tensor, teacher: Tensor) -> Tensor:
    """The same for columns with a yes and a no each: two [M, K] -> sum over K, mean over M."""
    yes = OBJECT * teacher.sigmoid() * F.logsigmoid(student)
    return -(yes + BACKGROUND * (-teacher).sigmoid() * F.logsigmoid(-student)).sum(1).mean()


def bounded(student: Tensor, teacher: Tensor, truth: Tensor) -> Tensor:
    """Squared error of the student's deltas [P, 4] where it is above the teacher's, else 0; mean over P, 0 if
    none.

    The teacher's error decides where the student is good enough; its deltas are never the target.
    """
    student_error, teacher_error = ((d - truth).square().sum(1) for d in (student, teacher))
    return (student_error * (student_error > teacher_error)).sum() / max(1, len(student))
