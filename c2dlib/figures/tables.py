"""Tables as figures: gains over the baseline, over cost, over IoU, over the number of images; GPU hours."""

from __future__ import annotations

from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from c2dlib.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PAPER,
    STYLE,
    AtDrawing,
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
    gains = frame.groupby("method").gain.count()
    methods = [m for m in frame.method.unique() if not m.startswith("baseline") or gains[m]]
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
                why = row.status.split(":")[0]
                if row.status == "done":  # its baseline may have another device or other initial weights
                    why = "no baseline" if pd.isna(base.mAP) else "not comparable"
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

    The unit of time is a step of the plain student. Each point has a number, which the key beside it names.

    Args:
        frame: of ``reporting.tables.table``; rows without a gain or a time are named below. C2D and its sums
            are green triangles, the label control is a grey square, other methods are blue dots.
    """
    every = frame[frame.method != "baseline"]
    frame = every[every.gain.notna() & every.relative_seconds.notna()]
    students = frame.student.unique().tolist()
    if not students:
        figure, ((ax,),) = new_figure(1, 1, (5, 1))
        figure.alt = "no row has both a gain and a time"
        ax.set_axis_off()
        ax.text(0.5, 0.5, figure.alt, ha="center")
        return figure
    columns = min(len(students), 2)
    lines = [students[i : i + columns] for i in range(0, len(students), columns)]
    tall = [max(2.6, *(1.2 + 0.19 * sum(frame.student == s) for s in line)) for line in lines]
    figure, grid = new_figure(len(lines), columns, (4.2 * columns + 0.3, sum(tall)), height_ratios=tall)
    axes = [ax for row in grid for ax in row]
    for ax, student in zip(axes, students, strict=False):
        rows = frame[frame.student == student].sort_values("gain", ascending=False)
        for number, row in enumerate(rows.itertuples(), 1):
            name = method_label(row.method)
            color, marker = (
                (GREEN, "^") if name.startswith("C2D") else (GREY, "s") if name == CONTROL else (BLUE, "o")
            )
            ax.plot(
                row.relative_seconds,
                row.gain,
                marker,
                color=color,
                markersize=5,
                label=f"{number}  {name}",
                zorder=3,
            )
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
        ax.margins(x=0.12, y=0.1)
        ax.locator_params(axis="x", nbins=5)
        _numbers(ax, list(zip(rows.relative_seconds, rows.gain, strict=True)))
        ax.legend(
            loc="upper left",
            bbox_to_anchor=(1, 1),
            labelspacing=0.25,
            handlelength=1,
            handletextpad=0.4,
            borderaxespad=0,
        )
        ax.set_title(student)
    for ax in axes[len(students) :]:
        ax.set_axis_off()
    missing = _without_gain_or_time(every)
    wrapped = [fill(sentence, 105) for sentence in missing]
    figure.supxlabel("\n".join(["time of a training step, plain student = 1", *wrapped]))
    figure.supylabel("gain over the baseline, mAP points")
    shown = listed(
        [
            f"{row.student} {method_label(row.method)} {row.gain:+.1f} at {row.relative_seconds:.1f}"
            for row in frame.itertuples()
        ],
        most=30,
    )
    figure.alt = ". ".join([f"Gain in mAP against the time of a training step: {shown}", *missing])
    return figure


def _without_gain_or_time(frame: pd.DataFrame) -> list[str]:
    """``Not drawn, without a gain: KD (A, B)``: the rows that have no point, by what they lack."""
    sentences = []
    for what, lacking in (
        ("gain", frame.gain.isna()),
        ("measured time", frame.gain.notna() & frame.relative_seconds.isna()),
    ):
        students = frame[lacking].groupby("method", sort=False).student.agg(lambda of: ", ".join(of.unique()))
        if len(students):
            rows = "; ".join(f"{method_label(method)} ({of})" for method, of in students.items())
            sentences.append(f"Not drawn, without a {what}: {rows}")
    return sentences


def _numbers(ax: Axes, points: list[tuple[float, float]]) -> None:
    """A number beside each point, from 1; none covers a point or another number while there is room.

    Of several points the nearest to a number is its own.
    """
    numbers = [
        ax.text(
            *point,
            str(number),
            va="bottom",
            zorder=4,
            in_layout=False,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )
        for number, point in enumerate(points, 1)
    ]

    def place(renderer: RendererBase) -> None:
        centers = ax.transData.transform(points)
        marker = renderer.points_to_pixels(4)  # half of its side, and a gap
        taken = [Bbox([center - marker, center + marker]) for center in centers]
        for i, text in enumerate(numbers):
            extent = text.get_window_extent(renderer)
            places = _around(centers[i], extent.width, extent.height, marker)
            own = places[int(np.argmin([_clashes(box, centers[i], centers, taken) for box in places]))]
            taken.append(own)
            text.set_position(ax.transData.inverted().transform(own.p0))

    AtDrawing(ax, place)


def _around(center: np.ndarray, width: float, height: float, gap: float) -> list[Bbox]:
    """Boxes of a size around a point, right of it first, from the nearest on."""
    boxes = []
    for ring in (1, 1.8, 2.6, 3.4):
        for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            middle = center + np.array([x * (gap * ring + width / 2), y * (gap * ring + height / 2)])
            boxes.append(Bbox.from_bounds(*(middle - np.array([width, height]) / 2), width, height))
    return boxes


def _clashes(box: Bbox, own: np.ndarray, centers: np.ndarray, taken: list[Bbox]) -> int:
    """How many points and numbers a number in a box covers; one more if another point is nearer to it."""
    middle = (box.p0 + box.p1) / 2
    distances = np.hypot(*(centers - middle).T)
    return box.count_overlaps(taken) + bool(distances.min() < np.hypot(*(own - middle)))


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

    Both lines are the method's own; the paper's is thin, with circles, the reproduced one is thick.

    Args:
        frame: of ``reporting.tables.table``, with the columns AP50 to AP95 and paper_AP50 to paper_AP95.
    """
    students = frame.student.unique().tolist()
    figure, grid = new_figure(1, len(students), (max(3.4 * len(students), 5.6), 3.4), sharey=True)
    looks = {
        "paper": {"linewidth": 0.9, "marker": "o", "markersize": 4, "markerfacecolor": "white"},
        "reproduced": {"linewidth": 1.8},
    }
    methods: dict[str, Line2D] = {}
    drawn: set[str] = set()
    sentences = []
    for ax, student in zip(grid[0], students, strict=True):
        rows = frame[frame.student == student].set_index("method")
        for method in rows.index.drop("baseline", errors="ignore"):
            color, dashes = method_style(method)
            for source, prefix in (("paper", "paper_"), ("reproduced", "")):
                columns = [prefix + iou for iou in IOUS]
                gains = rows.reindex(columns=columns).astype(float).reindex([method, "baseline"])
                change = gains.iloc[0] - gains.iloc[1]
                if change.isna().all():
                    continue
                ax.plot(range(50, 100, 5), change, linestyle=dashes, color=color, **looks[source])
                methods.setdefault(
                    method_label(method), Line2D([], [], color=color, linestyle=dashes, linewidth=1.8)
                )
                drawn.add(source)
                if not prefix:
                    at = ", ".join(f"{change[f'AP{iou}']:+.1f} at {iou} %" for iou in (50, 75, 90))
                    sentences.append(f"{student} {method_label(method)} {at}")
        plain_axes(ax)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set_title(student)
        ax.set_xlabel("IoU threshold, %")
    grid[0][0].set_ylabel("gain in AP over the baseline, points")
    sources = {name: Line2D([], [], color="black", **look) for name, look in looks.items() if name in drawn}
    keys = methods | sources
    show_legend(figure, list(keys.values()), list(keys), 3)
    figure.alt = "Reproduced gain in AP over the baseline at each IoU: " + listed(sentences)
    return figure
