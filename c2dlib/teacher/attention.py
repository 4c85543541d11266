"""The attention of a teacher: captum's occlusion, which works for any architecture and any crop size."""

from __future__ import annotations

import torch
from captum.attr import Occlusion
from torch import Tensor, nn

from c2dlib.teacher.classifier import Teacher


class _Probabilities(nn.Module):
    def __init__(self, teacher: Teacher):
        super().__init__()
        self.teacher = teacher

    def forward(self, crops: Tensor) -> Tensor:
        return self.teacher.read(crops).logits.softmax(1)


@torch.no_grad()
def attention(teacher: Teacher, crops: Tensor, classes: Tensor, cells: int = 8) -> Tensor:
    """How much of a class's probability is lost when a patch of the crop is covered (Zeiler and Fergus 2014).

    A square of two cells' side slides over the crop in steps of one cell and is filled with the crop's mean
    colour. A pixel's value is the mean over the squares that cover it.

    Args:
        crops: [G, 3, s, s] in 0..255.
        classes: [G] 0..C-1, whose probability is watched.
        cells: per side.

    Returns:
        [G, s, s] in -1..1: the fall of the class's probability; below 0 where covering raises it.
    """
    step = max(crops.shape[-1] // cells, 1)
    maps = [
        Occlusion(_Probabilities(teacher)).attribute(
            crop[None],
            (3, 2 * step, 2 * step),
            strides=(3, step, step),
            target=int(target),
            baselines=crop.mean((1, 2))[None, :, None, None].expand_as(crop[None]),
            perturbations_per_eval=16,
        )
        for crop, target in zip(crops, classes, strict=True)
    ]
    # captum repeats the fall in each of the three colours
    return torch.cat(maps).mean(1) if maps else crops.new_zeros(0, *crops.shape[-2:])
