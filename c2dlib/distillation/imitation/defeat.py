"""DeFeat: imitate a neck's maps on objects and, with another weight, elsewhere (Guo et al., CVPR 2021)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from c2dlib.distillation.imitation.common import (
    SIDE,
    Imitation,
    Necks,
    TeacherStudentBatch,
    adapted,
    adapters,
    half_square,
    level_of,
)

OBJECTS, BACKGROUND = 3.0, 12.0  # the released weights: the background's mean error is small
STD = 1e-4


class DeFeat(Imitation):
    """Half the mean squared difference inside the objects' boxes, and outside; 3x3 convolution, mean over
    levels.

    The neck's part of the method. Its released configuration leaves the heads' part out, and so do we.
    """

    def __init__(self, necks: Necks, factor: float = 1.0):
        super().__init__()
        self.adapters, self.side, self.factor = adapters(necks, 3, STD), SIDE * necks.anchor_scale, factor

    def forward(self, batch: TeacherStudentBatch) -> dict[str, Tensor]:
        masks = inside_objects(batch, self.side)
        levels = list(zip(adapted(self.adapters, batch.maps()), masks, strict=True))
        inside, outside = (
            torch.stack([half_square(s, t, mask if fg else 1 - mask) for (s, t), mask in levels]).mean()
            for fg in (True, False)
        )
        return {
            "defeat_objects": self.factor * OBJECTS * inside,
            "defeat_background": self.factor * BACKGROUND * outside,
        }


@torch.no_grad()
def inside_objects(batch: TeacherStudentBatch, side: float) -> list[Tensor]:
    """Per level [B, 1, H, W], 1 in the cells of that level's boxes; thin boxes have their top-left cell."""
    height, width = batch.out.images.shape[2:]
    masks = []
    for level, (s, _) in enumerate(batch.maps()):
        mask = s.new_zeros(len(s), 1, *s.shape[2:])
        across, down = width / s.shape[3], height / s.shape[2]  # the strides
        for row, target in enumerate(batch.out.targets):
            level_boxes = target["boxes"][level_of(target["boxes"], side, len(batch.levels)) == level]
            for x1, y1, x2, y2 in level_boxes.tolist():
                left, top = min(int(x1 / across), s.shape[3] - 1), min(int(y1 / down), s.shape[2] - 1)
                right, bottom = math.floor(x2 / across), math.floor(y2 / down)
                thin = right <= left or bottom <= top
                mask[row, 0, top : top + 1 if thin else bottom, left : left + 1 if thin else right] = 1
        masks.append(mask)
    return masks
