"""A classifier becomes a teacher on the crops of any detection data set, for a training loop of one's own."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from c2dlib.data.batches import training_batches
from c2dlib.teacher.classifier import Teacher, classifier_loss
from c2dlib.teacher.crops import crop_batch
from c2dlib.training.loop import OptimizerSettings, fit
from c2dlib.workspace import notebook_progress


class _Pairs:
    """A data set of pairs (image, target), as ``EndlessSamples`` reads one."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def with_boxes(self) -> list[int]:
        return list(range(len(self.dataset)))  # which images have a box is not known before they are read

    def __getitem__(self, i: int) -> tuple[Any, dict]:
        image, target = self.dataset[i]
        return image, {key: torch.as_tensor(target[key]) for key in ("boxes", "labels")}


def _as_floats(image: Any, target: dict) -> tuple[Tensor, dict]:
    """An image of any kind (PIL, uint8 or float tensor) as a tensor [3, H, W] in 0..1."""
    return F.to_dtype(F.to_image(image), torch.float32, scale=True).as_subclass(Tensor), target


def _mps_numbers_kept() -> contextlib.AbstractContextManager:
    if not torch.backends.mps.is_available():
        return contextlib.nullcontext()
    return torch.random.fork_rng([0], device_type="mps")


@contextlib.contextmanager
def _users_state_kept(device: torch.device) -> Iterator[None]:
    """Leave the random numbers, and Accelerate's state that all of a process share, as they are.

    A training loop of one's own has its own seed, and may have an Accelerator of another device or precision.
    """
    shared = [state._shared_state for state in (AcceleratorState, PartialState, GradientState)]
    before = [dict(state) for state in shared]
    gpus = range(torch.cuda.device_count())  # a step's seed is that of every device
    current = device if device.type == "cuda" else -1
    try:
        with torch.random.fork_rng(gpus), _mps_numbers_kept(), torch.cuda.device(current):
            yield
    finally:
        for state, values in zip(shared, before, strict=True):
            state.clear()
            state.update(values)


def train_teacher(
    classifier: nn.Module,
    dataset: Any,
    *,
    size: int = 112,
    epochs: float = 12,
    images: int = 32,
    lr: float = 3e-4,
    jitter: float = 0.05,
    sigmoid_too: bool = True,
    seed: int = 0,
    workers: int = 0,
    folder: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Teacher:
    """Fine-tune a classifier on the crops of a detection data set's boxes (section 4): AdamW, cosine.

    The classifier is trained in place, on the device that it is on. Where several processes train the
    detector, let one of them train the teacher, and load its weights in the others.

    Args:
        classifier: of timm, with C outputs: ``timm.create_model(name, pretrained=True, num_classes=C)``.
        dataset: ``dataset[i]`` is (image, target), as torchvision's detectors are trained on: an image (PIL,
            or a tensor [3, H, W], uint8 or 0..1) and a dict with boxes [N, 4] xyxy in its pixels and labels
            [N] in 1..C. N may be 0. Its own augmentation applies.
        size: side of the crops, in pixels.
        epochs: passes over the data set.
        images: per step; all their boxes make a batch.
        lr: peak learning rate.
        jitter: random shift of each side of a crop, as a share of the box.
        sigmoid_too: train softmax and sigmoids jointly, so that one teacher serves detectors of both kinds
            (SSD and R-CNNs; RetinaNet, FCOS and DETR). False: softmax alone.
        workers: processes that load images. Their start method may need the data set to be picklable.
        folder: where a checkpoint is kept, from which an interrupted training resumes; None: none is kept.
        progress: called with the number of steps done and of all steps; None: a bar, in notebooks only.

    Returns:
        The frozen teacher, on the same device.

    Raises:
        ValueError: for an empty data set, or labels outside 1..C.
        NonFiniteLoss: if the training diverges.
    """
    if not len(dataset):
        raise ValueError("train_teacher: the data set is empty")
    model: Any = classifier
    classes, config, device = model.num_classes, model.pretrained_cfg, next(model.parameters()).device

    def losses(images: list[Tensor], targets: list[dict]) -> dict[str, Tensor]:
        crops, labels = crop_batch(images, targets, size, jitter)
        if len(labels) < 2:  # BatchNorm needs two
            return {"classification": sum(p.sum() for p in classifier.parameters()) * torch.zeros(())}
        if int(labels.min()) < 0 or int(labels.max()) >= classes:
            raise ValueError(
                f"train_teacher: labels must be 1..{classes} (0 is background), as the classifier has "
                f"{classes} outputs; got {int(labels.min()) + 1}..{int(labels.max()) + 1}"
            )
        mean, std = (crops.new_tensor(config[name])[:, None, None] * 255 for name in ("mean", "std"))
        return {"classification": classifier_loss(classifier((crops - mean) / std), labels, sigmoid_too)}

    steps = max(1, math.ceil(epochs * len(dataset) / images))
    with tempfile.TemporaryDirectory() as temporary, _users_state_kept(device):
        fit(
            OptimizerSettings(lr, seed),
            steps,
            {"classifier": classifier},
            lambda start: training_batches(_Pairs(dataset), _as_floats, seed, images, start, steps, workers),
            losses,
            Path(folder or temporary),
            device.type,
            progress or partial(notebook_progress, "teacher"),
        )
    return Teacher(classifier, classes, size).to(device)
