"""The Markdown of every table in this project: the result tables, Figure 3, the claims and the README."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

MISSING = "–"


def markdown_table(head: list[str], rows: list[list[str]], text_columns: Collection[int]) -> str:
    """Rows of cells as a Markdown table.

    Args:
        text_columns: indices of the columns aligned to the left; the others hold numbers, aligned to the
            right.
    """
    rule = "".join("---|" if i in text_columns else "---:|" for i in range(len(head)))
    return "\n".join(
        ["| " + " | ".join(head) + " |", "|" + rule, *("| " + " | ".join(row) + " |" for row in rows)]
    )


def number(value: float | None, digits: int = 1) -> str:
    """A number with so many digits after the point; a dash for a missing one."""
    return MISSING if value is None or pd.isna(value) else f"{value:.{digits}f}"
