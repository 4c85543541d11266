"""Decoding image files: every pixel format, and EXIF orientation as the annotation file implies."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from c2dlib.data import validation
from c2dlib.data.coco import load_folder
from tests.data.test_coco import good, write


def only_image(root: Path, image: Image.Image, name: str, size: tuple[int, int], **save) -> torch.Tensor:
    """Image 10 of train replaced by this file; what the loader makes of it, [3, H, W]."""
    train = good()
    train["images"][1] |= {"file_name": name, "width": size[0], "height": size[1]}
    write(root, train=train)
    image.save(root / "train2017" / name, **save)
    pixels = load_folder(root).splits["train"][0][0]
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, size[1], size[0])
    return pixels


def test_grey_and_bilevel(tmp_path):
    assert (only_image(tmp_path, Image.new("L", (5, 4), 77), "x.png", (5, 4)) == 77).all()
    assert (only_image(tmp_path, Image.new("1", (5, 4), 1), "y.png", (5, 4)) == 255).all()


def test_cmyk(tmp_path):
    image = Image.new("CMYK", (16, 8), (0, 255, 255, 0))  # magenta + yellow = red
    pixels = only_image(tmp_path, image, "x.jpg", (16, 8), quality=100)
    assert (pixels[:, 4, 4] - torch.tensor([255, 0, 0])).abs().max() <= 3


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bit_is_scaled(tmp_path, suffix):
    values = np.array([[0, 257, 32896], [65535, 255, 40000]], dtype=np.uint16)
    image = Image.fromarray(values)
    if suffix == "pgm":
        image = image.convert("I")
    pixels = only_image(tmp_path, image, f"x.{suffix}", (3, 2))
    assert pixels[0].tolist() == [[0, 1, 128], [255, 1, 156]] and (pixels[0] == pixels[2]).all()  # v / 257


def test_palette_and_alpha(tmp_path):
    image = Image.new("P", (4, 3), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    assert only_image(tmp_path, image, "x.png", (4, 3), transparency=b"\x00\x80")[:, 1, 1].tolist() == [
        200,
        100,
        50,
    ]
    pixels = only_image(tmp_path, Image.new("RGBA", (4, 3), (9, 8, 7, 40)), "y.png", (4, 3))
    assert pixels[:, 1, 1].tolist() == [9, 8, 7]


@pytest.mark.parametrize("full", [True, False])
def test_exif_orientation_follows_the_annotation_file(tmp_path, monkeypatch, full):
    """Orientation 6: the raw 12 x 8 frame is shown turned clockwise, its left edge on top, as 8 x 12."""
    monkeypatch.setattr(validation, "FULL_DECODE_LIMIT", 5000 if full else 0)
    image = Image.new("RGB", (12, 8), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 4, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = only_image(tmp_path / "raw", image, "x.png", (12, 8), exif=exif)
    assert (raw[:, :, :4] == 255).all() and (raw[:, :, 4:] == 0).all()
    turned = only_image(tmp_path / "turned", image, "x.png", (8, 12), exif=exif)
    assert (turned[:, :4] == 255).all() and (turned[:, 4:] == 0).all()
    exif[0x0112] = 3  # upside down keeps the size, so it is never applied
    flipped = only_image(tmp_path / "flipped", image, "x.png", (12, 8), exif=exif)
    assert (flipped == raw).all()
