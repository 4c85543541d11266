"""Result tables for a terminal: paper, published and this machine in at most 100 columns.

The command line prints these before anything slow is loaded, so nothing here imports torch or pandas.
"""

from __future__ import annotations

import csv
import math
import os
import shlex
import sys
from pathlib import Path

from c2dlib.config.methods import canonical
from c2dlib.files import read_csv
from c2dlib.records import PUBLISHED, results_name
from c2dlib.reporting.labels import row_label
from c2dlib.reporting.markdown import difference_text, missing, number
from c2dlib.reporting.work_list import TABLES, Row

WIDTH = 100  # columns of a terminal
GAIN = ["gain", "gain_low", "gain_high"]  # over the baseline, with its 95 % interval
PUBLISHED_NUMBERS = ["mAP", "mAP_sd", "seeds", *GAIN]


def read_lines(path: Path) -> list[dict]:
    """The lines of a result table's CSV file; [] without a file.

    Raises:
        ValueError: if the file is damaged; the message names it.
    """
    if not path.exists():
        return []
    try:
        lines = read_csv(path)
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: not a whole table ({error})") from error
    for line in lines:
        texts, seeds = (line.get("student"), line.get("method")), line.get("seeds")
        if not all(isinstance(text, str) for text in texts) or isinstance(seeds, str) or missing(seeds):
            raise ValueError(f"{path}: not a whole table (a line without student, method or seeds)")
    return lines


def read_own_lines(path: Path) -> list[dict]:
    """As ``read_lines``, of a table that is about to be written: a damaged file is set aside, which a line
    on stderr says."""
    try:
        return read_lines(path)
    except ValueError as error:
        aside = path.with_name(f"{path.name}.damaged")
        os.replace(path, aside)
        print(f"{error}: set aside as {aside.name}, written anew", file=sys.stderr)
        return []


def settings_of(line: dict) -> dict:
    """The columns of a line that say what its table varies; they stand between method and paper_mAP."""
    names = list(line)
    return {name: line[name] for name in names[2 : names.index("paper_mAP")]}


def published_line(row: Row, lines: list[dict]) -> dict | None:
    """The published line of the same experiment: same data, same settings, any seeds.

    Args:
        lines: of ``read_lines``.
    """
    (e, *_), method = row.experiments, canonical(row.method)
    for line in lines:
        if line["student"] == row.student and canonical(line["method"]) == method and line["seeds"]:
            name = line["records"].split()[0]
            same = e.replace(seed=int(name.split(".")[2].removeprefix("s")))
            if name == f"{same.name}.{same.hash()}":
                return line
    return None


def text_table(lines: list[dict]) -> str:
    """Lines of a result table as text of at most 100 columns, grouped by student.

    Args:
        lines: with the columns of ``tables.table``; those that begin with ``published_`` may be missing.
    """
    compared = any(name.startswith("published_") for line in lines for name in line)
    head = ["", "paper", *(["published"] if compared else []), "this machine"]
    head += ["gain published [95 % CI]"] * compared + ["gain here [95 % CI]"]
    return _aligned(head, lines, [""] if not compared else ["published_", ""])


def published_table(lines: list[dict]) -> str:
    """Published lines as text of at most 100 columns, grouped by student."""
    return _aligned(["", "paper", "published", "gain over the baseline [95 % CI]"], lines, [""])


def _aligned(head: list[str], lines: list[dict], sources: list[str]) -> str:
    """The head, each student's name, and its rows in columns; notes in full where a cell has no room."""
    body, notes, student = [], [], None
    for line in lines:
        if line["student"] != student:
            student = line["student"]
            body.append([student])
        label = f"  {row_label(line['method'], settings_of(line))}"
        means = []
        for source in sources:
            cell = _mean(line, source)
            if len(cell) > 12:
                notes.append(f"{student},{label[1:]}: {cell}")
                cell = cell.split(":")[0] if ":" in cell else "see below"
            means.append(cell)
        gains = [difference_text(*(line.get(source + name) for name in GAIN)) for source in sources]
        body.append([label, number(line["paper_mAP"]), *means, *gains])
    widths = [max(len(row[i]) for row in [head, *body] if len(row) > 1) for i in range(1, len(head))]
    room = WIDTH - sum(widths) - 2 * len(widths)
    first = min(room, max(len(row[0]) for row in body if len(row) > 1))
    texts = []
    for row in [head, *body]:
        if len(row) > 1 and len(row[0]) > first:  # its numbers in a line of their own
            texts.append(row[0])
            row = ["", *row[1:]]
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths, strict=False)]
        texts.append("  ".join([row[0].ljust(first) if cells else row[0], *cells]).rstrip())
    return "\n".join([*texts, *([""] if notes else []), *notes])


def _mean(line: dict, source: str) -> str:
    """``23.0 ± 1.7`` over the seeds of a line; why there is no number, if there is none."""
    mean, spread = line.get(f"{source}mAP"), line.get(f"{source}mAP_sd")
    if missing(mean):
        return line["status"] if source == "" else number(None)
    return number(mean) if missing(spread) else f"{mean:.1f} ± {spread:.1f}"


def seeds_text(lines: list[dict], column: str = "seeds") -> str:
    """``3 seeds per row``, or how many there are at least and at most."""
    counts = [int(line[column]) for line in lines if not math.isnan(line[column]) and line[column]]
    if not counts:
        return "no seed"
    few, most = min(counts), max(counts)
    return f"{most} seed{'s' * (most > 1)} per row" if few == most else f"{few} to {most} seeds per row"


def show(name: str, scale: str, data: str = "", root: Path = PUBLISHED) -> str:
    """A published table, or where a published figure or notebook lies; nothing is computed.

    Args:
        name: a key of ``work_list.TABLES``, or another name that ``reproduce`` takes.
        data: a data folder, of which only the name counts; empty: the embedded Badges.

    Raises:
        FileNotFoundError: if nothing of that name is published; the message names what is.
    """
    folder = root / results_name(scale, data)
    own = f"make reproduce-{name}" + (f" SCALE={scale}" if scale != "mini" else "")
    own += f" DATA={shlex.quote(data)}" if data else ""
    lines = read_lines(folder / f"{name}.csv") if name in TABLES else []
    if lines:
        return "\n".join(
            [
                TABLES[name].title,
                f"Published results: {_from_here(folder / name)}.csv ({seeds_text(lines)}). "
                "Nothing was trained here.",
                f"Your own, beside these: {own}",
                "",
                published_table(lines),
            ]
        )
    found = sorted(folder.glob(f"{name}*")) + sorted(folder.glob(f"[0-9][0-9]_{name}*"))
    if not found:
        tables = " ".join(sorted(path.stem for path in folder.glob("*.ipynb")))
        raise FileNotFoundError(
            f"{name} is not published for {folder.name}; published there: {tables or 'nothing'}. "
            f"Folders: {' '.join(sorted(path.name for path in root.glob('*-*/')))}"
        )
    return "\n".join(
        [f"Published results of {name}; nothing was trained here. Your own: {own}"]
        + [f"  {_from_here(path)}" for path in found]
    )


def _from_here(path: Path) -> str:
    """A path as it is reached from the working directory, if it lies below."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
