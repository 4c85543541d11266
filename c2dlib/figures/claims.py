"""The primary claims as a forest plot: the paper, each student, and the pooled estimate with its interval."""

from __future__ import annotations

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from c2dlib.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PAGE,
    PINK,
    STYLE,
    Picture,
    new_figure,
    plain_axes,
    show_legend,
)
from c2dlib.reporting.statistics import difference_text

MARKERS = [(BLUE, "o"), (ORANGE, "^"), (GREEN, "v"), (PINK, "D"), (GREY, "p")]  # of the students
MARGIN = "#FCEFC7"


@rc_context(STYLE)
def claims_forest(parts: pd.DataFrame, students: pd.DataFrame) -> Picture:
    """A line per part of a primary claim: the paper's sum, the reproduced one by student, the pooled one.

    Args:
        parts, students: of ``reporting.evidence.Evidence``.
    """
    figure, ((ax,),) = new_figure(1, 1, (PAGE, 1.4 + 0.46 * len(parts)))
    names = list(dict.fromkeys(students.student))
    looks = dict(zip(names, MARKERS, strict=False))
    for y, line in enumerate(parts.itertuples()):
        if pd.notna(margin := line.within if pd.notna(line.within) else line.otherwise_within):
            ax.fill_betweenx([y - 0.45, y + 0.45], -margin, margin, color=MARGIN, linewidth=0)
        if line.part == 1 and y:
            ax.axhline(y - 0.5, color="#BFBFBF", linewidth=0.7)
        if pd.notna(line.paper):
            ax.plot(line.paper, y - 0.18, "D", markersize=5, markerfacecolor="white", color="#404040")
        if pd.notna(line.low):
            ax.plot([line.low, line.high], [y, y], color="black", linewidth=1.6)
        if pd.notna(line.value):
            ax.plot(line.value, y, "s", color="black", markersize=5)
        of_part = students[(students.id == line.id) & (students.part == line.part)]
        for student in of_part[of_part.value.notna()].itertuples():
            color, marker = looks[student.student]
            ax.plot(student.value, y + 0.24, marker, color=color, markersize=4, alpha=0.9)
        if line.part == 1:
            ax.annotate(
                line.verdict,
                (1.01, y),
                xycoords=("axes fraction", "data"),
                va="center",
                weight="bold" if line.verdict in ("reproduced", "contradicted", "equivalent") else None,
            )
    plain_axes(ax, "x")
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_ylim(len(parts) - 0.5, -0.5)
    _labels(ax, parts)
    ax.set_xlabel("difference in AP points")
    keys = [
        Line2D([], [], marker="D", linestyle="", markerfacecolor="white", color="#404040"),
        Line2D([], [], marker="s", color="black"),
        *(Line2D([], [], marker=marker, linestyle="", color=color) for color, marker in looks.values()),
        Patch(color=MARGIN),
    ]
    show_legend(
        figure,
        keys,
        ["paper", "pooled, with 95 % interval (90 % in a margin)", *looks, "margin of equivalence"],
        columns=3,
    )
    verdicts = parts.drop_duplicates("id").verdict.value_counts()
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    pooled = "; ".join(
        f"{line.id}: {line.sum} {difference_text(line.value, line.low, line.high)}"
        for line in parts[parts.value.notna()].itertuples()
    )
    figure.alt = f"Forest plot of the primary claims: {counts}. Pooled, in points: {pooled or 'none yet'}"
    return figure


def _labels(ax: Axes, parts: pd.DataFrame) -> None:
    """The sums as tick labels, with the claim's number before its first one."""
    texts = [
        (f"{line.id}  " if line.part == 1 else "") + line.sum.replace(") - (", ")\n- (")
        for line in parts.itertuples()
    ]
    ax.set_yticks(range(len(parts)), texts)
