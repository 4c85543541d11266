"""``evaluate``: what a student is worth on data, for all classes together and for each."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from c2dlib import figures
from c2dlib.config.experiment import known, preset_names, scale_names
from c2dlib.deployment.pictures import DEFAULT_THRESHOLD
from c2dlib.deployment.student import evaluate as evaluate_student
from c2dlib.deployment.student import load_student
from c2dlib.evaluation.metrics import STATS
from c2dlib.evaluation.scores import per_class, precision_recall
from c2dlib.files import check_replaceable, sweep, write_whole
from c2dlib.records import embedded
from c2dlib.workspace import ProgressBar, open_workspace


def evaluate(checkpoint: str, data: str, scale: str, split: str, out: str, device: str) -> str:
    """Evaluate a checkpoint; write ``metrics.json``, ``classes.csv`` and ``precision_recall.png``.

    Args:
        data: see ``data.layouts``; empty: the embedded Badges of a scale.
        scale: its name, or a preset's; it matters for embedded data only. Empty: as in the path of the run,
            else ``mini``.
        split: train, val or test; empty: test where there is one, else val.
        out: where the files are written; empty: ``<data>-<split>`` beside the checkpoint.
        device: auto, cpu, cuda or mps.

    Returns:
        The metrics and the table of classes, for a terminal.

    Raises:
        ValueError: if ``data`` is empty and the student was not trained on Badges.
        DataError: if the data have other classes than the student, or no such split.
        FileExistsError: if a file would be replaced that no earlier call wrote; then nothing is written.
    """
    student = load_student(checkpoint)
    place = Path(checkpoint) if Path(checkpoint).is_dir() else Path(checkpoint).parent
    if not data and student.experiment.data != "badges":
        raise ValueError(
            f"on which data? The student was trained on {student.experiment.data}: --data FOLDER"
        )
    scales = [*scale_names(), *preset_names()]
    if not scale:
        of_run = place.resolve().parent.name.rpartition("-")[2]
        scale = of_run if of_run in scales and embedded(data) else "mini"
    workspace, folder = open_workspace(known(scale, scales, "SCALE"), data, device=device)
    split = split or folder.eval_split
    target = Path(out) if out else place / f"{folder.name}-{split}"
    for name, is_own in WRITTEN.items():
        check_replaceable(target / name, is_own, "evaluate")
    sweep(target, WRITTEN)
    metrics, detections = evaluate_student(student, folder, split, workspace.device, ProgressBar())
    annotations = folder.splits[split].annotations
    threshold = student.threshold.score if student.threshold else DEFAULT_THRESHOLD
    classes = per_class(annotations, detections, threshold)
    curves = precision_recall(annotations, detections)
    write_whole(target / "metrics.json", _metrics_text(metrics))
    write_whole(target / "classes.csv", classes.to_csv(index=False, float_format="%.4f"))
    figures.save(
        figures.precision_recall_curves(curves, classes, student.threshold), target / "precision_recall.png"
    )
    images = len(folder.splits[split])
    return "\n".join(
        [
            f"{student.experiment.name} on {folder.name} {split}, {images} images, percent:",
            *(
                f"  {name:<6} {'-' if value is None else format(value, '.1f'):>5}"
                for name, value in metrics.items()
            ),
            f"by class, percent; shown, precision and recall at IoU 0.5 above the threshold {threshold:.2f}:",
            classes.to_string(index=False, na_rep="-", float_format=lambda value: f"{value:.1f}"),
            f"written: {target}/metrics.json, classes.csv and precision_recall.png",
        ]
    )


def _metrics_text(metrics: dict) -> str:
    return json.dumps(metrics, indent=1)


def _is_metrics(content: bytes) -> bool:
    """Whether a file holds the metrics of a student as ``evaluate`` writes them."""
    metrics = json.loads(content)
    return (
        isinstance(metrics, dict)
        and set(filter(None, STATS)) <= set(metrics)
        and _metrics_text(metrics).encode() == content
    )


def _is_class_table(content: bytes) -> bool:
    """Whether a file has the columns of ``scores.per_class``."""
    return content.startswith(b"class,objects,AP,AP50,shown,precision,recall\n")


def _is_curve(content: bytes) -> bool:
    """Whether a file is a picture with the text of ``figures.precision_recall_curves``."""
    with Image.open(io.BytesIO(content)) as image:
        return str(image.info.get("Description", "")).startswith("Precision over recall at IoU 0.5")


# What ``evaluate`` writes -> whether a file's content is that.
WRITTEN: dict[str, Callable[[bytes], bool]] = {
    "metrics.json": _is_metrics,
    "classes.csv": _is_class_table,
    "precision_recall.png": _is_curve,
}
