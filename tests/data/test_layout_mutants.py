"""Damaged data in the other layouts are loaded exactly as their files say, or refused with file and place.

hypothesis damages a small valid folder, the same way each time. ``make test ARGS=--long`` tries ten
times as many damages. What the files say is read here a second time, as simply as possible.
"""

import contextlib
import json
import math
import os
import re
import shutil
import signal
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from c2dlib.data.coco import CocoFolder, load_folder
from c2dlib.data.layouts import load_data
from c2dlib.data.published import check_data
from c2dlib.data.validation import DataError
from tests.data.test_mutants import damaged_bytes, mutants, plain_reading

WIDTH, HEIGHT = 20, 10
Boxes = dict[str, list]  # path of an image -> [class name, x1, y1, x2, y2] of its boxes
TRAIN, VAL = ("a", "b", "c"), ("d", "e")
few = settings(max_examples=settings().max_examples // 6)
many = settings(max_examples=settings().max_examples // 3)


def picture(path: Path, seed: int, size=(WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def others(root: Path) -> None:
    """A folder beside the data: two images with labels that a mutant may name."""
    for i, name in enumerate("xy", start=50):
        picture(root / f"others/images/{name}.png", i)
        write(root / f"others/labels/{name}.txt", "1 0.5 0.5 0.25 0.5\n")


def yolo(root: Path) -> Path:
    for split, names in (("train", TRAIN), ("val", VAL)):
        for name in names:
            picture(root / f"mine/images/{split}/{name}.png", ord(name))
            write(root / f"mine/labels/{split}/{name}.txt", "0 0.5 0.5 0.25 0.5\n1 0.25 0.5 0.1 0.2\n")
    write(root / "mine/labels/train/b.txt", "1 0.1 0.1 0.5 0.1 0.25 0.75\n")
    write(root / "mine/train.txt", "images/train/a.png\n./images/train/b.png\n")
    write(root / "mine/data.yaml", "names: [cat, dog]\ntrain: images/train\nval: images/val\n")
    others(root)
    return root


def annotations(names: tuple[str, ...]) -> dict:
    images = [
        {"id": ord(name), "file_name": f"{name}.png", "width": WIDTH, "height": HEIGHT} for name in names
    ]
    rows = [
        {"id": i, "image_id": ord(name), "category_id": 1 + i % 2, "bbox": [2 + i, 1, 8, 4.5]}
        for i, name in enumerate(names)
    ]
    return {
        "images": images,
        "annotations": rows,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def roboflow(root: Path) -> Path:
    for folder, names in (("train", TRAIN), ("valid", VAL)):
        for name in names:
            picture(root / f"mine/{folder}/{name}.png", ord(name))
        write(root / f"mine/{folder}/_annotations.coco.json", json.dumps(annotations(names)))
    others(root)
    return root


def pairs(root: Path) -> Path:
    lines = []
    for split, names in (("train", TRAIN), ("val", VAL)):
        for name in names:
            picture(root / f"mine/photos/{split}/{name}.png", ord(name))
        write(root / f"mine/{split}.json", json.dumps(annotations(names)))
        lines.append(f"{split}: {{annotations: {split}.json, images: photos/{split}}}\n")
    write(root / "mine/mine.yaml", "".join(lines))
    others(root)
    return root


OBJECT = """<object>
<name>{name}</name>
<difficult>{difficult}</difficult>
<bndbox>
<xmin>3</xmin>
<ymin>2</ymin>
<xmax>{right}</xmax>
<ymax>7</ymax>
</bndbox>
</object>
"""


def voc(root: Path) -> Path:
    year = root / "mine/VOCdevkit/VOC2007"
    for part, names in (("trainval", TRAIN), ("test", VAL)):
        write(year / f"ImageSets/Main/{part}.txt", "".join(f"{name}\n" for name in names))
        for i, name in enumerate(names):
            (year / "JPEGImages").mkdir(exist_ok=True)
            Image.new("RGB", (WIDTH, HEIGHT), (9 * ord(name) % 256, 40 * i, 0)).save(
                year / f"JPEGImages/{name}.jpg"
            )
            objects = OBJECT.format(name="dog", difficult=0, right=9 + i) + OBJECT.format(
                name="cat", difficult=i % 2, right=12
            )
            size = f"<size>\n<width>{WIDTH}</width>\n<height>{HEIGHT}</height>\n<depth>3</depth>\n</size>\n"
            write(year / f"Annotations/{name}.xml", f"<annotation>\n{size}{objects}</annotation>\n")
    others(root)
    return root


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> dict[Callable, Path]:
    """The valid folder of each layout."""
    return {
        make: make(tmp_path_factory.mktemp(make.__name__) / "work") for make in (yolo, roboflow, pairs, voc)
    }


@pytest.fixture(autouse=True)
def alarm(monkeypatch):
    """An error after two minutes, where a reader waits for ever. No time is spent on the disk."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("hangs"))
    signal.alarm(1200 if settings().max_examples > 1000 else 120)
    yield
    signal.alarm(0)


def state(root: Path) -> dict[str, object]:
    """What lies in a folder: the content of files, where links point to."""
    return {
        str(path.relative_to(root)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else path.lstat().st_mode
        for path in root.rglob("*")
    }


@contextlib.contextmanager
def to_damage(root: Path) -> Iterator[Path]:
    """A valid folder for one mutant; at the end it is valid again."""
    whole = state(root)
    try:
        yield root
    finally:
        now = state(root)
        for name in sorted(now, reverse=True):
            if now[name] != whole.get(name):
                path = root / name
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        for name in sorted(name for name in whole if not os.path.lexists(root / name)):
            content = whole[name]
            (root / name).write_bytes(content) if isinstance(content, bytes) else (root / name).mkdir()


def loaded(folder: CocoFolder) -> dict[str, Boxes]:
    """Split -> boxes, as the library reads them; every image is decoded."""
    read: dict[str, Boxes] = {}
    for name, split in folder.splits.items():
        read[name] = {}
        for i, entry in enumerate(split.annotations["images"]):
            image, target = split[i]
            assert image.shape == (3, entry["height"], entry["width"])
            names = [split.class_names[label - 1] for label in target["labels"]]
            read[name][os.path.realpath(split.image_folder / entry["file_name"])] = [
                [name, *box] for name, box in zip(names, target["boxes"].tolist(), strict=True)
            ]
    return read


def clipped(name: str, box: list[float], size: tuple[int, int]) -> list[list]:
    """The box cut at the edges of its image, as a list; an empty one where no area is left."""
    x1, y1, x2, y2 = box
    if not all(map(math.isfinite, box)) or min(x2 - x1, y2 - y1) < 1e-3:
        return []
    corners = [max(x1, 0), max(y1, 0), min(x2, size[0]), min(y2, size[1])]
    return [[name, *corners]] if min(corners[2] - corners[0], corners[3] - corners[1]) >= 1e-3 else []


def same(a: Boxes, b: Boxes) -> bool:
    return a.keys() == b.keys() and all(
        [row[0] for row in a[i]] == [row[0] for row in b[i]]
        and np.allclose([row[1:] for row in a[i]], [row[1:] for row in b[i]], rtol=0, atol=2e-4)
        for i in a
    )


def require_exact_or_refused(
    work: Path, load: Callable[[], CocoFolder], reading: Callable[[], dict[str, Boxes]]
) -> None:
    """Load a mutant, and compare with a second reading; the data stay as they are."""
    before = state(work)
    try:
        read = loaded(load())
    except DataError as error:
        require_named(str(error), work)
        assert state(work) == before
    else:
        expected = reading()
        if "val" not in expected:  # the library made one of training images
            assert read["train"] and read["val"] and not read["train"].keys() & read["val"].keys()
            read["train"] |= read.pop("val")
        assert read.keys() == expected.keys()
        for split in read:
            assert same(read[split], expected[split]), (split, read[split], expected[split])
        after = state(work)
        assert {path: after.get(path) for path in before} == before
        assert all(path.startswith("mine-coco") for path in after.keys() - before.keys())
    made = work.parent / "made"
    assert not [path for path in made.rglob("*") if path.name.startswith(".")]


def require_named(text: str, work: Path) -> None:
    """Every line of a report begins with a file of the data."""
    first, *more = text.splitlines()
    lines = [line for line in more if re.match(r"  (?! |http)", line)] or [first]
    kind, root = "", re.escape(str(work))
    file = rf"{root}/[^:]*: .|{root}/\S*( is not valid JSON: .|$)|data\.yaml: .|none of \d+, such as {root}/."
    if "Or one of these, " in text:  # neither of the files is there that tell the layout
        file += r"|annotations/instances_(train|val)2017\.json$"
    if "Nothing is written." in text:  # of VOC: images have the names of the files in JPEGImages/
        file += r"|(train|val)2017/: image id \d+: file_name '\w+\.jpg': ."
        file += r"|train2017/\w+\.jpg and val2017/\w+\.jpg have"
        file += r"|annotations/instances_train2017.json: no usable box"
    for line in [first, *more]:
        if re.fullmatch(r"[\w ']+ \(\d+\):", line):
            kind = line
        elif line in lines:
            assert re.match(rf"(  )?({file}|  \.\.\. and)", line), text
            assert not kind.startswith("wrong line") or re.search(r": line \d+: ", line), text


# --- damages of files ---

WORDS = """nan|inf|-inf|1e999|-1|-0.005|1.005|0x1|1_0|0_1|\u0663|0|1|2|0.5|1.0|1e0|5e-1
99999999999999999999|cat|true|""|0,5|0.5\u00a0|..|/|../others/images/x.png|/dev/null|a|a.png|images|$_$|-0
0.25|+1|0000000000000000000000000000000000000000"""


def choice(lines: str) -> st.SearchStrategy:
    """One of the texts between | and ends of lines."""
    return st.sampled_from(lines.replace("\n", "|").split("|"))


@st.composite
def damaged_text(draw, whole: bytes):
    """Copies of a text file with words or lines replaced, removed, doubled, or its bytes damaged."""
    change = draw(st.sampled_from(["words"] * 6 + ["bytes", "lines", "form"]))
    if change == "bytes":
        return draw(damaged_bytes(whole))
    if change == "form":
        forms = [whole.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + whole, whole.replace(b"\n", b"\r")]
        forms += [b"", b"\n\n", whole.replace(b"\n", b"\n\n \t\n"), whole.decode().encode("utf-16")]
        forms += [whole + b"\0", whole + b"\xff", whole * 2, whole.rstrip()]
        return draw(st.sampled_from(forms))
    if change == "lines":
        lines = whole.splitlines(keepends=True)
        return b"".join(draw(st.lists(st.sampled_from(lines), max_size=2 * len(lines))))
    parts = re.split(r"(\s+|[<>/,:\[\]{}]+)", whole.decode())
    at = [i for i in range(0, len(parts), 2) if parts[i]]
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        i, word = draw(st.sampled_from(at)), draw(choice(WORDS))
        parts[i] = draw(
            st.sampled_from([word, word, word, "", f"{parts[i]} {parts[i]}", f"{parts[i]} {word}"])
        )
    return "".join(parts).encode()


FILE_DAMAGES = ["remove", "empty", "end", "folder", "loop", "nowhere", "pipe", "outside", "other", "rename"]
FILE_DAMAGES += ["copy", "size", "no image", "turned"]


def damage_file(path: Path, kind: str, work: Path) -> None:
    """Damage a file of the data, in a way that does not read it as text."""
    content = path.read_bytes()
    if kind in ("copy", "rename"):
        path.with_stem("new" + path.stem).write_bytes(content)
    if kind not in ("copy", "empty"):
        path.unlink()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "end":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "nowhere":
        path.symlink_to(work / "nowhere")
    elif kind == "outside":
        path.symlink_to(work / "others/images/x.png")
    elif kind == "other":
        shutil.copy(work / "others/images/x.png", path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "size":
        picture(path, 1, (WIDTH, HEIGHT + 1)) if path.suffix in (".png", ".jpg") else path.write_bytes(b"7")
    elif kind == "no image":
        path.write_text("%!PS-Adobe-3.0\n")
    elif kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (WIDTH, HEIGHT), "red").save(path, "JPEG", exif=exif)


# --- YOLO ---


def yolo_reading(root: Path) -> dict[str, Boxes]:
    """data.yaml with every scalar as it is written, then the label files of the images that it names."""
    description = yaml.load((root / "data.yaml").read_text(encoding="utf-8"), yaml.BaseLoader)
    names = description["names"]
    if isinstance(names, dict):
        names = [names[str(i)] for i in range(len(names))]
    assert isinstance(names, list) and len({name.strip() for name in names}) == len(names)
    read = {}
    for split, keys in {"train": ["train"], "val": ["val", "valid"], "test": ["test"]}.items():
        given = [description[key] for key in keys if description.get(key) not in (None, "", "~", "null")]
        if given:
            (entry,) = given
            read[split] = {}
            for file in yolo_images(root, description.get("path", ""), entry):
                read[split][os.path.realpath(file)] = yolo_boxes(file, names)
    return read


def yolo_images(root: Path, path: str, entry: str | list[str]) -> list[Path]:
    files = []
    for place in entry if isinstance(entry, list) else [entry]:
        tried = [root / path / place, root / place, root / place.removeprefix("../")]
        found = next(place for place in tried if place.exists())
        if found.is_dir():
            files += [file for file in found.rglob("*") if file.suffix in (".png", ".jpg")]
        else:
            lines = found.read_text(encoding="utf-8").split("\n")
            files += [found.parent / line.strip() for line in lines if line.strip()]
    assert files
    return files


def yolo_boxes(file: Path, names: list[str]) -> list:
    """The boxes of an image in the order of lines; a line that is repeated counts once."""
    file = Path(os.path.abspath(file))
    with Image.open(file) as image:
        width, height = image.size
        if image.getexif().get(0x0112, 1) == 6:
            width, height = height, width
    before, images, after = str(file).rpartition("/images/")
    label = Path((before + "/labels/" + after if images else str(file)).rsplit(".", 1)[0] + ".txt")
    rows = []
    for line in label.read_text(encoding="utf-8").split("\n") if label.exists() else []:
        if not line.strip():
            continue
        words = line.split()
        assert all(re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", word, re.A | re.I) for word in words)
        number, *v = map(float, words)
        assert number in range(len(names))
        if len(v) == 4:
            v = [v[0] - v[2] / 2, v[1] - v[3] / 2, v[0] + v[2] / 2, v[1] + v[3] / 2]
        else:
            assert len(v) >= 6 and len(v) % 2 == 0
            v = [min(v[::2]), min(v[1::2]), max(v[::2]), max(v[1::2])]
        row = [names[int(number)], v[0] * width, v[1] * height, v[2] * width, v[3] * height]
        rows += [row] if row not in rows else []
    return [box for name, *corners in rows for box in clipped(name, corners, (width, height))]


def require_yolo(work: Path) -> None:
    require_exact_or_refused(
        work, lambda: load_data(work / "mine", work.parent / "made"), lambda: yolo_reading(work / "mine")
    )


@many
@given(data=st.data(), name=st.sampled_from(["labels/train/a.txt", "labels/train/b.txt", "labels/val/d.txt"]))
def test_label_files(valid, data, name):
    with to_damage(valid[yolo]) as work:
        path = work / "mine" / name
        path.write_bytes(data.draw(damaged_text(path.read_bytes())))
        require_yolo(work)


@few
@given(data=st.data(), with_val=st.booleans())
def test_lists_of_images(valid, data, with_val):
    with to_damage(valid[yolo]) as work:
        val = "val: images/val\n" if with_val else ""
        (work / "mine/data.yaml").write_text(f"names: [cat, dog]\ntrain: train.txt\n{val}")
        path = work / "mine/train.txt"
        path.write_bytes(data.draw(damaged_text(path.read_bytes())))
        require_yolo(work)


LAUGHS = ", ".join(["&l0 [ha, ha]", *(f"&l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 9))])
MERGES = ", ".join(["&m0 {a: b}", *(f"&m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}" for i in range(1, 9))])
NAMES = """[cat, dog]|[cat, dog]|{0: cat, 1: dog}|{1: cat, 0: dog}|{0: cat, 2: dog}|{0: cat, 0: dog}
[cat, cat]|cat|~|{0: cat, true: dog}|[cat, 'cat ']|['', dog]|[' ', dog]|[yes, no]|[007, 8]|[1:30, dog]
[0x10, dog]|[1_000, 2]|[7, 8]|[cat]|[]|{}|[cat, [dog]]|[cat, dog, cow]|!!set {cat, dog}
!!python/object/apply:os.getcwd []|&n [cat, dog]|[&c cat, dog]|[&c cat, *c]|[cat, *none]|&a [*a]
["\\ud800", dog]|["a\\nb", dog]|[2024-01-01, dog]|!!binary aGk=|[1.5, dog]|[.nan, dog]|[!!str 1, dog]
{a: cat, b: dog}|{0: cat, 1.0: dog}|{0: cat, [1]: dog}|[cat, dog|{01: cat, 0: dog}|[!!int "", dog]"""
PLACES = """images/train|./images/train|images/../images/train|{work}/mine/images/train
../mine/images/train|images|images/train/a.png|../others/images|[images/train]
[images/train, ../others/images]|[images/train, images/train]|train.txt|[train.txt, ../others/images]|0
true|~|''|[]|{}|[[images/train]]|/dev/null|2017|{annotations: a, images: b}|images/gone|"a\\0b"
[images/train/a.png]|labels|empty.txt|&p images/train|*p|!!python/name:os.system|[~]|1.5|[images]"""
MORE = """||||nc: 2|nc: 3|nc: two|nc: [2]|path: .|path: ..|path: [a]|path: nowhere|path: {work}/others
path: 7|path: ~|test: images/train|test: ../others/images|valid: images/val|train: images/val|kpt_shape: 1
<<: {val: x}|? [a]|	x: 1|%YAML 9.9|---|...|x: !!python/object/apply:os.mkdir [mine-coco]|x: &x [*x]
<<: *none|x: {a: 1, a: 2}|roboflow: {x: 1}"""


@many
@given(
    names=choice(NAMES) | st.sampled_from(["[cat, dog]", f"[{LAUGHS}]", f"[{MERGES}]"]),
    train=choice(PLACES) | st.just("images/train") | st.sampled_from([f"[{LAUGHS}]", f"[{MERGES}]"]),
    val=choice(PLACES) | st.just("images/val"),
    more=choice(MORE),
    nc=st.sampled_from([""] * 4 + [f"nc: [{LAUGHS}]", f"path: [{LAUGHS}]", f"x: [{MERGES}]"]),
)
def test_descriptions(valid, names, train, val, more, nc):
    with to_damage(valid[yolo]) as work:
        (work / "mine/empty.txt").write_text("\n")
        text = f"names: {names}\ntrain: {train}\nval: {val}\n{more}\n{nc}\n".replace("{work}", str(work))
        (work / "mine/data.yaml").write_text(text)
        require_yolo(work)


@few
@given(data=st.data())
def test_damaged_descriptions(valid, data):
    with to_damage(valid[yolo]) as work:
        path = work / "mine/data.yaml"
        path.write_bytes(data.draw(damaged_text(path.read_bytes())))
        require_yolo(work)


@few
@given(data=st.data(), kind=st.sampled_from(FILE_DAMAGES), with_val=st.booleans())
def test_files_of_yolo(valid, data, kind, with_val):
    with to_damage(valid[yolo]) as work:
        files = sorted(path for path in (work / "mine").rglob("*") if path.is_file())
        if not with_val:
            (work / "mine/data.yaml").write_text("names: [cat, dog]\ntrain: images/train\n")
        damage_file(data.draw(st.sampled_from(files)), kind, work)
        require_yolo(work)


# --- annotation files in COCO's format ---


def coco_boxes(file: Path, images: Path) -> Boxes:
    text = file.read_text(encoding="utf-8")
    names = {image["id"]: image["file_name"] for image in json.loads(text)["images"]}
    return {os.path.realpath(images / names[i]): boxes for i, boxes in plain_reading(text).items()}


def require_roboflow(work: Path) -> None:
    folders = {"train": "train", "val": "valid"}
    require_exact_or_refused(
        work,
        lambda: load_data(work / "mine", work.parent / "made"),
        lambda: {
            split: coco_boxes(work / f"mine/{folder}/_annotations.coco.json", work / f"mine/{folder}")
            for split, folder in folders.items()
            if (work / "mine" / folder).exists()
        },
    )


ELSEWHERE = """../valid/d.png|/dev/null|pipe|../../others/images/x.png|{work}/others/images/x.png|./a.png
sub/../b.png|c.png/|a\0b|_annotations.coco.json|.|..|A.png|b.png"""


@few
@given(
    mutant=mutants(annotations(TRAIN)) | st.builds(annotations, st.just(TRAIN)),
    with_val=st.booleans(),
    name=st.none() | choice(ELSEWHERE),
)
def test_roboflows_annotation_files(valid, mutant, with_val, name):
    with to_damage(valid[roboflow]) as work:
        os.mkfifo(work / "mine/train/pipe")
        if not with_val:
            shutil.rmtree(work / "mine/valid")
        with contextlib.suppress(LookupError, TypeError):
            if name:
                mutant["images"][0]["file_name"] = name.replace("{work}", str(work))
        (work / "mine/train/_annotations.coco.json").write_text(json.dumps(mutant))
        require_roboflow(work)


@few
@given(data=st.data(), kind=st.sampled_from(FILE_DAMAGES), with_val=st.booleans())
def test_files_of_roboflow(valid, data, kind, with_val):
    with to_damage(valid[roboflow]) as work:
        if not with_val:
            shutil.rmtree(work / "mine/valid")
        files = sorted(path for path in (work / "mine").rglob("*") if path.is_file())
        damage_file(data.draw(st.sampled_from(files)), kind, work)
        require_roboflow(work)


ANNOTATIONS = """train.json|train.json|train.json|./train.json|{work}/mine/train.json|../mine/train.json
val.json|gone.json|photos|/dev/null|pipe|~|[train.json]|{a: b}|true|7|''|"a\\0b"|mine.yaml
photos/train/a.png|*none"""
PHOTOS = """photos/train|photos/train|photos/train|./photos/train/|{work}/mine/photos/train
../mine/photos/train|photos/val|photos|gone|train.json|/dev/null|pipe|~|[photos/train]|.|..|7|''|"a\\0b"
!!python/name:os.system"""
REST = """|||images: photos|annotations: x|more: 1|<<: {images: photos/val}"""
TOP = """||||test: ~|names: [cat]|train: {}|val: {annotations: val.json, images: photos/val}|1: 2|path: .
x: *none|valid: {annotations: val.json, images: photos/val}
test: {annotations: train.json, images: photos/train}"""


def require_pairs(work: Path) -> None:
    def reading() -> dict[str, Boxes]:
        description = yaml.load((work / "mine/mine.yaml").read_text(encoding="utf-8"), yaml.BaseLoader)
        return {
            split: coco_boxes(work / "mine" / pair["annotations"], work / "mine" / pair["images"])
            for split, pair in description.items()
        }

    require_exact_or_refused(work, lambda: load_data(work / "mine/mine.yaml", work.parent / "made"), reading)


@few
@given(
    file=choice(ANNOTATIONS),
    photos=choice(PHOTOS),
    rest=choice(REST),
    top=choice(TOP),
    with_val=st.booleans(),
    bomb=st.sampled_from([""] * 4 + [LAUGHS, MERGES]),
)
def test_pairs(valid, file, photos, rest, top, with_val, bomb):
    with to_damage(valid[pairs]) as work:
        os.mkfifo(work / "mine/pipe")
        val = "val: {annotations: val.json, images: photos/val}\n" if with_val else ""
        bomb = f"test: [{bomb}]\n" if bomb else ""
        text = f"train:\n  annotations: {file}\n  images: {photos}\n  {rest}\n{val}{top}\n{bomb}"
        (work / "mine/mine.yaml").write_text(text.replace("{work}", str(work)))
        require_pairs(work)


@few
@given(data=st.data(), kind=st.sampled_from(FILE_DAMAGES))
def test_files_of_pairs(valid, data, kind):
    with to_damage(valid[pairs]) as work:
        files = sorted(path for path in (work / "mine").rglob("*") if path.is_file())
        damage_file(
            data.draw(st.sampled_from([path for path in files if path.suffix != ".yaml"])), kind, work
        )
        require_pairs(work)


# --- PASCAL VOC ---


def voc_boxes(year: Path, name: str) -> list:
    def text(node: ElementTree.Element, path: str) -> str:
        for tag in path.split("/"):
            (node,) = node.findall(tag)
        return node.text

    tree = ElementTree.fromstring((year / f"Annotations/{name}.xml").read_bytes())
    assert (int(text(tree, "size/width")), int(text(tree, "size/height"))) == (WIDTH, HEIGHT)
    boxes = []
    for node in tree.iter("object"):
        words = [text(node, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        assert all(
            re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*", word, re.A | re.I) for word in words
        )
        x, y, x2, y2 = map(float, words)
        difficult = text(node, "difficult").strip() if node.findall("difficult") else "0"
        assert difficult in ("0", "1") and x2 >= x and y2 >= y
        if difficult == "0":
            boxes += clipped(text(node, "name"), [x - 1, y - 1, x2, y2], (WIDTH, HEIGHT))
    return boxes


def voc_reading(work: Path) -> dict[str, Boxes]:
    year, read = work / "mine/VOCdevkit/VOC2007", {}
    for split, part in (("train", "trainval"), ("val", "test")):
        names = (year / f"ImageSets/Main/{part}.txt").read_text(encoding="utf-8").split()
        assert len(names) == len(set(names))
        folder = work / f"mine-coco/{split}2017"
        read[split] = {os.path.realpath(folder / f"{name}.jpg"): voc_boxes(year, name) for name in names}
        for name in names:
            assert (folder / f"{name}.jpg").read_bytes() == (year / f"JPEGImages/{name}.jpg").read_bytes()
    return read


def require_voc(work: Path) -> None:
    def load() -> CocoFolder:
        check_data(work / "mine")
        return load_folder(work / "mine-coco")

    require_exact_or_refused(work, load, lambda: voc_reading(work))


@many
@given(data=st.data(), name=st.sampled_from("abd"))
def test_xml_files(valid, data, name):
    with to_damage(valid[voc]) as work:
        path = work / f"mine/VOCdevkit/VOC2007/Annotations/{name}.xml"
        path.write_bytes(data.draw(damaged_text(path.read_bytes())))
        require_voc(work)


TAGS = ["size", "width", "name", "difficult", "bndbox", "xmin", "ymax", "object"]
PREFIXES = [
    '<?xml version="1.0" encoding="utf-16"?>',
    '<?xml version="1.0" encoding="none"?>',
    '<?xml version="9.9"?>',
    '<!DOCTYPE a [<!ENTITY e "3">]>',
    '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]>',
    '<!DOCTYPE a SYSTEM "http://localhost:1/a.dtd">',
    "<!-- ",
    "<a/>",
    "",
]
VALUES = """inf|nan|-5|99|1e308|-1e308|1e999|3.5|1_0|\u0663|| 5 |&e;|0x5|&#0;|horse| dog|dragon
<xmin>4</xmin>|<![CDATA[4]]>|4<!-- 5 -->|0|1|2|true|20|10"""


@many
@given(
    changes=st.lists(
        st.tuples(
            st.sampled_from(TAGS),
            st.sampled_from(["set", "set", "set", "remove", "double", "rename", "wrap"]),
            choice(VALUES),
            st.integers(0, 1),
        ),
        min_size=1,
        max_size=3,
    ),
    prefix=st.sampled_from([""] * 30 + PREFIXES),
    name=st.sampled_from("ad"),
)
def test_xml_elements(valid, changes, prefix, name):
    with to_damage(valid[voc]) as work:
        path = work / f"mine/VOCdevkit/VOC2007/Annotations/{name}.xml"
        text = path.read_text()
        for tag, change, value, number in changes:
            there = [*re.finditer(rf"<{tag}>(.*?)</{tag}>\n", text, re.S)]
            if there:
                one = there[min(number, len(there) - 1)]
                changed = {
                    "set": f"<{tag}>{value}</{tag}>\n",
                    "remove": "",
                    "double": one[0] + f"<{tag}>{value}</{tag}>\n",
                    "rename": one[0].replace(tag, tag.upper()),
                    "wrap": f"<part>{one[0]}</part>\n",
                }[change]
                text = text[: one.start()] + changed + text[one.end() :]
        path.write_text(prefix + text)
        require_voc(work)


@few
@given(data=st.data(), part=st.sampled_from(["trainval", "test"]))
def test_lists_of_voc(valid, data, part):
    with to_damage(valid[voc]) as work:
        path = work / f"mine/VOCdevkit/VOC2007/ImageSets/Main/{part}.txt"
        path.write_bytes(data.draw(damaged_text(path.read_bytes())))
        require_voc(work)


@few
@given(data=st.data(), kind=st.sampled_from(FILE_DAMAGES))
def test_files_of_voc(valid, data, kind):
    with to_damage(valid[voc]) as work:
        files = sorted(path for path in (work / "mine").rglob("*") if path.is_file())
        damage_file(data.draw(st.sampled_from(files)), kind, work)
        require_voc(work)


@pytest.mark.parametrize(
    "make, require, name",
    [
        (yolo, require_yolo, "labels/train/a.txt"),
        (yolo, require_yolo, "images/train/a.png"),
        (roboflow, require_roboflow, "train/_annotations.coco.json"),
        (voc, require_voc, "VOCdevkit/VOC2007/Annotations/a.xml"),
    ],
)
def test_pipes_are_not_waited_for(valid, make, require, name):
    with to_damage(valid[make]) as work:
        damage_file(work / "mine" / name, "pipe", work)
        require(work)


def test_pipes_are_not_waited_for_where_a_val_split_is_made_or_images_are_compared(valid):
    with to_damage(valid[roboflow]) as work:
        damage_file(work / "mine/train/a.png", "pipe", work)
        damage_file(work / "mine/valid/d.png", "empty", work)
        require_roboflow(work)
        shutil.rmtree(work / "mine/valid")
        require_roboflow(work)


@pytest.mark.parametrize("make", [yolo, roboflow, pairs, voc])
def test_undamaged_data_have_their_boxes(make, valid):
    with to_damage(valid[make]) as work:
        {yolo: require_yolo, roboflow: require_roboflow, pairs: require_pairs, voc: require_voc}[make](work)
