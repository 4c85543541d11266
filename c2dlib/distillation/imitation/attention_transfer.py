"""Attention transfer (Zagoruyko & Komodakis, ICLR 2017) on a detector's neck."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from c2dlib.distillation.imitation.common import Imitation, Necks, TeacherStudentBatch

WEIGHT = 250.0  # none is published for a neck; this is of the authors' order for images of 32 px


class AttentionTransfer(Imitation):
    """Mean squared difference of the normalised attention maps, mean over levels; no adapter."""

    def __init__(self, necks: Necks, factor: float = 1.0):
        super().__init__()
        self.weight = factor * WEIGHT

    def forward(self, batch: TeacherStudentBatch) -> dict[str, Tensor]:
        levels = [(attention(s) - attention(t)).square().mean() for s, t in batch.maps()]
        return {"at": self.weight * torch.stack(levels).mean()}


def attention(x: Tensor) -> Tensor:
    """Where a map is active: mean_c x^2 over all cells, of length 1 per image: [B, C, H, W] -> [B, H W]."""
    return F.normalize(x.square().mean(1).flatten(1), dim=1)
