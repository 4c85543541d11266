"""Decoding image files of any kind to RGB: the one reader of training, evaluation, detection and export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

# Kinds of files that are opened, whatever their names end in. Pillow knows many more, and for some of them
# (EPS) it starts another program.
KINDS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")
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
MIRRORED = (2, 3, 4)  # those that mirror it or turn it upside down; all others leave it as it is


class ImageSizeError(ValueError):
    """The image file has another size than the annotation file says."""


def read_image(path: Path, width: int, height: int) -> Tensor:
    """Decode an image file to RGB uint8 [3, height, width]; alpha is dropped, 16 bits are scaled to 8.

    COCO's boxes refer to the frame that the annotation file's width and height give, usually the stored one.
    So the EXIF orientation is applied only if width and height match the turned size and not the stored one.

    Raises:
        ImageSizeError: if neither size matches.
        ValueError: if the file is of no kind in KINDS, or for a pixel format without a known range.
        Exception: whatever Pillow raises for a broken file.
    """
    with _opened(path) as image:
        return _rgb(ImageOps.exif_transpose(image) if needs_turn(image, width, height) else image)


def read_picture(path: Path) -> Tensor:
    """Decode a picture as people see it, its EXIF orientation applied, to RGB uint8 [3, H, W].

    Raises:
        ValueError, Exception: as ``read_image``.
    """
    with _opened(path) as image:
        check_pixel_format(image)
        return _rgb(ImageOps.exif_transpose(image))


def check_header(path: Path, width: int, height: int) -> None:
    """Check size and pixel format of an image file without decoding it; raises as ``read_image`` does."""
    with _opened(path) as image:
        needs_turn(image, width, height)


def needs_turn(image: Image.Image, width: int, height: int) -> bool:
    """Whether the EXIF orientation must be applied to get width x height; raises as ``read_image`` does."""
    check_pixel_format(image)
    if image.size == (width, height):
        return False
    if image.getexif().get(ORIENTATION, 1) in SIDES_SWAPPED and image.size == (height, width):
        return True
    raise ImageSizeError(
        f"the file is {image.width} x {image.height}, the annotation file says {width} x {height}"
    )


def check_pixel_format(image: Image.Image) -> None:
    """Raise ValueError for a pixel format without a known range."""
    if image.mode not in PIXEL_FORMATS and not image.mode.startswith("I;16"):
        raise ValueError(f"pixel format {image.mode!r} is not supported, save it as 8-bit RGB")


def _opened(path: Path) -> Image.Image:
    """An image file, its header read. Raises ValueError if it is of no kind in KINDS."""
    try:
        return Image.open(path, formats=KINDS)
    except UnidentifiedImageError as error:
        raise ValueError(f"is no image of a kind that is read ({', '.join(KINDS)})") from error


def _rgb(image: Image.Image) -> Tensor:
    """The pixels as RGB uint8 [3, H, W]. Raises ValueError for whole numbers of more than 16 bits."""
    if image.mode.startswith("I"):  # 16-bit grey
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError(
                f"grey values {grey.min()} to {grey.max()} do not fit 16 bits, save as 8-bit RGB"
            )
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    if image.mode == "P":
        image = image.convert("RGBA")  # Pillow warns about palettes with transparency otherwise
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
