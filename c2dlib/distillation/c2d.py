"""C2D, the paper's method: KD_cls, loc and KD_loc with one teacher (section 3)."""

from __future__ import annotations

from c2dlib.distillation.classify import ClassificationDistiller
from c2dlib.distillation.distiller import Distiller
from c2dlib.distillation.localise import LocalisationDistiller
from c2dlib.teacher.classifier import Teacher


def C2D(
    teacher: Teacher,
    *,
    lambda_kc: float = 0.4,
    temperature: float = 2.0,
    lambda_l: float = 0.15,
    lambda_kl: float = 0.15,
    sampling_size: int = 112,
    pool_obj: int = 4,
    pool_maps: int = 8,
    kd_loc_layers: int = 1,
    max_positives: int = 0,
    loc_min_iou: float | None = None,
) -> list[Distiller]:
    """The distillers of C2D; the defaults are the paper's (section 4). A weight of 0 leaves its term out.

    Args:
        teacher: a frozen classifier of the detector's C classes.
        lambda_kc: weight of KD_cls. temperature: its T.
        lambda_l, lambda_kl: weights of loc and KD_loc, for images in 0..255 units.
        sampling_size: side of the crops that loc and KD_loc compare, in pixels. A classifier that reads one
            size only (most transformers) needs that size here.
        pool_obj, pool_maps, kd_loc_layers, max_positives, loc_min_iou: see ``LocalisationDistiller``. A
            detector with many positives per object (FCOS, RetinaNet) trains faster with ``max_positives``.

    Raises:
        ValueError: if a weight is negative.
    """
    weights = {"lambda_kc": lambda_kc, "lambda_l": lambda_l, "lambda_kl": lambda_kl}
    if negative := [f"{name}={weight}" for name, weight in weights.items() if weight < 0]:
        raise ValueError(f"C2D: weights must not be negative, got {', '.join(negative)}")
    distillers: list[Distiller] = []
    if lambda_kc:
        distillers.append(ClassificationDistiller(teacher, lambda_kc, temperature))
    if terms := [name for name, weight in (("loc", lambda_l), ("KDloc", lambda_kl)) if weight]:
        distillers.append(
            LocalisationDistiller(
                teacher,
                terms,
                lambda_l=lambda_l,
                lambda_kl=lambda_kl,
                sampling_size=sampling_size,
                pool_obj=pool_obj,
                pool_maps=pool_maps,
                kd_loc_layers=kd_loc_layers,
                max_positives=max_positives,
                loc_min_iou=loc_min_iou,
            )
        )
    return distillers
