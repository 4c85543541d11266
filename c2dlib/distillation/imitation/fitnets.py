"""The FitNets hint on a detector's neck (Romero et al., ICLR 2015)."""

from __future__ import annotations

import torch
from torch import Tensor

from c2dlib.distillation.imitation.common import (
    Imitation,
    Necks,
    TeacherStudentBatch,
    adapted,
    adapters,
    half_square,
)

WEIGHT = 1.0  # none is published for a neck


class FitNets(Imitation):
    """Half the mean squared difference of the maps, after a 1x1 convolution; mean over levels."""

    def __init__(self, necks: Necks, factor: float = 1.0):
        super().__init__()
        self.adapters, self.weight = adapters(necks, 1), factor * WEIGHT

    def forward(self, batch: TeacherStudentBatch) -> dict[str, Tensor]:
        return {
            "fitnets": self.weight
            * torch.stack([half_square(s, t) for s, t in adapted(self.adapters, batch.maps())]).mean()
        }
