"""Classifier-to-detector distillation (Guo, Alvarez, Salzmann, NeurIPS 2021), reproduced.

The names below are for a training loop of your own. Each is imported when it is first used, so that
``import c2dlib`` alone needs no torch. ``train_teacher``, ``C2D`` and ``training_step`` are all that most
loops need. To read on: ``detectors/train_output.py``, ``distillation/losses.py`` and ``training/step.py``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
_MODULES = {
    "crop_regions": "teacher.crops",
    "kd_cls": "distillation.losses",
    "pooled_l1": "distillation.losses",
    "Teacher": "teacher.classifier",
    "train_teacher": "training.teacher",
    "ClassificationDistiller": "distillation.classify",
    "LocalisationDistiller": "distillation.localise",
    "C2D": "distillation.c2d",
    "training_step": "training.step",
    "SSDStep": "detectors.ssd",
    "FasterRCNNStep": "detectors.faster_rcnn",
    "RetinaNetStep": "detectors.retinanet",
    "FCOSStep": "detectors.fcos",
    "TrainOutput": "detectors.train_output",
    "MatchedPositives": "detectors.train_output",
}  # public name -> the module that defines it
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'c2dlib' has no attribute {name!r}")
    return getattr(import_module(f"c2dlib.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
