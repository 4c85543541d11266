"""What a run leaves: its record, its student's weights and detections, each checked before it is used."""

from __future__ import annotations

import gzip
import math
import sys
import zlib
from pathlib import Path

from safetensors.torch import load as load_safetensors
from torch import nn

from c2dlib.config.experiment import Experiment
from c2dlib.detectors.build import build_student
from c2dlib.evaluation.metrics import coco_metrics
from c2dlib.files import parse_json, sha256, sweep
from c2dlib.records import RecordError, RunRecord, read_record
from c2dlib.training.checkpoints import student_hash, weights_hash
from c2dlib.training.validator import HISTORY
from c2dlib.workspace import Workspace, lock_if_free, opened

# In a run's folder until it is recorded: checkpoints, what it was started with, metrics and the best weights
# during training.
WORKING_FILES = ("step-*.pt", "started.json", HISTORY, "best-*.safetensors")


def run_folder(e: Experiment, workspace: Workspace) -> Path:
    return workspace.runs / workspace.results.name / f"{e.name}.{e.hash()}"


def find_record(e: Experiment, workspace: Workspace) -> RunRecord | None:
    """The verified record of an experiment, finished or not; damaged ones are named on stderr, not used."""
    path = workspace.results / "records" / f"{e.name}.{e.hash()}.json"
    if not path.exists():
        return None
    try:
        return read_record(path)
    except RecordError as error:
        print(error, file=sys.stderr)
        return None


def finished(e: Experiment, workspace: Workspace, with_weights: bool = False) -> RunRecord | None:
    """The record of a finished run; ``with_weights``: only if its student is in ``runs/``, undamaged."""
    record = find_record(e, workspace)
    if record is None or record.status != "done":
        return None
    if not with_weights:
        return record
    return record if _is_whole(run_folder(e, workspace), record, workspace) else None


def trained_student(e: Experiment, workspace: Workspace) -> nn.Module:
    """The plain torchvision detector that a finished run left in ``runs/``, checked against its record.

    Raises:
        FileNotFoundError, RecordError: if its checkpoint is missing, or not the one of the record.
    """
    record, path = find_record(e, workspace), run_folder(e, workspace) / "student.safetensors"
    if record is None or not path.exists():
        why = f" ({record.status}: {record.reason})" if record and record.reason else ""
        raise FileNotFoundError(
            f"{path}: no finished run of {e.name}{why}; its checkpoint stays with whoever trained it"
        )
    content = path.read_bytes()
    if not _is_student_of(record, content):
        raise RecordError(f"{path}: does not match the hash in its record; not used")
    student = build_student(
        e.replace(backbone_weights="none"), len(opened(workspace.data).categories), "none"
    ).model
    student.load_state_dict(load_safetensors(content))
    return student.eval()


def run_detections(e: Experiment, workspace: Workspace) -> list[dict]:
    """The detections of a finished run's student on the evaluation split, as COCO results.

    Raises:
        FileNotFoundError: naming the run, if it was not trained on this machine.
    """
    record, path = find_record(e, workspace), run_folder(e, workspace) / "detections.json.gz"
    if record is None or not path.exists():
        raise FileNotFoundError(f"{path}: no detections of {e.name}; they stay with whoever trained it")
    return _read_detections(path, record, workspace)


def _read_detections(path: Path, record: RunRecord, workspace: Workspace) -> list[dict]:
    """The detections of a record's student; for a record without their hash, the metrics are compared."""
    content, problem = path.read_bytes(), "does not match the hash in its record"
    try:
        if record.detections_sha256 in ("", sha256(content)):
            detections = parse_json(gzip.decompress(content))
            if record.detections_sha256 or _metrics_match(detections, record, workspace):
                return detections
            problem = "its metrics are not those of its record"
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        problem = f"not a whole file of detections ({error})"
    raise RecordError(f"{path}: {problem}; not used. Delete it, and the run is repeated where it is needed.")


def _metrics_match(detections: list[dict], record: RunRecord, workspace: Workspace) -> bool:
    data = opened(workspace.data)
    metrics = coco_metrics(data.splits[record.eval_split].annotations, detections, data.area_cuts)
    return metrics.keys() == record.metrics.keys() and all(
        value == record.metrics[name] or math.isclose(value or 0, record.metrics[name] or 0, abs_tol=1e-6)
        for name, value in metrics.items()
    )


def _is_student_of(record: RunRecord, content: bytes) -> bool:
    try:
        return record.checkpoint_sha256 in (student_hash(content), weights_hash(content))
    except ValueError:
        return False


def _is_whole(folder: Path, record: RunRecord, workspace: Workspace) -> bool:
    """Whether a finished run's student is in its folder, and nothing there is damaged."""
    return (folder / "student.safetensors").exists() and not damage(folder, record, workspace)


def damage(folder: Path, record: RunRecord, workspace: Workspace) -> str:
    """What is damaged of the files that a finished run left in its folder in ``runs/``; empty: nothing."""
    weights, detections = folder / "student.safetensors", folder / "detections.json.gz"
    if weights.exists() and not _is_student_of(record, weights.read_bytes()):
        return f"{weights}: does not match the hash in its record"
    try:
        if detections.exists():
            _read_detections(detections, record, workspace)
    except RecordError as error:
        return str(error)
    return ""


def remove_working_files(folder: Path) -> None:
    for pattern in WORKING_FILES:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def sweep_leftovers(workspace: Workspace) -> None:
    """Remove what killed processes left: temporary files, and the working files of what is finished.

    What a living process works on is left alone, and so is a run that has a record but not its files: whoever
    trains it again goes on from its checkpoint.
    """
    for folder in (workspace.results, *(workspace.results / name for name in ("records", "errors", "html"))):
        sweep(folder)
    runs, cache = workspace.runs / workspace.results.name, workspace.runs / "cache"
    records = workspace.results / "records"
    for folder in [*runs.glob("*/"), *cache.glob("*/")]:
        sweep(folder)
        report = folder / "report.json" if folder.parent == cache else records / f"{folder.name}.json"
        if report.exists() and any(any(folder.glob(pattern)) for pattern in WORKING_FILES):
            with lock_if_free(folder) as free:
                if free and (folder.parent == cache or _is_finished(folder, report, workspace)):
                    remove_working_files(folder)


def _is_finished(folder: Path, path: Path, workspace: Workspace) -> bool:
    """Whether a run's record, at ``path``, is of status ``done`` and its files are whole."""
    try:
        record = read_record(path)
    except RecordError:
        return False
    return record.status == "done" and _is_whole(folder, record, workspace)
