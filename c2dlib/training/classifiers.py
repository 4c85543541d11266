"""Classifiers that are trained on crops, once: the teachers, and the backbones of slim students."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.transforms import v2

from c2dlib.config.experiment import Experiment
from c2dlib.config.identity import PRETRAINING, digest, pretraining_identity, teacher_identity
from c2dlib.data.augment import VGG_MEAN, VGG_STD, plain_transform, train_transform
from c2dlib.data.badges import CLASS_NAMES, family_version, make_badges
from c2dlib.data.batches import training_batches
from c2dlib.data.coco import CocoSplit
from c2dlib.detectors.backbones import build_body
from c2dlib.detectors.build import parameter_count
from c2dlib.files import json_with_hash, read_json_with_hash, remove_hidden_files, sha256, write_whole
from c2dlib.teacher.classifier import Teacher, build_classifier, classifier_loss, expected_calibration_error
from c2dlib.teacher.crops import crop_batch
from c2dlib.training.loop import OptimizerSettings, fit
from c2dlib.workspace import Progress, Workspace, notebook_progress, opened, waiting_lock


@dataclass(frozen=True)
class ClassifierTraining:
    """What a classifier is trained on, and how."""

    title: str
    identity: dict  # everything its weights depend on
    build: Callable[[], nn.Module]
    splits: Callable[
        [], tuple[CocoSplit, CocoSplit]
    ]  # the training split, the split that its accuracy is reported on
    augment: Experiment  # whose augmentation settings are used
    lr: float
    steps: int
    images: int  # whose crops make one step
    size: int  # side of the crops
    jitter: float  # random shift of each side of a training crop, share of the box
    sigmoid_too: bool  # softmax and binary cross-entropy jointly
    mean: list[float]  # of crops in 0..1
    std: list[float]
    seed: int  # of the initial weights, the order of the images and the augmentation
    image_size: int = 0  # images are scaled to this short side before crops are cut; 0: as they are

    @property
    def key(self) -> str:
        return digest(self.identity)


def trained_classifier(
    training: ClassifierTraining,
    folder: Path,
    workspace: Workspace,
    progress: Progress,
    read_only: bool = False,
) -> tuple[nn.Module, dict]:
    """The classifier of a training: read from ``folder`` if it is there and complete, else trained and
    written there.

    If a folder beside it has the same training, its accuracy reported on another split, only the accuracy is
    computed.

    Args:
        read_only: train, evaluate and write nothing.

    Returns:
        The classifier in eval mode and its report: top1 and ECE in percent, crops, seconds, hash.

    Raises:
        FileNotFoundError: with ``read_only``, if the folder does not hold the whole classifier.
    """
    classifier = training.build()
    if report := _load(training, folder, classifier):
        return classifier, report
    if read_only:
        state = "its hash does not match" if folder.exists() else "it is not there"
        raise FileNotFoundError(f"{folder}: no {training.title} ({state})")
    with waiting_lock(folder, training.title):
        if report := _load(training, folder, classifier):
            return classifier, report
        remove_hidden_files(folder)
        if (folder / "report.json").exists():
            print(f"{folder}: damaged, not used; training it again", file=sys.stderr)
            shutil.rmtree(folder)
        start = time.monotonic()
        train, held_out = training.splits()
        mean, std = (
            torch.tensor(v)[:, None, None].to(workspace.device) * 255 for v in (training.mean, training.std)
        )

        def losses(images: list, targets: list) -> dict:
            crops, labels = crop_batch(images, targets, training.size, training.jitter)
            logits = classifier((crops - mean) / std)
            return {"classification": classifier_loss(logits, labels, training.sigmoid_too)}

        def batches(start: int) -> Iterable:
            transform = _scaled(train_transform(training.augment), training.image_size)
            return training_batches(
                train,
                transform,
                training.seed,
                training.images,
                start,
                training.steps,
                training.augment.workers,
            )

        if same := _same_training(training, folder, classifier):
            classifier.to(workspace.device)
            start -= same["seconds"]
        else:
            fit(
                OptimizerSettings(training.lr, training.seed),
                training.steps,
                {"classifier": classifier},
                batches,
                losses,
                folder,
                workspace.device,
                lambda done, of: progress(training.title, done, of),
            )
        classifier.eval()
        report = {
            "title": training.title,
            "hash": training.key,
            "identity": training.identity,
            "split": held_out.name,
            **_accuracy(classifier, held_out, training, mean, std, workspace.device),
            "parameters": parameter_count(classifier),
            "seconds": round(time.monotonic() - start, 1),
        }
        _save(folder, report, classifier)
        return classifier, report


def _scaled(transform: v2.Transform, image_size: int) -> v2.Transform:
    """``transform`` after a resizing of the short side without antialiasing; 0: without one."""
    return v2.Compose([v2.Resize(image_size, antialias=False), transform]) if image_size else transform


def _crops(
    split: CocoSplit, image_size: int, size: int, device: str | torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Per image with boxes: crops [G, 3, size, size] in 0..255 on ``device``, their labels [G] on the CPU."""
    transform = _scaled(plain_transform(), image_size)
    for image, target in (transform(*split[i]) for i in split.with_boxes()):
        on_device = {key: target[key].to(device) for key in ("boxes", "labels")}
        crops, labels = crop_batch([image.to(device)], [on_device], size)
        yield crops, labels.cpu()


@torch.inference_mode()
def _accuracy(
    classifier: nn.Module,
    split: CocoSplit,
    training: ClassifierTraining,
    mean: Tensor,
    std: Tensor,
    device: str,
) -> dict:
    """Top-1 and calibration error on the crops of a split, in percent."""
    all_logits, all_labels = [], []
    for crops, labels in _crops(split, training.image_size, training.size, device):
        all_logits.append(classifier((crops - mean) / std).cpu())
        all_labels.append(labels)
    logits, labels = torch.cat(all_logits), torch.cat(all_labels)
    return {
        "top1": 100 * float((logits.argmax(1) == labels).float().mean()),
        "crops": len(labels),
        "ECE": expected_calibration_error(logits.softmax(1), labels),
    }


@torch.inference_mode()
def read_split(teacher: Teacher, split: CocoSplit, image_size: int = 0) -> tuple[Tensor, Tensor]:
    """A teacher's logits [G, C] of all crops of a split, and their labels [G] 0..C-1.

    Args:
        image_size: the ``teacher_image_size`` that the teacher was trained with.
    """
    logits, labels = [], []
    for crops, crop_labels in _crops(split, image_size, teacher.size, teacher.mean.device):
        logits.append(teacher.read(crops).logits.cpu())
        labels.append(crop_labels)
    return torch.cat(logits), torch.cat(labels)


def mean_probabilities(logits: Tensor, labels: Tensor, temperature: float, softmax: bool) -> Tensor:
    """A teacher's mean probabilities for the crops of each class.

    Args:
        logits, labels: of ``read_split``.

    Returns:
        [C, C], row c the mean over class c's crops of softmax(logits / T), or of sigmoid(logits / T); a class
        without crops has 1 / C everywhere.
    """
    classes = logits.shape[1]
    probabilities = (logits / temperature).softmax(1) if softmax else (logits / temperature).sigmoid()
    sums = torch.zeros(classes, classes).index_add(0, labels, probabilities)
    counts = torch.bincount(labels, minlength=classes)
    return torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], 1 / classes)


def _same_training(training: ClassifierTraining, folder: Path, module: nn.Module) -> dict | None:
    """Load a classifier whose training differs only in the split of its report; return that report."""

    def trained_as(identity: dict) -> dict:
        return {key: value for key, value in identity.items() if key != "eval_split"}

    for path in sorted(folder.parent.glob("teacher-*/report.json")):
        try:
            identity = read_json_with_hash(path.read_bytes().decode())["identity"]
        except (FileNotFoundError, ValueError, KeyError):
            continue
        if path.parent != folder and trained_as(identity) == trained_as(training.identity):
            if report := _load(replace(training, identity=identity), path.parent, module):
                return report
    return None


def _load(training: ClassifierTraining, folder: Path, module: nn.Module) -> dict | None:
    """Load a finished classifier into ``module``; return its report, or None if a hash differs."""
    try:
        report = read_json_with_hash((folder / "report.json").read_bytes().decode())
        content = (folder / "weights.safetensors").read_bytes()
    except (FileNotFoundError, ValueError):
        return None
    if report["hash"] != training.key or report["weights_sha256"] != sha256(content):
        return None
    module.load_state_dict(load_safetensors(content))
    module.eval()
    return report


def _save(folder: Path, report: dict, module: nn.Module) -> None:
    content = save_safetensors({k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()})
    report["weights_sha256"] = sha256(content)
    write_whole(folder / "weights.safetensors", content)
    write_whole(folder / "report.json", json_with_hash(report))
    for checkpoint in folder.glob("step-*.pt"):
        checkpoint.unlink()


def classifier_teacher(
    e: Experiment, workspace: Workspace, progress: Progress = notebook_progress, read_only: bool = False
) -> tuple[Teacher, dict]:
    """The teacher of an Experiment: one for the SSDs, one for Faster R-CNNs and RetinaNets (section 4).

    Args:
        read_only: see ``trained_classifier``.
    """
    folder = opened(workspace.data)
    family, classes = e.architecture.family, len(folder.categories)
    identity = teacher_identity(e, folder.annotation_hash)

    def build(pretrained: bool = e.teacher_pretrained) -> nn.Module:
        torch.manual_seed(e.draw)
        return build_classifier(
            e.teacher, classes, e.teacher_size, e.teacher_width, pretrained, e.teacher_weights
        )

    config: Any = build(pretrained=False).pretrained_cfg
    training = ClassifierTraining(
        f"teacher {e.teacher}, {e.teacher_size} px ({family.teacher_group})",
        identity,
        build,
        lambda: (folder.splits["train"].part(e.train_share, e.draw), folder.splits[e.eval_split]),
        e,
        e.teacher_lr,
        e.teacher_steps,
        e.teacher_images,
        e.teacher_size,
        e.teacher_jitter,
        family.sigmoid_teacher,
        config["mean"],
        config["std"],
        e.draw,
        e.teacher_image_size,
    )
    classifier, report = trained_classifier(
        training, workspace.runs / "cache" / f"teacher-{training.key}", workspace, progress, read_only
    )
    return Teacher(classifier, classes, e.teacher_size, getattr(torch, e.teacher_dtype)), report


class BodyClassifier(nn.Sequential):
    """A detector's backbone with pooling and a linear layer, for its pre-training."""

    def __init__(self, body: nn.Module, classes: int):
        if isinstance(body, ResNet):  # it pools by itself
            super().__init__(body, nn.Linear(body.inplanes, classes))
        else:
            with torch.no_grad():
                channels = body.eval()(torch.zeros(1, 3, 64, 64)).shape[1]
            super().__init__(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def initial_weights(e: Experiment, workspace: Workspace, progress: Progress = lambda *_: None) -> str | dict:
    """The initial weights for ``load_initial_weights``; for ``badges`` and ``crops`` a backbone trained on
    crops.

    ``badges``: crops of *other* badges, as the paper's students were trained on other images than COCO's
    before. ``crops``: crops of the training split itself, for photographs and backbones without public
    weights. A backbone in ``results/published/<data>-<scale>/backbones/`` is not trained again: another CPU
    would give other weights.
    """
    if e.backbone_weights not in PRETRAINING:
        return e.backbone_weights
    kind, own, data = e.architecture.body, e.backbone_weights == "crops", opened(workspace.data)
    identity = pretraining_identity(e, data.annotation_hash)

    def splits() -> tuple[CocoSplit, CocoSplit]:
        if own:
            return data.splits["train"].part(e.train_share, e.draw), data.splits["val"]
        scenes = {"train": e.pretrain_scenes, "val": 200, "test": 0} | ({"seed": e.draw} if e.draw else {})
        root = workspace.runs / "data" / "badges-other" / digest({**scenes, **family_version("other")})
        folder = opened(make_badges(root, **scenes, family="other"))
        return folder.splits["train"], folder.splits["val"]

    def build() -> nn.Module:
        torch.manual_seed(e.draw)
        classes = len(data.categories) if own else len(CLASS_NAMES["other"])
        return BodyClassifier(build_body(kind, e.width, e.depth, e.norm), classes)

    mean, std = (
        (VGG_MEAN, VGG_STD) if kind.startswith("vgg") else ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    training = ClassifierTraining(
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
        e.draw,
    )
    name, classifier = f"pretrain-{kind}-{training.key}", build()
    committed = workspace.published / "backbones" / name  # the same for every machine
    if not _load(training, committed, classifier):
        if committed.exists():
            print(
                f"{committed}: damaged, not used; trained again, another CPU gives other weights",
                file=sys.stderr,
            )
        classifier, _ = trained_classifier(training, workspace.runs / "cache" / name, workspace, progress)
    return {k: v.detach() for k, v in classifier.get_submodule("0").state_dict().items()}
