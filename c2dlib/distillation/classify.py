"""KD_cls: the teacher's class probabilities for each object (section 3.1)."""

from __future__ import annotations

from torch import Tensor

from c2dlib.detectors.train_output import GroundTruth, TrainOutput
from c2dlib.distillation.distiller import Distiller
from c2dlib.distillation.losses import kd_cls
from c2dlib.distillation.remembered import Remembered
from c2dlib.teacher.classifier import Teacher
from c2dlib.teacher.crops import crop_regions


class ClassificationDistiller(Distiller):
    """``{"KDcls": weighted term}`` (eq. 3-6, 12).

    The teacher reads each ground-truth box once per step, or with ``remembered_crops`` once. Its logits are
    then gathered to the positives.

    Args:
        remembered_crops: how many crops' logits are kept, see ``Remembered``; 0: none.
    """

    def __init__(
        self,
        teacher: Teacher,
        lambda_kc: float = 0.4,
        temperature: float = 2.0,
        remembered_crops: int = 0,
    ):
        self.teacher, self.lambda_kc, self.temperature = teacher, lambda_kc, temperature
        self.remembered = Remembered(self._read, remembered_crops) if remembered_crops else None

    def __call__(self, out: TrainOutput) -> dict[str, Tensor]:
        positives, truth = out.positives, GroundTruth.of(out)
        if len(positives.labels) == 0:
            return {"KDcls": positives.class_logits.sum() * 0.0}
        crops = crop_regions(out.pixels(), truth.boxes, truth.image_index, self.teacher.size)
        read = self.remembered or self._read
        teacher_logits = read(crops)["logits"][truth.of_positive]  # [G, C] -> [P, C]
        term = kd_cls(positives.class_logits, positives.background_logits, teacher_logits, self.temperature)
        return {"KDcls": self.lambda_kc * term}

    def _read(self, crops: Tensor) -> dict[str, Tensor]:
        return {"logits": self.teacher.read(crops).logits}

    def divisors(self, out: TrainOutput) -> dict[str, int]:
        return {"KDcls": len(out.positives.labels)}

    def forget(self) -> None:
        self.remembered = None
