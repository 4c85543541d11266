"""Tables in Markdown, and how numbers and intervals are written in them."""

from __future__ import annotations

from collections.abc import Collection

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


def missing(value: object) -> bool:
    """Whether a cell has no value: None or NaN."""
    return value is None or value != value


def difference_text(mean: float | None, low: float | None, high: float | None) -> str:
    """``+1.2 [+0.3, +2.1]``; without its interval where there is none; empty without a mean."""
    if missing(mean):
        return ""
    return f"{mean:+.1f}" if missing(low) else f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def number(value: float | None, digits: int = 1) -> str:
    """A number with so many digits after the point; a dash for a missing one."""
    return MISSING if missing(value) else f"{value:.{digits}f}"
