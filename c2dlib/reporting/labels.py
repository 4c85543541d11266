"""What methods and rows are called in tables, figures and claims."""

from __future__ import annotations

from typing import TYPE_CHECKING

from c2dlib.config.methods import canonical, parts
from c2dlib.config.students import ARCHITECTURES
from c2dlib.records import RunRecord
from c2dlib.reporting.markdown import missing
from c2dlib.reporting.work_list import CONTROL, OWN_BASELINE, Row

if TYPE_CHECKING:
    import pandas as pd

C2D = ["KDcls", "loc", "KDloc"]  # the method that the paper calls "ours"
PREFIXES = {
    "lambda_kc": "λ_kc ",
    "T": "T ",
    "sampling_size": "s ",
    "pooling_size": "p ",
    "train_share": "share ",
    "schedule": "schedule x ",
}  # what stands before a setting's value in a label


def method_label(method: str) -> str:
    """``ours`` and ``KDcls+loc+KDloc`` -> ``C2D``; ``ours+FKD`` -> ``C2D + FKD``; other names as they are.

    ``KDcls-mean+loc-L1`` is ``C2D-free``.

    Raises:
        ValueError: for an unknown method, naming the valid ones.
    """
    names = parts(method)
    if names == parts("C2D-free"):
        return "C2D-free"
    if not set(C2D) <= set(names):
        return method
    return " + ".join(["C2D", *(name for name in names if name not in C2D)])


def without_masks(records: list[RunRecord]) -> dict[str, str]:
    """Students that learn masks and were trained on data that have none -> what they are called in tables."""
    return {
        r.student: f"{r.student.replace('Mask', 'Faster')} (as {r.student})"
        for r in records
        if r.status == "done" and ARCHITECTURES[r.student].family.masks and "loss_mask" not in r.curve
    }


def row_label(method: str, settings: dict) -> str:
    """A row's method and the settings that its table varies, without NaN: ``KDcls, λ_kc 0.4, T 2``."""
    if method in ("baseline", CONTROL) and not {"changed", "own_losses", *OWN_BASELINE} & set(settings):
        return method
    values = [
        PREFIXES.get(name, "") + (value if isinstance(value, str) else f"{value:g}")
        for name, value in settings.items()
        if not missing(value)
    ]
    return ", ".join([method_label(method), *values])


def varied_settings(frame: pd.DataFrame) -> list[str]:
    """The columns of a result table that hold what differs between its rows besides student and method."""
    return list(frame.columns[2 : frame.columns.get_loc("paper_mAP")])


def frame_labels(frame: pd.DataFrame) -> list[str]:
    """A ``row_label`` for each line of a ``tables.table``."""
    return [
        row_label(line["method"], {name: line[name] for name in varied_settings(frame)})
        for line in frame.to_dict("records")
    ]


def run_labels(rows: list[Row]) -> dict[str, str]:
    """Experiment hash -> the ``row_label`` of its row, one name per method."""
    return {e.hash(): row_label(canonical(row.method), row.settings) for row in rows for e in row.experiments}
