"""Tables in Markdown, and how numbers and intervals are written in them."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from decimal import ROUND_HALF_UP, Decimal

MISSING = "–"
# What Markdown or HTML may read as markup; an underscore inside a word is none.
SPECIAL = re.compile(r"(?!(?<=[^\W_])_(?=[^\W_]))[][<>&`$*_~|\\]")


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


def as_text(text: str) -> str:
    """A text from data, such as a class name, for a line of Markdown, which then shows it as it is written.

    It makes no link, no formula and no HTML, whatever it holds. ``html.unescape`` restores it for a terminal.
    """
    return SPECIAL.sub(lambda found: f"&#{ord(found[0])};", " ".join(text.split()))


def missing(value: object) -> bool:
    """Whether a cell has no value: None or NaN."""
    return value is None or value != value


def difference_text(mean: float | None, low: float | None, high: float | None) -> str:
    """``+1.2 [+0.3, +2.1]``; without its interval where there is none; empty without a mean."""
    if missing(mean):
        return ""
    return signed(mean) if missing(low) else f"{signed(mean)} [{signed(low)}, {signed(high)}]"


def signed(value: float) -> str:
    """A difference with its sign, rounded as by hand: ``+1.7`` for 1.65, ``-1.7`` for -1.65.

    Means of the paper's numbers are often such ties. Binary floating point has 1.65 a little too low, so that
    formatting alone makes 1.6 of it.
    """
    if not math.isfinite(value):
        return f"{value:+.1f}"
    return f"{Decimal(f'{value:.9f}').quantize(Decimal('0.1'), ROUND_HALF_UP):+.1f}"


def number(value: float | None, digits: int = 1) -> str:
    """A number with so many digits after the point; a dash for a missing one."""
    return MISSING if missing(value) else f"{value:.{digits}f}"


def without_columns(text: str, names: Collection[str]) -> str:
    """The Markdown text with these columns of its tables left out."""
    lines, dropped = [], []
    for line in text.splitlines():
        if line.startswith("|"):
            cells = line[1:-1].split("|")
            if not lines or not lines[-1].startswith("|"):  # a table begins
                dropped = [i for i, cell in enumerate(cells) if cell.strip() in names]
            line = "|" + "|".join(cell for i, cell in enumerate(cells) if i not in dropped) + "|"
        lines.append(line)
    return "\n".join(lines)


def folded(summary: str, text: str) -> str:
    """A text that is shown after a click on its summary, in JupyterLab and on pages."""
    return f"<details>\n<summary>{summary}</summary>\n\n{text}\n\n</details>"
