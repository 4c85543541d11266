"""The distillers that each method trains with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from c2dlib.config.experiment import Experiment
from c2dlib.config.methods import CLASS_CONTROLS, IMITATIONS, localisation_term, parts
from c2dlib.detectors.train_output import GroundTruth, TrainOutput
from c2dlib.distillation.imitation.attention_transfer import AttentionTransfer
from c2dlib.distillation.imitation.chen_kd import ChenKD
from c2dlib.distillation.imitation.common import FromDetector
from c2dlib.distillation.imitation.cwd import CWD
from c2dlib.distillation.imitation.defeat import DeFeat
from c2dlib.distillation.imitation.fgfi import FGFI
from c2dlib.distillation.imitation.fitnets import FitNets
from c2dlib.distillation.imitation.fkd import FKD
from c2dlib.distillation.imitation.gid import GID
from c2dlib.distillation.imitation.pkd import PKD
from c2dlib.distillation.losses import box_gradient, kd_cls, matched_l1, paired_iou, pooled_l1
from c2dlib.teacher.classifier import Teacher
from c2dlib.teacher.crops import crop_regions

CERTAIN = 1e4  # a logit that makes labels a distribution of zeros and ones, at any temperature
IMITATION_CLASSES = {
    "KD": ChenKD,
    "FGFI": FGFI,
    "GID": GID,
    "FKD": FKD,
    "DeFeat": DeFeat,
    "FitNets": FitNets,
    "AT": AttentionTransfer,
    "PKD": PKD,
    "CWD": CWD,
}  # method -> its class


class ClassifierToDetector:
    """KD_cls, loc and KD_loc: a distiller, ``TrainOutput -> {name: weighted term}`` (eq. 12).

    Each ground-truth box is read once a step, as deep as needed, and gathered to its positives; the predicted
    crops pass only the teacher's first layers, ``chunk`` at a time (0: 8 on CPU, where they then stay in its
    caches, 256 on a GPU).

    Args:
        teacher: None where no term asks one (loc, KDcls-labels).
        terms: any of PARTS but IMITATIONS.
        sampling_size: side s of the crops that loc and KD_loc compare.
        pool_obj, pool_maps: cells per side after pooling, of the crops (loc) and of the maps (KD_loc).
        layers: how many of the teacher's early maps KD_loc compares (1: l0, 2: l0 and l1).
        lambda_l, lambda_kl: weights for images in 0..255 units (section 4).
        max_positives: loc and KD_loc see at most this many of a step's positives, drawn at random; 0: all.
        min_iou: they see only positives whose predicted box has this IoU with its object.
        targets: of KDcls-smooth and KDcls-mean, logits [C, C]: what stands in the teacher's place for each class.
    """

    def __init__(
        self,
        teacher: Teacher | None,
        terms: list[str],
        *,
        lambda_kc: float,
        temperature: float,
        lambda_l: float,
        lambda_kl: float,
        sampling_size: int,
        pool_obj: int,
        pool_maps: int,
        layers: int,
        max_positives: int = 0,
        min_iou: float = 0.0,
        chunk: int = 0,
        targets: dict[str, Tensor] | None = None,
    ):
        self.teacher, self.terms = teacher, terms
        self.lambda_kc, self.temperature = lambda_kc, temperature
        self.lambda_l, self.lambda_kl = lambda_l, lambda_kl
        self.sampling_size, self.pool_obj, self.pool_maps = sampling_size, pool_obj, pool_maps
        self.layers, self.max_positives, self.min_iou, self.chunk = layers, max_positives, min_iou, chunk
        self.targets = targets or {}

    def __call__(self, out: TrainOutput) -> dict[str, Tensor]:
        positives, truth, terms = out.positives, GroundTruth.of(out), {}
        if len(positives.labels) == 0:
            zero = positives.class_logits.sum() * 0.0 + positives.pred_boxes.sum() * 0.0
            return {name: zero for name in self.terms}
        pixels = out.pixels() if set(self.terms) - set(CLASS_CONTROLS) else None
        if "KDcls" in self.terms:
            crops = crop_regions(pixels, truth.boxes, truth.image_index, self.teacher.size)
            terms["KDcls"] = self._kd_cls(out, self.teacher.read(crops).logits[truth.of_positive])
        if "KDcls-labels" in self.terms:
            labels = F.one_hot(positives.labels, positives.class_logits.shape[1])
            terms["KDcls-labels"] = self._kd_cls(out, (2.0 * labels - 1) * CERTAIN)
        for name in [n for n in self.terms if n in self.targets]:
            terms[name] = self._kd_cls(out, self.targets[name].to(positives.labels.device)[positives.labels])
        if any(localisation_term(name) for name in self.terms):
            terms |= self._localisation(pixels, out, truth)
        return terms

    def divisors(self, out: TrainOutput) -> dict[str, int]:
        """Term -> how many positives it is a mean over, for ``distributed.as_one_batch``."""
        count = len(out.positives.labels)
        near = len(self._near(out, GroundTruth.of(out)))
        shown = min(near, self.max_positives or near)
        return {name: shown if localisation_term(name) else count for name in self.terms}

    def _near(self, out: TrainOutput, truth: GroundTruth) -> Tensor:
        """The rows of the positives that loc and KD_loc may see."""
        boxes = out.positives.pred_boxes.detach().float()
        if not self.min_iou:
            return torch.arange(len(boxes), device=boxes.device)
        return (paired_iou(boxes, truth.boxes[truth.of_positive].float()) >= self.min_iou).nonzero()[:, 0]

    def _kd_cls(self, out: TrainOutput, teacher_logits: Tensor) -> Tensor:
        positives = out.positives
        return self.lambda_kc * kd_cls(
            positives.class_logits, positives.background_logits, teacher_logits, self.temperature
        )

    def _localisation(self, pixels: Tensor, out: TrainOutput, truth: GroundTruth) -> dict[str, Tensor]:
        """loc (eq. 11) and KD_loc (eq. 10), averaged over the layers used."""
        names = list(dict.fromkeys(localisation_term(n) for n in self.terms if localisation_term(n)))
        with torch.no_grad():
            crops = crop_regions(pixels, truth.boxes, truth.image_index, self.sampling_size)
            targets = {name: self._views(name, crops) for name in names}
        rows = self._near(out, truth)
        if 0 < self.max_positives < len(rows):
            rows = rows[torch.randperm(len(rows), device=rows.device)[: self.max_positives]]
        if len(rows) == 0:
            return {
                name: out.positives.pred_boxes.sum() * 0.0 for name in self.terms if localisation_term(name)
            }
        boxes, image_index, gt = (
            out.positives.pred_boxes.float()[rows],
            out.positives.image_index[rows],
            truth.of_positive[rows],
        )
        count = len(boxes)

        def loss(boxes: Tensor, part: slice) -> Tensor:
            crops = crop_regions(pixels, boxes, image_index[part], self.sampling_size)
            rows = gt[part]
            sums = []
            for name in names:
                pairs = zip(self._views(name, crops), targets[name], strict=True)
                layers = [pooled_l1(pred, target[rows], target.shape[-1]) for pred, target in pairs]
                weight = self.lambda_l if name == "loc" else self.lambda_kl
                sums.append(weight * torch.stack(layers).mean() * len(boxes) / count)
            return torch.stack(sums)

        chunk = self.chunk or (8 if pixels.device.type == "cpu" else 256)
        with torch.autocast(pixels.device.type, enabled=False):
            terms = dict(zip(names, box_gradient(loss, boxes, chunk), strict=True))
            return {
                n: terms[n]
                if n in names
                else matched_l1(terms[localisation_term(n)], boxes, truth.boxes[gt].float())
                for n in self.terms
                if localisation_term(n)
            }

    def _views(self, name: str, crops: Tensor) -> list[Tensor]:
        """What is compared: the pooled crops themselves, or the teacher's pooled early maps of them."""
        if name == "loc":
            return [F.adaptive_avg_pool2d(crops, self.pool_obj)]
        return [F.adaptive_avg_pool2d(m, self.pool_maps) for m in self.teacher.early(crops, self.layers)]


def class_targets(means: Tensor, temperature: float, softmax: bool) -> dict[str, Tensor]:
    """What KDcls-smooth and KDcls-mean put in the teacher's place.

    Args:
        means: [C, C] the teacher's mean probabilities at ``temperature``, a row per true class (softmax), or each
            class's own (sigmoid).

    Returns:
        Logits [C, C] each, a row per true class. KDcls-mean: those means. KDcls-smooth: the labels, smoothed evenly to the
        teacher's mean belief in the true class (and, with sigmoids, in a wrong one).
    """
    count = len(means)
    own = torch.eye(count, dtype=torch.bool)
    right = means[own].mean()
    wrong = (1 - right) / max(count - 1, 1) if softmax else means[~own].mean()
    smooth = torch.where(own, right, wrong)
    return {
        name: temperature * (p.log() if softmax else torch.logit(p))
        for name, p in (
            ("KDcls-smooth", smooth.clamp(1e-6, 1 - 1e-6)),
            ("KDcls-mean", means.clamp(1e-6, 1 - 1e-6)),
        )
    }


def distillers(
    e: Experiment,
    teacher: Teacher | None,
    imitation: FromDetector | None,
    targets: dict[str, Tensor] | None = None,
) -> list:
    """The distillers of an Experiment's method; the engine adds their terms to the task losses."""
    terms = [p for p in parts(e.method) if p not in IMITATIONS]
    built = (
        []
        if not terms
        else [
            ClassifierToDetector(
                teacher,
                terms,
                lambda_kc=e.lambda_kc,
                temperature=e.temperature,
                lambda_l=e.lambda_l,
                lambda_kl=e.lambda_kl,
                sampling_size=e.sampling_size,
                pool_obj=e.pool_obj,
                pool_maps=e.pool_maps,
                layers=e.kd_loc_layers,
                max_positives=e.max_positives,
                min_iou=e.loc_min_iou,
                targets=targets,
            )
        ]
    )
    return built + ([imitation] if imitation is not None else [])
