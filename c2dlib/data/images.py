"""Decoding image files of any kind to RGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

PIXEL_FORMATS = {
    "1",
    "L",
    "P",
    "RGB",
    "RGBA",
    "RGBX",
    "RGBa",
    "CMYK",
    "YCbCr",
    "HSV",
    "LA",
    "PA",
    "La",
    "I",
}  # and I;16...
ORIENTATION = 0x0112  # EXIF tag
SIDES_SWAPPED = (5, 6, 7, 8)  # its values that turn the image by a quarter


class ImageSizeError(ValueError):
    """The image file has another size than the annotation file says."""


def read_image(path: Path, width: int, height: int) -> Tensor:
    """Decode an image file to RGB uint8 [3, height, width]; alpha is dropped, 16 bits are scaled to 8.

    COCO's boxes refer to the frame that the annotation file's width and height give, usually the stored one.
    So the EXIF orientation is applied only if width and height match the turned size and not the stored one.

    Raises:
        ImageSizeError: if neither size matches.
        ValueError: for a pixel format without a known range.
        Exception: whatever Pillow raises for a broken file.
    """
    with Image.open(path) as image:
        if needs_turn(image, width, height):
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16-bit grey
            grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
            image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
        if image.mode == "P":
            image = image.convert("RGBA")  # Pillow warns about palettes with transparency otherwise
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def check_header(path: Path, width: int, height: int) -> None:
    """Check size and pixel format of an image file without decoding it; raises as ``read_image`` does."""
    with Image.open(path) as image:
        needs_turn(image, width, height)


def needs_turn(image: Image.Image, width: int, height: int) -> bool:
    """Whether the EXIF orientation must be applied to get width x height; raises as ``read_image`` does."""
    if image.mode not in PIXEL_FORMATS and not image.mode.startswith("I;16"):
        raise ValueError(f"pixel format {image.mode!r} is not supported, save it as 8-bit RGB")
    if image.size == (width, height):
        return False
    if image.getexif().get(ORIENTATION, 1) in SIDES_SWAPPED and image.size == (height, width):
        return True
    raise ImageSizeError(
        f"the file is {image.width} x {image.height}, the annotation file says {width} x {height}"
    )
