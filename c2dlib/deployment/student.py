"""From checkpoint to use: a run's ``student.safetensors`` as a detector.

It is evaluated on a COCO-format folder, or run on pictures of any kind.
"""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torchvision.transforms.v2.functional import to_dtype
from torchvision.utils import draw_bounding_boxes, save_image

from c2dlib.config.experiment import Experiment
from c2dlib.config.weights import WeightsError
from c2dlib.data import images
from c2dlib.data.coco import Category, CocoFolder
from c2dlib.data.validation import DataError
from c2dlib.detectors.build import build_student
from c2dlib.evaluation.metrics import coco_metrics, detect
from c2dlib.files import write_whole
from c2dlib.training.checkpoints import student_hash
from c2dlib.workspace import Progress


@dataclass(frozen=True)
class Checkpoint:
    """A trained student with what its file says of it."""

    model: nn.Module  # plain torchvision: images [3, H, W] in 0..1 in, boxes out
    experiment: Experiment
    categories: list[Category]  # label 1 + index
    area_cuts: tuple[float, float]


def load_student(path: str | Path) -> Checkpoint:
    """The student of a run, from its ``student.safetensors`` alone.

    A file that an earlier version wrote has no hash of its own; it is loaded with a note on stderr.

    Raises:
        FileNotFoundError: if there is no such file.
        WeightsError: if it is damaged, is not a run's student, or its weights are not those of the detector
            it names; the message names the keys.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "student.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such checkpoint; a run leaves it in runs/<data>-<scale>/<run>/student.safetensors"
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a whole safetensors file ({error})") from error
    if "c2dlib" not in metadata:
        raise WeightsError(f"{path}: does not say which detector it is of, as the student of a run does")
    e, categories, area_cuts = _description(path, metadata["c2dlib"])
    model = build_student(e, len(categories), "none").model
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:  # names the missing, unexpected and ill-shaped keys
        raise WeightsError(f"{path}: {error}") from error
    return Checkpoint(model.eval(), e, categories, area_cuts)


def _description(path: Path, text: str) -> tuple[Experiment, list[Category], tuple[float, float]]:
    """What a student's file says of it, after a check of the file's hash.

    Raises:
        WeightsError: if the file does not match its hash, or a field is missing or has no such value.
    """
    try:
        about = json.loads(text)
        written_hash = about.pop("sha256", None)
        if unknown := set(about) - {"experiment", "categories", "area_cuts"}:
            raise ValueError(f"unknown field {', '.join(sorted(unknown))}")
        if written_hash is not None:
            student_hash(path.read_bytes())
        settings = {k: v for k, v in about["experiment"].items() if k != "recipe"}
        categories = [Category(*category) for category in about["categories"]]
        low, high = about["area_cuts"]
        e = Experiment().replace(**settings)
    except KeyError as error:
        raise WeightsError(f"{path}: damaged, or not a run's student (no field {error}); not used") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: damaged, or not a run's student ({error}); not used") from error
    if written_hash is None:
        print(f"{path}: has no hash of its own (an earlier version wrote it); not checked", file=sys.stderr)
    return e, categories, (low, high)


def evaluate(
    student: Checkpoint, folder: CocoFolder, split: str, device: str, progress: Progress = lambda *_: None
) -> dict[str, float | None]:
    """COCO metrics in percent on a split, verified with pycocotools.

    Raises:
        DataError: if the folder has other classes than the student, or no such split.
    """
    if split not in folder.splits:
        raise DataError(f"{folder.root}: no split {split!r}; it has {', '.join(folder.splits)}")
    of_student, of_folder = [c.name for c in student.categories], [c.name for c in folder.categories]
    if of_student != of_folder:
        different = [f"{a} / {b}" for a, b in zip(of_student, of_folder, strict=False) if a != b][:5]
        raise DataError(
            f"{folder.root}: {len(of_folder)} classes, the student has {len(of_student)}; they must be the "
            f"same in the same order" + (f". Student / folder: {', '.join(different)}" if different else "")
        )
    detections = detect(
        student.model,
        folder.splits[split],
        device,
        progress=lambda done, of: progress(f"evaluation on {split}", done, of),
    )
    return coco_metrics(folder.splits[split].annotations, detections, folder.area_cuts, verify=True)


def read_picture(path: str | Path) -> Tensor:
    """A picture as people see it (its EXIF orientation applied), [3, H, W] in 0..1, decoded as in training.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        return to_dtype(images.read_picture(Path(path)), torch.float32, scale=True)
    except Exception as error:  # Pillow's decoders raise many types
        raise DataError(f"{path}: cannot be read as a picture: {error}") from error


@torch.inference_mode()
def detect_on(
    student: Checkpoint, pictures: list[str | Path], out: Path, threshold: float = 0.5, device: str = "cpu"
) -> Path:
    """Boxes on pictures: each drawn into ``out/<name>.png``, and all in ``out/detections.json``.

    Args:
        threshold: lowest score that is drawn and listed, 0..1.

    Returns:
        The JSON file: per picture a list of class, score and bbox (xywh in its pixels).

    Raises:
        DataError: if a picture cannot be read, or two have the same name; then nothing is written.
    """
    decoded = [read_picture(path) for path in pictures]
    names = [Path(path).stem for path in pictures]
    if doubled := {n for n in names if names.count(n) > 1}:
        raise DataError(
            f"several pictures are called {', '.join(sorted(doubled))}; "
            "their results would overwrite each other"
        )
    student.model.to(device)
    out.mkdir(parents=True, exist_ok=True)
    listed = {}
    for path, name, image in zip(pictures, names, decoded, strict=True):
        output = {k: v.cpu() for k, v in student.model([image.to(device)])[0].items()}
        shown = output["scores"] >= threshold
        boxes, scores, labels = (output[k][shown] for k in ("boxes", "scores", "labels"))
        words = [
            f"{student.categories[label - 1].name} {score:.2f}"
            for label, score in zip(labels.tolist(), scores.tolist(), strict=True)
        ]
        width = max(1, round(min(image.shape[1:]) / 200))
        drawn = draw_bounding_boxes(image, boxes, words, colors="red", width=width) if len(boxes) else image
        picture = io.BytesIO()
        save_image(drawn, picture, format="png")
        write_whole(out / f"{name}.png", picture.getvalue())
        corner, far = boxes[:, :2], boxes[:, 2:]
        listed[str(path)] = [
            {
                "class": student.categories[label - 1].name,
                "score": round(score, 4),
                "bbox": [round(v, 2) for v in box],
            }
            for label, score, box in zip(
                labels.tolist(), scores.tolist(), torch.cat([corner, far - corner], 1).tolist(), strict=True
            )
        ]
    write_whole(out / "detections.json", json.dumps(listed, indent=1))
    return out / "detections.json"
