"""FGFI: imitate a neck's maps where anchors lie near an object (Wang et al., CVPR 2019)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou

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

WEIGHT = 3.0  # for a pyramid of 256 channels, as in DeFeat's code: the published 0.01 is per channel
PSI = 0.5
STD = 1e-4


class FGFI(Imitation):
    """Half the mean squared difference near objects, after a 3x3 convolution; mean over levels."""

    def __init__(self, necks: Necks, factor: float = 1.0):
        super().__init__()
        self.adapters, self.side, self.weight = (
            adapters(necks, 3, STD),
            SIDE * necks.anchor_scale,
            factor * WEIGHT,
        )

    def forward(self, batch: TeacherStudentBatch) -> dict[str, Tensor]:
        masks = near_objects(batch, self.side)
        levels = [
            half_square(s, t, mask)
            for (s, t), mask in zip(adapted(self.adapters, batch.maps()), masks, strict=True)
        ]
        return {"fgfi": self.weight * torch.stack(levels).mean()}


@torch.no_grad()
def near_objects(batch: TeacherStudentBatch, side: float) -> list[Tensor]:
    """Per level [B, 1, H, W], 1 where an anchor's IoU with an object of that level is above PSI times the
    best one's.

    So every object has at least one cell.
    """
    head = next(iter(batch.out.heads().values()))  # of the RPN or dense: the anchors
    cells = [m.shape[2] * m.shape[3] for m in batch.out.features.values()]  # "pool" has anchors too
    per_cell = len(head.boxes[0]) // sum(cells)
    masks = []
    for level, (s, _) in enumerate(batch.maps()):
        first = per_cell * sum(cells[:level])
        anchors = head.boxes[0][first : first + per_cell * cells[level]]  # level-major, then y, x, anchor
        rows = []
        for target in batch.out.targets:
            boxes = target["boxes"][level_of(target["boxes"], side, len(batch.levels)) == level]
            near = anchors.new_zeros(len(anchors), dtype=torch.bool)
            if len(boxes):
                iou = box_iou(boxes, anchors)  # [N, H W A]
                near = (iou > PSI * iou.max(1, keepdim=True).values).any(0)
            rows.append(near.unflatten(0, (*s.shape[2:], per_cell)).any(2))
        masks.append(torch.stack(rows)[:, None].to(s.dtype))
    return masks
