"""Classifiers trained on crops, once per content: the teachers, and the pre-trained backbones of slim students."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn
from torchvision.transforms import v2

from c2dlib.config.experiment import Experiment
from c2dlib.config.identity import PRETRAINING, digest, pretraining_identity, teacher_identity
from c2dlib.data.augment import VGG_MEAN, VGG_STD, plain_transform, train_transform
from c2dlib.data.badges import CLASS_NAMES, VERSION, make_badges
from c2dlib.data.batches import training_batches
from c2dlib.data.coco import CocoSplit
from c2dlib.detectors.backbones import build_body
from c2dlib.detectors.build import parameter_count
from c2dlib.files import sha256, write_whole
from c2dlib.records import body_hash
from c2dlib.teacher.classifier import Teacher, build_classifier, classifier_loss, expected_calibration_error
from c2dlib.teacher.crops import crop_batch
from c2dlib.training.loop import fit
from c2dlib.workspace import Progress, Workspace, opened, waiting_lock


@dataclass(frozen=True)
class Schedule:
    """The settings ``fit`` reads: AdamW with a cosine, from a fixed seed."""

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


@dataclass(frozen=True)
class Course:
    """What a classifier is trained on, and how."""

    title: str
    identity: dict  # everything its weights depend on
    build: Callable[[], nn.Module]
    splits: Callable[[], tuple[CocoSplit, CocoSplit]]  # (training split, split its accuracy is reported on)
    augment: Experiment  # its augmentation settings are used
    lr: float
    steps: int
    images: int  # whose crops make one step
    size: int  # side of the crops
    jitter: float  # random shift of each side of a training crop, share of the box
    sigmoid_too: bool  # softmax and binary cross-entropy jointly
    mean: list[float]  # of crops in 0..1
    std: list[float]
    image_size: int = 0  # images are scaled to this short side before crops are cut; 0: as they are

    @property
    def key(self) -> str:
        return digest(self.identity)


def trained(course: Course, folder: Path, workspace: Workspace, progress: Progress) -> tuple[nn.Module, dict]:
    """The classifier of a course, from ``folder`` if it is there and whole, else trained into it.

    Returns:
        The classifier in eval mode and its report: top1 and ECE in percent, crops, seconds, hash.
    """
    classifier = course.build()
    if report := _load(course, folder, classifier):
        return classifier, report
    with waiting_lock(folder, course.title):
        if report := _load(course, folder, classifier):
            return classifier, report
        if (folder / "report.json").exists():
            print(f"{folder}: damaged, not used; training it again", file=sys.stderr)
            shutil.rmtree(folder)
        began = time.monotonic()
        train, held_out = course.splits()
        mean, std = (
            torch.tensor(v)[:, None, None].to(workspace.device) * 255 for v in (course.mean, course.std)
        )

        def losses(images: list, targets: list) -> dict:
            crops, labels = crop_batch(images, targets, course.size, course.jitter)
            logits = classifier((crops - mean) / std)
            return {"classification": classifier_loss(logits, labels, course.sigmoid_too)}

        def batches(start: int):
            transform = _scaled(train_transform(course.augment), course.image_size)
            return training_batches(
                train, transform, 0, course.images, start, course.steps, course.augment.workers
            )

        fit(
            Schedule(course.lr),
            course.steps,
            {"classifier": classifier},
            batches,
            losses,
            folder,
            workspace.device,
            lambda done, of: progress(course.title, done, of),
        )
        classifier.eval()
        report = {
            "title": course.title,
            "hash": course.key,
            "identity": course.identity,
            "split": held_out.name,
            **_accuracy(classifier, held_out, course, mean, std, workspace.device),
            "parameters": parameter_count(classifier),
            "seconds": round(time.monotonic() - began, 1),
        }
        _save(folder, report, classifier)
        return classifier, report


def _scaled(transform: v2.Transform, image_size: int) -> v2.Transform:
    """A transform of images at the size a student sees them at; like a detector's own resizing without antialiasing."""
    return v2.Compose([v2.Resize(image_size, antialias=False), transform]) if image_size else transform


@torch.inference_mode()
def _accuracy(classifier: nn.Module, split: CocoSplit, course: Course, mean, std, device: str) -> dict:
    """Top-1 and calibration error on the crops of a split, in percent."""
    logits, labels, plain = [], [], _scaled(plain_transform(), course.image_size)
    for image, target in (plain(*split[i]) for i in split.with_boxes()):
        crops, label = crop_batch([image.to(device)], [target], course.size)
        logits.append(classifier((crops - mean) / std).cpu())
        labels.append(label)
    logits, labels = torch.cat(logits), torch.cat(labels)
    return {
        "top1": 100 * float((logits.argmax(1) == labels).float().mean()),
        "crops": len(labels),
        "ECE": expected_calibration_error(logits.softmax(1), labels),
    }


@torch.inference_mode()
def read_split(teacher: Teacher, split: CocoSplit, image_size: int = 0) -> tuple[Tensor, Tensor]:
    """A teacher's logits [G, C] of all crops of a split, and their labels [G] 0..C-1.

    Args:
        image_size: the ``teacher_image_size`` it was trained with.
    """
    plain, device = _scaled(plain_transform(), image_size), teacher.mean.device
    logits, labels = [], []
    for image, target in (plain(*split[i]) for i in split.with_boxes()):
        crops, label = crop_batch([image.to(device)], [target], teacher.size)
        logits.append(teacher.read(crops).logits.cpu())
        labels.append(label)
    return torch.cat(logits), torch.cat(labels)


def mean_probabilities(logits: Tensor, labels: Tensor, temperature: float, softmax: bool) -> Tensor:
    """What a teacher says on average of the crops of each class.

    Args:
        logits, labels: of ``read_split``.

    Returns:
        [C, C], row c the mean over class c's crops of softmax(logits / T), or of sigmoid(logits / T); a class without
        crops has 1 / C everywhere.
    """
    classes = logits.shape[1]
    each = (logits / temperature).softmax(1) if softmax else (logits / temperature).sigmoid()
    sums, counts = (
        torch.zeros(classes, classes).index_add(0, labels, each),
        torch.bincount(labels, minlength=classes),
    )
    return torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], 1 / classes)


def _load(course: Course, folder: Path, module: nn.Module) -> dict | None:
    """The report of a finished classifier whose weights match their hash, with the weights put into ``module``."""
    try:
        report = json.loads((folder / "report.json").read_text())
        content = (folder / "weights.safetensors").read_bytes()
    except (FileNotFoundError, ValueError):
        return None
    whole = isinstance(report, dict) and report.pop("sha256", "") == body_hash(report)
    if not whole or report["hash"] != course.key or report["weights_sha256"] != sha256(content):
        return None
    module.load_state_dict(load_safetensors(content))
    module.eval()
    return report


def _save(folder: Path, report: dict, module: nn.Module) -> None:
    content = save_safetensors({k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()})
    report["weights_sha256"] = sha256(content)
    write_whole(folder / "weights.safetensors", content)
    write_whole(folder / "report.json", json.dumps({**report, "sha256": body_hash(report)}, indent=1))
    for checkpoint in folder.glob("step-*.pt"):
        checkpoint.unlink()


def classifier_teacher(
    e: Experiment, workspace: Workspace, progress: Progress = lambda *_: None
) -> tuple[Teacher, dict]:
    """The teacher of an Experiment: one for the SSDs, one for all Faster R-CNNs and RetinaNets (section 4)."""
    folder = opened(workspace.data)
    family, classes = e.architecture.family, len(folder.categories)
    identity = teacher_identity(e, folder.annotation_hash)

    def build(pretrained: bool = e.teacher_pretrained) -> nn.Module:
        torch.manual_seed(0)
        return build_classifier(
            e.teacher, classes, e.teacher_size, e.teacher_width, pretrained, e.teacher_weights
        )

    config = build(pretrained=False).pretrained_cfg
    course = Course(
        f"teacher {e.teacher}, {e.teacher_size} px ({family.teacher_group})",
        identity,
        build,
        lambda: (folder.splits["train"].first(e.train_share), folder.splits[e.eval_split]),
        e,
        e.teacher_lr,
        e.teacher_steps,
        e.teacher_images,
        e.teacher_size,
        e.teacher_jitter,
        family.sigmoid_teacher,
        config["mean"],
        config["std"],
        e.teacher_image_size,
    )
    classifier, report = trained(
        course, workspace.runs / "cache" / f"teacher-{course.key}", workspace, progress
    )
    return Teacher(classifier, classes, e.teacher_size), report


class BodyClassifier(nn.Sequential):
    """A detector's backbone with pooling and a linear layer, for its pre-training."""

    def __init__(self, body: nn.Module, classes: int):
        if hasattr(body, "inplanes"):  # a ResNet pools by itself
            super().__init__(body, nn.Linear(body.inplanes, classes))
        else:
            with torch.no_grad():
                channels = body.eval()(torch.zeros(1, 3, 64, 64)).shape[1]
            super().__init__(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def initial_weights(e: Experiment, workspace: Workspace, progress: Progress = lambda *_: None) -> str | dict:
    """What ``load_initial_weights`` is given: for ``badges`` and ``crops`` a backbone trained to classify crops.

    ``badges``: of *other* badges, as the paper's students come from other pictures than COCO's. ``crops``: of the
    training split itself, for real pictures and backbones of which no public weights exist. A backbone that stands in
    ``results/<data>-<scale>/backbones/`` is not trained again: on another CPU it would be another one.
    """
    if e.backbone_weights not in PRETRAINING:
        return e.backbone_weights
    kind, own, data = e.architecture.body, e.backbone_weights == "crops", opened(workspace.data)
    identity = pretraining_identity(e, data.annotation_hash)

    def splits() -> tuple[CocoSplit, CocoSplit]:
        if own:
            return data.splits["train"].first(e.train_share), data.splits["val"]
        counts = {"train": e.pretrain_scenes, "val": 200, "test": 0}
        root = workspace.runs / "data" / "badges-other" / digest({**counts, "version": VERSION})
        folder = opened(make_badges(root, **counts, family="other"))
        return folder.splits["train"], folder.splits["val"]

    def build() -> nn.Module:
        torch.manual_seed(0)
        classes = len(data.categories) if own else len(CLASS_NAMES["other"])
        return BodyClassifier(build_body(kind, e.width, e.depth, e.norm), classes)

    mean, std = (
        (VGG_MEAN, VGG_STD) if kind.startswith("vgg") else ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    course = Course(
        f"pre-training {kind}",
        identity,
        build,
        splits,
        e.replace(flip=True, photometric=False, zoom_out=1.0, iou_crop=False),
        e.pretrain_lr,
        e.pretrain_steps,
        e.pretrain_batch,
        e.pretrain_size,
        0.05,
        False,
        mean,
        std,
    )
    name, classifier = f"pretrain-{kind}-{course.key}", build()
    committed = workspace.results / "backbones" / name  # one draw for every machine
    if not _load(course, committed, classifier):
        if committed.exists():
            print(
                f"{committed}: damaged, not used; training it anew gives another one on another CPU",
                file=sys.stderr,
            )
        classifier, _ = trained(course, workspace.runs / "cache" / name, workspace, progress)
    return {k: v.detach() for k, v in classifier[0].state_dict().items()}
