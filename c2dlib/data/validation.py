"""Validation of a COCO-format folder: all problems of all splits are named, with file, id and field."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import PIL

from c2dlib.data.images import ImageSizeError, check_header, read_image
from c2dlib.files import json_with_hash, read_file, read_json_with_hash, sha256, sweep, write_whole

SPLITS = ("train", "val", "test")
FULL_DECODE_LIMIT = 5000  # images of a folder up to which each is decoded; above, only headers are read
SHOWN_PER_KIND = 20  # problems of one kind that are printed
MIN_SIDE = 1e-3  # pixels; a thinner box has no area left in float32
DEFAULT_AREA_CUTS = (32.0, 96.0)  # COCO's, in pixels
COCO_2017 = {  # sha256 of the published annotation files
    "train": "610fce4944abdeb15354cc765333805529359d12d88f2f711393ca586901d01d",
    "val": "e8c7f7908f1d7278341fae127d0da654f102f11bd7b21d8aeefa635b8c810b6f",
}
NUMBER = re.compile(r"[-+]?(nan|inf|(\d+\.?\d*|\.\d+)(e[-+]?\d+)?)", re.ASCII | re.IGNORECASE)
LAYOUT = (
    "Expected layout: annotations/instances_train2017.json with train2017/, "
    "annotations/instances_val2017.json with val2017/ and, "
    "if there is one, annotations/instances_test2017.json with test2017/."
)


class DataError(Exception):
    """The data cannot be used; ``str(error)`` is the whole report: where, what, and what to do."""


@dataclass
class Report:
    """What validation noticed that does not prevent training.

    ``counts[split]`` has the numbers that ``summary`` prints.
    """

    warnings: list[str] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def summary(self) -> str:
        line = (
            "{name}: {images} images ({empty} without boxes), {boxes} boxes of {classes} classes, "
            "{crowds} crowds, {dropped} dropped, {clipped} clipped"
        )
        return "\n".join(line.format(name=name, **counts) for name, counts in self.counts.items())


class Validated(NamedTuple):
    """The content of a folder without problems."""

    annotations: dict[
        str, dict
    ]  # split -> what pycocotools' COCO holds: images, annotations, categories, all by id
    area_cuts: tuple[float, float]  # sides in pixels between small, medium and large boxes
    annotation_hash: str  # sha256 over the annotation files
    report: Report


class Problems:
    """Problems that prevent training, grouped by kind in the order of discovery."""

    def __init__(self):
        self.by_kind: dict[str, list[str]] = {}

    def add(self, kind: str, text: str) -> None:
        self.by_kind.setdefault(kind, []).append(text)

    def error(self, root: Path, of_coco: bool = True) -> DataError:
        """All of them as one error; ``of_coco``: the data are in COCO's layout, which it then describes."""
        lines = [f"{root}: cannot be used, {sum(map(len, self.by_kind.values()))} problem(s) found."]
        for kind, texts in self.by_kind.items():
            lines += [f"{kind} ({len(texts)}):", *(f"  {text}" for text in texts[:SHOWN_PER_KIND])]
            if len(texts) > SHOWN_PER_KIND:
                lines.append(f"  ... and {len(texts) - SHOWN_PER_KIND} more")
        fix = "What to do: restore the files and correct or remove the entries named above, then load again."
        return DataError("\n".join([*lines, *([LAYOUT] if of_coco else []), fix]))


def validate(root: Path, check_images: bool, cache: Path | None = None) -> Validated:
    """Validate all splits of a folder; writes nothing but into ``cache``. See ``coco.load_folder``.

    Raises:
        DataError: with all problems of all splits.
    """
    advice = f"{LAYOUT}\nWhat to do: check the path, or put the data set there."
    if not root.is_dir():
        raise DataError(f"{root}: {'is a file' if root.exists() else 'no such folder'}.\n{advice}")
    if not any(root.iterdir()):
        raise DataError(f"{root}: the folder is empty.\n{advice}")
    problems, report, digest, area_cuts = Problems(), Report(), hashlib.sha256(), DEFAULT_AREA_CUTS
    annotations: dict[str, dict] = {}
    is_coco = True  # COCO 2017 as published
    for split in SPLITS:
        file = f"annotations/instances_{split}2017.json"
        if split == "test" and not (root / file).exists():
            _check_unused_test(root, file, is_coco, report, problems)
            continue
        content, data = _read_json(root, file, digest, problems)
        is_coco &= split == "test" or sha256(content) == COCO_2017[split]
        if data is not None:
            annotations[split] = _validate_split(split, file, data, report, problems)
            if split == "train":
                area_cuts = _area_cuts(data, file, problems)
    _compare_categories(annotations, problems)
    if check_images:
        _check_files(root, annotations, digest.hexdigest(), is_coco, cache, report, problems)
    if problems.by_kind:
        raise problems.error(root)
    return Validated(annotations, area_cuts, digest.hexdigest(), report)


def read_object(file: Path) -> dict | None:
    """The JSON object in an annotation file; None where ``read_annotations`` names why there is none."""
    problems = Problems()
    _, data = _read_json(file.parent, str(file), hashlib.sha256(), problems)
    return None if problems.by_kind else data


def read_annotations(file: Path, data: dict | None = None) -> dict:
    """The content of one annotation file whose entries are valid; its images are not looked at.

    Args:
        data: what is checked in the place of the file's content.

    Raises:
        DataError: with all problems of the file.
    """
    problems = Problems()
    if data is None:
        _, data = _read_json(file.parent, str(file), hashlib.sha256(), problems)
    if data is not None:
        _validate_split("train", str(file), data, Report(), problems)
    if data is None or problems.by_kind:
        raise problems.error(file, of_coco=False)
    return data


def parse_number(word: str) -> float:
    """The number in a text; Python's ``float`` also takes 1_0 and the digits of other scripts.

    Raises:
        ValueError: if it is none, or not finite.
    """
    if not NUMBER.fullmatch(word):
        raise ValueError(f"{word!r:.60} is not a number")
    if not math.isfinite(value := float(word)):
        raise ValueError(f"{word:.60} is not a finite number")
    return value


def _check_unused_test(root: Path, file: str, is_coco: bool, report: Report, problems: Problems) -> None:
    """A folder of test images without their annotation file; COCO publishes its own without one."""
    folder = root / "test2017"
    if not folder.is_dir():
        return
    if is_coco or not any(folder.iterdir()):
        report.warnings.append(f"test2017/ is not used: there is no {file}")
    else:
        problems.add("missing annotation file", f"{file}: add it for test2017/, or move that folder away")


def _read_json(root: Path, file: str, digest, problems: Problems) -> tuple[bytes, dict | None]:
    """An annotation file's bytes and content; without content a problem is noted."""
    content = b""
    try:
        content = read_file(root / file)
        digest.update(f"{file} {len(content)}\n".encode() + content)
        data = json.loads(content, object_pairs_hook=partial(_object, file, problems))
    except FileNotFoundError:
        problems.add("missing annotation file", file)
        return content, None
    except (OSError, ValueError, RecursionError) as error:
        what = "cannot be read" if isinstance(error, OSError) else "is not valid JSON"
        problems.add("unreadable annotation file", f"{file} {what}: {error}")
        return content, None
    if not isinstance(data, dict):
        problems.add("wrong or missing field", f"{file}: must hold an object, is {_show(data)}")
        return content, None
    return content, data


def _object(file: str, problems: Problems, pairs: list[tuple[str, object]]) -> dict:
    """A JSON object; a key that it holds twice is a problem, as readers differ in which value they take."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        doubled = ", ".join(sorted({_show(key) for key in keys if keys.count(key) > 1}))
        whose = f"id {_show(content['id'])}" if "id" in content else f"keys {_show(sorted(content))}"
        problems.add("duplicate key", f"{file}: an object with {whose} holds {doubled} twice")
    return content


def _show(value: object) -> str:
    text = repr(value) if isinstance(value, (str, int, float, type(None))) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_text(value: object) -> bool:
    """Whether it is a text that can be written: JSON can hold halves of a character."""
    return isinstance(value, str) and value.encode(errors="replace").decode() == value


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _float(value: float) -> float:
    """``float(value)``; a JSON integer too large for it is infinite."""
    return float(value) if abs(value) < 1e300 or isinstance(value, float) else math.inf


FIELDS = {  # field -> test, what it must be
    "id": (_is_id, "a whole number >= 0"),
    "image_id": (_is_id, "a whole number >= 0"),
    "category_id": (_is_id, "a whole number >= 0"),
    "width": (lambda v: _is_id(v) and v > 0, "a whole number > 0"),
    "height": (lambda v: _is_id(v) and v > 0, "a whole number > 0"),
    "name": (lambda v: _is_text(v) and v.strip() != "", "a text that is not empty"),
    "file_name": (lambda v: _is_text(v) and v != "", "a text that is not empty"),
    "bbox": (lambda v: isinstance(v, list) and len(v) == 4 and all(map(_is_number, v)), "four numbers"),
    "area": (lambda v: v is None or _is_number(v) and 0 <= _float(v) < math.inf, "a number >= 0"),
    "iscrowd": (lambda v: v is None or isinstance(v, int) and v in (0, 1), "0 or 1"),
}


def _valid(entry: dict, names: str, where: str, problems: Problems) -> bool:
    """Whether all fields in ``names`` pass their test in FIELDS; those that do not become problems.

    ``area`` and ``iscrowd`` may be None or absent.
    """
    valid = True
    for name in names.split():
        test, requirement = FIELDS[name]
        if not test(entry.get(name)):
            state = f"is {_show(entry[name])}" if name in entry else "is missing"
            problems.add("wrong or missing field", f"{where}: {name} {state}, must be {requirement}")
            valid = False
    return valid


def _entries(data: dict, key: str, file: str, problems: Problems) -> dict[int, dict] | None:
    """The entries of one list of the annotation file, by id; None if it is no list."""
    if not isinstance(data.get(key), list):
        state = f"is {_show(data[key])}" if key in data else "is missing"
        return problems.add("wrong or missing field", f"{file}: {key} {state}, must be a list")
    entries: dict[int, dict] = {}
    for i, entry in enumerate(data[key]):
        if not isinstance(entry, dict):
            problems.add("wrong or missing field", f"{file}: {key}[{i}] is {_show(entry)}, must be an object")
        elif _valid(entry, "id", f"{file}: {key}[{i}]", problems):
            if entry["id"] in entries:
                problems.add("duplicate id", f"{file}: {key}[{i}]: id {entry['id']} is used before")
            entries.setdefault(entry["id"], entry)
    return dict(sorted(entries.items()))


def _validate_split(split: str, file: str, data: dict, report: Report, problems: Problems) -> dict:
    """Check one annotation file and keep what training and evaluation use, in the order of ids.

    Every kept annotation has ``area``, ``iscrowd`` and a new ``id``, counted from 1; ``source_id`` is its id
    in the file.
    """
    categories, images, rows = (
        _entries(data, key, file, problems) for key in ("categories", "images", "annotations")
    )
    for key, entries in (("categories", categories), ("images", images)):
        if entries is not None and not data[key]:
            problems.add("empty split", f"{file}: {key} is an empty list")
    valid_categories = [
        {"id": i, "name": category["name"]}
        for i, category in (categories or {}).items()
        if _valid(category, "name", f"{file}: category id {i}", problems)
    ]
    valid_images = {
        i: {key: image[key] for key in ("id", "width", "height", "file_name")}
        for i, image in (images or {}).items()
        if _valid(image, "width height file_name", f"{file}: image id {i}", problems)
    }
    _check_unique(valid_categories, "name", f"{file}: category", str.strip, problems)
    _check_unique(valid_images.values(), "file_name", f"{file}: image", os.path.normpath, problems)
    annotations, dropped, clipped = [], [], []
    for i, row in (rows or {}).items():
        where = f"{file}: annotation id {i}"
        valid = _valid(row, "image_id category_id bbox area iscrowd", where, problems)
        for key, listed in (("image_id", images), ("category_id", categories)):
            if listed is not None and _is_id(row.get(key)) and row[key] not in listed:
                problems.add("unknown id", f"{where}: {key} {row[key]} is not in the file's list")
                valid = False
        if not valid or row["image_id"] not in valid_images:
            continue
        box, was_clipped = _clip([_float(v) for v in row["bbox"]], valid_images[row["image_id"]])
        if box is None:
            dropped.append(i)
            continue
        area = box[2] * box[3] if row.get("area") is None else float(row["area"])
        if was_clipped:
            clipped.append(i)
            area = min(area, box[2] * box[3])
        ids = {key: row[key] for key in ("image_id", "category_id")}
        annotations.append(
            {**ids, "bbox": box, "area": area, "iscrowd": int(row.get("iscrowd") or 0), "source_id": i}
        )
    annotations.sort(key=lambda row: row["image_id"])
    objects = [row for row in annotations if not row["iscrowd"]]
    crowds = len(annotations) - len(objects)
    if split == "train" and rows is not None and valid_images and not objects:
        problems.add(
            "empty split", f"{file}: no usable box to train on, {len(dropped)} dropped, {crowds} crowds"
        )
    used_categories = {row["category_id"] for row in objects}
    report.counts[split] = {
        "images": len(valid_images), "empty": len(valid_images) - len({row["image_id"] for row in objects}),
        "boxes": len(objects), "classes": len(used_categories), "crowds": crowds,
        "dropped": len(dropped), "clipped": len(clipped),
    }  # fmt: skip
    for ids, what in (
        (dropped, "dropped (not finite, no area, or outside the image)"),
        (clipped, "clipped to the image"),
    ):
        if ids:
            examples = ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
            report.warnings.append(f"{file}: {len(ids)} box(es) {what}: annotation id {examples}")
    unused = [category["name"] for category in valid_categories if category["id"] not in used_categories]
    if unused:
        report.warnings.append(
            f"{file}: {len(unused)} of {len(valid_categories)} classes have no box: {_show(unused)}"
        )
    return {"info": {}, "images": list(valid_images.values()), "categories": valid_categories,
            "annotations": [{"id": i, **row} for i, row in enumerate(annotations, start=1)]}  # fmt: skip


def _check_unique(
    entries: Iterable[dict], key: str, where: str, same: Callable[[str], str], problems: Problems
) -> None:
    """A text that two entries share is a problem; ``same`` maps those that mean the same to one."""
    first: dict[str, int] = {}
    for entry in entries:
        if (before := first.setdefault(same(entry[key]), entry["id"])) != entry["id"]:
            text = f"{where} id {entry['id']}: {key} {_show(entry[key])} is also that of id {before}"
            problems.add(f"duplicate {key}", text)


def _clip(box: list[float], image: dict) -> tuple[list[float] | None, bool]:
    """The box [x, y, w, h] clipped to its image and whether that changed it; None if no area is left."""
    x, y, w, h = box
    if not all(map(math.isfinite, box)) or min(w, h) < MIN_SIDE:
        return None, False
    x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + w, image["width"]), min(y + h, image["height"])
    if x2 - x1 < MIN_SIDE or y2 - y1 < MIN_SIDE:
        return None, False
    moved = max(x1 - x, y1 - y, x + w - x2, y + h - y2)
    return ([x1, y1, x2 - x1, y2 - y1] if moved > 0 else box), moved > 1e-6  # below, it is rounding


def _area_cuts(data: dict, file: str, problems: Problems) -> tuple[float, float]:
    """``info.area_cuts`` of the annotation file, or COCO's 32 and 96 pixels."""
    info, default = data.get("info"), list(DEFAULT_AREA_CUTS)
    cuts = info.get("area_cuts", default) if isinstance(info, dict) else default
    two_numbers = isinstance(cuts, list) and len(cuts) == 2 and all(map(_is_number, cuts))
    if two_numbers and 0 < cuts[0] < cuts[1] < 1e300:
        return float(cuts[0]), float(cuts[1])
    where = f"{file}: info: area_cuts is {_show(cuts)}"
    problems.add("wrong or missing field", f"{where}, must be two rising numbers > 0")
    return DEFAULT_AREA_CUTS


def _compare_categories(annotations: dict[str, dict], problems: Problems) -> None:
    """Val and test must have the categories of train: the same names under the same ids."""
    names = {
        split: {c["id"]: c["name"] for c in content["categories"]}
        for split, content in annotations.items()
        if content["categories"]
    }
    for split in [split for split in names if split != "train" and "train" in names]:
        for i in sorted(names["train"].keys() | names[split].keys()):
            here, in_train = (repr(names[s][i]) if i in names[s] else "absent" for s in (split, "train"))
            if here != in_train:
                where = f"annotations/instances_{split}2017.json: category id {i}"
                problems.add(
                    "categories differ from train's", f"{where} is {here}, in train it is {in_train}"
                )


def _check_files(
    root: Path,
    annotations: dict[str, dict],
    annotation_hash: str,
    is_coco: bool,
    cache: Path | None,
    report: Report,
    problems: Problems,
) -> None:
    """Look at every image file, unless ``cache`` says that these files were without problems before."""
    place = cache and cache / f"images-{sha256(str(root).encode())[:12]}.json"
    state = _files_state(root, annotations, annotation_hash) if place else ""
    if place and (warnings := _earlier_warnings(place, state)) is not None:
        report.warnings += warnings
        return
    before = len(report.warnings)
    _check_images(root, annotations, problems)
    _check_overlaps(root, annotations, is_coco, report, problems)
    if place and state and not problems.by_kind:
        with contextlib.suppress(OSError):  # a folder that cannot be written: the files are looked at again
            sweep(place.parent)
            write_whole(place, json_with_hash({"state": state, "warnings": report.warnings[before:]}))


def _files_state(root: Path, annotations: dict[str, dict], annotation_hash: str) -> str:
    """A hash of all that the checks of the image files depend on; empty if a file is not there.

    A file that is changed, or replaced by one of equal size and time, has another inode or time of change.
    """
    code = [sha256(Path(__file__).with_name(name).read_bytes()) for name in ("validation.py", "images.py")]
    digest = hashlib.sha256(f"{annotation_hash} {code} {PIL.__version__}".encode())
    try:
        for split, content in annotations.items():
            for entry in content["images"]:
                about = os.stat(f"{root}/{split}2017/{entry['file_name']}")
                numbers = about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns
                digest.update(f"{split} {entry['file_name']!r} {numbers}\n".encode())
    except (OSError, ValueError):  # named by ``_check_images``
        return ""
    return digest.hexdigest()


def _earlier_warnings(place: Path, state: str) -> list[str] | None:
    """The warnings on files of this state; None if they were not looked at, or ``place`` is damaged."""
    try:
        written = read_json_with_hash(place.read_bytes().decode())
    except (OSError, ValueError):
        return None
    return written["warnings"] if written.get("state") == state else None


def _check_images(root: Path, annotations: dict[str, dict], problems: Problems) -> None:
    """Look at every image file: decode it, or above FULL_DECODE_LIMIT images read its header."""
    decode = sum(len(content["images"]) for content in annotations.values()) <= FULL_DECODE_LIMIT
    for split, content in annotations.items():
        folder = root / f"{split}2017"
        if not folder.is_dir():
            problems.add("missing image folder", f"{folder.name}/")
            continue
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            check = partial(_image_problem, folder, folder.resolve(), decode)
            for entry, problem in zip(content["images"], pool.map(check, content["images"]), strict=True):
                if problem:
                    kind, detail = problem
                    where = f"{folder.name}/: image id {entry['id']}: file_name {entry['file_name']!r}"
                    problems.add(kind, f"{where}: {detail}")


def _image_problem(folder: Path, resolved_folder: Path, decode: bool, entry: dict) -> tuple[str, str] | None:
    """(kind, detail) if the image file is missing, outside the split's folder, broken, or of another size."""
    name = Path(entry["file_name"])
    path = folder / name
    try:
        if name.is_absolute() or ".." in name.parts:
            return "file_name leads out of the image folder", "must be inside it"
        if not path.resolve().is_relative_to(resolved_folder):
            return (
                "link that leads out of the image folder",
                "the file, or a folder in its name, is a link to outside the image folder; copy the file "
                f"there, or make {folder.name}/ as a whole a link to the folder with the images",
            )
        if not path.is_file():
            return "missing image file", "no such file"
        (read_image if decode else check_header)(path, entry["width"], entry["height"])
    except ImageSizeError as error:
        return "image size differs from the annotation file", str(error)
    except Exception as error:  # Pillow's decoders raise many types
        return "unreadable image file", str(error) or type(error).__name__


def _check_overlaps(
    root: Path, annotations: dict[str, dict], is_coco: bool, report: Report, problems: Problems
) -> None:
    """Image files with the same content in two splits: the second would be tested on what was trained on.

    In COCO 2017 as published they would be warnings: its numbers elsewhere are computed with them. Files with
    the same content in one split are a warning. Only files whose size occurs twice are read; above
    FULL_DECODE_LIMIT images, only those whose size occurs in two splits.
    """
    few = sum(len(content["images"]) for content in annotations.values()) <= FULL_DECODE_LIMIT
    by_size: dict[int, list[tuple[str, str]]] = {}  # bytes -> split and path in the folder
    for split, content in annotations.items():
        for entry in content["images"]:
            path = f"{split}2017/{entry['file_name']}"
            try:
                by_size.setdefault((root / path).stat().st_size, []).append((split, path))
            except (OSError, ValueError):  # named by ``_check_images``
                continue
    alike = [
        file
        for files in by_size.values()
        if len(files if few else {split for split, _ in files}) > 1
        for file in files
    ]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        hashes = list(pool.map(_content_hash, [root / path for _, path in alike]))
    by_content: dict[str, list[tuple[str, str]]] = {}
    for file, hashed in zip(alike, hashes, strict=True):
        if hashed:
            by_content.setdefault(hashed, []).append(file)
    for split in annotations:
        same = [[path for s, path in files if s == split] for files in by_content.values()]
        if few and (twice := [" and ".join(paths[:2]) for paths in same if len(paths) > 1]):
            report.warnings.append(
                f"{len(twice)} image(s) of {split} are there twice, with the same content: "
                + "; ".join(twice[:SHOWN_PER_KIND])
                + (f" ... and {len(twice) - SHOWN_PER_KIND} more" if len(twice) > SHOWN_PER_KIND else "")
            )
    texts = []
    for files in by_content.values():
        first = dict(reversed(files))  # the first of each split
        if len(first) > 1:
            names = " and ".join(first[split] for split in SPLITS if split in first)
            texts.append(
                f"{names} have the same content: remove the image and its annotations from one split"
            )
    if is_coco and texts:
        more = f" ... and {len(texts) - SHOWN_PER_KIND} more" if len(texts) > SHOWN_PER_KIND else ""
        report.warnings.append(
            f"{len(texts)} image(s) are in two splits of COCO as published: "
            + "; ".join(text.partition(" have")[0] for text in texts[:SHOWN_PER_KIND])
            + more
        )
        return
    for text in texts:
        problems.add("the same image in two splits", text)


def _content_hash(path: Path) -> str:
    """sha256 of a file; empty if it cannot be read."""
    try:
        return sha256(read_file(path))
    except OSError:
        return ""
