"""Decoding image files: every pixel format, and EXIF orientation as the annotation file implies."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from c2dlib.data import validation
from c2dlib.data.coco import load_folder
from c2dlib.data.images import read_picture
from c2dlib.data.validation import DataError
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


def test_a_picture_is_read_as_in_training(tmp_path):
    """``detect`` and ``export`` read 16-bit grey, palettes and alpha as the loader does."""
    grey = Image.fromarray(np.array([[0, 257, 32896], [65535, 255, 40000]], dtype=np.uint16))
    alpha = Image.new("RGBA", (3, 2), (9, 8, 7, 40))
    palette = Image.new("P", (3, 2), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    for name, image in {
        "grey.png": grey,
        "grey.tif": grey,
        "alpha.png": alpha,
        "palette.gif": palette,
    }.items():
        in_training = only_image(tmp_path, image, name, (3, 2))
        assert torch.equal(read_picture(tmp_path / "train2017" / name), in_training.as_subclass(torch.Tensor))


def test_a_picture_is_turned_as_people_see_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (12, 8)).save(tmp_path / "x.png", exif=exif)
    assert read_picture(tmp_path / "x.png").shape == (3, 12, 8)


def test_whole_numbers_of_more_than_16_bits_are_refused(tmp_path):
    with pytest.raises(DataError, match="x.tif': grey values 0 to 70000 do not fit 16 bits"):
        only_image(tmp_path, Image.fromarray(np.array([[0, 70000]], dtype=np.int32)), "x.tif", (2, 1))
    with pytest.raises(ValueError, match="pixel format 'F' is not supported"):
        Image.new("F", (2, 2)).save(tmp_path / "y.tif")
        read_picture(tmp_path / "y.tif")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 12 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("full", [True, False])
def test_only_kinds_of_images_that_are_meant_are_opened(tmp_path, monkeypatch, full):
    """EPS in a .jpg starts no Ghostscript; nor is any other rare kind opened."""
    monkeypatch.setattr(validation, "FULL_DECODE_LIMIT", 5000 if full else 0)
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("started"))
    root = write(tmp_path, train=good())
    (root / "train2017/c.png").write_bytes(EPS)
    Image.new("RGB", (12, 8)).save(root / "train2017/b.png", format="PCX")
    with pytest.raises(DataError) as caught:
        load_folder(root)
    for name in ("image id 10: file_name 'c.png'", "image id 20: file_name 'b.png'"):
        assert f"{name}: is no image of a kind that is read (JPEG, PNG, " in str(caught.value)
    with pytest.raises(ValueError, match="is no image of a kind"):
        read_picture(root / "train2017/c.png")


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM"])
def test_kinds_that_are_read(tmp_path, kind):
    more = {"save_all": True, "append_images": [Image.new("RGB", (16, 8))]} if kind == "MPO" else {}
    image = Image.new("RGB", (16, 8), (200, 100, 50))
    pixels = only_image(tmp_path, image, "x.jpg", (16, 8), format=kind, **more)
    assert (pixels[:, 4, 4].int() - torch.tensor([200, 100, 50])).abs().max() <= 4
