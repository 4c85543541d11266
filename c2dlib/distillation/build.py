"""From an Experiment to the distillers of its method."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from c2dlib.config.experiment import Experiment
from c2dlib.config.methods import imitation_in, localisation_term, parts
from c2dlib.detectors.build import Step
from c2dlib.distillation.classify import ClassificationDistiller
from c2dlib.distillation.controls import (
    ClassControl,
    L1Control,
    LabelControl,
    OtherImageControl,
    PermutedControl,
)
from c2dlib.distillation.distiller import Distiller
from c2dlib.distillation.imitation.attention_transfer import AttentionTransfer
from c2dlib.distillation.imitation.chen_kd import ChenKD
from c2dlib.distillation.imitation.common import FromDetector, Necks
from c2dlib.distillation.imitation.cwd import CWD
from c2dlib.distillation.imitation.defeat import DeFeat
from c2dlib.distillation.imitation.fgfi import FGFI
from c2dlib.distillation.imitation.fitnets import FitNets
from c2dlib.distillation.imitation.fkd import FKD
from c2dlib.distillation.imitation.gid import GID
from c2dlib.distillation.imitation.pkd import PKD
from c2dlib.distillation.localise import LocalisationDistiller
from c2dlib.teacher.classifier import Teacher

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


def build_distillers(
    e: Experiment,
    teacher: Teacher | None = None,
    imitation: FromDetector | None = None,
    class_logits: dict[str, Tensor] | None = None,
    bank: tuple[Tensor, Tensor] | None = None,
) -> list[Distiller]:
    """The distillers of an Experiment's method, in the order of their terms.

    Args:
        teacher: the classifier, where the method needs one.
        imitation: see ``build_imitation``, where a part of the method imitates a detector.
        class_logits: see ``controls.class_logits``; only for KDcls-smooth and KDcls-mean.
        bank: logits and labels, see ``controls.PermutedControl``; only for KDcls-permuted.
    """
    names, distillers = parts(e.method), list[Distiller]()
    if "KDcls" in names:
        if teacher is None:
            raise ValueError(f"{e.method} needs a classification teacher")
        distillers.append(ClassificationDistiller(teacher, e.lambda_kc, e.temperature, e.remembered_crops))
    if "KDcls-labels" in names:
        distillers.append(LabelControl(e.lambda_kc, e.temperature))
    for name in ("KDcls-smooth", "KDcls-mean"):
        if name in names:
            distillers.append(ClassControl(name, (class_logits or {})[name], e.lambda_kc, e.temperature))
    if "KDcls-permuted" in names:
        if bank is None:
            raise ValueError(f"{e.method} needs the teacher's logits for the training crops")
        distillers.append(PermutedControl(*bank, e.lambda_kc, e.temperature))
    if boxes := [name for name in names if localisation_term(name) and name != "loc-other"]:
        terms = list(dict.fromkeys(map(localisation_term, boxes)))
        localisation = _build_localisation(e, teacher, terms)
        distillers.append(localisation if boxes == terms else L1Control(localisation, boxes))
    if "loc-other" in names:
        distillers.append(OtherImageControl(_build_localisation(e, None, ["loc"])))
    return distillers + ([imitation] if imitation is not None else [])


def _build_localisation(e: Experiment, teacher: Teacher | None, terms: list[str]) -> LocalisationDistiller:
    """One distiller for loc and KD_loc, which compare the same boxes."""
    return LocalisationDistiller(
        teacher,
        terms,
        lambda_l=e.lambda_l,
        lambda_kl=e.lambda_kl,
        sampling_size=e.sampling_size,
        pool_obj=e.pool_obj,
        pool_maps=e.pool_maps,
        kd_loc_layers=e.kd_loc_layers,
        max_positives=e.max_positives,
        loc_min_iou=e.loc_min_iou,
    )


def build_imitation(e: Experiment, student: Step, detector: nn.Module) -> FromDetector:
    """The part of a method in which the student imitates ``detector``, with new adapters."""
    one_stage = e.architecture.family.one_stage
    necks = Necks(
        neck_channels(student.model, one_stage),
        neck_channels(detector, one_stage),
        one_stage,
        e.anchor_scale * (1 if one_stage else 2 ** (e.first_level - 2)),
    )
    return FromDetector(
        detector, IMITATION_CLASSES[imitation_in(e.method)](necks, e.imitation_weight), e.remembered_images
    )


def neck_channels(detector: Any, one_stage: bool) -> list[int]:
    """Channels per level of a torchvision detector's neck, without Faster R-CNN's subsampled last level."""
    width = detector.backbone.out_channels
    if isinstance(width, list):  # an SSD: its maps
        return width
    levels = len(detector.backbone.fpn.inner_blocks)
    return [width] * (levels + 2 if one_stage else levels)
