"""A COCO-format folder -> images and targets, validated once, with every problem named at once."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

FULL_DECODE_LIMIT = 5000  # up to this many images in a folder, loading decodes each; above, it reads headers
SHOWN_PER_KIND = 20
MIN_SIDE = 1e-3  # pixels; a thinner box has no area left in float32
MODES = {"1", "L", "P", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV", "LA", "PA", "La", "I"}
LAYOUT = (
    "Expected layout: annotations/instances_train2017.json with train2017/, "
    "annotations/instances_val2017.json with val2017/ and, "
    "if there is one, annotations/instances_test2017.json with test2017/."
)


class DataError(Exception):
    """The data cannot be used; ``str(error)`` is the whole report: where, what, and what to do."""


@dataclass(frozen=True)
class Category:
    id: int  # as in the annotation file, gaps allowed
    name: str


@dataclass
class Report:
    """What loading found that is not fatal. ``counts[split]`` has the numbers ``summary`` prints."""

    warnings: list[str] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def summary(self) -> str:
        line = (
            "{name}: {images} images ({empty} without boxes), {boxes} boxes of {classes} classes, "
            "{crowds} crowds, {dropped} dropped, {clipped} clipped"
        )
        return "\n".join(line.format(name=name, **counts) for name, counts in self.counts.items())


class CocoSplit(Dataset):
    """One validated split. Item i is ``(image, target)``: a uint8 RGB ``tv_tensors.Image`` [3, H, W], and
    ``boxes`` XYXY pixels float32 [N, 4], ``labels`` 1..C int64 [N], ``image_id``; N may be 0. See ``with_masks``.

    Crowds are in ``annotations`` (ignore regions of the evaluation), never in a target. Decoded images stay
    in memory if all of the split fit in ``cache_bytes``. A file that cannot be read raises DataError.
    """

    def __init__(
        self, name: str, root: Path, categories: list[Category], annotations: dict, cache_bytes=1.5e9
    ):
        self.name, self.root, self.categories, self.annotations = name, root, categories, annotations
        self.class_names = [category.name for category in categories]
        self.image_ids = [image["id"] for image in annotations["images"]]
        self._label = {category.id: i for i, category in enumerate(categories, start=1)}
        self._boxes: dict[int, list[dict]] = {image_id: [] for image_id in self.image_ids}
        for row in annotations["annotations"]:
            if not row["iscrowd"]:
                self._boxes[row["image_id"]].append(row)
        decoded_bytes = sum(3 * image["width"] * image["height"] for image in annotations["images"])
        self._share = 1.0  # of the images with boxes, see ``first``
        self._outlines: dict[int, list | dict] | None = None  # annotation id -> segmentation, see ``with_masks``
        self._cache: dict[int, Tensor] | None = {} if decoded_bytes <= cache_bytes else None

    @property
    def image_folder(self) -> Path:
        return self.root / f"{self.name}2017"

    def __len__(self) -> int:
        return len(self.image_ids)

    def with_boxes(self) -> list[int]:
        """The items that have a box to train on."""
        usable = [i for i, image_id in enumerate(self.image_ids) if self._boxes[image_id]]
        return usable[: max(1, round(self._share * len(usable)))]

    def first(self, share: float) -> CocoSplit:
        """This split with only the first ``share`` (0..1] of its images with boxes to train on, at least one."""
        part = copy.copy(self)
        part._share = share
        return part

    def with_masks(self) -> CocoSplit:
        """This split with ``masks`` uint8 [N, H, W] in its targets; as it is where no box has a segmentation.

        Raises:
            DataError: where some boxes have one and some have not, or one that cannot be drawn.
        """
        file = f"annotations/instances_{self.name}2017.json"
        found = {row["id"]: row.get("segmentation") for row in json.loads((self.root / file).read_bytes())["annotations"]}
        wanted = [row["source_id"] for rows in self._boxes.values() for row in rows]
        missing = [i for i in wanted if not found[i]]
        if len(missing) == len(wanted):
            return self
        if missing:
            raise DataError(f"{self.root / file}: {len(missing)} of {len(wanted)} boxes have no segmentation, such as annotation id "
                            f"{', '.join(map(str, missing[:5]))}. Mask R-CNN needs it for all boxes, or for none.")
        part = copy.copy(self)
        part._outlines = {i: found[i] for i in wanted}
        return part

    def _masks(self, rows: list[dict], size: tuple[int, int]) -> tv_tensors.Mask:
        drawn = np.zeros((len(rows), *size), np.uint8)
        for i, row in enumerate(rows):
            try:
                drawn[i] = _draw(self._outlines[row["source_id"]], size)
            except Exception as error:  # pycocotools raises bare ones
                raise DataError(f"{self.name}2017, annotation id {row['source_id']}: segmentation cannot be drawn ({error}); "
                                "must be COCO polygons or RLE of the image's size") from error
        return tv_tensors.Mask(torch.from_numpy(drawn))

    def __getitem__(self, i: int) -> tuple[tv_tensors.Image, dict]:
        entry = self.annotations["images"][i]
        size = (entry["height"], entry["width"])
        rows = self._boxes[entry["id"]]
        corners = [(x, y, x + w, y + h) for x, y, w, h in (row["bbox"] for row in rows)]
        boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
            "labels": torch.tensor([self._label[row["category_id"]] for row in rows], dtype=torch.int64),
            "image_id": entry["id"],
        }
        if self._outlines is not None:
            target["masks"] = self._masks(rows, size)
        return tv_tensors.Image(self._pixels(entry)), target

    def _pixels(self, entry: dict) -> Tensor:
        if self._cache is not None and entry["id"] in self._cache:
            return self._cache[entry["id"]].clone()  # so that no in-place transform reaches the cache
        path = self.image_folder / entry["file_name"]
        try:
            pixels = read_image(path, entry["width"], entry["height"])
        except Exception as error:  # Pillow's decoders raise many types
            text = f"{path}: image id {entry['id']} cannot be read: {error}. Restore the file."
            raise DataError(text) from error
        if self._cache is not None:
            self._cache[entry["id"]] = pixels.clone()
        return pixels


def _draw(outline: list | dict, size: tuple[int, int]) -> np.ndarray:
    """A COCO segmentation, polygons or run lengths, as uint8 [H, W]."""
    if isinstance(outline, list):
        if not all(isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in outline):
            raise ValueError("a polygon has at least three points, two numbers each")
        return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(outline, *size)))
    coded = outline if isinstance(outline["counts"], str) else coco_mask.frPyObjects(outline, *size)
    return coco_mask.decode(coded)


@dataclass(frozen=True)
class CocoFolder:
    root: Path
    name: str
    splits: dict[str, CocoSplit]  # "train", "val" and, where there is one, "test"
    categories: list[Category]  # by id; label = 1 + index
    report: Report
    area_cuts: tuple[float, float]  # sides in pixels between small, medium and large boxes
    annotation_hash: str  # sha256 over the annotation files

    @property
    def eval_split(self) -> str:
        return "test" if "test" in self.splits else "val"

    def files_hash(self) -> str:
        """sha256 over the names and sizes of the image files: tells that one was replaced, without reading them."""
        digest = hashlib.sha256()
        for split in self.splits.values():
            for image in split.annotations["images"]:
                path = split.image_folder / image["file_name"]
                digest.update(f"{split.name} {image['file_name']} {path.stat().st_size if path.exists() else -1}\n".encode())
        return digest.hexdigest()

    @property
    def image_counts(self) -> dict[str, int]:
        return {name: len(split) for name, split in self.splits.items()}


def read_image(path: Path, width: int, height: int) -> Tensor:
    """Decode any image file to RGB uint8 [3, height, width]; alpha is dropped, 16 bits are scaled to 8.

    EXIF orientation: COCO's boxes live in the frame that the annotation file's width and height give, and
    that is the file's raw, un-rotated frame. So the orientation tag is applied only if width and height
    match the rotated size and not the raw one. Raises DataError if neither matches, ValueError for a pixel
    format without a known range, and whatever Pillow raises for a broken file.
    """
    with Image.open(path) as image:
        turn = _needs_turn(image, width, height)
        if turn:
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16-bit grey
            grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
            image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
        if image.mode == "P":
            image = image.convert("RGBA")  # Pillow warns about palettes with transparency otherwise
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def _needs_turn(image: Image.Image, width: int, height: int) -> bool:
    """Whether the EXIF orientation has to be applied to give width x height (see ``read_image``)."""
    if image.mode not in MODES and not image.mode.startswith("I;16"):
        raise ValueError(f"pixel format {image.mode!r} is not supported, save it as 8-bit RGB")
    if image.size == (width, height):
        return False
    turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # the orientations that swap the sides
    if turned and image.size == (height, width):
        return True
    is_size = f"{image.width} x {image.height}"
    raise DataError(f"the file is {is_size}, the annotation file says {width} x {height}")


class _Problems:
    """Fatal findings, grouped by kind in the order of discovery."""

    def __init__(self):
        self.found: dict[str, list[str]] = {}

    def add(self, kind: str, text: str) -> None:
        self.found.setdefault(kind, []).append(text)

    def error(self, root: Path) -> DataError:
        lines = [f"{root}: cannot be used, {sum(map(len, self.found.values()))} problem(s) found."]
        for kind, texts in self.found.items():
            lines += [f"{kind} ({len(texts)}):", *(f"  {text}" for text in texts[:SHOWN_PER_KIND])]
            if len(texts) > SHOWN_PER_KIND:
                lines.append(f"  ... and {len(texts) - SHOWN_PER_KIND} more")
        fix = "What to do: restore the files and correct or remove the entries named above, then load again."
        return DataError("\n".join([*lines, LAYOUT, fix]))


def load_folder(root: str | Path, cache_bytes: float = 1.5e9, check_images: bool = True) -> CocoFolder:
    """Load and validate all splits of a COCO-format folder; writes nothing.

    Raises DataError with all fatal problems of all splits at once. Boxes that are clipped to the image or
    dropped (not finite, no area, wholly outside) are no errors: ``report`` counts them. Above
    FULL_DECODE_LIMIT images only headers are read, so a truncated file shows when it is used.
    """
    root = Path(os.path.abspath(Path(root).expanduser()))
    ask = f"{LAYOUT}\nWhat to do: check the path, or put the data set there."
    if not root.is_dir():
        raise DataError(f"{root}: {'is a file' if root.exists() else 'no such folder'}.\n{ask}")
    if not any(root.iterdir()):
        raise DataError(f"{root}: the folder is empty.\n{ask}")
    problems, report, splits, digest = _Problems(), Report(), {}, hashlib.sha256()
    area_cuts = (32.0, 96.0)
    for name in ("train", "val", "test"):
        file = f"annotations/instances_{name}2017.json"
        if name == "test" and not (root / file).exists():
            if (root / "test2017").is_dir():
                report.warnings.append(f"test2017/ is not used: there is no {file}")
            continue
        data = _read_json(root, file, digest, problems)
        if data is not None:
            splits[name] = _parse_split(root, name, file, data, report, problems, cache_bytes)
            if name == "train":
                area_cuts = _area_cuts(data, file, problems)
    _compare_categories(splits, problems)
    if check_images:  # not needed again in the worker processes of a folder that was just validated
        _check_images(splits, problems)
    if problems.found:
        raise problems.error(root)
    categories = splits["train"].categories
    return CocoFolder(root, root.name, splits, categories, report, area_cuts, digest.hexdigest())


def _read_json(root: Path, file: str, digest, problems: _Problems) -> dict | None:
    try:
        content = (root / file).read_bytes()
        digest.update(f"{file} {len(content)}\n".encode() + content)
        data = json.loads(content)
    except FileNotFoundError:
        return problems.add("missing annotation file", file)
    except (OSError, ValueError, RecursionError) as error:
        what = "cannot be read" if isinstance(error, OSError) else "is not valid JSON"
        return problems.add("unreadable annotation file", f"{file} {what}: {error}")
    if isinstance(data, dict):
        return data
    return problems.add("wrong or missing field", f"{file}: must hold an object, is {_show(data)}")


def _show(value: object) -> str:
    text = repr(value) if isinstance(value, (str, int, float, type(None))) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


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
    "name": (lambda v: isinstance(v, str) and v.strip() != "", "a text that is not empty"),
    "file_name": (lambda v: isinstance(v, str) and v != "", "a text that is not empty"),
    "bbox": (lambda v: isinstance(v, list) and len(v) == 4 and all(map(_is_number, v)), "four numbers"),
    "area": (lambda v: v is None or _is_number(v) and 0 <= _float(v) < math.inf, "a number >= 0"),
    "iscrowd": (lambda v: v is None or isinstance(v, int) and v in (0, 1), "0 or 1"),
}


def _valid(entry: dict, names: str, where: str, problems: _Problems) -> bool:
    """Whether all fields in ``names`` are as FIELDS says; those that are not are listed. A None for area or
    iscrowd, or their absence, is valid."""
    valid = True
    for name in names.split():
        test, want = FIELDS[name]
        if not test(entry.get(name)):
            found = f"is {_show(entry[name])}" if name in entry else "is missing"
            problems.add("wrong or missing field", f"{where}: {name} {found}, must be {want}")
            valid = False
    return valid


def _rows(data: dict, key: str, file: str, problems: _Problems) -> dict[int, dict] | None:
    """The entries of one list of the annotation file, by id; None if it is no list."""
    if not isinstance(data.get(key), list):
        found = f"is {_show(data[key])}" if key in data else "is missing"
        return problems.add("wrong or missing field", f"{file}: {key} {found}, must be a list")
    rows: dict[int, dict] = {}
    for i, entry in enumerate(data[key]):
        if not isinstance(entry, dict):
            problems.add("wrong or missing field", f"{file}: {key}[{i}] is {_show(entry)}, must be an object")
        elif _valid(entry, "id", f"{file}: {key}[{i}]", problems):
            if entry["id"] in rows:
                problems.add("duplicate id", f"{file}: {key}[{i}]: id {entry['id']} is used before")
            rows.setdefault(entry["id"], entry)
    return dict(sorted(rows.items()))


def _parse_split(root, name, file, data, report, problems, cache_bytes) -> CocoSplit:
    """Check one annotation file's entries and keep what training and evaluation use, in the order of ids."""
    keys = ("categories", "images", "annotations")
    categories, images, rows = (_rows(data, key, file, problems) for key in keys)
    for key, entries in (("categories", categories), ("images", images)):
        if entries is not None and not data[key]:
            problems.add("empty split", f"{file}: {key} is an empty list")
    names = [Category(i, c["name"]) for i, c in (categories or {}).items()
             if _valid(c, "name", f"{file}: category id {i}", problems)]  # fmt: skip
    keep = ("id", "width", "height", "file_name")
    sized = {i: {key: image[key] for key in keep} for i, image in (images or {}).items()
             if _valid(image, "width height file_name", f"{file}: image id {i}", problems)}  # fmt: skip
    kept, dropped, clipped = [], [], []
    for i, row in (rows or {}).items():
        where = f"{file}: annotation id {i}"
        valid = _valid(row, "image_id category_id bbox area iscrowd", where, problems)
        for key, known in (("image_id", images), ("category_id", categories)):
            if known is not None and _is_id(row.get(key)) and row[key] not in known:
                problems.add("unknown id", f"{where}: {key} {row[key]} is not in the file's list")
                valid = False
        if not valid or row["image_id"] not in sized:
            continue
        box, outside = _clip([_float(v) for v in row["bbox"]], sized[row["image_id"]])
        if box is None:
            dropped.append(i)
            continue
        area = box[2] * box[3] if row.get("area") is None else float(row["area"])
        if outside:
            clipped.append(i)
            area = min(area, box[2] * box[3])
        ids = {key: row[key] for key in ("image_id", "category_id")}
        kept.append({**ids, "bbox": box, "area": area, "iscrowd": int(row.get("iscrowd") or 0), "source_id": i})
    kept.sort(key=lambda row: row["image_id"])
    objects = [row for row in kept if not row["iscrowd"]]
    if name == "train" and rows is not None and sized and not objects:
        problems.add(
            "empty split", f"{file}: no usable box to train on, {len(dropped)} dropped, {len(kept)} crowds"
        )
    seen = {row["category_id"] for row in objects}
    report.counts[name] = {
        "images": len(sized), "empty": len(sized) - len({row["image_id"] for row in objects}),
        "boxes": len(objects), "classes": len(seen), "crowds": len(kept) - len(objects),
        "dropped": len(dropped), "clipped": len(clipped),
    }  # fmt: skip
    gone = "dropped (not finite, no area, or outside the image)"
    for ids, what in ((dropped, gone), (clipped, "clipped to the image")):
        if ids:
            some = ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
            report.warnings.append(f"{file}: {len(ids)} box(es) {what}: annotation id {some}")
    unseen = [category.name for category in names if category.id not in seen]
    if unseen:
        report.warnings.append(f"{file}: {len(unseen)} of {len(names)} classes have no box: {_show(unseen)}")
    coco = {"info": {}, "images": list(sized.values()), "categories": [vars(category) for category in names],
            "annotations": [{"id": i, **row} for i, row in enumerate(kept, start=1)]}  # fmt: skip
    return CocoSplit(name, root, names, coco, cache_bytes)


def _clip(box: list[float], image: dict) -> tuple[list[float] | None, bool]:
    """The box [x, y, w, h] inside its image and whether that changed it; None if nothing is left."""
    x, y, w, h = box
    if not all(map(math.isfinite, box)) or min(w, h) < MIN_SIDE:
        return None, False
    x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + w, image["width"]), min(y + h, image["height"])
    if x2 - x1 < MIN_SIDE or y2 - y1 < MIN_SIDE:
        return None, False
    moved = max(x1 - x, y1 - y, x + w - x2, y + h - y2)
    return ([x1, y1, x2 - x1, y2 - y1] if moved > 0 else box), moved > 1e-6  # below, it is rounding


def _area_cuts(data: dict, file: str, problems: _Problems) -> tuple[float, float]:
    info = data.get("info")
    cuts = info.get("area_cuts", [32, 96]) if isinstance(info, dict) else [32, 96]
    two = isinstance(cuts, list) and len(cuts) == 2 and all(map(_is_number, cuts))
    if two and 0 < cuts[0] < cuts[1] < 1e300:
        return float(cuts[0]), float(cuts[1])
    where = f"{file}: info: area_cuts is {_show(cuts)}"
    problems.add("wrong or missing field", f"{where}, must be two rising numbers > 0")
    return 32.0, 96.0


def _compare_categories(splits: dict[str, CocoSplit], problems: _Problems) -> None:
    of = {name: {c.id: c.name for c in s.categories} for name, s in splits.items() if s.categories}
    for name in [name for name in of if name != "train" and "train" in of]:
        for i in sorted(of["train"].keys() | of[name].keys()):
            here, there = (repr(of[s][i]) if i in of[s] else "absent" for s in (name, "train"))
            if here != there:
                where = f"annotations/instances_{name}2017.json: category id {i}"
                problems.add("categories differ from train's", f"{where} is {here}, in train it is {there}")


def _check_images(splits: dict[str, CocoSplit], problems: _Problems) -> None:
    full = sum(map(len, splits.values())) <= FULL_DECODE_LIMIT
    for split in splits.values():
        folder = split.image_folder
        if not folder.is_dir():
            problems.add("missing image folder", f"{folder.name}/")
            continue
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            check = partial(_image_problem, folder, folder.resolve(), full)
            entries = split.annotations["images"]
            for entry, found in zip(entries, pool.map(check, entries)):
                if found:
                    where = f"{folder.name}/: image id {entry['id']}: file_name {entry['file_name']!r}"
                    problems.add(found[0], f"{where}: {found[1]}")


def _image_problem(folder: Path, real: Path, full: bool, entry: dict) -> tuple[str, str] | None:
    """(kind, detail) if the image file is missing, outside the split's folder, broken, or of another size."""
    name = Path(entry["file_name"])
    try:
        if name.is_absolute() or ".." in name.parts or not (folder / name).resolve().is_relative_to(real):
            return "file_name leads out of the image folder", "must be inside it"
        if not (folder / name).is_file():
            return "missing image file", "no such file"
        if full:
            read_image(folder / name, entry["width"], entry["height"])
        else:
            with Image.open(folder / name) as image:
                _needs_turn(image, entry["width"], entry["height"])
    except DataError as error:
        return "image size differs from the annotation file", str(error)
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise many types
        return "unreadable image file", str(error) or type(error).__name__
