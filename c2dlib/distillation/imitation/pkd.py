"""PKD: imitate the pattern of a neck's maps, not their size (Cao et al., NeurIPS 2022)."""

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

EPS = 1e-6
LEVELS = 4  # the finest ones
TWO_STAGE, ONE_STAGE = 6.0, 10.0  # published weights


class PKD(Imitation):
    """Half the mean squared difference of the standardised maps, summed over the four finest levels.

    That is about 1 - r per channel, r their correlation over batch and cells: no scale, no offset. Where the
    channels differ in number a 1x1 convolution comes before it; where they agree there is none, as published.
    """

    def __init__(self, necks: Necks, factor: float = 1.0):
        super().__init__()
        self.adapters = adapters(necks, 1, spare_equal=True)[:LEVELS]
        self.weight = factor * (ONE_STAGE if necks.one_stage else TWO_STAGE)

    def forward(self, batch: TeacherStudentBatch) -> dict[str, Tensor]:
        levels = [
            half_square(standardised(s), standardised(t))
            for s, t in adapted(self.adapters, batch.maps()[:LEVELS])
        ]
        return {"pkd": self.weight * torch.stack(levels).sum()}


def standardised(x: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 per channel over batch and cells: [B, C, H, W] -> same shape."""
    single = x[:, 0].numel() == 1  # one value has no deviation: it becomes 0
    deviation, mean = torch.std_mean(x, (0, 2, 3), correction=0 if single else 1, keepdim=True)
    return (x - mean) / (deviation + EPS)
