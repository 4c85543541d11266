"""Identities: what a run, its classification teacher and its pre-training depend on, and the hashes of that.

Each setting of Experiment declares by ``used_by`` which of the ``USERS`` read it. All identities below follow
from these declarations alone: a new setting needs no other entry to reach the hashes it belongs in.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING

from c2dlib.config import weights
from c2dlib.config.methods import (
    BOX_CONTROLS,
    CLASS_CONTROLS,
    PARTS,
    imitation_in,
    localisation_term,
    needs_classifier,
    parts,
)

if TYPE_CHECKING:
    from c2dlib.config.experiment import Experiment

# Raised when the code changes what a run of the same settings computes: older records are then not used.
RECIPE = 1
# Of the first committed records. A setting of a later schema is left out of an identity if it has its
# default.
FIRST_SCHEMA = 1
PRETRAINING = ("badges", "crops")  # initial weights that are trained here
# Who may read a setting: the student's training and evaluation; its classification teacher; the detector it
# imitates; any pre-training of its backbone, or only the one on the training split's crops; a loss; or the
# machine, whose settings change no number.
USERS = (
    "student",
    "teacher",
    "detector_teacher",
    "pretraining",
    "crops",
    *(part for part in PARTS if part not in (*CLASS_CONTROLS, *BOX_CONTROLS)),
    "machine",
)


def run_identity(e: Experiment) -> dict:
    """Every setting that the numbers of a run depend on, by name.

    Settings that only other methods read are left out.
    """
    return {"recipe": RECIPE} | _settings(e, _users(e))


def teacher_identity(e: Experiment, data_hash: str) -> dict:
    """What the weights of an experiment's classification teacher depend on.

    Args:
        data_hash: of the annotation files it is trained on.
    """
    return {
        "recipe": RECIPE,
        "data": data_hash,
        "sigmoid_too": e.architecture.family.sigmoid_teacher,
    } | _settings(e, {"teacher"})


def pretraining_identity(e: Experiment, data_hash: str) -> dict:
    """What the weights of a pre-trained backbone depend on; ``backbone_weights`` is one of ``PRETRAINING``.

    Args:
        data_hash: of the annotation files of the run. It counts for ``crops`` only, which needs no scenes of
            other badges.
    """
    own = {"pretrain_scenes": 0, "data": data_hash} if e.backbone_weights == "crops" else {}
    return (
        {"recipe": RECIPE, "body": e.architecture.body}
        | _settings(e, {"pretraining", e.backbone_weights})
        | own
    )


def job_key(kind: str, e: Experiment) -> str:
    """The name of one thing to compute, equal for two experiments that share it.

    Args:
        kind: ``run``, ``teacher`` or ``pretrain``.
    """
    if kind == "run":
        return f"run:{digest(run_identity(e))}"
    identity = {"teacher": teacher_identity, "pretrain": pretraining_identity}[kind]
    return f"{kind}:{digest(identity(e, e.data_hash))}"


def digest(value: object) -> str:
    """The content hash of a JSON value: twelve hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _users(e: Experiment) -> set[str]:
    """The ``USERS`` that take part in a run."""
    names = parts(e.method)
    terms = {localisation_term(name) for name in names} - {""}
    users = {"student"} | terms | (set(names) & set(USERS))
    users |= {"KDcls"} if set(CLASS_CONTROLS) & set(names) else set()
    users |= {"loc"} if terms else set()  # KD_loc compares the crops of loc
    users |= {"teacher"} if needs_classifier(e.method) else set()
    backbones = {e.backbone_weights}
    if imitation_in(e.method):
        users |= {"detector_teacher"}
        backbones |= {e.detector_teacher_weights}
    pretrained = backbones & set(PRETRAINING)
    return users | pretrained | ({"pretraining"} if pretrained else set())


def _settings(e: Experiment, users: set[str]) -> dict:
    """The settings that any of ``users`` reads, in the order of their declaration.

    A file of weights is identified by its content.
    """
    settings = {}
    for field in dataclasses.fields(e):
        value = getattr(e, field.name)
        later_at_default = field.metadata["since"] > FIRST_SCHEMA and value == field.default
        if users & set(field.metadata["used_by"]) and not later_at_default:
            settings[field.name] = weights.identity(value) if field.name.endswith("_weights") else value
    return settings
