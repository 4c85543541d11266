"""``make data NAME=groceries``: photographs of a public repository as a COCO-format folder.

The repository holds pictures of 224 px as PNG and their boxes as PASCAL VOC's XML. The split of the
photographs is ours and stands in ``groceries.txt``. The annotation files come out byte for byte as those that
the published results were computed with.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

from defusedxml.ElementTree import fromstring
from PIL import Image
from tqdm import tqdm

from c2dlib.data.coco import load_folder
from c2dlib.data.validation import DataError
from c2dlib.files import sha256, whole_folder
from c2dlib.records import git_environment

URL = "https://github.com/aleksandar-aleksandrov/groceries-object-detection-dataset"
COMMIT = "0130c6cdbc9f8d278d8b9da5d07d97bcb6647d90"  # of the branch train-val, whose split is not used here
DESCRIPTION = "5K Groceries for object detection (Freiburg Groceries, boxes by A. Aleksandrov), 224 px"
SIDE = 224  # pixels, of all pictures; the boxes are in these pixels
QUALITY = 72  # of the JPEG files
SHOWN = 5  # names in a message


class Photographs(NamedTuple):
    """The photographs of one class in one split: a line of ``groceries.txt``."""

    split: str
    category: str
    digest: str  # ``boxes_digest`` of these photographs
    names: list[str]  # without ending, sorted
    left_out: list[
        str
    ]  # photographs that are in no split; the split's ids count them and their boxes all the same


@dataclass(frozen=True)
class Published:
    """What the folder is made from and compared with.

    ``annotations``: split -> sha256 of the annotation file, and the separators of its JSON.
    ``images``: split -> ``images_digest`` of its folder.
    """

    photographs: list[Photographs]
    annotations: dict[str, tuple[str, tuple[str, str]]]
    images: dict[str, str]
    commit: str = COMMIT
    categories: list[str] = field(init=False)  # in the order of their ids, from 1

    def __post_init__(self):
        object.__setattr__(self, "categories", sorted({line.category for line in self.photographs}))


def published() -> Published:
    """The photographs of the published results."""
    return Published(
        read_split(Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")),
        {
            "train": ("69c4ca981bce1437f20dc46f5bafe5f0c8c64e6c7b1adc1593a2dec72c5d6d89", (",", ":")),
            "val": ("6f50d3c2e69e29aa125015cb49a264c105b56bd10a82ef65254e89ff5f98d31e", (", ", ": ")),
            "test": ("f82263196d8022898f0ab6b1642c614de79d71278d2d90e6bc0a1529aa244f3c", (",", ":")),
        },
        {
            "train": "e682dec7a6b069e202443bc81165694d56dcac2abea1e8e6cd0deae4da360c52",
            "val": "45a0ae5e9f801265b689268c4057835f6102a36912b9fc5539f07a8e7f0e69fd",
            "test": "f868e0a4112ac219ddd0a949452846206a4fad951807f6000d47d7f86382cb61",
        },
    )


def read_split(text: str) -> list[Photographs]:
    """The lines ``split class digest number -number ...``.

    A photograph is named by CLASS and four digits; a minus stands before those that are left out.
    """
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]

    def names(category: str, numbers: list[str], left_out: bool) -> list[str]:
        chosen = [abs(int(n)) for n in numbers if n.startswith("-") == left_out]
        return [f"{category.upper()}{n:04}" for n in chosen]

    return [
        Photographs(split, category, digest, names(category, numbers, False), names(category, numbers, True))
        for split, category, digest, *numbers in lines
    ]


def make_groceries(target: str | Path, source: str = URL, wanted: Published | None = None) -> str:
    """Fetch the repository's named commit, write the COCO-format folder and compare it with the published.

    The folder appears under its name when it is complete and validated, not before. A folder that this
    function made earlier is only compared. No file name of the repository becomes a path, so nothing can be
    written outside the target.

    Args:
        target: the folder to make; it must not exist, be empty, or be such a folder.
        source: a git URL or a local repository.
        wanted: what to make; the published data set unless a test says otherwise.

    Returns:
        What was written, and how it compares with the published data set.

    Raises:
        DataError: if the target holds anything else, git is missing or fails, or a photograph or its boxes
            are missing or cannot be read.
        OSError: if the folder cannot be written.
    """
    wanted = wanted or published()
    target = Path(os.path.realpath(os.path.expanduser(target)))
    if target.exists() and not target.is_dir():
        raise DataError(f"{target}: is a file. Name a folder that does not exist yet: --data FOLDER.")
    if target.is_dir() and any(target.iterdir()):
        if not _is_groceries(target):
            raise DataError(
                f"{target}: holds other files, and nothing is written among them. "
                "Name a folder that does not exist yet, or empty this one."
            )
        return "\n".join([f"{target}: is there already; nothing is written.", *_compare(target, wanted)])
    with whole_folder(target) as temporary:
        made = temporary / "whole"
        resized = _convert(_fetch(temporary / "repository", source, wanted.commit), made, wanted)
        lines = _compare(made, wanted)
    if resized:
        lines.append(
            f"note: {len(resized)} picture(s) of another size were resized to {SIDE} x {SIDE}: "
            + _some(resized)
        )
    return "\n".join(
        [
            f"{target}: made from {source} at {wanted.commit}",
            *lines,
            f"ready: make reproduce-table1 SCALE=photos DATA={shlex.quote(str(target))}",
        ]
    )


def _is_groceries(folder: Path) -> bool:
    """Whether a folder holds this data set and nothing else."""
    names = {"annotations", "train2017", "val2017", "test2017"}
    try:
        content = json.loads((folder / "annotations/instances_train2017.json").read_bytes())
        return {p.name for p in folder.iterdir()} <= names and content["info"]["description"] == DESCRIPTION
    except (OSError, ValueError, KeyError, TypeError):
        return False


# ---- git


@dataclass(frozen=True)
class Repository:
    """A bare repository and the files of one commit; they are read from git, never checked out."""

    folder: Path
    files: dict[str, str]  # path -> id of the content

    @contextmanager
    def reader(self) -> Iterator:
        """A function from a path to the file's bytes."""
        with subprocess.Popen(
            ["git", "--git-dir", str(self.folder), "cat-file", "--batch"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=git_environment(),
        ) as process:

            def read(path: str) -> bytes:
                process.stdin.write(f"{self.files[path]}\n".encode())
                process.stdin.flush()
                header = process.stdout.readline().split()
                if len(header) != 3 or header[1] != b"blob":
                    raise DataError(f"{path}: git cannot read it; make the folder again")
                content = process.stdout.read(int(header[2]) + 1)
                return content[:-1]

            yield read


def _git(folder: Path, *arguments: str, progress: bool = False) -> bytes:
    command = ["git", "--git-dir", str(folder), *arguments]
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=None if progress else subprocess.PIPE,
            env=git_environment(),
            check=False,
        )
    except FileNotFoundError as error:
        raise DataError("git is not installed; install it and run again.") from error
    if done.returncode:
        message = (done.stderr or b"").decode(errors="replace").strip()
        raise DataError(
            f"git {arguments[0]} failed{': ' + message if message else ' (its message is above)'}"
        )
    return done.stdout


def _fetch(folder: Path, source: str, commit: str) -> Repository:
    """Fetch one commit without its history and list its files.

    Raises:
        DataError: if git fails, or a file's name is absolute or leads out of the repository.
    """
    _git(folder, "init", "--quiet", "--bare", str(folder))
    try:
        _git(folder, "fetch", "--progress", "--no-tags", "--depth=1", "--", source, commit, progress=True)
    except DataError as error:
        raise DataError(
            f"{source}: commit {commit} cannot be fetched: {error}. Check the connection to the network and "
            "run again; nothing has been written."
        ) from error
    files = {}
    for entry in (
        _git(folder, "ls-tree", "-r", "-z", "--full-tree", commit).decode(errors="replace").split("\0")
    ):
        if not entry:
            continue
        about, path = entry.split("\t", 1)
        mode, kind, content = about.split()
        if path.startswith("/") or "\\" in path or ".." in path.split("/"):
            raise DataError(
                f"{source}: the file name {path!r} leads out of the repository; this is not the published "
                "repository, and nothing has been written."
            )
        if kind == "blob" and mode != "120000":  # no links, no submodules
            files[path] = content
    return Repository(folder, files)


def _paths(
    repository: Repository, folder: str, ending: str, wanted: Published
) -> tuple[dict[str, str], list]:
    """Photograph -> its path ``.../folder/class/NAME.ending``, and what is wrong with the others."""
    pattern = re.compile(rf"(?:.*/)?{folder}/([^/]+)/([^/]+)\.{ending}")
    found: dict[tuple[str, str], list[str]] = {}
    for path in repository.files:
        if match := pattern.fullmatch(path):
            found.setdefault(match.groups(), []).append(path)
    paths, problems = {}, []
    for line in wanted.photographs:
        for name in line.names + (line.left_out if folder == "annotations" else []):
            places = found.get((line.category, name), [])
            if not places:
                problems.append(f"{folder}/{line.category}/{name}.{ending} is missing")
            elif len({repository.files[place] for place in places}) > 1:
                problems.append(f"{' and '.join(sorted(places))} differ")
            else:
                paths[name] = places[0]
    return paths, problems


# ---- conversion


def _convert(repository: Repository, folder: Path, wanted: Published) -> list[str]:
    """Write the COCO-format folder; returns the names of the pictures that were resized."""
    pictures, problems = _paths(repository, "images", "png", wanted)
    annotations, more = _paths(repository, "annotations", "xml", wanted)
    if problems := problems + more:
        raise DataError(
            f"commit {wanted.commit}: {len(problems)} files are missing or there twice, so this is not the "
            "published repository; nothing has been written:\n  " + _some(problems, ends="\n  ")
        )
    (folder / "annotations").mkdir(parents=True)
    resized = []
    with repository.reader() as read:
        for split, (_, separators) in wanted.annotations.items():
            images = folder / f"{split}2017"
            images.mkdir()
            lines = [line for line in wanted.photographs if line.split == split]
            boxes, left_out = {}, {name for line in lines for name in line.left_out}
            names = sorted((name, line.category) for line in lines for name in line.names + line.left_out)
            for name, category in tqdm(names, desc=f"groceries {split}", unit="picture"):
                boxes[name] = (category, parse_boxes(read(annotations[name]), annotations[name]))
                if name in left_out:
                    continue
                content, fits = encode(read(pictures[name]), pictures[name])
                (images / f"{name}.jpg").write_bytes(content)
                resized += [] if fits else [name]
            text = annotation_text(boxes, wanted.categories, separators, left_out)
            (folder / f"annotations/instances_{split}2017.json").write_text(text, encoding="utf-8")
    return resized


def parse_boxes(content: bytes, path: str) -> list[list[float]]:
    """The boxes [x, y, w, h] of one XML file, in pixels and in its order.

    x and y are its xmin and ymin, w and h the differences to xmax and ymax: unlike ``published.convert_voc``,
    no pixel is added or subtracted. All objects of a photograph are of the photograph's class.

    Raises:
        DataError: if it is not such a file, says another picture size, or a box is not within the picture.
    """

    def number(node: Element, tag: str) -> float:
        return float(node.findtext(tag, ""))

    try:
        tree = fromstring(content, forbid_dtd=True)
        size = (number(tree, "size/width"), number(tree, "size/height"))
        corners = [
            [number(node, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
            for node in tree.iter("object")
        ]
    except (ParseError, ValueError, LookupError) as error:
        raise DataError(f"{path}: cannot be read as VOC's annotation ({error})") from error
    if size != (SIDE, SIDE):
        raise DataError(f"{path}: size is {size[0]:g} x {size[1]:g}, must be {SIDE} x {SIDE}")
    for x, y, x2, y2 in corners:
        if not (0 <= x < x2 <= SIDE and 0 <= y < y2 <= SIDE):
            raise DataError(f"{path}: bndbox {x:g}, {y:g}, {x2:g}, {y2:g} is not within {SIDE} x {SIDE}")
    return [[x, y, x2 - x, y2 - y] for x, y, x2, y2 in corners]


def encode(content: bytes, path: str) -> tuple[bytes, bool]:
    """A picture as JPEG of 224 x 224, and whether it had that size.

    One of another size is resized with the filter of the repository's ``resize.py``.
    """
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            picture = image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise many types
        raise DataError(f"{path}: cannot be read as a picture ({error})") from error
    fits = picture.size == (SIDE, SIDE)
    if not fits:
        picture = picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=QUALITY)
    return written.getvalue(), fits


def annotation_text(
    boxes: dict[str, tuple[str, list[list[float]]]],
    categories: list[str],
    separators: tuple[str, str],
    left_out: set[str],
) -> str:
    """One split's annotation file.

    Args:
        boxes: photograph -> its class and its boxes [x, y, w, h]; ids count from 1 in this order.
        separators: of ``json.dumps``.
        left_out: photographs that are counted and not written.
    """
    ids = {name: i for i, name in enumerate(categories, start=1)}
    images, annotations, counted = [], [], 0
    for i, (name, (category, image_boxes)) in enumerate(boxes.items(), start=1):
        image = {"id": i, "file_name": f"{name}.jpg", "width": SIDE, "height": SIDE}
        rows = [
            {
                "id": k,
                "image_id": i,
                "category_id": ids[category],
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for k, box in enumerate(image_boxes, start=counted + 1)
        ]
        counted += len(rows)
        if name not in left_out:
            images.append(image)
            annotations += rows
    content = {
        "info": {"description": DESCRIPTION},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for name, i in ids.items()],
    }
    return json.dumps(content, separators=separators)


# ---- comparison


def boxes_digest(boxes: dict[str, list[list[float]]]) -> str:
    """Twelve digits that depend on the photographs' names and their boxes [x, y, w, h], in order."""
    rows = [f"{name} {' '.join(f'{v:g}' for box in boxes[name] for v in box)}" for name in sorted(boxes)]
    return sha256("\n".join(rows).encode())[:12]


def images_digest(folder: Path) -> str:
    """sha256 over the names and contents of a folder's JPEG files."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.jpg")):
        digest.update(f"{path.name} {sha256(path.read_bytes())}\n".encode())
    return digest.hexdigest()


def _compare(folder: Path, wanted: Published) -> list[str]:
    """Validate a folder and say how it compares with the published one, a line each.

    Raises:
        DataError: if it is not a valid COCO-format folder.
    """
    loaded = load_folder(folder)
    lines = [loaded.report.summary(), *(f"note: {w}" for w in loaded.report.warnings)]
    for split, (hashed, _) in wanted.annotations.items():
        file = f"annotations/instances_{split}2017.json"
        if sha256((folder / file).read_bytes()) == hashed:
            lines.append(f"{file}: as published, byte for byte")
            continue
        if not (different := _different_classes(folder / file, split, wanted)):
            lines.append(f"{file}: the same boxes, classes and sizes as published, written in another form")
            continue
        lines.append(
            f"note: {file}: not as published: the photographs or boxes of {_some(different)} differ. "
            "Results from it are not those of the published tables."
        )
    others = [s for s, digest in wanted.images.items() if images_digest(folder / f"{s}2017") != digest]
    if others:
        lines.append(
            f"note: the pictures of {', '.join(others)} are not the published ones byte for byte. "
            "Where another version of Pillow or libjpeg wrote them, pixels differ by a few grey levels, and "
            "results slightly."
        )
    else:
        lines.append("pictures: as published, byte for byte")
    return lines


def _different_classes(file: Path, split: str, wanted: Published) -> list[str]:
    """The classes whose photographs, sizes or boxes in an annotation file are not the published ones."""
    content = json.loads(file.read_bytes())
    names = {c["id"]: c["name"] for c in content["categories"]}
    if names != dict(enumerate(wanted.categories, start=1)):
        return ["all classes (their ids or names)"]
    images = {image["id"]: image for image in content["images"]}
    by_class: dict[str, dict[str, list]] = {name: {} for name in wanted.categories}
    for row in content["annotations"]:
        image = images[row["image_id"]]
        size = (
            ""
            if (image["width"], image["height"]) == (SIDE, SIDE)
            else f" {image['width']}x{image['height']}"
        )
        name = Path(image["file_name"]).stem + size
        by_class[names[row["category_id"]]].setdefault(name, []).append(row["bbox"])
    expected = {line.category: line.digest for line in wanted.photographs if line.split == split}
    return [
        name
        for name, boxes in by_class.items()
        if boxes_digest(boxes) != expected.get(name, boxes_digest({}))
    ]


def _some(names: list[str], ends: str = ", ") -> str:
    """The first few of many names."""
    more = f"{ends}... and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ends.join(names[:SHOWN]) + more
