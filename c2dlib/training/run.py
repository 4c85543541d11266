"""run(experiment) -> RunRecord: returns a finished record at once, else trains, from the last checkpoint on."""

from __future__ import annotations

import contextlib
import gzip
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

from c2dlib import distributed
from c2dlib.config.experiment import Experiment, experiment
from c2dlib.config.methods import imitation_in, needs_classifier, parts
from c2dlib.config.weights import is_file, weights_path
from c2dlib.data.augment import train_transform
from c2dlib.data.batches import training_batches
from c2dlib.data.coco import CocoFolder
from c2dlib.data.validation import DataError
from c2dlib.detectors.build import build_student, parameter_count
from c2dlib.distillation.classify import IMITATION_CLASSES, class_targets, distillers
from c2dlib.distillation.imitation.common import FromDetector, Necks
from c2dlib.evaluation.metrics import coco_metrics, detect
from c2dlib.files import sha256, write_whole
from c2dlib.records import RecordError, RunRecord, circumstances, command, read_record, write_record
from c2dlib.training.classifiers import classifier_teacher, initial_weights, mean_probabilities, read_split
from c2dlib.training.loop import NonFiniteLoss, PeakMemory, fit, relative_cost
from c2dlib.workspace import Progress, Workspace, opened, waiting_lock


def experiment_for(
    workspace: Workspace,
    folder: CocoFolder,
    student: str,
    method: str = "baseline",
    seed: int = 0,
    **overrides,
) -> Experiment:
    """The Experiment of one cell of a table on a workspace's data."""
    return experiment(
        workspace.scale,
        student,
        method,
        seed,
        **{
            "data": workspace.data_name,
            "data_hash": folder.annotation_hash,
            "eval_split": folder.eval_split,
            **overrides,
        },
    )


def detector_teacher(e: Experiment) -> Experiment:
    """The run whose detector ``e`` imitates, whatever the method: a stronger one of the same family, trained once."""
    weights = e.detector_teacher_weights or (
        "imagenet" if is_file(e.backbone_weights) else e.backbone_weights
    )
    return e.replace(
        student=e.architecture.detector_teacher,
        method="baseline",
        seed=0,
        width=e.detector_teacher_width,
        fpn_channels=e.detector_teacher_fpn,
        steps=e.detector_teacher_steps,
        epochs=e.detector_teacher_epochs,
        backbone_weights=weights,
        lr=e.detector_teacher_lr or e.lr,
        frozen_stages=e.frozen_stages if e.detector_teacher_frozen < 0 else e.detector_teacher_frozen,
        detector_teacher_frozen=-1,
        detector_teacher_weights="",
    )


def run_folder(e: Experiment, workspace: Workspace) -> Path:
    return workspace.runs / workspace.results.name / f"{e.name}.{e.hash()}"


def find_record(e: Experiment, workspace: Workspace) -> RunRecord | None:
    """The verified record of an experiment, finished or not; a damaged one is named on stderr and not used."""
    path = workspace.results / "records" / f"{e.name}.{e.hash()}.json"
    if not path.exists():
        return None
    try:
        return read_record(path)
    except RecordError as error:
        print(error, file=sys.stderr)
        return None


def trained_student(e: Experiment, workspace: Workspace) -> nn.Module:
    """The plain torchvision detector a finished run left in ``runs/``.

    Raises:
        FileNotFoundError, RecordError: if its checkpoint is missing, or not the one of the record.
    """
    record, path = find_record(e, workspace), run_folder(e, workspace) / "student.safetensors"
    if record is None or not path.exists():
        raise FileNotFoundError(
            f"{path}: no finished run of {e.name}; its checkpoint stays with whoever trained it"
        )
    content = path.read_bytes()
    if sha256(content) != record.checkpoint_sha256:
        raise RecordError(f"{path}: does not match the hash in its record; not used")
    student = build_student(
        e.replace(backbone_weights="none"), len(opened(workspace.data).categories), "none"
    ).model
    student.load_state_dict(load_safetensors(content))
    return student.eval()


def run_detections(e: Experiment, workspace: Workspace) -> list[dict]:
    """What a finished run's student found on the evaluation split, as COCO results.

    Raises:
        FileNotFoundError: naming the run, if it was not trained on this machine.
    """
    path = run_folder(e, workspace) / "detections.json.gz"
    if find_record(e, workspace) is None or not path.exists():
        raise FileNotFoundError(f"{path}: no detections of {e.name}; they stay with whoever trained it")
    return json.loads(gzip.decompress(path.read_bytes()))


def finished(e: Experiment, workspace: Workspace, with_weights: bool = False) -> RunRecord | None:
    """The record of a run that needs nothing more; ``with_weights``: only if its student is in ``runs/`` too."""
    record = find_record(e, workspace)
    there = not with_weights or (run_folder(e, workspace) / "student.safetensors").exists()
    return record if record and record.status == "done" and there else None


def run(
    e: Experiment, workspace: Workspace, progress: Progress = lambda *_: None, with_weights: bool = False
) -> RunRecord:
    """Train and evaluate one experiment; return its record.

    A finished, verified record is returned at once. Otherwise training goes on from the last checkpoint. Two
    processes never write the same run: the second waits and then returns the first one's record. A run that
    stops on a non-finite loss or for lack of memory leaves a record that says so, and is tried again next time.

    Args:
        with_weights: train again if there is a record but no checkpoint, as in a fresh clone.

    Raises:
        DataError, WeightsError, OSError: nothing is recorded.
    """
    if record := distributed.agreed(finished(e, workspace, with_weights)):
        return record
    folder = run_folder(e, workspace)
    with waiting_lock(folder, e.name) if distributed.first() else contextlib.nullcontext():
        if record := distributed.agreed(
            finished(e, workspace, with_weights)
        ):  # by the process that held the lock
            return record
        circumstances()  # before hours of training in which a checkout may change
        try:
            record = _train_and_evaluate(e, workspace, folder, progress)
        except NonFiniteLoss as error:
            record = _record(e, workspace, status="failed", reason=str(error))
        except torch.cuda.OutOfMemoryError:
            record = _record(e, workspace, status="OOM", reason=_out_of_memory(e))
            if distributed.world() > 1:  # the others cannot know: ending this one ends them
                write_record(record, workspace.results / "records")
                raise
        if distributed.first():
            write_record(record, workspace.results / "records")
            if record.status == "done":
                for path in (*folder.glob("step-*.pt"), folder / "started.json", folder / "validation.json"):
                    path.unlink(missing_ok=True)
        return distributed.agreed(record)


def _out_of_memory(e: Experiment) -> str:
    share = (
        f", {e.batch_size // (distributed.world() * e.accumulate)} at a time"
        if distributed.world() * e.accumulate > 1
        else ""
    )
    return (
        f"out of memory with {e.batch_size} images of {e.image_size} px a step{share}; more processes, accumulate=2 or "
        "precision=bf16 need less each"
    )


def _train_and_evaluate(e: Experiment, workspace: Workspace, folder: Path, progress: Progress) -> RunRecord:
    if distributed.world() > 1 and e.norm == "batch":
        raise ValueError(
            f"norm=batch: its statistics would be of a process's share of a batch; train {e.name} in one process"
        )
    data = opened(workspace.data)
    if distributed.first():
        require_same_data(e, data, folder)
    say = lambda done, of: progress(e.name, done, of)
    teacher, taught_by = None, {}
    if needs_classifier(e.method):
        teacher, report = classifier_teacher(e, workspace, progress)
        teacher.to(workspace.device)
        taught_by = {k: report[k] for k in ("title", "hash", "top1", "ECE", "split")}
    train = data.splits["train"].first(e.train_share)
    if e.architecture.family.masks:
        train = train.with_masks()
    initial = initial_weights(e, workspace, progress)
    torch.manual_seed(e.seed)
    student = build_student(e, len(data.categories), initial)
    trained, imitation = {"student": student.model}, None
    if name := imitation_in(e.method):
        detector = detector_teacher(e)
        strength = run(detector, workspace, progress, with_weights=True).metrics.get("mAP")
        teaching = trained_student(detector, workspace).to(workspace.device)
        necks = Necks(
            *channels(student, teaching), student.one_stage, e.anchor_scale * 2 ** (e.first_level - 2)
        )
        imitation = FromDetector(teaching, IMITATION_CLASSES[name](necks, e.imitation_weight))
        trained["imitation"] = imitation.method.to(workspace.device)
        taught_by |= {
            "detector": detector.student,
            "detector_hash": detector.hash(),
            "detector_mAP": strength,
        }
    targets = None
    if {"KDcls-smooth", "KDcls-mean"} & set(parts(e.method)):
        softmax = e.architecture.family.softmax
        means = mean_probabilities(*read_split(teacher, train, e.teacher_image_size), e.temperature, softmax)
        targets = class_targets(means, e.temperature, softmax)
    terms = distillers(e, teacher, imitation, targets)
    steps = e.steps or max(1, round(e.epochs * len(train.with_boxes()) / e.batch_size))

    def losses(images: list, targets: list, distillers=terms, shared: bool = True) -> dict:
        out = student(images, targets)
        named = dict(out.task_losses)
        for distiller in distillers:
            named |= distiller(out)
        if not shared or distributed.world() == 1:
            return named
        divisors = dict(out.divisors)
        for distiller in distillers:
            divisors |= distiller.divisors(out)
        return distributed.as_one_batch(named, divisors, len(images))

    def batches(start: int):
        return training_batches(
            train,
            train_transform(e),
            e.seed,
            e.batch_size,
            start,
            steps,
            e.workers,
            group=e.group_by_aspect,
            parts=e.accumulate,
            rank=distributed.rank(),
            world=distributed.world(),
        )

    def validate(step: int) -> None:
        if e.validate_every and step % e.validate_every == 0 and step < steps:
            split = data.splits["val"]
            metrics = coco_metrics(
                split.annotations, detect(student.model, split, workspace.device), data.area_cuts
            )
            student.model.train()
            if distributed.first():
                write_whole(
                    folder / "validation.json", json.dumps(_validation(folder) | {str(step): metrics})
                )

    if e.compile:
        student.model.backbone.compile()
    peak = PeakMemory(workspace.device)
    log = fit(
        e, steps, trained, batches, losses, folder, workspace.device, say, shared=True, after_step=validate
    )
    memory = max(distributed.gathered(peak()))
    starts = [0] + [row["step"] for row in log]
    seconds = sum(row["seconds"] * (row["step"] - start) for row, start in zip(log, starts, strict=False))
    began, split = time.monotonic(), data.splits[e.eval_split]
    found = detect(
        student.model,
        split,
        workspace.device,
        progress=lambda done, of: progress(f"{e.name} evaluation", done, of),
    )
    weights = save_safetensors(
        {k: v.detach().cpu().contiguous() for k, v in student.model.state_dict().items()}, describe(e, data)
    )
    metrics = None
    if distributed.first():
        metrics = coco_metrics(split.annotations, found, data.area_cuts, verify=True)
        write_whole(folder / "student.safetensors", weights)
        write_whole(folder / "detections.json.gz", gzip.compress(json.dumps(found).encode(), mtime=0))
    metrics = distributed.agreed(metrics)
    relative = (
        _relative_cost(student, losses, batches(0), steps, e, workspace) if terms else 1.0
    )  # last: it moves batch statistics
    return _record(
        e,
        workspace,
        metrics=metrics,
        parameters=parameter_count(student.model),
        log=log,
        teacher=taught_by,
        checkpoint=sha256(weights),
        initial=_fingerprint(initial),
        seconds=seconds + time.monotonic() - began,
        relative=relative,
        memory=memory,
        validation=_validation(folder),
    )


def _validation(folder: Path) -> dict[str, dict]:
    """Step -> metrics on val, of the evaluations while a run trained."""
    path = folder / "validation.json"
    return json.loads(path.read_text()) if path.exists() else {}


def require_same_data(e: Experiment, data: CocoFolder, folder: Path) -> None:
    """Leave in a run's folder what it was started with, or insist that it is still so where there is a checkpoint to go on from.

    Raises:
        DataError: if annotations or image files changed since; the checkpoint is left as it is.
    """
    mine = {
        "identity": json.loads(json.dumps(e.identity())),
        "data_hash": data.annotation_hash,
        "files_hash": data.files_hash(),
    }
    plain = lambda kept: {k: v for k, v in kept["identity"].items() if k != "data_hash"}
    for other in sorted(folder.parent.glob(f"{e.name}.*/started.json")):
        kept = json.loads(other.read_text())
        if list(other.parent.glob("step-*.pt")) and plain(kept) == plain(mine) and kept != mine:
            what = "annotations" if kept["data_hash"] != mine["data_hash"] else "image files"
            raise DataError(
                f"{data.root}: its {what} changed since {e.name} was interrupted (hash {kept['data_hash'][:12]}/"
                f"{kept['files_hash'][:12]} then, {mine['data_hash'][:12]}/{mine['files_hash'][:12]} now). Put the data "
                f"back as they were to go on, or delete {other.parent} to start anew."
            )
    write_whole(folder / "started.json", json.dumps(mine, indent=1))


def describe(e: Experiment, data: CocoFolder) -> dict[str, str]:
    """What a checkpoint says of itself in its header: enough to build the detector and to name its classes."""
    return {
        "c2dlib": json.dumps(
            {  # one key: the order of several would change from process to process
                "experiment": e.identity(),
                "categories": [[c.id, c.name] for c in data.categories],
                "area_cuts": data.area_cuts,
            }
        )
    }


def _relative_cost(student, losses, batches, steps: int, e: Experiment, workspace: Workspace) -> float:
    images, targets = next(iter(batches))
    images = [image.to(workspace.device) for image in images]
    targets = [{k: v.to(workspace.device) for k, v in target.items()} for target in targets]
    student.train()
    plain = lambda: sum(losses(images, targets, [], shared=False).values())
    full = lambda: sum(losses(images, targets, shared=False).values())
    return relative_cost(plain, full, workspace.device, e.precision, turns=max(1, min(7, steps // 20)))


def _fingerprint(initial: str | dict) -> str:
    """Of initial weights: the first digits of their hash, or what they are called."""
    if isinstance(initial, dict):
        return sha256(save_safetensors({k: v.cpu().contiguous() for k, v in initial.items()}))[:12]
    return sha256(weights_path(initial).read_bytes())[:12] if is_file(initial) else initial


def channels(student, detector: nn.Module) -> tuple[list[int], list[int]]:
    """Channels per level of both pyramids, without Faster R-CNN's subsampled last level."""

    def of(model: nn.Module) -> list[int]:
        width = model.backbone.out_channels
        if isinstance(width, list):
            return width
        levels = len(model.backbone.fpn.inner_blocks)
        return [width] * (levels + 2 if student.one_stage else levels)

    return of(student.model), of(detector)


def _record(
    e: Experiment,
    workspace: Workspace,
    *,
    status: str = "done",
    reason: str = "",
    metrics=None,
    parameters: int = 0,
    log=(),
    teacher=None,
    checkpoint: str = "",
    initial: str = "",
    seconds: float = 0.0,
    relative: float = 0.0,
    memory: float = 0.0,
    validation: dict | None = None,
) -> RunRecord:
    data = opened(workspace.data)
    terms = [name for name in (log[-1] if log else {}) if name not in ("step", "seconds")]
    shown = log[:: max(1, len(log) // 20)]
    return RunRecord(
        hash=e.hash(),
        status=status,
        reason=reason,
        student=e.student,
        method=e.method,
        seed=e.seed,
        scale=workspace.scale,
        experiment=json.loads(json.dumps(e.identity())),
        metrics=metrics or {},
        eval_split=e.eval_split,
        parameters=parameters,
        seconds_per_step=round(statistics.median(row["seconds"] for row in log), 4) if log else 0.0,
        wall_seconds=round(seconds, 1),
        teacher=teacher or {},
        curve={"step": [row["step"] for row in shown]}
        | {t: [round(row[t], 4) for row in shown] for t in terms},
        data={
            "name": e.data,
            "annotation_hash": data.annotation_hash,
            "images": data.image_counts,
            "classes": len(data.categories),
        }
        | ({"initial_weights": initial} if initial else {}),
        checkpoint_sha256=checkpoint,
        command=command(),
        device=torch.cuda.get_device_name()
        if workspace.device == "cuda"
        else f"{workspace.device}, {torch.get_num_threads()} thread(s)",
        processes=distributed.world(),
        relative_seconds=round(relative, 3),
        memory_mb=round(memory),
        validation=validation or {},
        **circumstances(),
    )
