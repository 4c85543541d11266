"""DeFeat: imitate a neck's maps on objects and on background, each with a weight of its own (Guo et al., CVPR 2021)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from c2dlib.distillation.imitation.common import (
    SIDE,
    Necks,
    TeacherStudentBatch,
    adapted,
    adapters,
    half_square,
    level_of,
)

OBJECTS, BACKGROUND = 3.0, 12.0  # the released weights: the background's mean error is small
STD = 1e-4


class DeFeat(nn.Module):
    """Half the mean squared difference inside the objects' boxes, and outside; 3x3 convolution, mean over levels.

    The neck's part of the method. Its released configuration leaves the heads' part out, and so do we.
    """

    def __init__(self, necks: Necks, factor: float = 1.0):
        super().__init__()
        self.adapters, self.side, self.factor = adapters(necks, 3, STD), SIDE * necks.anchor_scale, factor

    def forward(self, seen: TeacherStudentBatch) -> dict[str, Tensor]:
        masks = inside_objects(seen, self.side)
        levels = list(zip(adapted(self.adapters, seen.maps()), masks, strict=True))
        inside, outside = (
            torch.stack([half_square(s, t, mask if fg else 1 - mask) for (s, t), mask in levels]).mean()
            for fg in (True, False)
        )
        return {
            "defeat_objects": self.factor * OBJECTS * inside,
            "defeat_background": self.factor * BACKGROUND * outside,
        }


@torch.no_grad()
def inside_objects(seen: TeacherStudentBatch, side: float) -> list[Tensor]:
    """Per level [B, 1, H, W], 1 in the cells of that level's boxes; a box thinner than a cell has its top-left one."""
    height, width = seen.out.images.shape[2:]
    masks = []
    for level, (s, _) in enumerate(seen.maps()):
        mask = s.new_zeros(len(s), 1, *s.shape[2:])
        across, down = width / s.shape[3], height / s.shape[2]  # the strides
        for row, target in enumerate(seen.out.targets):
            mine = target["boxes"][level_of(target["boxes"], side, len(seen.levels)) == level]
            for x1, y1, x2, y2 in mine.tolist():
                left, top = min(int(x1 / across), s.shape[3] - 1), min(int(y1 / down), s.shape[2] - 1)
                right, bottom = math.floor(x2 / across), math.floor(y2 / down)
                thin = right <= left or bottom <= top
                mask[row, 0, top : top + 1 if thin else bottom, left : left + 1 if thin else right] = 1
        masks.append(mask)
    return masks
