"""The differentiable crop (eq. 8-9): the teacher reads such crops, loc and KD_loc compare them."""

from __future__ import annotations

from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor


def crop_regions(images: Tensor, boxes: Tensor, image_index: Tensor, size: int) -> Tensor:
    """Cut every box out of its image and resample it to ``size`` x ``size``.

    A spatial transformer: the affine grid of eq. 8, bilinear sampling, ``align_corners=False``. Boxes are
    clamped to the image first; a side outside the image gets no gradient.

    Args:
        images: [B, 3, H, W], any unit. No image is copied per box: all boxes of an image are sampled at once.
        boxes: [P, 4] xyxy in pixels of ``images``; the result is differentiable in them.
        image_index: [P] the row of ``images`` each box lies in.
        size: side of the crops in pixels, at least 1.

    Returns:
        [P, 3, size, size], in the order of ``boxes``, in the unit of ``images``. Samples within half a pixel
        of the image's border are mixed with 0.

    Raises:
        ValueError: if the shapes do not fit or an index lies outside the batch.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or image_index.shape != boxes.shape[:1] or images.ndim != 4:
        raise ValueError(
            f"crop_regions needs images [B,3,H,W], boxes [P,4], image_index [P]; got "
            f"{tuple(images.shape)}, {tuple(boxes.shape)}, {tuple(image_index.shape)}"
        )
    if size < 1:
        raise ValueError(f"crop_regions: size must be at least 1, got {size}")
    rows = image_index.tolist()
    if rows and not 0 <= min(rows) <= max(rows) < len(images):
        raise ValueError(
            f"crop_regions: image_index spans {min(rows)}..{max(rows)}, the batch has {len(images)} images"
        )
    if not rows:
        return images.new_zeros(0, images.shape[1], size, size)
    if rows != sorted(rows):  # each image is sampled once, so its boxes have to stand together
        order = image_index.argsort(stable=True)
        return crop_regions(images, boxes[order], image_index[order], size)[order.argsort()]
    height, width = images.shape[-2:]
    extent = boxes.new_tensor([width, height])
    start = boxes[:, :2].clamp(torch.zeros_like(extent), extent) / extent  # [P, 2] as a share of the image
    end = boxes[:, 2:].clamp(torch.zeros_like(extent), extent) / extent
    centres = (torch.arange(size, device=boxes.device, dtype=boxes.dtype) + 0.5) / size  # [s] pixel centres
    grid = start[:, None] + (end - start)[:, None] * centres[None, :, None]  # [P, s, 2]
    grid = grid * 2 - 1  # eq. 8 in the convention of grid_sample
    grid = torch.stack(
        [grid[:, None, :, 0].expand(-1, size, -1), grid[:, :, None, 1].expand(-1, -1, size)], -1
    ).to(images.dtype)
    crops, counts = [], Counter(rows)
    for row, part in zip(counts, grid.split(list(counts.values())), strict=True):
        tall = part.reshape(1, -1, size, 2)  # the image's boxes stacked: one call, no copies
        sampled = F.grid_sample(images[row : row + 1], tall, align_corners=False)
        crops.append(sampled[0].unflatten(1, (len(part), size)).transpose(0, 1))  # [p, 3, s, s]
    return torch.cat(crops)


def crop_batch(
    images: list[Tensor], targets: list[dict], size: int, jitter: float = 0.0
) -> tuple[Tensor, Tensor]:
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
            boxes = boxes + (torch.rand(boxes.shape).to(boxes) * 2 - 1) * jitter * extent
        row = torch.zeros(len(boxes), dtype=torch.int64, device=image.device)
        crops.append(crop_regions(image[None], boxes, row, size))
        labels.append(target["labels"] - 1)
    return torch.cat(crops) * 255, torch.cat(labels)
