"""From checkpoint to use: a run's ``student.safetensors`` as a detector, and pictures for it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torchvision.transforms.v2.functional import to_dtype

from c2dlib.config.experiment import Experiment
from c2dlib.config.weights import WeightsError
from c2dlib.data import images
from c2dlib.data.coco import Category, CocoFolder
from c2dlib.data.validation import DataError
from c2dlib.detectors.build import build_student
from c2dlib.evaluation.metrics import coco_metrics, detect
from c2dlib.evaluation.scores import Threshold
from c2dlib.files import parse_json
from c2dlib.training.checkpoints import student_hash
from c2dlib.workspace import Progress


@dataclass(frozen=True)
class Checkpoint:
    """A trained student with what its file says of it."""

    model: nn.Module  # plain torchvision: images [3, H, W] in 0..1 in, boxes out
    experiment: Experiment
    categories: list[Category]  # label 1 + index
    area_cuts: tuple[float, float]
    threshold: Threshold | None = None  # the score from which on boxes are shown; None: not chosen


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
    e, categories, area_cuts, threshold = _description(path, metadata["c2dlib"])
    model = build_student(e, len(categories), "none").model
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:  # names the missing, unexpected and ill-shaped keys
        raise WeightsError(f"{path}: {error}") from error
    return Checkpoint(model.eval(), e, categories, area_cuts, threshold)


def _description(
    path: Path, text: str
) -> tuple[Experiment, list[Category], tuple[float, float], Threshold | None]:
    """What a student's file says of it, after a check of the file's hash.

    Raises:
        WeightsError: if the file does not match its hash, or a field is missing or has no such value.
    """
    try:
        about = parse_json(text)
        written_hash = about.pop("sha256", None)
        if unknown := set(about) - {"experiment", "categories", "area_cuts", "threshold"}:
            raise ValueError(f"unknown field {', '.join(sorted(unknown))}")
        if written_hash is not None:
            student_hash(path.read_bytes())
        settings = {k: v for k, v in about["experiment"].items() if k != "recipe"}
        categories = [Category(*category) for category in about["categories"]]
        low, high = about["area_cuts"]
        threshold = Threshold(**about["threshold"]) if "threshold" in about else None
        e = Experiment().replace(**settings)
    except KeyError as error:
        raise WeightsError(f"{path}: damaged, or not a run's student (no field {error}); not used") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: damaged, or not a run's student ({error}); not used") from error
    if written_hash is None:
        print(f"{path}: has no hash of its own (an earlier version wrote it); not checked", file=sys.stderr)
    return e, categories, (low, high), threshold


def evaluate(
    student: Checkpoint, folder: CocoFolder, split: str, device: str, progress: Progress = lambda *_: None
) -> tuple[dict[str, float | None], list[dict]]:
    """COCO metrics in percent on a split, verified with pycocotools, and the detections, as COCO results.

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
    metrics = coco_metrics(folder.splits[split].annotations, detections, folder.area_cuts, verify=True)
    return metrics, detections


def read_picture(path: str | Path) -> Tensor:
    """A picture as people see it (its EXIF orientation applied), [3, H, W] in 0..1, decoded as in training.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        return to_dtype(images.read_picture(Path(path)), torch.float32, scale=True)
    except Exception as error:  # Pillow's decoders raise many types
        raise DataError(f"{path}: cannot be read as a picture: {error}") from error
