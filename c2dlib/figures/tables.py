"""Tables as figures: gains over the baseline, over cost, over IoU, over the number of images; GPU hours."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from scipy.optimize import linear_sum_assignment

from c2dlib.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PAPER,
    STYLE,
    Picture,
    legend_above,
    listed,
    method_style,
    new_figure,
    plain_axes,
    show_legend,
)
from c2dlib.reporting.labels import frame_labels, method_label
from c2dlib.reporting.work_list import CONTROL, IOUS


@rc_context(STYLE)
def table_bars(frame: pd.DataFrame) -> Picture:
    """Gain in mAP over the student's baseline: the paper's, and the reproduced one with its 95 % interval.

    A title says so if every row is one seed; then there are no intervals.

    Args:
        frame: of ``reporting.tables.table``. A row without a reproduced number says why.
    """
    frame = frame.assign(method=frame_labels(frame))
    students = frame.student.unique().tolist()
    methods = [m for m in frame.method.unique() if not m.startswith("baseline")]
    size = (
        max(1.9 * len(students) + 1, 5.2) + 0.06 * max(map(len, methods), default=0),
        1.7 + 0.38 * max(len(methods), 1),
    )
    figure, grid = new_figure(1, len(students), size, sharex=True, sharey=True)
    sentences, baselines = [], False
    apart = 0.19 if frame.paper_mAP.notna().any() else 0  # the paper's bars above, the reproduced below
    for ax, student in zip(grid[0], students, strict=True):
        rows = frame[frame.student == student]
        base = _baseline(rows)
        rows = rows[rows.method != "baseline"].set_index("method")
        for y, method in ((y, m) for y, m in enumerate(methods) if m in rows.index):
            row = rows.loc[method]
            paper = row.paper_mAP - base.paper_mAP
            if pd.notna(paper):
                ax.barh(y - apart, paper, 0.34, **PAPER, label="paper")
            if pd.isna(row.get("gain")):
                why = "no baseline" if row.status == "done" else row.status.split(":")[0]
                ax.annotate(
                    why,
                    (0, y + apart),
                    (4, 0),
                    textcoords="offset points",
                    va="center",
                    color="#595959",
                    style="italic",
                )
                continue
            ax.barh(y + apart, row.gain, 0.34, color=BLUE, label="reproduced")
            if pd.notna(row.gain_low):
                ax.plot(
                    [row.gain_low, row.gain_high],
                    [y + apart] * 2,
                    color="black",
                    marker="|",
                    label="95 % interval over seeds",
                )
            beside = "" if pd.isna(paper) else f" (paper {paper:+.1f})"
            sentences.append(f"{student} {method} {row.gain:+.1f}{beside}")
        plain_axes(ax)
        ax.axvline(0, color="black", linewidth=0.8)
        known = [
            f"{name} {value:.1f}"
            for name, value in (("paper", base.paper_mAP), ("here", base.mAP))
            if pd.notna(value)
        ]
        baselines |= bool(known)
        ax.set_title("\n".join([student, *known]), fontsize=STYLE["font.size"])
        ax.set(yticks=range(len(methods)), yticklabels=methods, ylim=(max(len(methods), 1) - 0.4, -0.6))
    one_seed = frame.gain.notna().any() and frame.gain_low.isna().all()
    legend_above(
        figure,
        grid[0],
        title="One seed a row: a difference may be chance" if one_seed else "",
        order=("paper", "reproduced"),
    )
    explained = " (above: the baseline's mAP)" if baselines else ""
    figure.supxlabel(f"gain over the baseline, mAP points{explained}")
    figure.alt = (
        f"Gain in mAP over the baseline{', one seed a row' if one_seed else ''}: "
        + listed(sentences, most=30)
        if sentences
        else "No row has a gain over its baseline yet."
    )
    return figure


def _baseline(rows: pd.DataFrame) -> pd.Series:
    """A student's baseline in the settings of its scale; all NaN if there is none."""
    rows = rows[rows.method == "baseline"]
    if "changed" in rows:
        rows = rows[rows.changed.isna()]
    return rows.iloc[0] if len(rows) else pd.Series(index=rows.columns, dtype=float)


@rc_context(STYLE)
def gain_over_cost(frame: pd.DataFrame) -> Picture:
    """Gain in mAP, with 95 % intervals over seeds, against the time of a training step; a panel per student.

    The unit of time is a step of the plain student.

    Args:
        frame: of ``reporting.tables.table``; rows without a gain or a time are left out. C2D and its sums are
            green triangles, the label control is a grey square, other methods are blue dots.
    """
    frame = frame[frame.gain.notna() & frame.relative_seconds.notna()]
    students = frame.student.unique().tolist()
    if not students:
        figure, ((ax,),) = new_figure(1, 1, (5, 1))
        figure.alt = "no row has both a gain and a time"
        ax.set_axis_off()
        ax.text(0.5, 0.5, figure.alt, ha="center")
        return figure
    columns = min(len(students), 2)
    lines = [students[i : i + columns] for i in range(0, len(students), columns)]
    tall = [max(2.6, *(1.8 + 0.19 * sum(frame.student == s) for s in line)) for line in lines]
    figure, grid = new_figure(len(lines), columns, (4.2 * columns + 0.3, sum(tall)), height_ratios=tall)
    axes = [ax for row in grid for ax in row]
    for ax, student in zip(axes, students, strict=False):
        rows = frame[frame.student == student].sort_values("gain")
        names = [method_label(method) for method in rows.method]
        looks = [
            (GREEN, "^") if name.startswith("C2D") else (GREY, "s") if name == CONTROL else (BLUE, "o")
            for name in names
        ]
        for row, (color, marker) in zip(rows.itertuples(), looks, strict=True):
            ax.plot(row.relative_seconds, row.gain, marker, color=color, markersize=5)
            if pd.notna(row.gain_low):
                ax.plot(
                    [row.relative_seconds] * 2,
                    [row.gain_low, row.gain_high],
                    color=color,
                    alpha=0.35,
                    linewidth=1,
                )
        plain_axes(ax)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.margins(x=0.08, y=0.08)
        ax.locator_params(axis="x", nbins=5)
        points = list(zip(rows.relative_seconds, rows.gain, strict=True))
        _names_beside(ax, names, points, [color for color, _ in looks])
        ax.set_title(student)
    for ax in axes[len(students) :]:
        ax.set_axis_off()
    figure.supxlabel("time of a training step, plain student = 1")
    figure.supylabel("gain over the baseline, mAP points")
    figure.alt = "Gain in mAP against the time of a training step: " + listed(
        [
            f"{row.student} {method_label(row.method)} {row.gain:+.1f} at {row.relative_seconds:.1f}"
            for row in frame.itertuples()
        ],
        most=30,
    )
    return figure


def _names_beside(ax: Axes, names: list[str], points: list[tuple[float, float]], colors: list[str]) -> None:
    """A name per point in a column right of the axes, evenly spaced, with a line from the point to its name.

    Of all ways to give the places to the points the one with the shortest lines is taken, in which no two
    lines cross.
    """
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    ax.set(xlim=(left, right), ylim=(low, high))
    shares = np.array([((x - left) / (right - left), (y - low) / (high - low)) for x, y in points])
    count, order = len(names), shares[:, 1].argsort()
    step = 1 / max(count, 12)
    places, floor = np.zeros(count), 0.0
    for i in order:  # as high as the points where there is room: from the bottom up, then from the top down
        places[i] = floor = max(shares[i, 1], floor)
        floor += step
    ceiling = 1.0
    for i in order[::-1]:
        places[i] = ceiling = min(places[i], ceiling)
        ceiling -= step
    # the axes are about as high as wide, so a share of either is as long
    length = np.hypot(1.04 - shares[:, :1], shares[:, 1:] - places[None, :])
    for i, j in zip(*linear_sum_assignment(length), strict=True):
        ax.annotate(
            names[i],
            points[i],
            (1.04, places[j]),
            textcoords="axes fraction",
            color=colors[i],
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colors[i],
                "alpha": 0.4,
                "linewidth": 0.7,
                "shrinkA": 0,
                "shrinkB": 3,
                "relpos": (0, 0.5),
            },
        )


@rc_context(STYLE)
def gpu_hours(frame: pd.DataFrame, what: str) -> Picture:
    """GPU hours of a run per student and method.

    Hours that are estimated from counts have whiskers at half and twice their value.

    Args:
        frame: of ``cost.costs``, for one number of GPUs; its last method is drawn green.
        what: the label of the axis.
    """
    students, methods = frame.student.unique().tolist(), frame.method.unique().tolist()
    figure, ((ax,),) = new_figure(1, 1, (7.6, 1.0 + 0.25 * len(students) * len(methods)))
    height, shades = 0.8 / len(methods), [GREY, BLUE, ORANGE][: len(methods) - 1]
    for k, (method, color) in enumerate(zip(methods, [*shades, GREEN], strict=True)):
        runs = frame[frame.method == method].set_index("student").reindex(students)
        hours = (runs.hours * runs.gpus).tolist()
        places = [i + (k - (len(methods) - 1) / 2) * height for i in range(len(students))]
        spread = [
            [h / 2 if source == "counted" else 0 for h, source in zip(hours, runs.source, strict=True)],
            [h if source == "counted" else 0 for h, source in zip(hours, runs.source, strict=True)],
        ]
        ax.barh(
            places,
            hours,
            height,
            color=color,
            label=method_label(method),
            xerr=spread,
            error_kw={"elinewidth": 0.8, "alpha": 0.5},
        )
    plain_axes(ax, "x")
    ax.set_yticks(range(len(students)), students)
    ax.invert_yaxis()
    ax.set_xlabel(what)
    legend_above(figure, [ax])
    figure.alt = f"{what}: " + listed(
        [
            f"{run.student} {method_label(run.method)} {run.hours * run.gpus:.0f}"
            for run in frame.itertuples()
        ],
        most=30,
    )
    return figure


@rc_context(STYLE)
def map_over_images(frame: pd.DataFrame, images: int) -> Picture:
    """mAP over the number of training images (table ``sizes``).

    There is a line per method, with bars of one standard deviation over seeds.

    Args:
        frame: of ``reporting.tables.table``, with the column ``train_share``.
        images: the number of training images at a share of 1.
    """
    students = frame.student.unique().tolist()
    figure, grid = new_figure(1, len(students), (max(3.4 * len(students), 5.6), 3.4), sharey=True)
    for ax, student in zip(grid[0], students, strict=True):
        for method, rows in frame[frame.student == student].groupby("method", sort=False):
            color, dashes = method_style(method)
            ax.errorbar(
                rows.train_share * images,
                rows.mAP,
                rows.mAP_sd if rows.mAP_sd.notna().any() else None,
                color=color,
                linestyle=dashes,
                marker="o",
                markersize=3.5,
                linewidth=1.4,
                capsize=2,
                label=method_label(method),
            )
        plain_axes(ax)
        ax.set_xscale("log", base=2)
        ticks = sorted(frame.train_share.unique() * images)
        ax.set_xticks(ticks, [f"{round(n)}" for n in ticks])
        ax.set_title(student)
        ax.set_xlabel("training images")
    grid[0][0].set_ylabel("mAP")
    legend_above(figure, grid[0])
    figure.alt = "mAP over the number of training images: " + listed(
        [
            f"{student} {method_label(method)} "
            + ", ".join(f"{r.mAP:.1f} with {r.train_share * images:.0f}" for r in rows.itertuples())
            for (student, method), rows in frame.groupby(["student", "method"], sort=False)
        ]
    )
    return figure


@rc_context(STYLE)
def ap_over_iou(frame: pd.DataFrame) -> Picture:
    """Gain over the student's baseline at each IoU, in AP points (Table 5).

    The paper's gain is dashed, the reproduced one solid.

    Args:
        frame: of ``reporting.tables.table``, with the columns AP50 to AP95 and paper_AP50 to paper_AP95.
    """
    students = frame.student.unique().tolist()
    figure, grid = new_figure(1, len(students), (max(3.4 * len(students), 5.6), 3.4), sharey=True)
    drawn: set[str] = set()
    sentences = []
    for ax, student in zip(grid[0], students, strict=True):
        rows = frame[frame.student == student].set_index("method")
        for method in rows.index.drop("baseline", errors="ignore"):
            color, _ = method_style(method)
            for prefix, dashes in (("paper_", "--"), ("", "-")):
                columns = [prefix + iou for iou in IOUS]
                gains = rows.reindex(columns=columns).astype(float).reindex([method, "baseline"])
                change = gains.iloc[0] - gains.iloc[1]
                if change.isna().all():
                    continue
                ax.plot(
                    range(50, 100, 5),
                    change,
                    dashes,
                    color=color,
                    linewidth=1.4,
                    label="" if prefix else method_label(method),
                )
                drawn.add(dashes)
                if not prefix:
                    at = ", ".join(f"{change[f'AP{iou}']:+.1f} at {iou} %" for iou in (50, 75, 90))
                    sentences.append(f"{student} {method_label(method)} {at}")
        plain_axes(ax)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set_title(student)
        ax.set_xlabel("IoU threshold, %")
    grid[0][0].set_ylabel("gain in AP over the baseline, points")
    keys, names = grid[0][0].get_legend_handles_labels()
    for dashes, name in (("--", "paper"), ("-", "reproduced")):
        if dashes in drawn:
            keys.append(Line2D([], [], color="black", linestyle=dashes))
            names.append(name)
    show_legend(figure, keys, names)
    figure.alt = "Reproduced gain in AP over the baseline at each IoU: " + listed(sentences)
    return figure
