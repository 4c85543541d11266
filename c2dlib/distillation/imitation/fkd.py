"""FKD: imitate a detector's neck where attention says it matters (Zhang & Ma, ICLR 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from c2dlib.distillation.imitation.common import Imitation, Necks, TeacherStudentBatch

EPS = 1e-12  # inside every square root: the norm's gradient stays finite where S = T
TERMS = ("feature", "channel", "spatial", "nonlocal")
# Weights in the order of TERMS, and tau; meant for about two images a step: norms grow with sqrt(N H W).
TWO_STAGE = ((7e-5, 4e-3, 4e-3, 7e-5), 0.5)
ONE_STAGE = ((4.2e-4, 2.4e-2, 2.4e-2, 4.2e-4), 0.1)


def spatial_attention(x: Tensor, tau: float) -> Tensor:
    """G^s(x) = HW softmax_HW(mean_c |x| / tau): [N, C, H, W] -> [N, 1, H, W], mean 1 over each map."""
    heat = x.abs().mean(1, keepdim=True) / tau
    return heat.flatten(1).softmax(1).view_as(heat) * heat[0].numel()


def channel_attention(x: Tensor, tau: float) -> Tensor:
    """G^c(x) = C softmax_C(mean_hw |x| / tau): [N, C, H, W] -> [N, C, 1, 1], mean 1 over the channels."""
    heat = x.abs().mean((2, 3), keepdim=True) / tau
    return heat.softmax(1) * heat.shape[1]


def frobenius(difference: Tensor, mask: Tensor | float = 1.0) -> Tensor:
    """||sqrt(mask) * difference|| over the whole batch tensor, neither squared nor averaged: a scalar."""
    return (mask * difference.square()).sum().add(EPS).sqrt()


class NonLocal(nn.Module):
    """NL(x) = x + BN(W [(theta(x) phi(x)^T / n) g(x)]), the relation block: [N, C, H, W] -> same shape.

    Dot-product similarity, no softmax; phi and g are max-pooled and n counts the pooled keys. The product is
    taken as theta (phi^T g), which is the same and never holds the HW x n similarities. BN starts at 0, so NL
    starts as the identity.
    """

    def __init__(self, channels: int, width: int, pool: int):
        super().__init__()
        self.pool = pool
        self.theta, self.phi, self.g = (nn.Conv2d(channels, width, 1) for _ in range(3))
        self.project = nn.Conv2d(width, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)  # its bias already starts at 0

    def forward(self, x: Tensor) -> Tensor:
        kernel = [min(self.pool, side) for side in x.shape[2:]]  # small maps keep at least one key
        query = self.theta(x).flatten(2)  # [N, D, HW]
        keys, values = (F.max_pool2d(f(x), kernel).flatten(2) for f in (self.phi, self.g))  # [N, D, n]
        mixed = (values @ keys.mT / keys.shape[2]) @ query  # [N, D, HW]
        update = self.project(mixed.unflatten(2, x.shape[2:]))
        if x.shape[0] * x.shape[2] * x.shape[3] > 1:
            return x + self.norm(update)
        n = self.norm  # a single value has no batch statistics (one image, 1x1 map): use the running ones
        return x + F.batch_norm(update, n.running_mean, n.running_var, n.weight, n.bias, eps=n.eps)


class Level(nn.Module):
    """The adapters of one pyramid level and its four unweighted terms."""

    def __init__(self, index: int, student: int, teacher: int, tau: float, by_channel: bool):
        super().__init__()
        self.tau, self.by_channel = tau, by_channel
        part, pool = ((4, 8), (4, 4))[index] if index < 2 else (2, 2)
        self.feature = nn.Conv2d(student, teacher, 1)
        self.channel = nn.Linear(student, teacher)
        self.spatial = nn.Conv2d(1, 1, 3, padding=1)
        self.relation = nn.Conv2d(student, teacher, 1)
        self.student_nonlocal = NonLocal(student, max(1, student // part), pool)
        self.teacher_nonlocal = NonLocal(teacher, max(1, teacher // part), pool)

    @torch.no_grad()
    def mask(self, s: Tensor, t: Tensor) -> Tensor:
        """M = M^s or M^s M^c, each the mean of both nets' maps: [N, 1 or C_t, H, W].

        With C_s != C_t the channels do not correspond and M^c is the teacher's map alone.
        """
        mask = (spatial_attention(s, self.tau) + spatial_attention(t, self.tau)) / 2
        if not self.by_channel:
            return mask
        channel = channel_attention(t, self.tau)
        if s.shape[1] == t.shape[1]:
            channel = (channel_attention(s, self.tau) + channel) / 2
        return mask * channel

    def forward(self, s: Tensor, t: Tensor) -> Tensor:
        """s [N, C_s, H, W], t [N, C_t, H, W] without gradient -> [4] norms in the order of TERMS."""
        return torch.stack(
            [
                frobenius(t - self.feature(s), self.mask(s, t)),
                frobenius(t.mean((2, 3)) - self.channel(s.mean((2, 3)))),
                frobenius(t.mean(1, keepdim=True) - self.spatial(s.mean(1, keepdim=True))),
                frobenius(self.teacher_nonlocal(t) - self.relation(self.student_nonlocal(s))),
            ]
        )


class FKD(Imitation):
    """Attention-guided and non-local imitation: four terms per level, summed over levels.

    The feature mask is spatial (two-stage) or spatial x channel (one-stage). Both non-local blocks are
    trained, only the teacher's features are constant.

    ``factor`` multiplies the published weights, which suit COCO's full-width necks: the norms are sums, so
    maps of another size, width or scale need another factor.
    """

    def __init__(self, necks: Necks, factor: float = 1.0):
        super().__init__()
        weights, tau = ONE_STAGE if necks.one_stage else TWO_STAGE
        self.weights = [factor * w for w in weights]
        self.levels = nn.ModuleList(
            Level(i, *channels, tau, necks.one_stage)
            for i, channels in enumerate(zip(necks.student, necks.teacher, strict=True))
        )

    def forward(self, batch: TeacherStudentBatch) -> dict[str, Tensor]:
        """One step's weighted scalars, "fkd_" + each of TERMS."""
        norms = sum(level(*maps) for level, maps in zip(self.levels, batch.maps(), strict=True))
        return {f"fkd_{name}": w * norm for name, w, norm in zip(TERMS, self.weights, norms, strict=True)}
