"""From an Experiment to its RunRecord; a run that is not finished continues from its last checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from c2dlib import distributed
from c2dlib.config.experiment import Experiment, check_overrides, experiment
from c2dlib.config.methods import CLASS_CONTROLS, READ_BY_TEACHER, imitation_in, needs_classifier, parts
from c2dlib.config.weights import WeightsError, is_file, weights_path
from c2dlib.data.augment import train_transform
from c2dlib.data.batches import training_batches
from c2dlib.data.coco import CocoFolder, CocoSplit
from c2dlib.data.layouts import origin
from c2dlib.data.validation import DataError
from c2dlib.detectors.build import build_student, parameter_count
from c2dlib.distillation.build import build_distillers, build_imitation
from c2dlib.distillation.controls import class_logits
from c2dlib.evaluation.metrics import coco_metrics, detect
from c2dlib.evaluation.scores import Threshold, best_threshold
from c2dlib.files import json_with_hash, remove_hidden_files, sha256, sweep, write_whole
from c2dlib.records import RunRecord, circumstances, code_version, command, write_record
from c2dlib.teacher.classifier import Teacher
from c2dlib.training.checkpoints import load_checkpoint, student_file, student_hash
from c2dlib.training.classifiers import classifier_teacher, initial_weights, mean_probabilities, read_split
from c2dlib.training.finished import (
    damage,
    find_record,
    finished,
    remove_working_files,
    run_folder,
    trained_student,
)
from c2dlib.training.loop import NonFiniteLoss, device_name, fit, terms_of
from c2dlib.training.step import TrainingStep
from c2dlib.training.step_cost import PeakMemory, distillation_cost
from c2dlib.training.validator import Validator, history_problem, read_working_file
from c2dlib.workspace import Progress, Workspace, lock_if_free, notebook_progress, opened, waiting_lock


def experiment_for(
    workspace: Workspace,
    folder: CocoFolder,
    student: str,
    method: str = "baseline",
    seed: int = 0,
    /,
    **overrides,
) -> Experiment:
    """The Experiment of one cell of a table on a workspace's data, ``with_hashes`` of its files of weights.

    Raises:
        ValueError: as ``experiment`` and ``check_overrides``; for an ``eval_split`` that the data lack.
        WeightsError: for a file of weights that it reads and that does not exist.
    """
    check_overrides(overrides)
    e = experiment(
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
    if e.eval_split == "test" and folder.eval_split != "test":
        raise ValueError(f"eval_split=test: {folder.root} has no test split")
    return e.with_hashes()


def detector_teacher(e: Experiment) -> Experiment:
    """The run whose detector ``e`` imitates: a stronger one of the same family, the same for all methods."""
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


def trained_detector_teacher(e: Experiment, workspace: Workspace) -> Experiment:
    """``detector_teacher``, or the same training with metrics of the other split where only that is finished.

    So choices on val and tables of test share a detector.
    """
    own = detector_teacher(e)
    other = own.replace(eval_split="val" if own.eval_split == "test" else "test")
    there = finished(other, workspace, with_weights=True) and not finished(own, workspace, with_weights=True)
    return other if there else own


def run(
    e: Experiment, workspace: Workspace, progress: Progress = notebook_progress, with_weights: bool = False
) -> RunRecord:
    """Train and evaluate one experiment; return its record.

    A finished, verified record is returned at once. Otherwise training goes on from the last checkpoint. Two
    processes never write the same run: the second waits and then returns the first one's record. A run that
    stops on a non-finite loss or for lack of memory leaves a record that gives the reason, and is tried again
    next time.

    Args:
        with_weights: train again if there is a record but no checkpoint, as in a fresh clone, or if what the
            run left is damaged.

    Raises:
        DataError, WeightsError, OSError: nothing is recorded.
    """
    e = e.with_hashes()  # a file of weights may be replaced before the record is written
    if record := distributed.agreed(finished(e, workspace, with_weights)):
        return record
    folder = run_folder(e, workspace)
    with waiting_lock(folder, e.name) if distributed.first() else contextlib.nullcontext():
        record = distributed.agreed(finished(e, workspace, with_weights))
        if record:  # by the process that held the lock before
            return record
        if distributed.first():
            _prepare_folders(e, workspace, with_weights)
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
                remove_working_files(folder)
        return distributed.agreed(record)


def _prepare_folders(e: Experiment, workspace: Workspace, with_weights: bool) -> None:
    """Remove what killed processes left where this run writes, and say what is trained again, and why."""
    folder = run_folder(e, workspace)
    remove_hidden_files(folder)
    sweep(workspace.results / "records")
    if load_checkpoint(folder) is None:
        remove_working_files(folder)  # evaluations and best weights may be of other images or teachers
    elif e.keep_best_every and (problem := history_problem(folder, e.keep_best_every)):
        print(
            f"{problem}\n{e.name} begins anew: its evaluations decide which weights are kept", file=sys.stderr
        )
        remove_working_files(folder)
    record = find_record(e, workspace) if with_weights else None
    if record and record.status == "done" and (what := damage(folder, record, workspace)):
        print(f"{what}\n{e.name} is trained again", file=sys.stderr)


def record_killed(e: Experiment, workspace: Workspace, reason: str) -> RunRecord | None:
    """Record why a run's process ended; the run is tried again next time.

    Returns:
        The record; the one that the process or another one wrote, if the run is finished or goes on.
    """
    with lock_if_free(run_folder(e, workspace)) as free:
        if free and not finished(e, workspace):
            record = _record(
                e, workspace, status="failed", reason=f"{reason}. The next start goes on with it."
            )
            write_record(record, workspace.results / "records")
        return find_record(e, workspace)


def _out_of_memory(e: Experiment) -> str:
    """The reason in the record of a run that did not fit in memory."""
    parts = distributed.world() * e.accumulate
    at_a_time = f", {e.batch_size // parts} at a time" if parts > 1 else ""
    return (
        f"out of memory with {e.batch_size} images of {e.image_size} px a step{at_a_time}; more processes, "
        "accumulate=2 or precision=bf16 need less each"
    )


@dataclass(frozen=True)
class _Context:
    """The run that is trained; each function below gets it."""

    e: Experiment
    workspace: Workspace
    folder: Path  # of its checkpoints
    data: CocoFolder
    progress: Progress


@dataclass(frozen=True)
class _Prepared:
    """What is trained, and on what."""

    step: TrainingStep
    train: CocoSplit
    steps: int
    initial_weights: str  # their hash, or their name
    teachers: dict  # the record's entries of the classification teacher and of the detector teacher

    @property
    def weights(self) -> dict[str, str]:
        """The hashes of all weights that the training starts from or learns from."""
        teachers = {
            "classification teacher": self.teachers.get("weights_sha256"),
            "detector teacher": self.teachers.get("detector_weights_sha256"),
        }
        return {"initial weights": self.initial_weights} | {k: v for k, v in teachers.items() if v}


def _train_and_evaluate(e: Experiment, workspace: Workspace, folder: Path, progress: Progress) -> RunRecord:
    if distributed.world() > 1 and e.norm == "batch":
        raise ValueError(
            "norm=batch: its statistics would be of a process's share of a batch; "
            f"train {e.name} in one process"
        )
    context = _Context(e, workspace, folder, opened(workspace.data), progress)
    if distributed.first():
        require_same_data(e, context.data, folder)
    prepared = _prepare(context)
    if distributed.first():
        require_same_weights(e, prepared.weights, folder)
    peak = PeakMemory(workspace.device)
    model = prepared.step.student.model
    validator = Validator(e, context.data, folder, workspace.device, prepared.steps)
    log = _train(context, prepared, validator)
    if e.keep_best_every:
        model.load_state_dict(validator.best_weights())
    memory = max(distributed.gathered(peak()))
    evaluation_start = time.monotonic()
    metrics, checkpoint, detections = _evaluate(context, model)
    return _record(
        e,
        workspace,
        metrics=metrics,
        parameters=parameter_count(model),
        log=log,
        teacher=prepared.teachers,
        checkpoint=checkpoint,
        detections=detections,
        initial=prepared.initial_weights,
        relative=_relative_cost(context, prepared),  # after the evaluation: it changes batch statistics
        seconds=_training_seconds(log) + time.monotonic() - evaluation_start,
        memory=memory,
        validation={str(step): validator.history[step] for step in sorted(validator.history)},
    )


def _prepare(context: _Context) -> _Prepared:
    """Teachers, initial weights and student.

    Whatever may have to be trained comes before the seed is set. After it, the student, its detector teacher
    and the adapters draw random numbers in this order, whether or not a teacher was trained in this process.
    """
    e, workspace = context.e, context.workspace
    teacher, teachers = _classification_teacher(context)
    detector = None
    if imitation_in(e.method):
        detector, about = _train_detector_teacher(context)
        teachers |= about
    train = context.data.splits["train"].part(e.train_share, e.draw)
    if e.architecture.family.masks:
        train = train.with_masks()
    initial = initial_weights(e, workspace, context.progress)
    torch.manual_seed(e.seed)
    student = build_student(e, len(context.data.categories), initial)
    imitation = None
    if detector:
        imitation = build_imitation(e, student, trained_student(detector, workspace).to(workspace.device))
    bank = _bank(context, teacher, train)
    distillers = build_distillers(e, teacher, imitation, _class_logits(e, bank), bank)
    if e.compile:
        student.model.backbone.compile()
    steps = e.steps or max(1, round(e.epochs * len(train.with_boxes()) / e.batch_size))
    weights = {"box": e.box_loss_weight, "class": e.class_loss_weight}
    return _Prepared(
        TrainingStep(student, distillers, weights), train, steps, _fingerprint(initial), teachers
    )


def _classification_teacher(context: _Context) -> tuple[Teacher | None, dict]:
    """The classifier that the method needs, and its entries in the record."""
    if not needs_classifier(context.e.method):
        return None, {}
    teacher, report = classifier_teacher(context.e, context.workspace, context.progress)
    about = {key: report[key] for key in ("title", "hash", "weights_sha256", "top1", "ECE", "split")}
    return teacher.to(context.workspace.device), about


def _train_detector_teacher(context: _Context) -> tuple[Experiment, dict]:
    """Train the detector that the student imitates, if it is not there.

    Returns:
        The run that left it, and its entries in the record. ``detector_hash`` is that of its settings with
        the student's split, on whichever split it was evaluated.
    """
    e = distributed.agreed(trained_detector_teacher(context.e, context.workspace))
    record = run(e, context.workspace, context.progress, with_weights=True)
    return e, {
        "detector": e.student,
        "detector_hash": detector_teacher(context.e).hash(),
        "detector_weights_sha256": record.checkpoint_sha256,
        "detector_mAP": record.metrics.get("mAP"),
        "detector_split": record.eval_split,
    }


def _bank(context: _Context, teacher: Teacher | None, train: CocoSplit) -> tuple[Tensor, Tensor] | None:
    """The teacher's logits for the training crops, and their labels, for the controls that need them."""
    if teacher is None or not {*CLASS_CONTROLS} & {*READ_BY_TEACHER} & {*parts(context.e.method)}:
        return None
    return read_split(teacher, train, context.e.teacher_image_size)


def _class_logits(e: Experiment, bank: tuple[Tensor, Tensor] | None) -> dict[str, Tensor]:
    """The teacher's mean probabilities per class, as the controls need them; {} without a bank."""
    if bank is None:
        return {}
    softmax = e.architecture.family.softmax
    return class_logits(mean_probabilities(*bank, e.temperature, softmax), e.temperature, softmax)


def _batches(context: _Context, prepared: _Prepared, start: int) -> Iterable:
    """The run's batches from step ``start`` on; in several processes, this one's share of them."""
    e = context.e
    return training_batches(
        prepared.train,
        train_transform(e),
        e.seed,
        e.batch_size,
        start,
        prepared.steps,
        e.workers,
        group=e.group_by_aspect,
        parts=e.accumulate,
        rank=distributed.rank(),
        world=distributed.world(),
    )


def _train(context: _Context, prepared: _Prepared, validator: Validator) -> list[dict]:
    """Train the step, from the last checkpoint on; return the log."""
    e, step = context.e, prepared.step
    return fit(
        e,
        prepared.steps,
        step.trained,
        lambda start: _batches(context, prepared, start),
        step,
        context.folder,
        context.workspace.device,
        lambda done, of: context.progress(f"{e.name}{validator.text()}", done, of),
        shared=True,
        after_step=lambda done: validator(step.student.model, done),
    )


def _evaluate(context: _Context, model: nn.Module) -> tuple[dict, str, str]:
    """Write the student's weights and its detections; return its metrics and the hashes of the two files.

    The file of weights also has the threshold of highest F1 on val.
    """
    e, data, device = context.e, context.data, context.workspace.device
    split = data.splits[e.eval_split]
    detections = detect(
        model,
        split,
        device,
        progress=lambda done, of: context.progress(f"{e.name} evaluation", done, of),
    )
    val = data.splits["val"]
    on_val = detections if split is val else detect(model, val, device)
    threshold = best_threshold(val.annotations, on_val, "val")
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    weights = student_file(state, describe(e, data, threshold))
    metrics, detections_hash = None, ""
    if distributed.first():
        metrics = coco_metrics(split.annotations, detections, data.area_cuts, verify=True)
        write_whole(context.folder / "student.safetensors", weights)
        compressed = gzip.compress(json.dumps(detections).encode(), mtime=0)
        write_whole(context.folder / "detections.json.gz", compressed)
        detections_hash = sha256(compressed)
    return distributed.agreed(metrics), student_hash(weights), detections_hash


def _training_seconds(log: list[dict]) -> float:
    """Time of all steps of a log, also of those before an interruption."""
    return sum(row["seconds"] * steps for row, steps in _steps_of_rows(log))


def _devices(log: Sequence[dict], present: str) -> str:
    """The device of a run; if it was interrupted and went on elsewhere, each with its steps, most first."""
    steps = _count_steps(log, lambda row: row.get("device", present))
    if len(steps) < 2:
        return next(iter(steps), present)
    return " and ".join(f"{name} ({count} steps)" for name, count in steps.most_common())


def _code(log: Sequence[dict]) -> list[dict]:
    """The commit and the version of torch of each part of a run, most steps first.

    Those of a part whose checkpoint does not name them are ``unknown``.

    Returns:
        [] if all steps are of this process's commit and version.
    """
    present = code_version()
    unknown = dict.fromkeys(present, "unknown") | {"dirty": False}
    steps = _count_steps(log, lambda row: tuple(row.get(name, unknown[name]) for name in present))
    if steps.keys() <= {tuple(present.values())}:
        return []
    return [dict(zip(present, code, strict=True)) | {"steps": count} for code, count in steps.most_common()]


def _count_steps(log: Sequence[dict], of_row: Callable[[dict], Hashable]) -> Counter:
    """What a function gives for the rows of a log -> the number of their steps."""
    steps = Counter[Any]()
    for row, count in _steps_of_rows(log):
        steps[of_row(row)] += count
    return steps


def _steps_of_rows(log: Sequence[dict]) -> Iterator[tuple[dict, int]]:
    """The rows of a log, each with the number of steps since the row before."""
    starts = [0] + [row["step"] for row in log]
    return ((row, row["step"] - start) for row, start in zip(log, starts, strict=False))


def _relative_cost(context: _Context, prepared: _Prepared) -> float:
    """Time of a step in time of a plain one, on the run's first batch; 1 without distillation."""
    if not prepared.step.distillers:
        return 1.0
    batch = next(iter(_batches(context, prepared, 0)))
    turns = max(1, min(7, prepared.steps // 20))
    return distillation_cost(prepared.step, batch, context.workspace.device, context.e.precision, turns)


def require_same_data(e: Experiment, data: CocoFolder, folder: Path) -> None:
    """Write into a run's folder what it is started with; where there is a checkpoint, check that this did not
    change.

    A damaged file of an earlier start is named on stderr; it stops nothing.

    Raises:
        DataError: if annotations or image files changed since, or the checkpoint is of a run with other
            settings; it is left as it is.
    """
    present = {
        "identity": json.loads(json.dumps(e.identity())),
        "data_hash": data.annotation_hash,
        "files_hash": data.files_hash(),
    }

    def settings(started: dict) -> dict:
        return {k: v for k, v in started["identity"].items() if k != "data_hash"}

    weights = {}
    for path in sorted(folder.parent.glob(f"{e.name}.*/started.json")):
        earlier = read_working_file(path)
        if earlier is None or not any(path.parent.glob("step-*.pt")):
            continue
        own = {"weights": earlier.pop("weights")} if "weights" in earlier else {}
        if path.parent == folder:
            weights = own
            theirs, ours = settings(earlier), settings(present)
            if differing := sorted(k for k in theirs | ours if theirs.get(k) != ours.get(k)):
                raise DataError(
                    f"{path}: the checkpoint beside it is not of {e.name} but of a run with another "
                    f"{', '.join(differing)}. Delete {folder} to train {e.name}."
                )
        if settings(earlier) == settings(present) and earlier != present:
            what = "annotations" if earlier["data_hash"] != present["data_hash"] else "image files"
            raise DataError(
                f"{data.root}: its {what} changed since {e.name} was interrupted "
                f"(hash {earlier['data_hash'][:12]}/{earlier['files_hash'][:12]} then, "
                f"{present['data_hash'][:12]}/{present['files_hash'][:12]} now). "
                f"Put the data back as they were to go on, or delete {path.parent} to start anew."
            )
    write_whole(folder / "started.json", json_with_hash(present | weights))


def require_same_weights(e: Experiment, weights: dict[str, str], folder: Path) -> None:
    """Write into a run's folder which weights it starts with; where there is a checkpoint, check that they
    did not change. Checkpoints of earlier versions do not say with which they were started; they are used.

    Args:
        weights: what they are -> their hash, or their name.

    Raises:
        WeightsError: if others were made since; the checkpoint is left as it is.
    """
    path = folder / "started.json"
    started = read_working_file(path) or {}
    if not any(folder.glob("step-*.pt")):
        write_whole(path, json_with_hash(started | {"weights": weights}))
        return
    for what, earlier in started.get("weights", {}).items():
        if weights[what] != earlier:
            raise WeightsError(
                f"{folder}: the {what} changed since {e.name} was interrupted (hash {earlier[:12]} then, "
                f"{weights[what][:12]} now). Put the files that it began with back into runs/ to go on, or "
                f"delete {folder} to start anew."
            )


def describe(e: Experiment, data: CocoFolder, threshold: Threshold | None = None) -> dict:
    """What the header of a checkpoint says: enough to build the detector, to name its classes, and to choose
    what is shown of its detections."""
    return {
        "experiment": e.identity(),
        "categories": [[c.id, c.name] for c in data.categories],
        "area_cuts": data.area_cuts,
    } | ({"threshold": dataclasses.asdict(threshold)} if threshold else {})


def _fingerprint(initial: str | dict) -> str:
    """The first digits of the hash of initial weights, or their name."""
    if isinstance(initial, dict):
        return sha256(save_safetensors({k: v.cpu().contiguous() for k, v in initial.items()}))[:12]
    return sha256(weights_path(initial).read_bytes())[:12] if is_file(initial) else initial


def _record(
    e: Experiment,
    workspace: Workspace,
    *,
    status: str = "done",
    reason: str = "",
    metrics: dict | None = None,
    parameters: int = 0,
    log: Sequence[dict] = (),
    teacher: dict | None = None,
    checkpoint: str = "",
    detections: str = "",
    initial: str = "",
    seconds: float = 0.0,
    relative: float = 0.0,
    memory: float = 0.0,
    validation: dict | None = None,
) -> RunRecord:
    data = opened(workspace.data)
    terms = terms_of(log[-1]) if log else {}
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
        | ({"initial_weights": initial} if initial else {})
        | origin(workspace.data),
        checkpoint_sha256=checkpoint,
        detections_sha256=detections,
        command=command(),
        device=_devices(log, device_name(workspace.device)),
        processes=distributed.world(),
        relative_seconds=round(relative, 3),
        memory_mb=round(memory),
        validation=validation or {},
        code=_code(log),
        **circumstances(),
    )
