"""The runs on this machine: what they are, how far they are, where they lie."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pandas as pd

from c2dlib.records import RecordError, RunRecord, interpreter, read_record
from c2dlib.reporting.labels import method_label
from c2dlib.training import checkpoints
from c2dlib.training.validator import read_history

NAME = re.compile(r"(?P<student>[^.]+)\.(?P<method>.+)\.s(?P<seed>\d+)\.(?P<hash>[0-9a-f]{12})")
COLUMNS = ["data", "scale", "student", "method", "seed", "mAP", "on", "status", "place"]


def list_runs(results: Path, runs: Path, data: str = "") -> pd.DataFrame:
    """A line per run whose folder is on this machine, in the order of ``COLUMNS``, the latest last.

    A file in it that no run writes so is named on stderr, and left out.

    Args:
        results, runs: where records and checkpoints are written.
        data: only runs on data of this name; empty: all.
    """
    lines = []
    for folder in runs.glob("*/*/"):
        name = NAME.fullmatch(folder.name)
        if name is None:
            continue
        data_name, _, scale = folder.parent.name.rpartition("-")
        if data and data_name != data:
            continue
        record = _record(results / folder.parent.name / "records" / f"{folder.name}.json")
        weights = folder / "student.safetensors"
        lines.append(
            {
                "data": data_name,
                "scale": scale,
                "student": name["student"],
                "method": method_label(name["method"]),
                "seed": int(name["seed"]),
                "mAP": record.metrics.get("mAP") if record else None,
                "on": record.eval_split if record else "",
                "status": _status(folder, record),
                "place": str(folder),
                "time": (weights if weights.exists() else folder).stat().st_mtime,
            }
        )
    frame = pd.DataFrame(lines, columns=[*COLUMNS, "time"])
    return frame.sort_values(["data", "scale", "time"], ignore_index=True)[COLUMNS]


def _record(path: Path) -> RunRecord | None:
    try:
        return read_record(path)
    except RecordError:
        return None


def _status(folder: Path, record: RunRecord | None) -> str:
    """In words: done, failed and why, or how far it is."""
    if record and record.status == "done":
        return "done" if (folder / "student.safetensors").exists() else "done, its checkpoint is not here"
    if record:
        return f"{record.status}: {record.reason}"
    step = _last_step(folder)
    return ("not begun" if step is None else f"at step {step}") + _last_evaluation(folder)


def _last_step(folder: Path) -> int | None:
    """The step of the last checkpoint; None without one."""
    steps = []
    for path in sorted(folder.glob("step-*.pt")):
        if match := re.fullmatch(checkpoints.NAME, path.name):
            steps.append(int(match[1]))
        else:
            print(f"{path}: not the name of a run's checkpoint, left out", file=sys.stderr)
    return max(steps, default=None)


def _last_evaluation(folder: Path) -> str:
    """The last mAP on val, in words; empty without one."""
    history = read_history(folder)
    last = max(history, default=None)
    return "" if last is None else f", val mAP {history[last]['mAP'] or 0.0:.1f} at {last}"


def runs_text(frame: pd.DataFrame, results: Path, runs: Path) -> str:
    """The table for a terminal: the places in lines of their own, since they are long."""
    if frame.empty:
        return f"no runs in {runs}/; `{interpreter()} -m c2dlib train --data FOLDER` makes one"
    shown = frame.drop(columns="place").astype({"seed": str})
    shown["mAP"] = ["-" if pd.isna(value) else f"{value:.1f}" for value in frame.mAP]
    head = {name: max(len(name), *map(len, shown[name])) for name in shown}
    lines = ["  ".join(name.ljust(width) for name, width in head.items())]
    for (_, row), place in zip(shown.iterrows(), frame.place, strict=True):
        lines.append("  ".join(row[name].ljust(width) for name, width in head.items()).rstrip())
        lines.append(f"    {place}")
    return "\n".join([*lines, f"records: {results}/<data>-<scale>/records/, by the same names"])
