"""The training step: a student and its distillers. This is the only place where a step is put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from c2dlib import distributed
from c2dlib.detectors.build import STEPS, Step, step_for
from c2dlib.distillation.distiller import Distiller

KINDS = {
    "box": ("bbox_regression", "loss_box_reg", "loss_rpn_box_reg"),
    "class": ("classification", "loss_classifier"),
}  # the detectors' own losses on boxes and on classes, as torchvision names them


class TrainingStep(nn.Module):
    """Images and targets -> named, weighted loss terms, whose sum is minimised.

    Its parameters are those that are trained: the student's and the distillers' adapters. Teachers belong to
    the distillers, which are no modules, so no teacher is in ``parameters()`` or ``state_dict()``.

    Args:
        weights: factor on the detector's own losses of a kind of ``KINDS``, where it is not 1.
    """

    def __init__(
        self, student: Step, distillers: Sequence[Distiller] = (), weights: Mapping[str, float] | None = None
    ):
        super().__init__()
        self.weights = {
            name: weight for kind, weight in (weights or {}).items() if weight != 1 for name in KINDS[kind]
        }
        self.student, self.distillers = student, list(distillers)
        self.adapters = nn.ModuleDict(
            {name: module for distiller in distillers for name, module in distiller.adapters().items()}
        )

    @property
    def trained(self) -> dict[str, nn.Module]:
        """Name in a checkpoint -> module whose parameters are trained; the student is the plain detector."""
        return {"student": self.student.model, **self.adapters}

    def forward(
        self, images: list[Tensor], targets: list[dict], distilled: bool = True, shared: bool = True
    ) -> dict[str, Tensor]:
        """The detector's own losses, then the distillers' terms.

        Args:
            distilled: False: the plain step, without any distiller.
            shared: where several processes train, scale the terms so that their mean over the processes is
                the loss of all images as one batch. All processes must then call this together.

        Raises:
            ValueError: for a box without width or height, naming its image and the box. A step of one's own
                checks its targets itself.
        """
        if type(self.student) in STEPS.values():
            require_area(targets)
        out = self.student(images, targets)
        terms, divisors = dict(out.task_losses), dict(out.divisors)
        terms |= {name: self.weights[name] * terms[name] for name in terms.keys() & self.weights.keys()}
        distillers = self.distillers if distilled else []
        for distiller in distillers:
            terms |= distiller(out)
        if not shared or distributed.world() == 1:
            return terms
        for distiller in distillers:
            divisors |= distiller.divisors(out)
        return distributed.as_one_batch(terms, divisors, len(images))


def require_area(targets: list[dict]) -> None:
    """Check that all boxes have width and height, as torchvision's detectors do.

    Losses on others are no numbers.

    Raises:
        ValueError: naming the first image of the batch, from 0, with such a box, and the box.
    """
    boxes = torch.cat([target["boxes"].reshape(-1, 4) for target in targets])
    empty = (boxes[:, 2:] <= boxes[:, :2]).any(1)
    if not empty.any():
        return
    of_image = torch.cat([torch.full((len(t["boxes"]),), i) for i, t in enumerate(targets)])
    row = int(empty.nonzero()[0])
    raise ValueError(
        f"image {int(of_image[row])} of the batch: the box {boxes[row].tolist()} has no width or no height; "
        "boxes are x1, y1, x2, y2 with x1 < x2 and y1 < y2"
    )


def training_step(detector: nn.Module, distillers: Sequence[Distiller] = ()) -> TrainingStep:
    """The training step of a detector that exists, for a training loop of one's own.

    ``step(images, targets)`` takes what ``detector(images, targets)`` takes and returns its losses together
    with the distillers' terms; their sum is minimised. ``step.parameters()`` are those to train. The detector
    is trained in place and stays as it is: save, export and use it without the step.

    Args:
        detector: see ``detectors.build.step_for``; its head has C classes besides the background (labels are
            1..C), for torchvision's published COCO weights C = 90.
        distillers: of ``C2D``, or single ones. Their teacher has the same C classes, in the same order.

    Raises:
        TypeError: for a detector without a step; it says how to write one. ``step`` raises ValueError for a
            box without width or height.
    """
    return TrainingStep(step_for(detector), distillers)
