"""The values of a setting that were tried on val: which of them had the highest mAP."""

from __future__ import annotations

import pandas as pd
from matplotlib import rc_context

from c2dlib.figures.style import (
    BLUE,
    GREEN,
    PAGE,
    STYLE,
    Picture,
    legend_above,
    listed,
    new_figure,
    plain_axes,
)
from c2dlib.reporting.labels import frame_labels

NAMES = (
    "baseline",
    "a value that was tried",
    "highest value of that setting",
    "not comparable with the baseline",
)


@rc_context(STYLE)
def values_tried(frame: pd.DataFrame) -> Picture:
    """mAP on val of every value that was tried (table ``choices``); a panel per student.

    Of a method's values of a setting, the one with the highest mAP is a green triangle, any other a blue dot.
    A mark is open where no gain over the baseline is known, because the run has another seed, kind of device
    (CPU, GPU) or initial weights: compare such marks of a setting with each other only.

    Args:
        frame: of ``reporting.tables.table``, with the column ``changed``. Rows that are not done are left
            out.
    """
    frame = frame.assign(label=frame_labels(frame))[frame.mAP.notna()]
    students = frame.student.unique().tolist()
    columns = min(max(len(students), 1), 2)
    lines = [students[i : i + columns] for i in range(0, len(students), columns)] or [[]]
    tall = [max((1 + 0.21 * sum(frame.student == s) for s in line), default=1) for line in lines]
    width = PAGE if columns == 2 else 6.5
    figure, grid = new_figure(len(lines), columns, (width, 0.9 + sum(tall)), height_ratios=tall)
    axes = [ax for row in grid for ax in row]
    sentences = []
    for ax, student in zip(axes, students, strict=False):
        rows = frame[frame.student == student]
        own = (rows.method == "baseline") & rows.changed.isna()
        rows, baseline = rows[~own], rows[own]
        seed = rows.changed.str.contains(", seed ", na=False)
        setting = rows.changed.str.rsplit(" ", n=1).str[0].where(~seed, rows.changed.str.split().str[0])
        best = rows.groupby(["method", setting.fillna("")]).mAP
        highest = (best.transform("size") > 1) & (rows.mAP == best.transform("max"))
        apart = (seed | (rows.gain.isna() & (rows.method != "baseline"))) & (len(baseline) > 0)
        if len(baseline):
            ax.axvline(baseline.mAP.iloc[0], color="black", linestyle="--", linewidth=1, label=NAMES[0])
        for y, (row, is_highest, is_apart) in enumerate(zip(rows.itertuples(), highest, apart, strict=True)):
            color, marker = (GREEN, "^") if is_highest else (BLUE, "o")
            ax.plot(
                row.mAP,
                y,
                marker,
                color=color,
                markersize=7 if is_highest else 5,
                markerfacecolor="white" if is_apart else color,
            )
            ax.plot([], [], marker, color=color, label=NAMES[2] if is_highest else NAMES[1])
            if is_apart:
                ax.plot([], [], "o", color="black", markerfacecolor="white", markersize=5, label=NAMES[3])
            sentences.append(f"{student} {row.label} {row.mAP:.1f}")
        plain_axes(ax)
        ax.set(yticks=range(len(rows)), yticklabels=rows.label, ylim=(len(rows) - 0.4, -0.6), title=student)
        ax.margins(x=0.12)
    for ax in axes[len(students) :]:
        ax.set_axis_off()
    figure.supxlabel("mAP on val")
    title = "" if (frame.seeds > 1).any() else "One seed a row: a difference may be chance"
    title = title if sentences else "No value has been tried yet"
    legend_above(figure, axes, 2, title, NAMES)
    figure.alt = f"mAP on val of the values that were tried: {listed(sentences, most=40)}"
    return figure
