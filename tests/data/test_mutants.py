"""Damaged COCO-format folders are loaded exactly as their files say, or refused with file, id and field.

hypothesis damages a valid folder, the same way each time. ``make test ARGS=--long`` tries ten times as many
damages.
"""

import copy
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from c2dlib.data.coco import load_folder
from c2dlib.data.validation import DataError
from tests.data.test_coco import BOX, HEIGHT, RLE, WIDTH, good, write

ANNOTATIONS = "annotations/instances_train2017.json"
# What a line of a report begins with: the file and, in it, the entry and the field.
FIELDS = "id|image_id|category_id|bbox|area|iscrowd|width|height|file_name|name"
NAMED = re.compile(
    r"  (annotations/instances_(train|val)2017\.json("
    rf": (annotation|image|category) id \d+: ({FIELDS}) "
    r"|: category id \d+ is "
    r"|: (images|annotations|categories)(\[\d+\])?(: id)? "
    r"|: info: area_cuts "
    r"|: an object with "
    r"|: must hold an object"
    r"|: no usable box to train on"
    r"| is not valid JSON: .)"
    r"|train2017/: image id \d+: file_name '.*': .)"
)


def whole_folder() -> dict:
    """An annotation file with all fields that training and evaluation read."""
    train = good()
    train["info"] = {"area_cuts": [4, 20]}
    train["annotations"][1] |= {"area": 11.5, "iscrowd": 0}
    train["annotations"].append({"id": 11, "image_id": 20, "category_id": 3, "bbox": [-1.5, 2, 4.25, 30]})
    return train


def encoded(image: Image.Image, kind: str, **more) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **more)
    return file.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A valid folder; its training images are a PNG of 16-bit grey, a JPEG with EXIF and a TIFF."""
    folder = write(tmp_path_factory.mktemp("mutants") / "photos", train=whole_folder())
    chance = np.random.default_rng(0)
    colours = Image.fromarray(chance.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 3
    grey = Image.fromarray(chance.integers(0, 65535, (HEIGHT, WIDTH), dtype=np.uint16))
    (folder / "train2017/a.png").write_bytes(encoded(grey, "PNG"))
    (folder / "train2017/b.png").write_bytes(encoded(colours, "JPEG", exif=exif))
    (folder / "train2017/c.png").write_bytes(encoded(colours, "TIFF"))
    load_folder(folder)
    return folder


def plain_reading(text: str) -> dict[int, list]:
    """Image id -> [class name, x1, y1, x2, y2] of its boxes in the order of ids, clipped to the image."""
    data = json.loads(text)
    sizes = {image["id"]: (image["width"], image["height"]) for image in data["images"]}
    names = {category["id"]: category["name"] for category in data["categories"]}
    boxes = {image_id: [] for image_id in sizes}
    for row in sorted(data["annotations"], key=lambda row: row["id"]):
        x, y, w, h = (float(v) if abs(v) < 1e300 else math.copysign(math.inf, v) for v in row["bbox"])
        width, height = sizes[row["image_id"]]
        if row.get("iscrowd") or not all(map(math.isfinite, (x, y, w, h))) or min(w, h) < 1e-3:
            continue
        corners = [max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)]
        if corners[2] - corners[0] >= 1e-3 and corners[3] - corners[1] >= 1e-3:
            boxes[row["image_id"]].append([names[row["category_id"]], *corners])
    return boxes


def loaded(root: Path) -> dict[int, list]:
    """The same, as ``load_folder`` reads it; every image is decoded."""
    split, boxes = load_folder(root).splits["train"], {}
    for i in range(len(split)):
        image, target = split[i]
        assert image.dtype == torch.uint8 and image.shape == (3, HEIGHT, WIDTH)
        names = [split.class_names[label - 1] for label in target["labels"]]
        boxes[target["image_id"]] = [
            [name, *box] for name, box in zip(names, target["boxes"].tolist(), strict=True)
        ]
    return boxes


def same(a: dict[int, list], b: dict[int, list]) -> bool:
    return a.keys() == b.keys() and all(
        [row[0] for row in a[i]] == [row[0] for row in b[i]]
        and np.allclose([row[1:] for row in a[i]], [row[1:] for row in b[i]], rtol=0, atol=1e-5)
        for i in a
    )


def require_exact_or_refused(root: Path, text: str | bytes) -> None:
    """Load the folder with this annotation file."""
    path = root / ANNOTATIONS
    whole = path.read_bytes()
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        boxes = loaded(root)
    except DataError as error:
        lines = [line for line in str(error).splitlines() if line.startswith("  ")]
        assert lines and all(NAMED.match(line) or line.startswith("  ... and") for line in lines), str(error)
    else:
        assert same(boxes, plain_reading(text))
    finally:
        path.write_bytes(whole)


ODD = [None, True, False, 0, -1, 1, 7, 2**63, 10**400, 0.5, 1e-4, 1e308, math.inf, -math.inf, math.nan]
ODD += ["", " ", "x", "7", "../a.png", "c.png", "\ud800", "$_$", [], {}, [1], [1, 2, 3, 4], {"id": 7}, [[]]]
values = st.sampled_from(ODD) | st.integers() | st.floats(width=32) | st.text(max_size=5)


def places(value: object, *path) -> list[tuple]:
    """The path of every value in a JSON object."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, part in inside for place in [(*path, key), *places(part, *path, key)]]


def is_number(value: object, place: tuple) -> bool:
    for key in place:
        value = value[key]
    return type(value) in (int, float)


COUNTS = st.sampled_from([1, 1, 2, 3])  # changes of a mutant


@st.composite
def mutants(draw, whole: dict):
    """Copies of a JSON object with up to three values replaced, removed, doubled, or copied elsewhere.

    Half of the changes are of a number into another one.
    """
    mutant = copy.deepcopy(whole)
    for _ in range(draw(COUNTS)):
        change = draw(st.sampled_from(["number"] * 4 + ["replace", "remove", "double", "copy"]))
        there = [place for place in places(mutant) if change != "number" or is_number(mutant, place)]
        if not there:
            break
        *path, last = draw(st.sampled_from(there))
        holder = mutant
        for key in path:
            holder = holder[key]
        if change == "number":
            holder[last] = draw(st.floats(-4, 20) | st.integers(0, 40))
        elif change == "remove":
            del holder[last]
        elif change == "double" and isinstance(holder, list):
            holder.insert(last, copy.deepcopy(holder[last]))
        elif change == "copy":
            source = mutant
            for key in draw(st.sampled_from(there)):
                source = source[key]
            holder[last] = copy.deepcopy(source)
        else:
            holder[last] = draw(values)
    return mutant


@st.composite
def damaged_bytes(draw, whole: bytes):
    """Copies of a file with up to three bytes changed, inserted or removed, or its end or a part cut off.

    Half of the changes are of a digit into another one, where there are digits.
    """
    content = bytearray(whole)
    for _ in range(draw(COUNTS)):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        change = draw(st.sampled_from(["digit"] * 5 + ["flip", "insert", "remove", "cut", "end"]))
        if change == "digit" and (
            digits := [i for i, byte in enumerate(content) if chr(byte) in "0123456789"]
        ):
            content[draw(st.sampled_from(digits))] = draw(st.sampled_from(b"0123456789"))
        elif change in ("digit", "flip") and content:
            content[at] ^= draw(st.integers(1, 255))
        elif change == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=4))
        elif change == "remove":
            del content[at : at + 1]
        elif change == "cut":
            del content[at : at + draw(st.integers(1, 40))]
        else:
            del content[at:]
    return bytes(content)


def test_the_undamaged_folder_is_read_as_it_is_written(root):
    boxes = loaded(root)
    assert same(boxes, plain_reading((root / ANNOTATIONS).read_text()))
    assert boxes[20] == [["cup", 1, 2, 4, 6], ["bun", 0, 2, 2.75, 8]] and boxes[30] == []


@given(mutant=mutants(whole_folder()))
def test_changed_fields(root, mutant):
    require_exact_or_refused(root, json.dumps(mutant))


@given(text=damaged_bytes(json.dumps(whole_folder()).encode()))
def test_damaged_annotation_files(root, text):
    require_exact_or_refused(root, text)


@given(data=st.data(), name=st.sampled_from(["a.png", "b.png", "c.png"]))
def test_damaged_images(root, data, name):
    """Pixels may differ where a format has no checksum; the boxes are the same, or the image is named."""
    path = root / "train2017" / name
    whole = path.read_bytes()
    path.write_bytes(data.draw(damaged_bytes(whole)))
    try:
        assert same(loaded(root), plain_reading((root / ANNOTATIONS).read_text()))
    except DataError as error:
        (line,) = (line for line in str(error).splitlines() if line.startswith("  "))
        number = {"a.png": 30, "b.png": 20, "c.png": 10}[name]
        assert line.startswith(f"  train2017/: image id {number}: file_name '{name}': "), str(error)
    finally:
        path.write_bytes(whole)


OUTLINES = [
    [BOX, [8, 6, 10, 6, 10, 8, 8, 8]],
    RLE,
    {"size": [HEIGHT, WIDTH], "counts": "9262Z2"},
    [[0.5, 0.5, 11.5, 3.25, 4.75, 7.5]],
]


def plain_mask(outline: dict) -> np.ndarray:
    """The mask of uncompressed run lengths, pixel by pixel."""
    pixels = [i % 2 for i, count in enumerate(outline["counts"]) for _ in range(count)]
    return np.array(pixels).reshape(WIDTH, HEIGHT).T


@given(mutant=st.sampled_from(OUTLINES).flatmap(lambda outline: mutants({"segmentation": outline})))
def test_changed_segmentations(root, mutant):
    """Drawn as they say, or named with their annotation; memory is never read that was not written."""
    train = good()
    outline = train["annotations"][2]["segmentation"] = mutant.get("segmentation")
    train["annotations"][1]["segmentation"] = [BOX]
    path = root / ANNOTATIONS
    whole = path.read_bytes()
    path.write_text(json.dumps(train))
    try:
        masks = load_folder(root).splits["train"].with_masks()[0][1]["masks"].numpy()
    except DataError as error:
        missing = "1 of 2 boxes have no segmentation, such as annotation id 0."
        assert f"{path}: {missing}" in str(error) or f"{path}: 1 segmentation(s) cannot be drawn:\n" in str(
            error
        )
        assert missing in str(error) or "\n  annotation id 0: segmentation: " in str(error)
    else:
        assert masks.shape == (1, HEIGHT, WIDTH) and set(np.unique(masks)) <= {0, 1}
        if isinstance(outline, dict) and isinstance(outline["counts"], list):
            assert np.array_equal(masks[0], plain_mask(outline))
        if isinstance(outline, list):
            rows, columns = np.nonzero(masks[0])
            for found, coordinates in ((columns, 0), (rows, 1)):
                near = [v for polygon in outline for v in polygon[coordinates::2]]
                assert all(min(near) - 1 <= v <= max(near) + 1 for v in found)
    finally:
        path.write_bytes(whole)
