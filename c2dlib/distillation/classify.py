"""KD_cls: the teacher's class probabilities for each object (section 3.1)."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from c2dlib.detectors.train_output import GroundTruth, TrainOutput
from c2dlib.distillation.distiller import Distiller
from c2dlib.distillation.losses import kd_cls
from c2dlib.teacher.classifier import Teacher
from c2dlib.teacher.crops import crop_regions


class RememberedLogits:
    """A teacher's logits by the pixels of the crop: a crop that it has read is not read again.

    It reads crops one at a time. So its logits of a crop do not depend on the other crops of the step, and a
    training that was interrupted goes on with the same numbers.

    Args:
        limit: crops to keep; beyond it the oldest is dropped.
    """

    def __init__(self, teacher: Teacher, limit: int):
        self.teacher, self.limit = teacher, limit
        self.logits: dict[bytes, Tensor] = {}

    def __call__(self, crops: Tensor) -> Tensor:
        """Logits [G, C] of crops [G, 3, s, s] in 0..255."""
        rows = []
        for crop, pixels in zip(crops, crops.cpu().contiguous(), strict=True):
            key = hashlib.sha256(pixels.numpy()).digest()
            if key not in self.logits:
                if len(self.logits) >= self.limit:
                    del self.logits[next(iter(self.logits))]
                self.logits[key] = self.teacher.read(crop[None]).logits[0]
            rows.append(self.logits[key])
        return torch.stack(rows)


class ClassificationDistiller(Distiller):
    """``{"KDcls": weighted term}`` (eq. 3-6, 12).

    The teacher reads each ground-truth box once per step. Its logits are then gathered to the positives.

    Args:
        remembered_crops: how many crops' logits are kept, see ``RememberedLogits``; 0: none.
    """

    def __init__(
        self,
        teacher: Teacher,
        lambda_kc: float = 0.4,
        temperature: float = 2.0,
        remembered_crops: int = 0,
    ):
        self.teacher, self.lambda_kc, self.temperature = teacher, lambda_kc, temperature
        self.remembered = RememberedLogits(teacher, remembered_crops) if remembered_crops else None

    def __call__(self, out: TrainOutput) -> dict[str, Tensor]:
        positives, truth = out.positives, GroundTruth.of(out)
        if len(positives.labels) == 0:
            return {"KDcls": positives.class_logits.sum() * 0.0}
        crops = crop_regions(out.pixels(), truth.boxes, truth.image_index, self.teacher.size)
        logits = self.remembered(crops) if self.remembered else self.teacher.read(crops).logits  # [G, C]
        teacher_logits = logits[truth.of_positive]  # [P, C]
        term = kd_cls(positives.class_logits, positives.background_logits, teacher_logits, self.temperature)
        return {"KDcls": self.lambda_kc * term}

    def divisors(self, out: TrainOutput) -> dict[str, int]:
        return {"KDcls": len(out.positives.labels)}

    def forget(self) -> None:
        self.remembered = None
