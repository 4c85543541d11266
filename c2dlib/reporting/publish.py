"""This machine's results into the published ones: what the project's authors run before they commit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd

from c2dlib.data.coco import CocoFolder
from c2dlib.files import write_whole
from c2dlib.records import RecordError, read_record
from c2dlib.reporting.claims import write_claims
from c2dlib.reporting.console import read_lines
from c2dlib.reporting.errors import gather, write_figure3
from c2dlib.reporting.published import more_seeds
from c2dlib.reporting.tables import collect, table, write_table
from c2dlib.reporting.work_list import TABLES, Row, work_list
from c2dlib.workspace import Workspace


def publish(workspace: Workspace, folder: CocoFolder) -> list[str]:
    """Copy what is finished into ``results/published/<data>-<scale>/`` and make its tables and claims again.

    - Finished records of an unchanged commit, and the errors of their detections. A record that is published
      already stays.
    - Tables whose rows are all finished and published, written from the published records, unless the
      published table has more rows or seeds; with them the executed notebook, if its numbers are the table's.
    - Executed notebooks and figures that show no table.

    Returns:
        A line per thing done or left out, and why.

    Raises:
        FileNotFoundError: if this machine has no record on these data.
    """
    if not any((workspace.results / "records").glob("*.json")):
        raise FileNotFoundError(f"{workspace.results}: no records, so nothing to publish")
    target = dataclasses.replace(workspace, results=workspace.published)
    lines = _copy_records(workspace.results, target.results)
    for name in (name for name in TABLES if (workspace.results / f"{name}.csv").exists()):
        lines.append(_publish_table(name, workspace, target, folder))
    if (workspace.results / "figure3.csv").exists():
        lines.append(_publish_figure3(workspace, target, folder))
    shown = {*TABLES, "figure3_errors", "claims"}  # by the lines above and below
    for path in sorted([*workspace.results.glob("*.ipynb"), *workspace.results.glob("*.png")]):
        if path.stem not in shown and not path.name.startswith(".") and not path.stem.endswith(".failed"):
            lines.append(_copy(path, target.results))
    write_claims(target, folder)
    return [*lines, "claims: written from the published records; `claims --published` draws their figure"]


def _copy(path: Path, folder: Path) -> str:
    """Copy a file, whole or not at all."""
    write_whole(folder / path.name, path.read_bytes())
    return f"{path.name}: published"


def _copy_records(own: Path, published: Path) -> list[str]:
    """Copy finished records that are not there yet, each with its errors."""
    copied, kept, left = 0, 0, []
    for path in sorted((own / "records").glob("*.json")):
        if (published / "records" / path.name).exists():
            kept += 1
            continue
        try:
            record = read_record(path)
        except RecordError as error:
            left.append(str(error))
            continue
        changed = any(code["dirty"] for code in record.every_code)
        if record.status != "done" or changed:
            left.append(f"{path.stem}: {record.status}, {'with local changes' if changed else record.reason}")
            continue
        _copy(path, published / "records")
        copied += 1
        if (errors := own / "errors" / path.name).exists():
            _copy(errors, published / "errors")
    lines = [f"records: {copied} published, {kept} were published before and stay, {len(left)} left out"]
    return [*lines, *(f"  left out: {why}" for why in left)]


def _publish_table(name: str, workspace: Workspace, target: Workspace, folder: CocoFolder) -> str:
    """Write a table from the published records with as many seeds as every row has on this machine."""
    path = workspace.results / f"{name}.csv"
    lines = read_lines(path)
    unfinished = [line for line in lines if line.get("status") != "done"]
    if unfinished:
        return f"{name}: not published, {len(unfinished)} of {len(lines)} rows are not finished"
    seeds = min(line["seeds"] for line in lines)
    if more := _more(name, target, pd.DataFrame(lines)):
        return f"{name}: not published, the published table has more: {more}"
    students, methods = ([*dict.fromkeys(line[key] for line in lines)] for key in ("student", "method"))
    rows = work_list(name, target, folder, seeds, students, methods)
    if lacking := _lacking(rows, target):
        return (
            f"{name}: not published, of its rows not every record is ({lacking}); see what is left out above"
        )
    frame = write_table(name, rows, target, folder)
    if not (notebook := path.with_suffix(".ipynb")).exists():
        return f"{name}: published with {seeds} seed(s) per row, without a notebook: none was executed"
    if list(frame.mAP.round(4)) != [line.get("mAP") for line in lines]:
        return f"{name}: published from the published records; its notebook is not, it shows other runs"
    _copy(notebook, target.results)
    return f"{name}: published with its notebook, {seeds} seed(s) per row"


def _lacking(rows: list[Row], target: Workspace) -> str:
    """Which rows have not all of their runs among the published records, in words; empty: none."""
    statuses = table(rows, collect(rows, target)).status
    return "; ".join(
        f"{row.student} {row.method}: {status}"
        for row, status in zip(rows, statuses, strict=True)
        if status != "done"
    )


def _more(name: str, target: Workspace, frame: pd.DataFrame) -> str:
    """Which row of the published table has more seeds than a frame, in words; empty: none."""
    settings = list(TABLES[name].settings) if name in TABLES else []
    return more_seeds(target.results / f"{name}.csv", frame, settings)


def _publish_figure3(workspace: Workspace, target: Workspace, folder: CocoFolder) -> str:
    """Write Figure 3's table from the published errors, and copy its notebook and figure."""
    path = workspace.results / "figure3.csv"
    own = pd.DataFrame(read_lines(path))
    if more := _more("figure3", target, own):
        return f"figure3: not published, the published one has more: {more}"
    students, methods = list(own.student.unique()), list(own.method.unique())
    if lacking := _lacking(
        work_list("table1", target, folder, int(own.seeds.min()), students, methods), target
    ):
        return f"figure3: not published, of its runs not every record is ({lacking})"
    rows = work_list("table1", target, folder, int(own.seeds.max()), students, methods)
    write_figure3(gather(rows, target)[0], target)
    if (target.results / path.name).read_bytes() != path.read_bytes():
        return "figure3: published from the published errors; its notebook is not, it shows other runs"
    for shown in sorted(workspace.results.glob("figure3_errors.*")):
        _copy(shown, target.results)
    return f"figure3: published with its notebook, at least {int(own.seeds.min())} seed(s) per row"
