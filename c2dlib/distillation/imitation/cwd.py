"""CWD: each channel's activations as a distribution over the cells (Shu et al., ICCV 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from c2dlib.distillation.imitation.common import Imitation, Necks, TeacherStudentBatch, adapted, adapters

WEIGHT, TAU = 10.0, 1.0  # published for a neck, per level


class CWD(Imitation):
    """KL between the channels' softmax over the cells, mean over batch and channels, times tau^2; summed over
    levels.

    A 1x1 convolution comes before it where the channels differ in number.
    """

    def __init__(self, necks: Necks, factor: float = 1.0):
        super().__init__()
        self.adapters, self.weight = adapters(necks, 1, spare_equal=True), factor * WEIGHT

    def forward(self, batch: TeacherStudentBatch) -> dict[str, Tensor]:
        levels = [channel_kl(s, t, TAU) for s, t in adapted(self.adapters, batch.maps())]
        return {"cwd": self.weight * torch.stack(levels).sum()}


def channel_kl(s: Tensor, t: Tensor, tau: float) -> Tensor:
    """tau^2 / (B C) times the sum of KL(softmax_HW(t / tau) || softmax_HW(s / tau)): a scalar."""
    log_p, log_q = ((x / tau).flatten(2).log_softmax(2) for x in (s, t))
    return tau**2 * (log_q.exp() * (log_q - log_p)).sum(2).mean()
