"""The hashes of runs, teachers and pre-trainings are those of the committed records.

The code that made the records wrote ``frozen/hashes.json``. It covers every student, method and scale, at the
defaults and with changed settings.
"""

import hashlib
import json
from pathlib import Path

import pytest

from c2dlib.config.experiment import Experiment, experiment
from c2dlib.config.identity import PRETRAINING, digest, pretraining_identity, teacher_identity
from c2dlib.config.methods import imitation_in
from c2dlib.config.students import ARCHITECTURES
from c2dlib.training.run import detector_teacher

FROZEN = json.loads((Path(__file__).parent / "frozen/hashes.json").read_text())
DATA_HASH = "0" * 64
CHANGED = {
    "seed": 1,
    "lambda_kc": 0.3,
    "lambda_l": 0.5,
    "train_share": 0.5,
    "teacher_image_size": 50,
    "loc_min_iou": 0.25,
    "eval_split": "test",
    "lambda_fkd": 0.5,
    "detector_teacher_lr": 0.5,
    "teacher_size": 40,
}
VARIANTS = {"usual": {}, "changed": CHANGED}
IMITATIONS = ["KD", "FGFI", "GID", "FKD", "DeFeat", "FitNets", "AT", "PKD", "CWD"]
METHODS = [
    "baseline",
    "KDcls",
    "loc",
    "loc+KDloc",
    "KDcls+loc+KDloc",
    "ours",
    *IMITATIONS,
    *(f"ours+{name}" for name in IMITATIONS),
    "KDcls-labels",
    "KDcls-smooth",
    "KDcls-mean",
    "loc-L1",
    "KDloc-L1",
]


def cell(group: str, method: str, variant: str) -> Experiment:
    """The experiment of ``<scale> <data> <student>``, a method and a variant."""
    scale, data, student = group.split()
    return experiment(scale, student, method, **{"data": data, "data_hash": DATA_HASH, **VARIANTS[variant]})


def run_lines(group: str) -> list[str]:
    student, lines = group.split()[2], []
    for method in METHODS if ARCHITECTURES[student].detector_teacher else ["baseline"]:
        for variant in VARIANTS:
            try:
                e = cell(group, method, variant)
            except ValueError:  # this method is not defined for this student
                continue
            lines.append((f"{group} {method} {variant}", e.hash()))
            if imitation_in(method):
                lines.append((f"{group} {method} {variant} detector", detector_teacher(e).hash()))
    return [f"{key.split(' ', 3)[3]}={value}" for key, value in sorted(lines)]


@pytest.mark.parametrize("group", FROZEN["runs"])
def test_every_run_keeps_its_hash(group):
    assert hashlib.sha256("\n".join(run_lines(group)).encode()).hexdigest()[:16] == FROZEN["runs"][group]


def test_every_teacher_keeps_its_hash():
    hashes = {
        case: digest(teacher_identity(cell(*case.rsplit(" ", 2)), DATA_HASH)) for case in FROZEN["teachers"]
    }
    assert hashes == FROZEN["teachers"]


def test_every_pretraining_keeps_its_hash():
    cases = {case: cell(*case.rsplit(" ", 2)) for case in FROZEN["pretrainings"]}
    assert all(e.backbone_weights in PRETRAINING for e in cases.values())
    hashes = {case: digest(pretraining_identity(e, DATA_HASH)) for case, e in cases.items()}
    assert hashes == FROZEN["pretrainings"]


def test_the_committed_records_and_backbones_are_still_there():
    results = Path(__file__).parents[2] / "results" / "published"
    for folder, names in FROZEN["records"].items():
        assert set(names) <= {path.stem for path in (results / folder / "records").glob("*.json")}
    for folder, names in FROZEN["backbones"].items():
        assert set(names) <= {path.name for path in (results / folder / "backbones").iterdir()}
        assert {name.split("-")[-1] for name in names} <= set(FROZEN["pretrainings"].values())
