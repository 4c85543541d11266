"""COCO segmentations, polygons or run lengths: checked, then drawn as masks.

pycocotools draws what it is given: coordinates that are not finite, or far away, end in a segmentation fault,
and run lengths that do not fill their image in uninitialised memory. So everything is checked here before.
"""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco_mask


class SegmentationError(ValueError):
    """A segmentation is none; the message says what it must be."""


def draw(segmentation: object, height: int, width: int) -> np.ndarray:
    """A segmentation as uint8 [height, width], 1 inside; raises as ``check``."""
    counts = check(segmentation, height, width)
    if counts is None:
        return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width)))
    values = np.arange(len(counts), dtype=np.uint8) % 2  # outside, inside, outside, ...
    return np.repeat(values, counts).reshape(width, height).T  # column by column


def check(segmentation: object, height: int, width: int) -> np.ndarray | None:
    """Check a segmentation of an image; return its run lengths, None for polygons.

    Raises:
        SegmentationError: if it is neither polygons nor run lengths, a polygon has a coordinate that is not
            finite or lies farther outside than the image is large, or run lengths do not fill the image.
    """
    if isinstance(segmentation, list):
        for i, polygon in enumerate(segmentation):
            _check_polygon(polygon, f"polygon {i}", height, width)
        return None
    if not isinstance(segmentation, dict):
        raise SegmentationError("must be a list of polygons, or an object with size and counts")
    if segmentation.get("size") != [height, width] or not all(type(v) is int for v in segmentation["size"]):
        raise SegmentationError(f"size must be [{height}, {width}], the image's height and width")
    return _run_lengths(segmentation.get("counts"), height * width)


def _check_polygon(polygon: object, where: str, height: int, width: int) -> None:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise SegmentationError(f"{where} must be a list of at least three points, two numbers each")
    if not all(type(v) in (int, float) for v in polygon):
        raise SegmentationError(f"{where} must hold numbers only")
    try:
        points = np.array(polygon, dtype=np.float64)
    except OverflowError as error:  # a whole number of hundreds of digits
        raise SegmentationError(f"{where} has a number that is too large") from error
    for values, side, axis in ((points[::2], width, "x"), (points[1::2], height, "y")):
        wrong = ~((values >= -side) & (values <= 2 * side))  # also NaN
        if wrong.any():
            raise SegmentationError(
                f"{where} has the {axis} {values[wrong][0]:g}, which is not near the image (0 to {side})"
            )


def _run_lengths(counts: object, pixels: int) -> np.ndarray:
    """The run lengths of ``counts``, a list or COCO's text; their sum is ``pixels``."""
    if isinstance(counts, str):
        counts = _decompressed(counts)
    if not isinstance(counts, list) or not all(type(v) is int and v >= 0 for v in counts):
        raise SegmentationError("counts must be a list of whole numbers >= 0, or COCO's text of them")
    if sum(counts) != pixels:
        raise SegmentationError(f"counts have the sum {sum(counts)}, must fill the image's {pixels} pixels")
    return np.array(counts, dtype=np.int64)


def _decompressed(text: str) -> list[int]:
    """COCO's text as numbers: five bits a character, the lowest first; from the fourth on a number is the
    difference to the last but one."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise SegmentationError(f"counts hold {character!r}, which does not belong there")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # more follow
            continue
        if bits & 16:  # negative
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise SegmentationError("counts are cut off")
    return counts
