"""Data as people have them -> a COCO-format folder.

This is the one place where other layouts than COCO's enter. ``load_data`` makes a small folder in COCO's
layout for them: annotation files, and links to the image folders, which are neither copied nor changed. The
rest of the library reads that folder as any other.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from c2dlib.data.coco import CocoFolder, load_folder
from c2dlib.data.validation import LAYOUT, SPLITS, DataError, read_annotations, read_object
from c2dlib.data.yolo import read_description, read_yolo
from c2dlib.files import parse_json, read_file, sha256, sweep, write_whole
from c2dlib.records import data_name

OTHER_LAYOUTS = (
    "Or one of these, with val and test optional:\n"
    "- Roboflow's COCO export: train/_annotations.coco.json with the images beside it, valid/, test/;\n"
    "- YOLO: data.yaml (names, train, val), images/ and labels/ with a txt file per image;\n"
    "- a YAML file that names an annotation file in COCO's format and an image folder per split:\n"
    "    train: {annotations: train.json, images: photos/train}\n"
    "    val: {annotations: val.json, images: photos/val}"
)
VAL_SHARE = 0.2  # of the training images, where there is no val split
VAL_SEED = 0
ABOUT = "layout.json"  # in a folder made here: what it was made from


@dataclass
class Source:
    """Where the splits of some data lie."""

    layout: str  # its name
    name: str  # of the data
    # split -> its annotation file, or what one would hold; its image folder
    splits: dict[str, tuple[Path | dict, Path]]
    notes: list[str] = field(default_factory=list)  # what does not prevent training
    split_rule: str = ""  # how a val split was made; empty: there was one
    # split -> its annotation file, where ``splits`` may have a changed content, not validated, in its place
    files: dict[str, Path] = field(default_factory=dict)


def load_data(
    data: str | Path, made: Path, check_images: bool = True, cache: Path | None = None
) -> CocoFolder:
    """Load and validate data in any of the layouts that ``LAYOUT`` and ``OTHER_LAYOUTS`` name.

    Data in COCO's layout with a val split are read where they are. For others, and for data that have only a
    train split, a folder of that layout is written below ``made``. Notes on it are among the report's
    warnings.

    Args:
        data: a folder, or a YAML file that describes one.
        made: where folders are written.
        check_images, cache: see ``load_folder``.

    Raises:
        DataError: with all problems, named as they are in the data.
    """
    place = Path(os.path.abspath(Path(data).expanduser()))
    source = _recognise(place)
    if source is None:
        try:
            return load_folder(place, check_images=check_images, cache=cache)
        except DataError as error:
            known = (place / "annotations").is_dir()
            raise DataError(str(error) if known else f"{error}\n{OTHER_LAYOUTS}") from error
    if "train" not in source.splits:
        raise DataError(f"{place}: {source.layout} without a train split")
    if "val" not in source.splits:
        source = _with_val(source)
    made = Path(os.path.abspath(made))
    root = _write(source, made / "layouts" / sha256(str(place).encode())[:12] / source.name)
    try:
        folder = load_folder(root, check_images=check_images, cache=cache)
    except DataError as error:
        raise DataError(_in_its_own_names(str(error), root, place, source)) from error
    warnings = [_in_its_own_names(warning, root, place, source) for warning in folder.report.warnings]
    folder.report.warnings[:] = [*filter(None, [source.split_rule]), *source.notes, *warnings]
    return folder


def origin(root: Path) -> dict[str, str]:
    """What a folder made by ``load_data`` says of its origin, for a run's record; {} for any other folder.

    Keys: ``layout``, and ``val_split`` where the val split was made here.
    """
    try:
        about = parse_json((root / ABOUT).read_bytes())
    except (FileNotFoundError, ValueError):  # ``_write`` writes a damaged one anew
        return {}
    return about if isinstance(about, dict) else {}


def _recognise(place: Path) -> Source | None:
    """The layout of some data; None for data in COCO's own layout, and for what is not recognised."""
    if place.suffix.lower() in (".yaml", ".yml") and place.is_file():
        return _described(place)
    if (place / "annotations" / "instances_train2017.json").exists():
        return _coco_without_val(place)
    roboflow = {
        split: (place / folder / "_annotations.coco.json", place / folder)
        for split, folder in (("train", "train"), ("val", "valid"), ("test", "test"))
    }
    if any(annotations.is_file() for annotations, _ in roboflow.values()):
        there = {split: pair for split, pair in roboflow.items() if pair[1].is_dir()}
        return _without_root(Source("Roboflow's COCO export", place.name, there))
    for name in ("data.yaml", "data.yml", "dataset.yaml"):
        if (place / name).is_file():
            return _described(place / name)
    if (place / "images").is_dir() and (place / "labels").is_dir():
        raise DataError(
            f"{place}: images/ and labels/ without a data.yaml. Write one: `names: [first class, ...]`, "
            "`train: images/train`, `val: images/val`."
        )
    return None


def _without_root(source: Source) -> Source:
    """Roboflow's export without the category that stands for the project.

    Roboflow lists it before the classes: it is the supercategory of each of them and has no annotation. A
    class of the same name is its own supercategory, and stays.
    """
    contents: dict[str, dict] = {}
    for split, (file, _) in source.splits.items():
        if isinstance(file, Path) and os.path.isfile(file):
            source.files[split] = file
            content = read_object(file)
            if content is None or not all(
                _are_objects(content.get(k)) for k in ("categories", "annotations")
            ):
                return source  # validation names the problem
            contents[split] = content
    listed = [category for content in contents.values() for category in content["categories"]]
    parents = [c["supercategory"] for c in listed if isinstance(c.get("supercategory"), str)]
    used = [row.get("category_id") for content in contents.values() for row in content["annotations"]]

    def is_root(category: dict) -> bool:
        name, own = category.get("name"), category.get("supercategory")
        return name in parents and name != own and category.get("id") not in used

    for split, content in contents.items():
        if roots := [category for category in content["categories"] if is_root(category)]:
            classes = [category for category in content["categories"] if category not in roots]
            source.splits[split] = content | {"categories": classes}, source.splits[split][1]
            source.notes += [
                f"{source.files[split]}: category id {root.get('id')} {root['name']!r} is not a class: it is "
                "the supercategory of others and has no annotation"
                for root in roots
            ]
    return source


def _are_objects(entries: object) -> bool:
    return isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)


def _coco_without_val(place: Path) -> Source | None:
    """COCO's layout of which val is missing altogether; None where it is there, or a part of it."""
    if (place / "annotations/instances_val2017.json").exists() or (place / "val2017").exists():
        return None
    files = {
        split: (place / f"annotations/instances_{split}2017.json", place / f"{split}2017") for split in SPLITS
    }
    return Source("COCO", place.name, {split: pair for split, pair in files.items() if pair[0].exists()})


def _described(path: Path) -> Source:
    """The data that a YAML file describes: YOLO's, or an annotation file and an image folder per split."""
    description = read_description(path)
    name = data_name(path)
    if not any(isinstance(description.get(split), dict) for split in SPLITS):
        read = read_yolo(path)
        splits = {split: (content.content, content.images) for split, content in read.items()}
        return Source("YOLO", name, splits, [note for content in read.values() for note in content.notes])
    if unknown := sorted(map(str, set(description) - set(SPLITS))):
        raise DataError(f"{path}: unknown {', '.join(unknown)}; valid: {', '.join(SPLITS)}")
    pairs: dict[str, tuple[Path | dict, Path]] = {}
    for split, pair in description.items():
        if not isinstance(pair, dict) or set(pair) != {"annotations", "images"}:
            raise DataError(f"{path}: {split}: must be {{annotations: FILE, images: FOLDER}}, is {pair!r}")
        annotations, images = (path.parent / str(pair[key]) for key in ("annotations", "images"))
        if not os.path.isfile(annotations) or not os.path.isdir(images):
            missing = images if os.path.isfile(annotations) else annotations
            raise DataError(f"{path}: {split}: there is no {os.path.normpath(missing)}")
        pairs[split] = annotations, images
    return Source(f"pairs named in {path.name}", name, pairs)


def _with_val(source: Source) -> Source:
    """The same data with a part of the training images as val.

    Raises:
        DataError: with all problems of the annotation file; if it has no two different images.
    """
    annotations, images = source.splits["train"]
    if isinstance(annotations, Path):
        content = read_annotations(annotations)
    elif "train" in source.files:
        content = read_annotations(source.files["train"], annotations)
    else:
        content = annotations
    names = [Path(image["file_name"]).as_posix() for image in content["images"]]
    held_out = held_out_images(names, images)
    if not held_out or len(held_out) == len(names):
        raise DataError(
            f"{images}: {len(names)} image(s) cannot be divided into train and val; add a val split"
        )
    parts = {split: _part(content, held_out, split == "val") for split in ("train", "val")}
    rule = (
        f"there is no val split: {len(held_out)} of the {len(names)} training images are val now, "
        f"{VAL_SHARE:.0%} of them in the order of sha256('{VAL_SEED} ' + sha256 of the file); copies of an "
        "image, and what Roboflow made of one picture, stay together. Frames of one video do not: "
        "if you have such images, make the val split yourself"
    )
    splits = source.splits | {split: (part, images) for split, part in parts.items()}
    return Source(source.layout, source.name, splits, source.notes, rule)


def held_out_images(names: Iterable[str], folder: Path) -> set[str]:
    """The images that become val: about ``VAL_SHARE`` of them, at least one.

    The rule depends on the images' content, not on their order. Groups of images stay together: files of the
    same content, those whose names agree up to ``.rf.``, which Roboflow makes of one picture, and groups that
    share an image with another one.

    Args:
        names: paths below ``folder``.
    """
    contents: list[tuple[str, str]] = []  # name, hash
    joined: dict[str, str] = {}  # a hash or picture -> one of the same group, up to the one that names it

    def group_of(key: str) -> str:
        while key in joined:
            key = joined[key]
        return key

    for name in sorted(names):
        try:
            content = sha256(read_file(folder / name))
        except (OSError, ValueError):  # validation names it
            content = sha256(str(name).encode())
        picture, augmented, _ = Path(name).name.partition(".rf.")
        contents.append((name, content))
        if augmented and (first := group_of(content)) != (second := group_of(picture)):
            joined[first] = second
    groups: dict[str, list[str]] = {}
    order: dict[str, str] = {}
    for name, content in contents:
        group = group_of(content)
        groups.setdefault(group, []).append(name)
        order[group] = min(order.get(group, "g"), sha256(f"{VAL_SEED} {content}".encode()))
    wanted = max(1, round(VAL_SHARE * sum(map(len, groups.values()))))
    held_out: set[str] = set()
    for group in sorted(groups, key=order.__getitem__)[: len(groups) - 1]:
        if len(held_out) < wanted:
            held_out |= set(groups[group])
    return held_out


def _part(content: dict, held_out: set[str], val: bool) -> dict:
    """The held-out images of an annotation file with their annotations, or the others."""
    images = [i for i in content["images"] if (Path(i["file_name"]).as_posix() in held_out) == val]
    ids = {image["id"] for image in images}
    rows = [row for row in content["annotations"] if row["image_id"] in ids]
    return content | {"images": images, "annotations": rows}


def _write(source: Source, root: Path) -> Path:
    """A COCO-format folder of a source: annotation files or links to them, and links to image folders."""
    for folder in (root, root / "annotations"):
        sweep(folder)
    for split in SPLITS:
        file, link = root / f"annotations/instances_{split}2017.json", root / f"{split}2017"
        if split not in source.splits:
            file.unlink(missing_ok=True)
            link.unlink(missing_ok=True)
            continue
        annotations, images = source.splits[split]
        if isinstance(annotations, Path):
            _link(file, annotations)
        else:
            text = json.dumps(annotations)
            if file.is_symlink() or not file.exists() or file.read_bytes() != text.encode():
                file.unlink(missing_ok=True)
                write_whole(file, text)
        _link(link, images)
    about = {"layout": source.layout} | ({"val_split": source.split_rule} if source.split_rule else {})
    if origin(root) != about:
        write_whole(root / ABOUT, json.dumps(about, indent=1))
    return root


def _link(link: Path, target: Path) -> None:
    """A link to a file or folder; another process may make the same one."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink() or os.readlink(link) != str(target):
        link.unlink(missing_ok=True)
        with contextlib.suppress(FileExistsError):
            link.symlink_to(target)


def _in_its_own_names(text: str, root: Path, place: Path, source: Source) -> str:
    """A message on the folder made here, with the names of the data it was made from."""
    own_names = {f"{LAYOUT}\n": "", str(root): str(place)}
    for split, (labels, images) in source.splits.items():
        file = labels if isinstance(labels, Path) else source.files.get(split, f"{images} ({split})")
        own_names |= {f"annotations/instances_{split}2017.json": str(file), f"{split}2017/": f"{images}/"}
    made_here = "|".join(map(re.escape, own_names))  # each is at the beginning of a word
    return re.sub(rf"(?<!\S)(?:{made_here})", lambda found: own_names[found[0]], text)
