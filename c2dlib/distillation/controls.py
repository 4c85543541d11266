"""Controls: losses in which something else stands in the place of the teacher, or of the image."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from c2dlib.config.methods import L1_CONTROLS
from c2dlib.detectors.train_output import GroundTruth, TrainOutput
from c2dlib.distillation.distiller import Distiller
from c2dlib.distillation.localise import LocalisationDistiller
from c2dlib.distillation.losses import kd_cls, matched_l1

CERTAIN = 1e4  # a logit that makes labels a distribution of zeros and ones, at any temperature


class LabelControl(Distiller):
    """KDcls-labels: KD_cls with one-hot labels in the place of the teacher's probabilities."""

    def __init__(self, lambda_kc: float, temperature: float):
        self.lambda_kc, self.temperature = lambda_kc, temperature

    def __call__(self, out: TrainOutput) -> dict[str, Tensor]:
        positives = out.positives
        one_hot = F.one_hot(positives.labels, positives.class_logits.shape[1])  # [P, C]
        logits = (2.0 * one_hot - 1) * CERTAIN
        term = kd_cls(positives.class_logits, positives.background_logits, logits, self.temperature)
        return {"KDcls-labels": self.lambda_kc * term}

    def divisors(self, out: TrainOutput) -> dict[str, int]:
        return {"KDcls-labels": len(out.positives.labels)}


class ClassControl(Distiller):
    """KDcls-smooth or KDcls-mean: KD_cls with the same probabilities for all objects of a class.

    Args:
        name: of the term.
        class_logits: [C, C], a row per true class, see ``class_logits``.
    """

    def __init__(self, name: str, class_logits: Tensor, lambda_kc: float, temperature: float):
        self.name, self.class_logits = name, class_logits
        self.lambda_kc, self.temperature = lambda_kc, temperature

    def __call__(self, out: TrainOutput) -> dict[str, Tensor]:
        positives = out.positives
        logits = self.class_logits.to(positives.labels.device)[positives.labels]  # [P, C]
        term = kd_cls(positives.class_logits, positives.background_logits, logits, self.temperature)
        return {self.name: self.lambda_kc * term}

    def divisors(self, out: TrainOutput) -> dict[str, int]:
        return {self.name: len(out.positives.labels)}


class PermutedControl(Distiller):
    """KDcls-permuted: KD_cls with the teacher's answer for a random training object of the same class.

    Each object of a step draws one of the teacher's answers for its class, its own among them. So over a run
    the student sees the teacher's distribution of answers per class, but an answer is about the object at
    hand by chance only. The step's random state decides the draw, which therefore follows the run's seed.

    Args:
        logits, labels: [G, C] and [G], the teacher's logits for the crops of the training split and their
            classes.
    """

    def __init__(self, logits: Tensor, labels: Tensor, lambda_kc: float, temperature: float):
        self.logits = logits[labels.argsort(stable=True)]
        self.counts = torch.bincount(labels, minlength=logits.shape[1])  # [C]
        self.lambda_kc, self.temperature = lambda_kc, temperature

    def __call__(self, out: TrainOutput) -> dict[str, Tensor]:
        positives, truth = out.positives, GroundTruth.of(out)
        if len(positives.labels) == 0:
            return {"KDcls-permuted": positives.class_logits.sum() * 0.0}
        counts = self.counts.to(truth.labels.device)[truth.labels]  # [G]
        first = (self.counts.cumsum(0) - self.counts).to(truth.labels.device)[truth.labels]
        drawn = first + (torch.rand(len(counts)).to(counts.device) * counts).long()
        logits = self.logits.to(drawn.device)[drawn][truth.of_positive]  # [P, C]
        term = kd_cls(positives.class_logits, positives.background_logits, logits, self.temperature)
        return {"KDcls-permuted": self.lambda_kc * term}

    def divisors(self, out: TrainOutput) -> dict[str, int]:
        return {"KDcls-permuted": len(out.positives.labels)}


class OtherImageControl(Distiller):
    """loc-other: loc on the pixels of another image of the batch, with the boxes of this one.

    Args:
        localisation: computes ``loc``.
    """

    def __init__(self, localisation: LocalisationDistiller):
        self.localisation = localisation

    def __call__(self, out: TrainOutput) -> dict[str, Tensor]:
        if len(out.images) < 2:
            raise ValueError("loc-other compares boxes on another image: a step needs two images or more")
        return {"loc-other": self.localisation(replace(out, images=out.images.roll(1, 0)))["loc"]}

    def divisors(self, out: TrainOutput) -> dict[str, int]:
        return {"loc-other": self.localisation.divisors(out)["loc"]}


class L1Control(Distiller):
    """loc-L1 and KDloc-L1: a plain L1 loss on the boxes, whose gradient is as long as that of loc or KD_loc.

    Args:
        localisation: computes the terms that ``names`` contains or replaces.
        names: the terms to return: ``loc``, ``KDloc``, ``loc-L1``, ``KDloc-L1``.
    """

    def __init__(self, localisation: LocalisationDistiller, names: list[str]):
        self.localisation, self.names = localisation, names

    def __call__(self, out: TrainOutput) -> dict[str, Tensor]:
        compared = self.localisation.compare(out)
        terms = {}
        for name in self.names:
            term = compared.terms[L1_CONTROLS.get(name, name)]
            replaced = name in L1_CONTROLS and len(compared.boxes) > 0
            terms[name] = matched_l1(term, compared.boxes, compared.true_boxes) if replaced else term
        return terms

    def divisors(self, out: TrainOutput) -> dict[str, int]:
        divisors = self.localisation.divisors(out)
        return {name: divisors[L1_CONTROLS.get(name, name)] for name in self.names}


def class_logits(means: Tensor, temperature: float, softmax: bool) -> dict[str, Tensor]:
    """The logits that stand in the teacher's place in KDcls-smooth and KDcls-mean.

    KDcls-mean has the teacher's mean probabilities. KDcls-smooth has labels that are smoothed evenly, so that
    the true class (and, with sigmoids, a wrong one) has the probability that the teacher gives it, averaged
    over the classes.

    Args:
        means: [C, C] the teacher's mean probabilities at ``temperature``, a row per true class.
        softmax: whether each row is a softmax; False: each entry has its own sigmoid.

    Returns:
        Name of the control -> logits [C, C], a row per true class.
    """
    count = len(means)
    diagonal = torch.eye(count, dtype=torch.bool)
    right = means[diagonal].mean()
    wrong = (1 - right) / max(count - 1, 1) if softmax else means[~diagonal].mean()
    smooth = torch.where(diagonal, right, wrong)
    return {
        name: temperature * (p.log() if softmax else torch.logit(p))
        for name, p in (
            ("KDcls-smooth", smooth.clamp(1e-6, 1 - 1e-6)),
            ("KDcls-mean", means.clamp(1e-6, 1 - 1e-6)),
        )
    }
