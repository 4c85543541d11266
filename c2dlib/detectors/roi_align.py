"""RoIAlign as a weighted sum of pixels: torchvision's values, faster on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import _convert_to_roi_format, _setup_scales


def pool_regions(
    pool: MultiScaleRoIAlign, maps: dict[str, Tensor], boxes: list[Tensor], sizes: list
) -> Tensor:
    """What ``pool(maps, boxes, sizes)`` computes, up to rounding; differentiable in the maps.

    On maps that are not on a CPU it is that call itself.

    Args:
        maps: a pyramid's levels by name, [B, C, H, W] each.
        boxes: per image [R_b, 4] xyxy in pixels of the network's input; they get no gradient.
        sizes: per image (height, width) of the network's input.

    Returns:
        [R, C, s, s] for the R boxes of all images.
    """
    levels = [level for name, level in maps.items() if name in pool.featmap_names]
    if levels[0].device.type != "cpu":
        return pool(maps, boxes, sizes)
    if pool.scales is None or pool.map_levels is None:
        pool.scales, pool.map_levels = _setup_scales(
            levels, sizes, pool.canonical_scale, pool.canonical_level
        )
    regions, level_of_box = _convert_to_roi_format(boxes).detach(), pool.map_levels(boxes)
    rows, pooled = [], []
    for i, (level, scale) in enumerate(zip(levels, pool.scales, strict=True)):
        rows.append((level_of_box == i).nonzero()[:, 0])
        pooled.append(roi_align(level, regions[rows[-1]], scale, pool.output_size[0], pool.sampling_ratio))
    return torch.cat(pooled)[torch.cat(rows).argsort()]


def roi_align(level: Tensor, regions: Tensor, scale: float, cells: int, samples: int) -> Tensor:
    """``torchvision.ops.roi_align`` with ``aligned=False``: a cell is the mean of bilinear samples on a grid.

    All pixels of the map form one table with a row of C numbers per pixel. A cell is a weighted sum of
    (2 samples)² of its rows, which ``embedding_bag`` computes; its backward pass adds whole rows where
    torchvision's adds single numbers.

    Args:
        level: [B, C, H, W].
        regions: [R, 5], the image's row in the batch and the box xyxy in pixels of the network's input.
        scale: pixels of the map per pixel of the network's input.
        cells: s, cells per side.
        samples: per side of a cell, at least 1.

    Returns:
        [R, C, s, s].
    """
    batch, channels, height, width = level.shape
    count = len(regions)
    if count == 0:
        return level.new_zeros(0, channels, cells, cells)
    corners, far = regions[:, 1:3] * scale, regions[:, 3:] * scale
    extent = (far - corners).clamp(min=1.0)  # torchvision's smallest region has a side of one pixel
    places = (torch.arange(cells * samples, device=level.device) + 0.5) / (cells * samples)
    grid = corners[:, None] + extent[:, None] * places[:, None]  # [R, s samples, 2] x and y of the samples

    columns, column_weights = _neighbours(grid[..., 0], width)
    rows, row_weights = _neighbours(grid[..., 1], height)
    by_cell = (count, cells, 2 * samples)
    columns, column_weights = (x.reshape(by_cell)[:, None, :, None] for x in (columns, column_weights))
    rows, row_weights = (y.reshape(by_cell)[:, :, None, :, None] for y in (rows, row_weights))
    image = regions[:, 0].long()[:, None, None, None, None]
    pixels = (image * height + rows) * width + columns  # [R, s, s, 2 samples, 2 samples]
    weights = row_weights * column_weights / samples**2

    table = level.permute(0, 2, 3, 1).reshape(batch * height * width, channels)
    bags = (count * cells * cells, -1)
    weights = weights.reshape(bags).to(table.dtype)
    summed = F.embedding_bag(pixels.reshape(bags), table, mode="sum", per_sample_weights=weights)
    return summed.reshape(count, cells, cells, channels).permute(0, 3, 1, 2)


def _neighbours(place: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The two pixels beside each place on an axis and their weights, [..., 2] each; 0 outside the map."""
    inside = (place >= -1) & (place <= length)
    place = place.clamp(0, length - 1)
    low = place.floor()
    share = place - low
    low = low.long()
    weights = torch.stack([1 - share, share], -1) * inside[..., None]
    return torch.stack([low, (low + 1).clamp(max=length - 1)], -1), weights
