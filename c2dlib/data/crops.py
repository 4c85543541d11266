"""D_det -> D_cls: the boxes of a batch of images, cut out, are the classifier's training set (section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from c2dlib.crops import crop_regions


def crop_batch(images: list[Tensor], targets: list[dict], size: int, jitter: float = 0.0) -> tuple[Tensor, Tensor]:
    """Every ground-truth box of a batch, as the student's augmentation shows it.

    Args:
        images: [3, H, W] each, 0..1, of any sizes.
        targets: boxes [N, 4] in those pixels, labels [N] 1..C.
        size: side of the crops.
        jitter: each side of a box moves by up to this share of the box's extent.

    Returns:
        crops [G, 3, size, size] in 0..255 and labels [G] 0..C-1.
    """
    crops, labels = [], []
    for image, target in zip(images, targets, strict=True):
        boxes = target["boxes"]
        if jitter and len(boxes):
            extent = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
            boxes = boxes + (torch.rand_like(boxes) * 2 - 1) * jitter * extent
        row = torch.zeros(len(boxes), dtype=torch.int64, device=image.device)
        crops.append(crop_regions(image[None], boxes, row, size))
        labels.append(target["labels"] - 1)
    return torch.cat(crops) * 255, torch.cat(labels)
