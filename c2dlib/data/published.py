"""``make data``: check a copy of COCO, list its downloads, and convert PASCAL VOC to a COCO-format folder."""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import shlex
import shutil
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml.ElementTree import fromstring
from torchvision.datasets.voc import DATASET_YEAR_DICT
from torchvision.models.detection import SSD300_VGG16_Weights
from tqdm import tqdm

from c2dlib.data.coco import CocoFolder, load_folder
from c2dlib.data.images import ImageSizeError, check_header
from c2dlib.data.validation import COCO_2017, LAYOUT, DataError, parse_number
from c2dlib.files import read_file, sha256, whole_folder

# Of the published files: sha256 of each annotation file, number of images, number of annotations (crowds
# among them); archives with bytes and md5.
PUBLISHED = {
    "train": (COCO_2017["train"], 118_287, 860_001),
    "val": (COCO_2017["val"], 5_000, 36_781),
}
ARCHIVES = {
    "zips/train2017.zip": (19_336_861_798, "cced6f7f71b7629ddf16f17bbcfab6b2"),
    "zips/val2017.zip": (815_585_330, "442b8da7639aecaf257c1dceb8ba8c80"),
    "annotations/annotations_trainval2017.zip": (252_907_541, "f4bbac642086de4f52a3fdda2de5fa2c"),
}
COCO_NAMES = {
    n for n in SSD300_VGG16_Weights.COCO_V1.meta["categories"] if n not in ("__background__", "N/A")
}
VOC_NAMES = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]


def downloads() -> str:
    """What COCO 2017 and VOC consist of and where they are published."""
    lines = ["COCO 2017, unpacked into one folder (its annotations/, train2017/ and val2017/):"]
    lines += [
        f"  http://images.cocodataset.org/{name}   {size / 1e9:.2f} GB, md5 {md5}"
        for name, (size, md5) in ARCHIVES.items()
    ]
    lines.append("PASCAL VOC, unpacked into one folder (its VOCdevkit/), converted by this command:")
    lines += [
        f"  {DATASET_YEAR_DICT[year]['url']}   md5 {DATASET_YEAR_DICT[year]['md5']}"
        for year in ("2007", "2007-test", "2012")
    ]
    return "\n".join(lines)


def check_data(data: str | Path) -> str:
    """Read a COCO copy, a folder of one's own or a VOCdevkit, and say what it is.

    A COCO-format folder is only read. VOC is converted into ``<folder>-coco`` beside it; see ``convert_voc``.

    Raises:
        DataError: saying what is missing or damaged, and where to get it; or that ``<folder>-coco`` holds
            something else.
    """
    root = Path(os.path.abspath(os.path.expanduser(data)))
    if archives := _archives(root):
        raise DataError("\n".join([f"{root}: archives that are not unpacked, or not whole:", *archives]))
    if devkit := next(
        (p for p in (root, root / "VOCdevkit") if (p / "VOC2007").is_dir() or (p / "VOC2012").is_dir()), None
    ):
        return report(convert_voc(devkit, root.parent / f"{root.name}-coco"))
    try:
        return report(load_folder(root))
    except DataError as error:
        raise DataError(f"{error}\n\n{downloads()}") from error


def _archives(root: Path) -> list[str]:
    """What is wrong with COCO's archives that lie in a folder; nothing where they are unpacked already."""
    problems = []
    for name, (size, md5) in ARCHIVES.items():
        path = root / Path(name).name
        unpacked = root / Path(name).stem.replace("annotations_trainval2017", "annotations")
        if not path.is_file() or unpacked.is_dir():
            continue
        if path.stat().st_size != size:
            problems.append(
                f"  {path.name}: {path.stat().st_size:,} bytes, published are {size:,}: download it again"
            )
            continue
        with path.open("rb") as file:
            whole = hashlib.file_digest(file, "md5").hexdigest() == md5
        problems.append(
            f"  {path.name}: whole (md5 {md5}); unpack it here: unzip {path.name}"
            if whole
            else f"  {path.name}: its md5 is not {md5}: download it again"
        )
    return problems


def report(folder: CocoFolder) -> str:
    """What a validated folder holds, and for the 80 classes of COCO whether it is COCO 2017 as published."""
    lines = [folder.report.summary(), *(f"note: {w}" for w in folder.report.warnings)]
    if {c.name for c in folder.categories} == COCO_NAMES:
        for split, (hashed, images, rows) in PUBLISHED.items():
            file = f"annotations/instances_{split}2017.json"
            content = (folder.root / file).read_bytes()
            if sha256(content) == hashed:
                lines.append(f"{file}: as published ({images:,} images, {rows:,} annotations)")
            else:
                own = json.loads(content)
                lines.append(
                    f"{file}: not the published one ({len(own['images']):,} images, "
                    f"{len(own['annotations']):,} annotations; published: {images:,} and {rows:,}). "
                    "Good enough for runs of your own; numbers from it are not the paper's."
                )
    return "\n".join([*lines, f"ready: make reproduce-table1 DATA={shlex.quote(str(folder.root))}"])


def convert_voc(devkit: Path, target: Path) -> CocoFolder:
    """PASCAL VOC as a COCO-format folder: 2007 + 2012 trainval for training, 2007 test for val.

    Without the 2007 test set: the train and val sets of 2012, or else of 2007. Objects marked difficult
    become crowds: no detector is trained on them, and in the evaluation they count neither as right nor as
    wrong. Images are linked, or copied where the file system does not allow links.

    The folder appears under its name when it is complete. One that is there already is compared with what
    would be written, and never changed.

    Raises:
        DataError: for a list, image or XML file that is missing or cannot be used, or a target that holds
            anything but this conversion.
        OSError: if the folder cannot be written.
    """
    splits = {split: _read_voc(devkit, split, sources) for split, sources in _voc_splits(devkit).items()}
    if target.is_dir() and any(target.iterdir()):
        if difference := _difference(target, splits):
            raise DataError(
                f"{target}: is there already and is not the conversion of {devkit} ({difference}); nothing "
                "is written into it. Move it to another place, or delete it, and run again."
            )
        return load_folder(target)
    if os.path.lexists(target) and (target.is_symlink() or not target.is_dir()):
        raise DataError(f"{target}: is a file or a link; move it away and run again.")
    with whole_folder(target) as temporary:
        made = temporary / "whole"
        (made / "annotations").mkdir(parents=True)
        for split, (text, images) in splits.items():
            (made / f"{split}2017").mkdir()
            for name, source in tqdm(images.items(), desc=f"VOC {split}", unit="image"):
                _link(source, made / f"{split}2017" / name)
            (made / f"annotations/instances_{split}2017.json").write_text(text, encoding="utf-8")
        try:
            warnings = load_folder(made).report.warnings
        except DataError as error:
            text = str(error).replace(f"{LAYOUT}\n", "").replace(str(made), str(devkit))
            raise DataError(
                f"{text}\nNothing is written. An image NAME.jpg of train2017/ or val2017/ is "
                "VOC*/JPEGImages/NAME.jpg, its boxes are those of VOC*/Annotations/NAME.xml."
            ) from error
    folder = load_folder(target, check_images=False)  # they were checked before it appeared here
    folder.report.warnings[:] = warnings
    return folder


def _voc_splits(devkit: Path) -> dict[str, list[tuple[str, str]]]:
    """Split -> the lists of VOC that it is made of, as year and name."""

    def has(year: str, part: str) -> bool:
        return _list_file(devkit, year, part).is_file()

    if has("2007", "test"):
        train = [(year, "trainval") for year in ("2007", "2012") if has(year, "trainval")]
        return {"train": train or [("2007", "trainval")], "val": [("2007", "test")]}
    year = "2012" if has("2012", "val") else "2007"
    return {"train": [(year, "train")], "val": [(year, "val")]}


def _read_voc(devkit: Path, split: str, sources: list[tuple[str, str]]) -> tuple[str, dict[str, Path]]:
    """A split's annotation file, and the files of its images by their names in the folder."""
    images, annotations, files = [], [], {}
    rows = [(year, name) for year, part in sources for name in _names(devkit, year, part)]
    lists = ", ".join(str(_list_file(devkit, *source)) for source in sources)
    if not rows:
        raise DataError(f"{lists}: no image is listed; restore the file")
    for i, (year, name) in enumerate(tqdm(rows, desc=f"VOC {split}, annotations", unit="image"), start=1):
        image, objects = _parse(devkit / f"VOC{year}", name)
        path = devkit / f"VOC{year}" / "JPEGImages" / image["file_name"]
        if not path.is_file():
            raise DataError(f"{path}: the image is missing; restore the file")
        try:
            check_header(path, image["width"], image["height"])
        except ImageSizeError as error:
            xml = _xml_file(devkit / f"VOC{year}", name)
            raise DataError(f"{xml}: size: of {path} {error}; restore the file") from error
        except Exception as error:  # Pillow's decoders raise many types
            raise DataError(f"{path}: cannot be read as an image ({error}); restore the file") from error
        if image["file_name"] in files:
            raise DataError(f"{lists}: the image {name} is listed twice; restore the file")
        files[image["file_name"]] = path
        images.append({"id": i, **image})
        annotations += [
            {"id": len(annotations) + k, "image_id": i, **row} for k, row in enumerate(objects, start=1)
        ]
    content = {
        "info": {"description": "PASCAL VOC " + ", ".join(" ".join(s) for s in sources)},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k, "name": n} for k, n in enumerate(VOC_NAMES, start=1)],
    }
    return json.dumps(content), files


def _difference(target: Path, splits: dict[str, tuple[str, dict[str, Path]]]) -> str:
    """The first difference between a folder and what the conversion would write; empty: none."""
    for split, (text, images) in splits.items():
        annotations = target / f"annotations/instances_{split}2017.json"
        if not annotations.is_file() or annotations.read_bytes() != text.encode():
            return f"annotations/{annotations.name} is another or missing"
        folder = target / f"{split}2017"
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if names != set(images):
            return f"{split}2017/ holds other files, such as {min(names ^ set(images))}"
        for name, source in images.items():
            path = folder / name
            if not path.is_file() or not (
                os.path.samefile(path, source) or filecmp.cmp(path, source, shallow=False)
            ):
                return f"{split}2017/{name} is another file"
    return ""


def _list_file(devkit: Path, year: str, part: str) -> Path:
    return devkit / f"VOC{year}" / "ImageSets" / "Main" / f"{part}.txt"


def _names(devkit: Path, year: str, part: str) -> list[str]:
    """The images of one of VOC's lists.

    Raises:
        DataError: if there is no such list, it is no text, or an entry is no plain file name.
    """
    path = _list_file(devkit, year, part)
    if not path.is_file():
        raise DataError(f"{path}: no such list. VOC is not complete.\n{downloads()}")
    try:
        names = read_file(path).decode().split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as VOC's list ({error}); restore the file") from error
    for name in names:
        if "/" in name or "\\" in name or "\0" in name or name in (".", ".."):
            raise DataError(
                f"{path}: {name!r} leads out of the folder of images; it is not VOC's list, restore the file"
            )
    return names


def _xml_file(year: Path, name: str) -> Path:
    return year / "Annotations" / f"{name}.xml"


def _text(node: Element, path: str) -> str:
    """The text in a tag. Raises ValueError if the tag, or one around it, is missing or there twice."""
    for tag in path.split("/"):
        found = node.findall(tag)
        if len(found) != 1:
            raise ValueError(f"{path} is {f'there {len(found)} times' if found else 'missing'}")
        node = found[0]
    return node.text or ""


def _number(node: Element, path: str) -> float:
    """The number in a tag. Raises ValueError if it is missing, there twice, no number, or not finite."""
    text = _text(node, path)
    try:
        return parse_number(text.strip())
    except ValueError:
        raise ValueError(f"{path} is {text!r:.60}, must be a number") from None


def _size(node: Element, path: str) -> int:
    """The whole number in a tag. Raises ValueError as ``_number``, and if it is no whole number."""
    value = _number(node, path)
    if not value.is_integer():
        raise ValueError(f"{path} is {value}, must be a whole number")
    return int(value)


def _box(node: Element) -> list[float]:
    """The box of an object as [x, y, w, h]. VOC counts pixels from 1, and its box includes the last pixel.

    Raises:
        ValueError: as ``_number``, and for a side that is negative or not finite.
    """
    x, y, x2, y2 = (_number(node, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
    for axis, low, high in (("x", x, x2), ("y", y, y2)):
        if not low <= high < low + 1e9:
            raise ValueError(f"bndbox: {axis}min is {low}, {axis}max is {high}: no box in an image")
    return [x - 1, y - 1, x2 - x + 1, y2 - y + 1]


def _difficult(node: Element) -> int:
    """Whether an object is marked difficult, as 0 or 1; 0 without the tag. Raises ValueError for others."""
    text = _text(node, "difficult").strip() if node.findall("difficult") else "0"
    if text not in ("0", "1"):
        raise ValueError(f"difficult is {text!r:.60}, must be 0 or 1")
    return int(text)


def _parse(year: Path, name: str) -> tuple[dict, list[dict]]:
    """One XML file as COCO's entries of an image and of its objects.

    Raises:
        DataError: if the file cannot be read, has a document type (which could define entities without end),
            or lacks a field.
    """
    path = _xml_file(year, name)
    try:
        tree = fromstring(read_file(path), forbid_dtd=True)
        image = {
            "file_name": f"{name}.jpg",
            "width": _size(tree, "size/width"),
            "height": _size(tree, "size/height"),
        }
        objects = []
        for node in tree.iter("object"):
            box = _box(node)
            objects.append(
                {
                    "category_id": 1 + VOC_NAMES.index(_text(node, "name")),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": _difficult(node),
                }
            )
    except (OSError, ParseError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        raise DataError(f"{path}: cannot be read as VOC's annotation ({error}); restore the file") from error
    return image, objects


def _link(source: Path, target: Path) -> None:
    """A hard link to the file, or a copy on another file system. A symbolic link is followed."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
