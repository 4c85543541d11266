"""run(experiment) -> RunRecord: returns a finished record at once, else trains, from the last checkpoint on."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

from c2dlib.data.badges import CLASS_NAMES, make_badges
from c2dlib.data.coco import CocoFolder, load_folder
from c2dlib.data.crops import crop_batch
from c2dlib.data.stream import stream
from c2dlib.data.transforms import plain_transform, train_transform
from c2dlib.engine import NonFiniteLoss, fit
from c2dlib.evaluation import coco_metrics, detect
from c2dlib.experiment import RECIPE, Experiment, digest, experiment, scale_data
from c2dlib.files import sha256, write_whole
from c2dlib.imitation.fkd import FKD
from c2dlib.methods import distillers, parts
from c2dlib.models.backbones import build_body
from c2dlib.models.ssd import VGG_MEAN, VGG_STD
from c2dlib.models.students import ARCHITECTURES, build_student, parameter_count
from c2dlib.models.teacher import Teacher, build_classifier, classifier_loss, expected_calibration_error
from c2dlib.records import RecordError, RunRecord, body_hash, circumstances, read_record, write_record

Progress = Callable[[str, int, int], None]  # what, steps done, steps


@dataclass(frozen=True)
class Site:
    """Where a table's runs read and write, and on what they run."""

    scale: str
    data: Path  # a COCO-format folder
    results: Path  # records and tables, to be committed
    runs: Path  # checkpoints and detections, not to be committed
    device: str = "auto"  # auto, cpu, cuda or mps

    @property
    def on(self) -> str:
        if self.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        return self.device


def open_site(scale: str, data: str | Path = "", results: Path = Path("results"), runs: Path = Path("runs"),
              device: str = "auto") -> tuple[Site, CocoFolder]:
    """The embedded Badges (made if need be) or a COCO-format folder, validated before anything is written.

    Raises:
        DataError: with everything that is wrong with the folder.
    """
    counts = scale_data(scale)
    if data:
        folder = load_folder(data)
        name = folder.root.name
    else:
        root = make_badges(runs / "data" / "badges" / digest(counts), **counts)
        folder, name = opened(root), "badges"
    return Site(scale, folder.root, results / f"{name}-{scale}", runs, device), folder


@cache
def opened(root: Path) -> CocoFolder:
    """A folder this code has validated before: headers and files are not read again."""
    return load_folder(root, check_images=False)


def cell(site: Site, folder: CocoFolder, student: str, method: str = "baseline", seed: int = 0, **overrides) -> Experiment:
    """The Experiment of one cell of a table on a site's data."""
    name = site.results.name.removesuffix(f"-{site.scale}")
    return experiment(site.scale, student, method, seed, **{
        "data": name, "data_hash": folder.annotation_hash, "eval_split": folder.eval_split, **overrides})


# ---------------------------------------------------------------------------------------------- artefacts


@dataclass(frozen=True)
class Recipe:
    """The settings ``fit`` reads, for the classifiers: AdamW with a cosine."""

    lr: float
    seed: int = 0
    optimizer: str = "adamw"
    weight_decay: float = 0.05
    momentum: float = 0.0
    schedule: str = "cosine"
    milestones: tuple = ()
    warmup: int = 20
    clip: float = 5.0
    precision: str = "no"


def trained_classifier(title: str, identity: dict, folder: Path, build: Callable[[], nn.Module], splits: Callable,
                       e, recipe: Recipe, steps: int, images: int, size: int, jitter: float, sigmoid_too: bool,
                       normalise: tuple[list, list], site: Site, progress: Progress) -> tuple[nn.Module, dict]:
    """A classifier trained on the crops of a split, from ``folder`` if it is there and whole.

    Args:
        splits: () -> (training split, split its accuracy is reported on).
        images: whose crops make one step.
        normalise: mean and std, for crops in 0..1.

    Returns:
        The classifier and its report: top1, ECE (percent), crops, seconds, hash.
    """
    classifier = build()
    key = digest(identity)
    if report := _load_artefact(folder, key, classifier):
        return classifier, report
    with waiting_lock(folder, title):
        if report := _load_artefact(folder, key, classifier):
            return classifier, report
        began = time.monotonic()
        train, held_out = splits()
        mean, std = (torch.tensor(v)[:, None, None].to(site.on) * 255 for v in normalise)

        def losses(batch: list, targets: list) -> dict:
            crops, labels = crop_batch(batch, targets, size, jitter)
            return {"classification": classifier_loss(classifier((crops - mean) / std), labels, sigmoid_too)}

        def batches(start: int):
            return stream(train, train_transform(e), recipe.seed, images, start, steps, e.workers)

        fit(recipe, steps, {"classifier": classifier}, batches, losses, folder, site.on,
            lambda done, of: progress(title, done, of))
        classifier.eval()
        logits, labels = [], []
        plain = plain_transform()
        with torch.inference_mode():
            for image, target in (held_out[i] for i in held_out.with_boxes()):
                crops, label = crop_batch([plain(image).to(site.on)], [target], size)
                logits.append(classifier((crops - mean) / std).cpu())
                labels.append(label)
        logits, labels = torch.cat(logits), torch.cat(labels)
        top1 = 100 * float((logits.argmax(1) == labels).float().mean())
        report = {"title": title, "hash": key, "identity": identity, "top1": top1, "split": held_out.name,
                  "ECE": expected_calibration_error(logits.softmax(1), labels), "crops": len(labels),
                  "parameters": parameter_count(classifier), "seconds": round(time.monotonic() - began, 1)}
        _save_artefact(folder, report, classifier)
        return classifier, report


@contextlib.contextmanager
def waiting_lock(folder: Path, what: str):
    """Only one process at a time works in a folder; the others wait, and say so. A dead process holds nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.parent / f"{folder.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{what}: another process is at it, waiting for it", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _load_artefact(folder: Path, key: str, module: nn.Module) -> dict | None:
    """The report of a finished classifier whose weights match their hash, with the weights put into ``module``."""
    try:
        report = json.loads((folder / "report.json").read_text())
        weights = (folder / "weights.safetensors").read_bytes()
    except FileNotFoundError:
        return None
    except ValueError:
        report, weights = {}, b""
    whole = isinstance(report, dict) and report.pop("sha256", "") == body_hash(report)
    if not whole or report["hash"] != key or report["weights_sha256"] != sha256(weights):
        print(f"{folder}: damaged or of other settings, not used; training it again", file=sys.stderr)
        shutil.rmtree(folder)
        return None
    module.load_state_dict(load_safetensors(weights))
    module.eval()
    return report


def _save_artefact(folder: Path, report: dict, module: nn.Module) -> None:
    weights = save_safetensors({k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()})
    report["weights_sha256"] = sha256(weights)
    write_whole(folder / "weights.safetensors", weights)
    write_whole(folder / "report.json", json.dumps({**report, "sha256": body_hash(report)}, indent=1))
    for checkpoint in folder.glob("step-*.pt"):
        checkpoint.unlink()


def classifier_teacher(e: Experiment, site: Site, progress: Progress = lambda *_: None) -> tuple[Teacher, dict]:
    """The teacher of an Experiment: one for the SSDs, one for all Faster R-CNNs and RetinaNets (section 4)."""
    folder = opened(site.data)
    for_ssd = ARCHITECTURES[e.student].family == "ssd"
    identity = {"recipe": RECIPE, "data": folder.annotation_hash, "sigmoid_too": not for_ssd} | {
        name: getattr(e, name) for name in ("teacher", "teacher_width", "teacher_pretrained", "teacher_size",
                                            "teacher_steps", "teacher_images", "teacher_lr", "teacher_jitter", "flip", "vertical_flip",
                                            "photometric", "zoom_out", "iou_crop", "eval_split")}
    classes = len(folder.categories)

    def build() -> nn.Module:
        torch.manual_seed(0)
        return build_classifier(e.teacher, classes, e.teacher_size, e.teacher_width, e.teacher_pretrained)

    config = build_classifier(e.teacher, classes, e.teacher_size, e.teacher_width).pretrained_cfg
    classifier, report = trained_classifier(
        "teacher (SSD)" if for_ssd else "teacher (Faster R-CNN, RetinaNet)", identity,
        site.runs / "cache" / f"teacher-{digest(identity)}", build,
        lambda: (folder.splits["train"], folder.splits[e.eval_split]), e, Recipe(e.teacher_lr), e.teacher_steps,
        e.teacher_images, e.teacher_size, e.teacher_jitter, not for_ssd, (config["mean"], config["std"]), site,
        progress)
    return Teacher(classifier, classes, e.teacher_size), report


class BodyClassifier(nn.Sequential):
    """A detector's backbone with pooling and a linear layer, for its pre-training."""

    def __init__(self, body: nn.Module, classes: int):
        with torch.no_grad():
            channels = body.eval()(torch.zeros(1, 3, 64, 64)).flatten(2).shape[1] if not hasattr(
                body, "inplanes") else body.inplanes
        pool = nn.Identity() if hasattr(body, "inplanes") else nn.AdaptiveAvgPool2d(1)
        super().__init__(body, pool, nn.Flatten(), nn.Linear(channels, classes))


def initial_weights(e: Experiment, site: Site, progress: Progress = lambda *_: None) -> str | dict:
    """What ``load_initial_weights`` is given: for ``badges`` a backbone trained on crops of *other* badges."""
    if e.backbone_weights != "badges":
        return e.backbone_weights
    kind = ARCHITECTURES[e.student].body
    identity = {"recipe": RECIPE, "body": kind, "width": e.width, "depth": e.depth, "norm": e.norm,
                "vertical_flip": e.vertical_flip} | {
        f: getattr(e, f) for f in ("pretrain_scenes", "pretrain_steps", "pretrain_batch", "pretrain_size",
                                   "pretrain_lr")}

    def splits():
        counts = {"train": e.pretrain_scenes, "val": 200, "test": 0}
        root = make_badges(site.runs / "data" / "badges-other" / digest(counts), **counts, family="other")
        folder = opened(root)
        return folder.splits["train"], folder.splits["val"]

    def build() -> nn.Module:
        torch.manual_seed(0)
        return BodyClassifier(build_body(kind, e.width, e.depth, e.norm), classes=len(CLASS_NAMES["other"]))

    plain_boxes = e.replace(flip=True, photometric=False, zoom_out=1.0, iou_crop=False)
    mean_std = (VGG_MEAN, VGG_STD) if kind.startswith("vgg") else ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    classifier, _ = trained_classifier(
        f"pre-training {kind}", identity, site.runs / "cache" / f"pretrain-{kind}-{digest(identity)}", build, splits,
        plain_boxes, Recipe(e.pretrain_lr), e.pretrain_steps, e.pretrain_batch, e.pretrain_size, 0.05, False,
        mean_std, site, progress)
    return {k: v.detach() for k, v in classifier[0].state_dict().items()}


def needs_classifier(e: Experiment) -> bool:
    """Whether a term of its method asks the classification teacher."""
    return bool({"KDcls", "KDloc"} & set(parts(e.method)))


def detector_teacher(e: Experiment) -> Experiment:
    """The run whose detector teaches ``e`` in FKD's rows: a stronger one of the same family, trained once."""
    weights = "imagenet" if e.backbone_weights.endswith(".safetensors") else e.backbone_weights
    return e.replace(student=ARCHITECTURES[e.student].teacher, method="baseline", seed=0,
                     width=e.detector_teacher_width, fpn_channels=e.detector_teacher_fpn,
                     steps=e.detector_teacher_steps, epochs=e.detector_teacher_epochs, backbone_weights=weights)


# ----------------------------------------------------------------------------------------------------- runs


def run_folder(e: Experiment, site: Site) -> Path:
    return site.runs / site.results.name / f"{e.name}.{e.hash()}"


def find_record(e: Experiment, site: Site) -> RunRecord | None:
    """The verified record of an experiment, finished or not; a damaged one is named on stderr and not used."""
    path = site.results / "records" / f"{e.name}.{e.hash()}.json"
    if not path.exists():
        return None
    try:
        return read_record(path)
    except RecordError as error:
        print(error, file=sys.stderr)
        return None


def trained_student(e: Experiment, site: Site) -> nn.Module:
    """The plain torchvision detector a finished run left in ``runs/``.

    Raises:
        FileNotFoundError, RecordError: if its checkpoint is missing, or not the one of the record.
    """
    record, path = find_record(e, site), run_folder(e, site) / "student.safetensors"
    if record is None or not path.exists():
        raise FileNotFoundError(f"{path}: no finished run of {e.name}; its checkpoint stays with whoever trained it")
    content = path.read_bytes()
    if sha256(content) != record.checkpoint_sha256:
        raise RecordError(f"{path}: does not match the hash in its record; not used")
    student = build_student(e.replace(backbone_weights="none"), len(opened(site.data).categories), "none").model
    student.load_state_dict(load_safetensors(content))
    return student.eval()


def run(e: Experiment, site: Site, progress: Progress = lambda *_: None) -> RunRecord:
    """Train and evaluate one experiment; return its record.

    A finished, verified record is returned at once. Otherwise training goes on from the last checkpoint. Two
    processes never write the same run: the second waits and then returns the first one's record. A run that
    stops on a non-finite loss or for lack of memory leaves a record that says so, and is tried again next time.

    Raises:
        DataError, WeightsError, OSError: nothing is recorded.
    """
    if (record := find_record(e, site)) and record.status == "done":
        return record
    folder = run_folder(e, site)
    with waiting_lock(folder, e.name):
        if (record := find_record(e, site)) and record.status == "done":
            return record
        try:
            record = _train_and_evaluate(e, site, folder, progress)
        except NonFiniteLoss as error:
            record = _record(e, site, folder, status="failed", reason=str(error))
        except torch.cuda.OutOfMemoryError:
            record = _record(e, site, folder, status="OOM",
                             reason=f"out of memory with {e.batch_size} images of {e.image_size} px a step")
        write_record(record, site.results / "records")
        if record.status == "done":
            for checkpoint in folder.glob("step-*.pt"):
                checkpoint.unlink()
        return record


def _train_and_evaluate(e: Experiment, site: Site, folder: Path, progress: Progress) -> RunRecord:
    data = opened(site.data)
    say = lambda done, of: progress(e.name, done, of)
    teacher, taught_by = None, {}
    if needs_classifier(e):
        teacher, report = classifier_teacher(e, site, progress)
        teacher.to(site.on)
        taught_by = {k: report[k] for k in ("title", "hash", "top1", "ECE", "split")}
    initial = initial_weights(e, site, progress)
    torch.manual_seed(e.seed)
    student = build_student(e, len(data.categories), initial)
    trained, imitation = {"student": student.model}, None
    if "FKD" in parts(e.method):
        senior = detector_teacher(e)
        strength = run(senior, site, progress).metrics.get("mAP")
        teaching = trained_student(senior, site).to(site.on)
        imitation = FKD(teaching, *_channels(student, teaching), student.one_stage)
        imitation.to(site.on)
        trained["imitation"] = imitation
        taught_by |= {"detector": senior.student, "detector_hash": senior.hash(), "detector_mAP": strength}
    terms = distillers(e, teacher, imitation)
    steps = e.steps or round(e.epochs * len(data.splits["train"].with_boxes()) / e.batch_size)

    def losses(images: list, targets: list) -> dict:
        out = student(images, targets)
        named = dict(out.task_losses)
        for distiller in terms:
            named |= distiller(out)
        return named

    def batches(start: int):
        return stream(data.splits["train"], train_transform(e), e.seed, e.batch_size, start, steps, e.workers)

    log = fit(e, steps, trained, batches, losses, folder, site.on, say)
    starts = [0] + [row["step"] for row in log]
    seconds = sum(row["seconds"] * (row["step"] - start) for row, start in zip(log, starts, strict=False))
    began, split = time.monotonic(), data.splits[e.eval_split]
    found = detect(student.model, split, site.on, progress=lambda done, of: progress(f"{e.name} evaluation", done, of))
    metrics = coco_metrics(split.annotations, found, data.area_cuts, verify=True)
    weights = save_safetensors({k: v.detach().cpu().contiguous() for k, v in student.model.state_dict().items()})
    write_whole(folder / "student.safetensors", weights)
    write_whole(folder / "detections.json.gz", gzip.compress(json.dumps(found).encode(), mtime=0))
    return _record(e, site, folder, metrics=metrics, parameters=parameter_count(student.model), log=log,
                   teacher=taught_by, checkpoint=sha256(weights),
                   seconds=seconds + time.monotonic() - began)


def _channels(student, senior: nn.Module) -> tuple[list[int], list[int]]:
    """Channels per level of both pyramids, without Faster R-CNN's subsampled last level."""
    def of(model: nn.Module) -> list[int]:
        channels = model.backbone.out_channels
        return channels if isinstance(channels, list) else [channels] * (5 if student.one_stage else 4)

    return of(student.model), of(senior)


def _record(e: Experiment, site: Site, folder: Path, *, status: str = "done", reason: str = "", metrics=None,
            parameters: int = 0, log=(), teacher=None, checkpoint: str = "", seconds: float = 0.0) -> RunRecord:
    data = opened(site.data)
    terms = [name for name in (log[-1] if log else {}) if name not in ("step", "seconds")]
    shown = log[:: max(1, len(log) // 20)]
    return RunRecord(
        hash=e.hash(), status=status, reason=reason, student=e.student, method=e.method, seed=e.seed,
        scale=site.scale, experiment=json.loads(json.dumps(e.identity())), metrics=metrics or {},
        eval_split=e.eval_split, parameters=parameters,
        seconds_per_step=round(statistics.median(row["seconds"] for row in log), 4) if log else 0.0,
        wall_seconds=round(seconds, 1), teacher=teacher or {},
        curve={"step": [row["step"] for row in shown]} | {t: [round(row[t], 4) for row in shown] for t in terms},
        data={"name": e.data, "annotation_hash": data.annotation_hash, "images": data.image_counts,
              "classes": len(data.categories)},
        checkpoint_sha256=checkpoint, command=os.environ.get("C2D_COMMAND", " ".join(sys.argv)),
        device=torch.cuda.get_device_name() if site.on == "cuda" else f"{site.on}, {torch.get_num_threads()} thread(s)",
        **circumstances())
