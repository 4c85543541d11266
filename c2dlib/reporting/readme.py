"""The tables of README.md and docs/, written from the committed CSV files."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from c2dlib.files import write_whole
from c2dlib.records import ROOT
from c2dlib.reporting.markdown import markdown_table
from c2dlib.reporting.tables import GAIN_HEAD, method_cell, result_cells

MARKED = re.compile(r"(<!-- (results/\S+\.csv): written by `make readme` -->\n).*?(<!-- end -->)", re.DOTALL)
# A row of README.md's table of notebooks: the notebook and its last cell.
NOTEBOOK = re.compile(r"^\| `\w+` \| \[(\w+)\]\(notebooks/.* \| (.*) \|$", re.MULTILINE)


def pages() -> list[Path]:
    """README.md and the pages of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def descriptions() -> dict[str, str]:
    """Notebook -> what README.md says of it, in one sentence."""
    return dict(NOTEBOOK.findall((ROOT / "README.md").read_text(encoding="utf-8")))


def update_tables(page: Path) -> None:
    """Replace the text between each pair of markers by the table of the CSV that the first marker names.

    Raises:
        FileNotFoundError: for a CSV that does not exist; the page is left as it is.
    """
    text = page.read_text(encoding="utf-8")
    updated = MARKED.sub(lambda match: match[1] + _short_table(ROOT / match[2]) + match[3], text)
    if updated != text:
        write_whole(page, updated)


def _short_table(csv: Path) -> str:
    """A result table without its costs, and how many seeds it has."""
    frame = pd.read_csv(csv)
    rows = [[line.student, method_cell(line.method), *result_cells(line)] for _, line in frame.iterrows()]
    table = markdown_table(
        ["student", "method", "paper mAP", "reproduced mAP", GAIN_HEAD], rows, text_columns=(0, 1)
    )
    return f"{table}\n\n{_seeds_note(frame)}\n"


def _seeds_note(frame: pd.DataFrame) -> str:
    seeds = frame.seeds.max()
    note = (
        f"mean ± sd over {seeds} seeds"
        if seeds > 1
        else "one seed: differences have no interval and may be chance"
    )
    fewer = frame[(frame.seeds > 0) & (frame.seeds < seeds)]
    for count, rows in fewer.groupby("seeds"):
        names = ", ".join(
            f"{student} {method}" for student, method in zip(rows.student, rows.method, strict=True)
        )
        note += f"; {names}: {count}, each gain over the baseline of the same seeds"
    if (frame.mAP.notna() & frame.gain.isna() & (frame.method != "baseline")).any():
        note += (
            "; a row without a gain started from other pre-trained weights than its baseline, or ran on "
            "another kind of device, and must not be compared with it"
        )
    return note
