"""A student on pictures: files, folders and patterns in; pictures with boxes and a list of detections out."""

from __future__ import annotations

import glob
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from c2dlib.data.validation import DataError
from c2dlib.data.yolo import IMAGE_SUFFIXES
from c2dlib.deployment.student import Checkpoint, read_picture
from c2dlib.files import check_replaceable, sweep, write_whole
from c2dlib.workspace import Progress

COLOURS = (  # of Sasha Trubetskoy's "20 simple, distinct colors" (2017), the most distinct first
    "e6194b 3cb44b ffe119 4363d8 f58231 911eb4 42d4f4 f032e6 bfef45 469990 "
    "9a6324 800000 808000 000075 fabed4 dcbeff aaffc3 ffd8b1 a9a9a9 fffac8"
)
DEFAULT_THRESHOLD = 0.5  # of a checkpoint that has none of its own
DRAWN = {"Software": "c2dlib detect"}  # text in the PNG of every drawn copy


@dataclass(frozen=True)
class Detected:
    """What was found on one picture."""

    path: Path
    shown: list[dict]  # class, score and bbox (xywh in pixels) of each box above the threshold, highest first
    highest: tuple[float, str] | None  # score and class of the best box, shown or not; None: no box at all


def find_pictures(arguments: list[str | Path], out: Path) -> dict[Path, Path]:
    """The pictures that some arguments name, and where the drawn copy of each goes.

    Args:
        arguments: files; folders, with all pictures below them but drawn copies; patterns such as
            ``photos/*.jpg``.
        out: the folder of the drawn copies; a folder that holds it is searched without it.

    Raises:
        DataError: if an argument names nothing, or two drawn copies would have the same name (but for upper
            and lower case, which some disks do not tell apart).
    """
    named: dict[Path, Path] = {}  # picture -> its name below ``out``, with suffix
    for argument in arguments:
        place = Path(argument)
        if place.is_dir():
            files = {path: path.relative_to(place) for path in _pictures_below(place, out.resolve())}
        else:
            matched = (
                [place] if place.exists() else map(Path, sorted(glob.glob(str(argument), recursive=True)))
            )
            files = {path: Path(path.name) for path in matched if path.is_file()}
        if not files:
            raise DataError(
                f"{argument}: no such picture, no folder with pictures, and no pattern that fits one"
            )
        named |= files
    stems = Counter(_folded(name.with_suffix("")) for name in named.values())
    copies = {
        path: out / (name.with_suffix(".png") if stems[_folded(name.with_suffix(""))] == 1 else f"{name}.png")
        for path, name in named.items()
    }
    counts = Counter(map(_folded, copies.values()))
    if doubled := sorted({copy.name for copy in copies.values() if counts[_folded(copy)] > 1}):
        raise DataError(
            f"several pictures would be drawn into {', '.join(doubled)}; detect on one at a time, with an "
            "--out for each"
        )
    return copies


def _pictures_below(place: Path, out: Path) -> list[Path]:
    """The pictures in a folder and its subfolders, without drawn copies, and without ``out`` if it is one."""
    inside = out != place.resolve() and out.is_relative_to(place.resolve())
    return [
        path
        for path in sorted(place.rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()  # no folder, and no pipe, which would be waited for
        and not (inside and path.parent.resolve().is_relative_to(out))
        and not (path.suffix.lower() == ".png" and _is_drawn(_head(path)))
    ]


def _head(path: Path) -> bytes:
    """The first part of a file, which has the texts of a drawn copy."""
    with path.open("rb") as file:
        return file.read(1024)


def _folded(name: Path) -> str:
    """A name by which a disk that does not tell upper and lower case apart knows it."""
    return str(name).casefold()


def _check_nothing_is_replaced(copies: dict[Path, Path], listing: Path) -> None:
    """Check that only files of an earlier call are replaced; errors as of ``detect_on``."""
    read = {path.resolve() for path in copies}
    for path, copy in copies.items():
        if copy.resolve() in read:
            raise DataError(
                f"{path}: a drawn copy would replace {copy}, which is one of the pictures. Nothing was "
                "written; choose another folder with --out"
            )
        check_replaceable(copy, _is_drawn, "detect")
    check_replaceable(listing, _is_listing, "detect")


def _is_drawn(content: bytes) -> bool:
    """Whether a file is a drawn copy that ``detect_on`` wrote."""
    if not content.startswith(b"\x89PNG"):
        return False
    try:
        with Image.open(BytesIO(content)) as image:
            return DRAWN.items() <= image.info.items()
    except Exception:  # Pillow's decoders raise many types
        return False


def _is_listing(content: bytes) -> bool:
    """Whether a file is a list of detections as ``detect_on`` writes it."""
    listed = json.loads(content)
    return (
        isinstance(listed, dict)
        and bool(listed)
        and _listing(listed).encode() == content
        and all(isinstance(shown, list) and all(map(_is_detection, shown)) for shown in listed.values())
    )


def _is_detection(one: object) -> bool:
    return isinstance(one, dict) and list(one) == ["class", "score", "bbox"]


def _listing(listed: dict) -> str:
    return json.dumps(listed, indent=1)


@torch.inference_mode()
def detect_on(
    student: Checkpoint,
    pictures: list[str | Path],
    out: Path,
    threshold: float,
    device: str = "cpu",
    progress: Progress = lambda *_: None,
) -> list[Detected]:
    """Detect on pictures: each is drawn into ``out`` with its boxes, and all are listed in
    ``out/detections.json``: per picture its boxes with class, score and bbox.

    Args:
        pictures: see ``find_pictures``.
        threshold: lowest score that is drawn and listed, 0..1.

    Raises:
        DataError: if a picture cannot be read, or would be replaced; then nothing is written.
        FileExistsError: if another file would be replaced that no earlier call wrote; then nothing is
            written.
    """
    copies = find_pictures(pictures, out)
    _check_nothing_is_replaced(copies, out / "detections.json")
    for path in copies:
        read_picture(path)
    written = [*copies.values(), out / "detections.json"]
    names = {path.name for path in written}
    for folder in {path.parent for path in written}:
        sweep(folder, names)
    student.model.to(device)
    found, text = [], PngImagePlugin.PngInfo()
    for entry in DRAWN.items():
        text.add_text(*entry)
    for done, (path, copy) in enumerate(copies.items(), start=1):
        image = read_picture(path)
        detected = _detect(student, image, threshold, device)
        drawn, content = draw(image, list(_boxes(student, detected[0]))), BytesIO()
        drawn.save(content, format="png", pnginfo=text)
        write_whole(copy, content.getvalue())
        found.append(Detected(path, *detected))
        progress("detection", done, len(copies))
    listed = {str(one.path): one.shown for one in found}
    write_whole(out / "detections.json", _listing(listed))
    return found


def _detect(
    student: Checkpoint, image: Tensor, threshold: float, device: str
) -> tuple[list[dict], tuple[float, str] | None]:
    """The boxes of an image above the threshold, highest first, and the best of all."""
    output = {k: v.cpu() for k, v in student.model([image.to(device)])[0].items()}
    order = output["scores"].argsort(descending=True, stable=True)
    order = order[output["labels"][order] > 0]  # 0 is no class: RetinaNet's and FCOS's unused column
    scores, labels, boxes = (output[k][order] for k in ("scores", "labels", "boxes"))
    names = [student.categories[label - 1].name for label in labels.tolist()]
    highest = (float(scores[0]), names[0]) if names else None
    shown = [
        {
            "class": name,
            "score": round(score, 4),
            "bbox": [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)],
        }
        for name, score, (x1, y1, x2, y2) in zip(names, scores.tolist(), boxes.tolist(), strict=True)
    ]
    return shown[: int((scores >= threshold).sum())], highest


def _boxes(student: Checkpoint, shown: list[dict]) -> Iterator[tuple[list[float], str, tuple[int, int, int]]]:
    """Box, text and colour, as ``draw`` takes them; the box of highest score last, so that it lies on top."""
    colours = {category.name: class_colour(i) for i, category in enumerate(student.categories)}
    for one in reversed(shown):
        yield one["bbox"], f"{one['class']} {one['score']:.2f}", colours[one["class"]]


def class_colour(index: int) -> tuple[int, int, int]:
    """The colour of a class, RGB in 0..255; they repeat after ``COLOURS``."""
    text = COLOURS.split()[index % len(COLOURS.split())]
    red, green, blue = bytes.fromhex(text)
    return red, green, blue


def draw(image: Tensor, boxes: list[tuple[list[float], str, tuple[int, int, int]]]) -> Image.Image:
    """An image [3, H, W] in 0..1 with boxes: xywh in its pixels, a text and a colour each."""
    picture = to_pil_image(image)
    side = min(picture.size)
    width, font = max(1, round(side / 200)), ImageFont.load_default(max(9, round(side / 32)))
    pen = ImageDraw.Draw(picture)
    for (x, y, w, h), _, colour in boxes:
        pen.rectangle((x, y, x + w, y + h), outline=colour, width=width)
    for (x, y, _, _), text, colour in boxes:
        left, top, right, bottom = pen.textbbox((0, 0), text, font)
        wide, high = right - left + 4, bottom - top + 4
        x = max(0, min(x, picture.width - wide))
        y = y - high if y >= high else y
        red, green, blue = colour
        light = 0.299 * red + 0.587 * green + 0.114 * blue > 140
        pen.rectangle((x, y, x + wide, y + high), fill=colour)
        pen.text((x + 2 - left, y + 2 - top), text, fill="black" if light else "white", font=font)
    return picture


def choose_threshold(student: Checkpoint, given: float | None) -> tuple[float, str]:
    """The lowest score that is shown, and where it comes from."""
    if given is not None:
        return given, "as given"
    if student.threshold:
        return student.threshold.score, f"{student.threshold.rule}, on {student.threshold.split}"
    return DEFAULT_THRESHOLD, "this checkpoint has none of its own"


def summary(found: list[Detected], threshold: float, shown: int = 20) -> str:
    """A line per picture, for the first ``shown``, and a line for all."""
    lines = [f"{one.path}: {_line(one, threshold)}" for one in found[:shown]]
    if len(found) > shown:
        empty = [one for one in found if not one.shown]
        best = max((one.highest for one in empty if one.highest), default=None)
        lines.append(f"... and {len(found) - shown} pictures more")
        lines.append(
            f"{_count(sum(len(one.shown) for one in found))} above {threshold:.2f} on {len(found)} pictures, "
            f"none on {len(empty)} of them"
            + (f", where the highest is {best[0]:.2f} ({best[1]})" if best else "")
        )
    return "\n".join(lines)


def _line(one: Detected, threshold: float) -> str:
    if one.shown:
        counts = Counter(row["class"] for row in one.shown)
        return f"{_count(len(one.shown))} above {threshold:.2f}: " + ", ".join(
            f"{count} {name}" for name, count in counts.most_common()
        )
    best = f"the highest is {one.highest[0]:.2f} ({one.highest[1]})" if one.highest else "and none below it"
    return f"0 boxes above {threshold:.2f}, {best}"


def _count(boxes: int) -> str:
    return f"{boxes} box" if boxes == 1 else f"{boxes} boxes"
