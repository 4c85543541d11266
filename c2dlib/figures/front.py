"""Classes against boxes: what other weights of a detector's own losses reach, and what the losses reach."""

from __future__ import annotations

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes

from c2dlib.figures.style import GREY, PAGE, STYLE, Picture, listed, method_style, new_figure, plain_axes
from c2dlib.reporting.labels import method_label


@rc_context(STYLE)
def front(frame: pd.DataFrame) -> Picture:
    """AP50 against AP75 of the boxes alone, a panel per student; reweighted baselines are grey.

    Args:
        frame: of ``reporting.tables.table`` for the table ``reweighted``, with the column ``boxes75``.
    """
    students = frame.student.unique().tolist()
    figure, (axes,) = new_figure(1, len(students), (min(5.5 * len(students), PAGE), 4.2))
    for ax, student in zip(axes, students, strict=True):
        rows = frame[frame.student == student].reindex(columns=[*{*frame.columns, "boxes75", "own_losses"}])
        rows = rows.dropna(subset=["AP50", "boxes75"])
        ax.set(title=student, xlabel="AP50", ylabel="AP75 of the boxes alone")
        plain_axes(ax)
        if rows.empty:
            ax.text(0.5, 0.5, "no detections on this machine", transform=ax.transAxes, ha="center")
            continue
        _points(ax, rows)
        ax.margins(x=0.25, y=0.12)
    values = frame.reindex(columns=[*{*frame.columns, "boxes75", "own_losses"}]).dropna(subset=["boxes75"])
    figure.alt = "AP50 and AP75 of the boxes alone: " + listed(
        [f"{r.student} {_label(r)} {r.AP50:.1f}, {r.boxes75:.1f}" for r in values.itertuples()]
    )
    return figure


def _label(row) -> str:
    return row.own_losses if pd.notna(row.own_losses) else method_label(row.method)


def _points(ax: Axes, rows: pd.DataFrame) -> None:
    """A labelled point per row, and the line of the best reweighted baselines."""
    own = (rows.method == "baseline") | rows.own_losses.notna()
    line = unexceeded(rows[own][["AP50", "boxes75"]])
    ax.plot(line.AP50, line.boxes75, color=GREY, linewidth=1.2, zorder=1)
    for row, reweighted in zip(rows.itertuples(), own, strict=True):
        color = GREY if reweighted else method_style(row.method)[0]
        ax.plot(row.AP50, row.boxes75, "s" if reweighted else "o", color=color, markersize=6)
        ax.annotate(
            _label(row),
            (row.AP50, row.boxes75),
            (5, 4),
            textcoords="offset points",
            color="#595959" if reweighted else color,
        )


def unexceeded(points: pd.DataFrame) -> pd.DataFrame:
    """The points that no other one exceeds in both columns, in the order of the first."""
    ordered = points.sort_values(list(points.columns), ascending=False)
    second = ordered.iloc[:, 1]
    return ordered[second > second.cummax().shift(fill_value=-float("inf"))].iloc[::-1]
