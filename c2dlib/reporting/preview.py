"""What a table's command will train, known before anything slow is loaded: no torch, no pandas."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from pathlib import Path
from statistics import median

from c2dlib.config.experiment import Experiment, experiment
from c2dlib.config.methods import canonical, imitation_in
from c2dlib.config.students import ARCHITECTURES
from c2dlib.files import read_file
from c2dlib.records import PUBLISHED, RecordError, read_record, recorded_seeds
from c2dlib.reporting.console import read_lines, settings_of
from c2dlib.reporting.request import Request
from c2dlib.reporting.work_list import RowPlan

SPLITS = ("train", "val", "test")


def preview(request: Request, results: Path = Path("results"), published: Path = PUBLISHED) -> str:
    """A line: how many rows, how many are finished here, and how long the others may take.

    The time is that of the published runs of these rows on a CPU; there is none for changed settings, or
    where no run on a CPU is published. For figure3 it is that of Table 1, whose runs it needs.

    Args:
        results: the parent of this machine's results.
        published: the parent of the published results.

    Raises:
        ValueError: for an unknown name or setting.
    """
    name, scale, seeds, overrides = request.place, request.scale, request.seeds, request.overrides
    table = "table1" if request.name == "figure3" else request.name
    plans = request.plans(table)
    known_data = [
        {"data": request.data_name, **known} for known in _data_hashes(request.data, results / name)
    ]
    done, missing = 0, {}
    for plan in plans:
        for seed in range(plan.first_seed, plan.first_seed + seeds):
            runs = [
                experiment(scale, plan.student, plan.method, seed, **(known | plan.changes | overrides))
                for known in known_data
            ]
            if any(_is_done(e, results / name) for e in runs):
                done += 1
            else:
                missing[plan.student, canonical(plan.method), seed, *sorted(plan.changes.items())] = plan
    counted = f"{len(plans)} row{'s' * (len(plans) != 1)}" + (
        f", {len(plans) * seeds} runs" if seeds > 1 else ""
    )
    text = f"{counted}: {done} on this machine, {len(missing)} to train"
    if not missing or overrides or request.device not in ("auto", "cpu"):
        return text
    seconds = _published_seconds(table, list(missing.values()), published / name)
    cores = request.jobs or os.cpu_count() or 1
    if math.isnan(seconds):
        return f"{text}; how long is not known, for some of these rows no run on a CPU is published"
    where = f"{cores} core{'s' * (cores > 1)} (as the published runs took)"
    return f"{text}, about {_duration(seconds / cores)} on {where}"


def _is_done(e: Experiment, results: Path) -> bool:
    """Whether the record of a finished run is there, undamaged."""
    try:
        return read_record(results / "records" / f"{e.name}.{e.hash()}.json").status == "done"
    except RecordError:
        return False


def _data_hashes(data: str, results: Path) -> list[dict]:
    """What an experiment on these data has as ``data_hash`` and ``eval_split``.

    Of a COCO-format folder they are computed; else those of the undamaged records on this machine. There are
    none for a folder that validation refuses because an annotation file cannot be read.
    """
    digest, files = hashlib.sha256(), {s: f"annotations/instances_{s}2017.json" for s in SPLITS}
    files = {s: file for s, file in files.items() if data and (Path(data).expanduser() / file).exists()}
    for file in files.values():  # as validation.validate does
        try:
            content = read_file(Path(data).expanduser() / file)
        except OSError:
            return []
        digest.update(f"{file} {len(content)}\n".encode() + content)
    if files:
        return [{"data_hash": digest.hexdigest(), "eval_split": "test" if "test" in files else "val"}]
    found = set()
    for path in (results / "records").glob("*.json"):
        with contextlib.suppress(RecordError):
            identity = read_record(path).experiment
            found.add((identity["data_hash"], identity["eval_split"]))
    return [{"data_hash": known, "eval_split": split} for known, split in sorted(found)]


def _published_seconds(table: str, plans: list[RowPlan], published: Path) -> float:
    """Seconds that these runs took on a CPU, with the detectors that they imitate; NaN: not known."""
    seconds = {
        _key(line["student"], line["method"], settings_of(line)): _cpu_seconds(line["records"], published)
        for line in read_lines(published / f"{table}.csv")
    }
    runs = [seconds.get(_key(plan.student, plan.method, plan.settings), math.nan) for plan in plans]
    teachers = {ARCHITECTURES[plan.student].detector_teacher for plan in plans if imitation_in(plan.method)}
    return sum([*runs, *(_teacher_seconds(teacher, published) for teacher in teachers)])


def _cpu_seconds(names: str, published: Path) -> float:
    """The median over those of a row's records that are from a CPU; NaN: there is none."""
    seconds = []
    for name in str(names).split():
        with contextlib.suppress(RecordError):
            record = read_record(published / "records" / f"{name}.json")
            if record.device_kind == "CPU":
                seconds.append(record.wall_seconds)
    return median(seconds or [math.nan])


def _key(student: str, method: str, settings: dict) -> tuple:
    given = {k: v for k, v in settings.items() if v == v}  # an empty cell is NaN
    values = tuple((k, v if isinstance(v, str) else float(v)) for k, v in sorted(given.items()))
    return (student, canonical(method), *values)


def _teacher_seconds(teacher: str, published: Path) -> float:
    """Of the record of a detector that students imitate; 0: there is none, NaN: it is damaged."""
    for seed in recorded_seeds(published).get((teacher, "baseline"), [])[:1]:
        path = min((published / "records").glob(f"{teacher}.baseline.s{seed}.*.json"))
        try:
            return read_record(path).wall_seconds
        except RecordError:
            return math.nan
    return 0.0


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1.5:
        return "a minute"
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
