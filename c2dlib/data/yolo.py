"""Reading YOLO's txt labels: a ``data.yaml``, images, and beside them a label file per image.

A line of a label file is ``class x_center y_center width height``, or ``class x1 y1 x2 y2 x3 y3 ...`` for the
corners of a polygon, whose bounding box counts; all coordinates are shares of the image's width and height
(https://docs.ultralytics.com/datasets/detect/). What is wrong is named with its file and line.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from c2dlib.data.images import MIRRORED, ORIENTATION, SIDES_SWAPPED
from c2dlib.data.validation import FIELDS, DataError, Problems, parse_number
from c2dlib.files import read_file, read_yaml

IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
ROUNDING = 1e-4  # by which the side of a box may lie outside 0..1 for want of digits
SLACK = 0.01  # by which a coordinate may lie outside 0..1; the box is then clipped to the image


@dataclass
class YoloSplit:
    """One split, read."""

    images: Path  # the folder that the names in ``content`` are relative to
    content: dict  # as in a COCO annotation file
    notes: list[str] = field(default_factory=list)  # what does not prevent training


def read_description(path: Path) -> dict:
    """The object in a YAML file.

    Raises:
        DataError: if it cannot be read, holds a key twice, or holds no object.
    """
    try:
        text = read_yaml(path)
    except ValueError as error:
        raise DataError(str(error)) from error
    if not isinstance(text, dict):
        raise DataError(f"{path}: must hold `train:`, `val:` and so on, holds {text!r:.60}")
    return text


def read_yolo(path: Path) -> dict[str, YoloSplit]:
    """The splits that a YOLO ``data.yaml`` names, by c2dlib's names train, val and test.

    Category ids are YOLO's class numbers + 1. An image without a label file is an image without objects.

    Raises:
        DataError: with everything that is wrong, with file and line.
    """
    description, problems = read_description(path), Problems()
    if "kpt_shape" in description:
        raise DataError(f"{path}: kpt_shape: labels of key points, not of boxes; export boxes")
    names = _names(path, description)
    categories = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    splits = {}
    if description.get("val") and description.get("valid"):
        raise DataError(f"{path}: val and valid are both there; remove one of them")
    for split, key in (("train", "train"), ("val", "val"), ("val", "valid"), ("test", "test")):
        if description.get(key) not in (None, ""):
            images = _image_files(path, key, description, problems)
            if images:
                splits[split] = _read_split(images, path, categories, problems)
    if problems.by_kind:
        raise problems.error(path, of_coco=False)
    return splits


def _names(path: Path, description: dict) -> list[str]:
    """The class names, in the order of their numbers."""
    names = description.get("names")
    if isinstance(names, dict):
        if {*map(repr, names)} != {*map(repr, range(len(names)))}:  # repr: True is not the number 1
            raise DataError(f"{path}: names: the numbers must be 0 to {len(names) - 1}, are {list(names)}")
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}: names is {names!r:.60}, must be a list of the class names")
    if wrong := [name for name in names if isinstance(name, bool) or not isinstance(name, (str, int))]:
        raise DataError(
            f"{path}: names: YAML reads a name as {wrong[0]!r:.60}, which is no text; "
            "put the names in quotes, such as ['yes', 'no']"
        )
    names = [str(name) for name in names]
    valid, requirement = FIELDS["name"]
    if wrong := [name for name in names if not valid(name)]:
        raise DataError(f"{path}: names: {wrong[0]!r:.60} must be {requirement}")
    stripped = [name.strip() for name in names]
    if doubled := sorted({name for name in stripped if stripped.count(name) > 1}):
        raise DataError(f"{path}: names: {', '.join(doubled)} occurs more than once")
    if description.get("nc", len(names)) != len(names):
        raise DataError(f"{path}: nc is {description['nc']}, but there are {len(names)} names")
    return names


def _image_files(path: Path, key: str, description: dict, problems: Problems) -> list[Path]:
    """The image files of a split: a folder with what lies below it, a txt file that lists them, or several.

    A relative path starts at ``path:`` of the description, or at the description's own folder. Roboflow's
    exports write ``../train/images`` for a folder beside the description.
    """
    entries = description[key] if isinstance(description[key], list) else [description[key]]
    start = description.get("path") or ""
    for name, values in ((key, entries), ("path", [start])):
        if not values or any(isinstance(v, bool) or not isinstance(v, (str, int)) for v in values):
            problems.add("wrong field", f"{path.name}: {name} is {description[name]!r:.60}, must be a path")
            return []
    own = path.parent
    base = own / str(start)
    files: list[Path] = []
    for entry in map(str, entries):
        candidates = [base / entry, own / entry, own / entry.removeprefix("../")]
        place = next((candidate for candidate in candidates if os.path.exists(candidate)), None)
        if place is None:
            tried = " or ".join(dict.fromkeys(os.path.normpath(candidate) for candidate in candidates))
            problems.add("missing image folder", f"{path.name}: {key}: {entry}: there is no {tried}")
        elif place.is_dir():
            found = [file for file in place.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES]
            files += sorted(found)
            if not found:
                problems.add("empty split", f"{path.name}: {key}: no image in {os.path.normpath(place)}")
        else:
            files += _listed(place, f"{path.name}: {key}: {entry}", problems)
    return list(dict.fromkeys(Path(os.path.abspath(file)) for file in files))


def _listed(place: Path, where: str, problems: Problems) -> list[Path]:
    """The image files that a txt file lists, one a line."""
    try:
        if place.suffix.lower() in IMAGE_SUFFIXES:
            raise ValueError("is an image")
        lines = read_file(place).decode().splitlines()
    except (OSError, ValueError) as error:
        text = f"{where}: must be a folder, or a text file in UTF-8 that lists images: {error}"
        problems.add("unreadable list of images", text)
        return []
    files = {
        number: place.parent / line.strip() for number, line in enumerate(lines, start=1) if line.strip()
    }
    for number, file in files.items():
        if not os.path.isfile(file):
            problems.add("missing image file", f"{place}: line {number}: no file {file}")
    if not files:
        problems.add("empty split", f"{where}: lists no image")
    return [file for file in files.values() if os.path.isfile(file)]


def _read_split(files: list[Path], path: Path, categories: list[dict], problems: Problems) -> YoloSplit:
    root = Path(os.path.commonpath([file.parent for file in files]))
    images: list[dict] = []
    annotations: list[dict] = []
    without: list[str] = []
    repeated: list[str] = []
    for file in files:
        size = _size(file, problems)
        if size is None:
            continue
        image = {"id": len(images) + 1, "file_name": file.relative_to(root).as_posix()}
        images.append(image | {"width": size[0], "height": size[1]})
        label = label_file(file)
        if not (label.exists() or label.is_symlink()):
            without.append(image["file_name"])
            continue
        boxes = _read_labels(label, path, len(categories), problems)
        if len(set(boxes)) < len(boxes):
            repeated.append(str(label))
        for number, *sides in dict.fromkeys(boxes):
            x1, y1, x2, y2 = (min(max(v, 0.0), 1.0) if -ROUNDING < v < 1 + ROUNDING else v for v in sides)
            box = [x1 * size[0], y1 * size[1], (x2 - x1) * size[0], (y2 - y1) * size[1]]
            ids = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": number + 1}
            annotations.append(ids | {"bbox": [round(v, 4) for v in box], "iscrowd": 0})
    notes = []
    if images and len(without) == len(images):
        problems.add("missing label files", f"none of {len(files)}, such as {label_file(files[0])}")
    elif without:
        notes.append(
            f"{root}: {len(without)} image(s) without a label file count as images without objects, such as "
            f"{without[0]}"
        )
    if repeated:
        notes.append(f"{len(repeated)} label file(s) repeat a line, which counts once, such as {repeated[0]}")
    return YoloSplit(root, {"images": images, "annotations": annotations, "categories": categories}, notes)


def label_file(image: Path) -> Path:
    """Where YOLO keeps the labels of an image: ``labels`` in place of the last ``images`` of its path."""
    parts = list(image.with_suffix(".txt").parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts)


def _size(file: Path, problems: Problems) -> tuple[int, int] | None:
    """Width and height of an image as it is looked at: YOLO's labels refer to the turned picture."""
    if not os.path.isfile(file):
        problems.add("unreadable image file", f"{file}: is no file")
        return None
    try:
        with Image.open(file) as image:
            orientation = image.getexif().get(ORIENTATION, 1)
            width, height = image.size
    except Exception as error:  # Pillow's decoders raise many types
        problems.add("unreadable image file", f"{file}: {error}")
        return None
    if orientation in MIRRORED or (orientation in SIDES_SWAPPED and width == height):
        problems.add(
            "image that is turned or mirrored by its EXIF data",
            f"{file}: orientation {orientation} is not supported; save it upright",
        )
    return (height, width) if orientation in SIDES_SWAPPED else (width, height)


def _read_labels(
    file: Path, description: Path, classes: int, problems: Problems
) -> list[tuple[int, float, float, float, float]]:
    """The boxes of a label file: class number, then x1, y1, x2, y2 as shares of the image."""
    boxes = []
    try:
        lines = read_file(file).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.add("unreadable label file", f"{file}: {error}")
        return []
    for number, line in enumerate(lines, start=1):
        if words := line.split():
            try:
                boxes.append(_box(words, description, classes))
            except ValueError as error:
                problems.add("wrong line in a label file", f"{file}: line {number}: {error}")
    return boxes


def _box(words: list[str], description: Path, classes: int) -> tuple[int, float, float, float, float]:
    """The box of one line of a label file.

    Raises:
        ValueError: saying what is wrong with the line.
    """
    values = [parse_number(word) for word in words]
    if not values[0].is_integer() or not 0 <= values[0] < classes:
        raise ValueError(f"class {words[0]}, but {description.name} names the classes 0 to {classes - 1}")
    coordinates = values[1:]
    if len(coordinates) != 4 and (len(coordinates) < 6 or len(coordinates) % 2):
        raise ValueError(
            f"{len(words)} numbers; a box has 5 (class, centre, width, height), a polygon the class and two "
            "per corner"
        )
    if outside := [
        word for word, v in zip(words[1:], coordinates, strict=True) if not -SLACK <= v <= 1 + SLACK
    ]:
        raise ValueError(f"{outside[0]} is not between 0 and 1; coordinates are shares of the image's size")
    if len(coordinates) == 4:
        x, y, w, h = coordinates
        return int(values[0]), x - w / 2, y - h / 2, x + w / 2, y + h / 2
    xs, ys = coordinates[::2], coordinates[1::2]
    return int(values[0]), min(xs), min(ys), max(xs), max(ys)
