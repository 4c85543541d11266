"""This machine's tables beside the published ones of the same experiments."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from c2dlib.records import PUBLISHED
from c2dlib.reporting.console import (
    GAIN,
    PUBLISHED_NUMBERS,
    published_line,
    read_lines,
    read_own_lines,
)
from c2dlib.reporting.markdown import missing
from c2dlib.reporting.statistics import chance_within, mean_of
from c2dlib.reporting.work_list import Row
from c2dlib.workspace import Workspace


def is_published(workspace: Workspace) -> bool:
    """Whether a workspace's results are the published ones."""
    return workspace.results.parent.name == PUBLISHED.name


def with_published(frame: pd.DataFrame, name: str, rows: list[Row], workspace: Workspace) -> pd.DataFrame:
    """A ``tables.table`` with the published numbers of the same experiments, in columns ``published_...``.

    Nothing is added where nothing is published, or where the workspace is the published one itself.
    """
    lines = read_lines(workspace.published / f"{name}.csv")
    if not lines or is_published(workspace):
        return frame
    found = [published_line(row, lines) or {} for row in rows]
    columns = {f"published_{n}": [line.get(n, math.nan) for line in found] for n in PUBLISHED_NUMBERS}
    place = frame.columns.get_loc(GAIN[-1]) + 1
    return pd.concat([frame.iloc[:, :place], pd.DataFrame(columns), frame.iloc[:, place:]], axis=1)


def agreement(frame: pd.DataFrame, draws: int = 1) -> str:
    """How many gains of this machine lie in the published interval, and how many are expected to.

    Args:
        frame: of ``with_published``. Without published numbers the text is empty.
        draws: of the training set. Where there are several, nothing is expected: runs that share them are not
            independent.
    """
    if "published_gain_low" not in frame:
        return ""
    both = frame[frame.gain.notna() & frame.published_gain_low.notna()]
    if both.empty:
        return "No row has both a gain of this machine and a published interval: nothing to compare."
    within = int(((both.gain >= both.published_gain_low) & (both.gain <= both.published_gain_high)).sum())
    text = (
        f"Of {len(both)} gains of this machine, {within} lie within the published 95 % interval "
        f"({100 * within / len(both):.0f} %)."
    )
    if draws > 1:
        return text
    seeds = zip(both.published_seeds, both.seeds, strict=True)
    expected = mean_of([chance_within(int(published), int(here)) for published, here in seeds])
    return f"{text} Of independent runs with as many seeds, {100 * expected:.0f} % are expected to."


def more_seeds(path: Path, frame: pd.DataFrame, settings: list[str]) -> str:
    """How a table on disk has more seeds than ``frame``, in words; empty: it has not, or is damaged.

    Args:
        settings: the columns that tell rows of one student and method apart.
    """
    names = ["student", "method", *settings]
    here = _seeds_by_row(frame, names)
    for row, seeds in _seeds_by_row(pd.DataFrame(read_own_lines(path)), names).items():
        if seeds > here.get(row, 0):
            return f"{row[0]} {row[1]} has {seeds} seed{'s' * (seeds > 1)} there and {here.get(row, 0)} here"
    return ""


def _seeds_by_row(frame: pd.DataFrame, names: list[str]) -> dict[tuple, int]:
    """The values of some columns -> the most seeds of a line that has them."""
    by_row: dict[tuple, int] = {}
    for line in frame.reindex(columns=[*names, "seeds"]).to_dict("records"):
        row = tuple(_comparable(line[name]) for name in names)
        by_row[row] = max(by_row.get(row, 0), int(line["seeds"]))
    return by_row


def _comparable(value: str | float | None) -> str | float:
    """A cell as it is after a CSV file: four digits after the point."""
    if missing(value):
        return ""
    return value if isinstance(value, str) else round(float(value), 4)
