"""Tables as figures: gains over the baseline, over cost, over IoU, over the number of images; GPU hours."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from c2dlib.figures.style import (
    BLUE,
    GREEN,
    GREY,
    LIGHT_BLUE,
    PAPER,
    legend_below,
    method_style,
    new_figure,
    plain_axes,
)
from c2dlib.reporting.labels import frame_labels, method_label
from c2dlib.reporting.work_list import CONTROL, IOUS


def table_bars(frame: pd.DataFrame) -> Figure:
    """Gain in mAP over the student's baseline: the paper's, and the reproduced one with its 95 % interval.

    Args:
        frame: of ``reporting.tables.table``. A row without a reproduced number says why.
    """
    frame = frame.assign(method=frame_labels(frame))
    students = frame.student.unique().tolist()
    gains = frame.groupby("method").gain.count()
    methods = [m for m in frame.method.unique() if not m.startswith("baseline") or gains[m]]
    size = (
        max(2.0 * len(students) + 1, 4.5) + 0.05 * max(map(len, methods), default=0),
        1.6 + 0.42 * max(len(methods), 1),
    )
    figure, grid = new_figure(1, len(students), size, sharex=True, sharey=True)
    for ax, student in zip(grid[0], students, strict=True):
        rows = frame[frame.student == student].set_index("method")
        base = rows.reindex(["baseline"]).iloc[0]  # all NaN if the frame has no such row
        for y, method in ((y, m) for y, m in enumerate(methods) if m in rows.index):
            row = rows.loc[method]
            if pd.notna(gain := row.paper_mAP - base.paper_mAP):
                ax.barh(y - 0.19, gain, 0.34, **PAPER)
            if pd.isna(row.get("gain")):
                why = "no baseline" if row.status == "done" else row.status.split(":")[0]
                ax.annotate(
                    why,
                    (0, y + 0.19),
                    (4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=7,
                    color="#595959",
                    style="italic",
                )
                continue
            ax.barh(y + 0.19, row.gain, 0.34, color=BLUE)
            if pd.notna(row.gain_low):
                ax.plot([row.gain_low, row.gain_high], [y + 0.19] * 2, color="black", marker="|")
        plain_axes(ax)
        ax.axvline(0, color="black", linewidth=0.8)
        values = ["–" if pd.isna(v) else f"{v:.1f}" for v in (base.paper_mAP, base.mAP)]
        ax.set_title(f"{student}\n{values[0]} | {values[1]}", fontsize=9)
        ax.set(yticks=range(len(methods)), yticklabels=methods, ylim=(max(len(methods), 1) - 0.4, -0.6))
    keys = [Patch(**PAPER), Patch(color=BLUE), plt.Line2D([], [], color="black", marker="|")]
    figure.legend(
        keys,
        ["paper", "reproduced", "95 % interval over seeds"],
        loc="outside upper center",
        ncols=3,
        fontsize=8,
        frameon=False,
    )
    figure.supxlabel(
        "gain over the baseline, mAP points (above: baseline mAP, paper | reproduced)", fontsize=8
    )
    return figure


def gain_over_cost(frame: pd.DataFrame) -> Figure:
    """Gain in mAP, with 95 % intervals over seeds, against the time of a training step; a panel per student.

    The unit of time is a step of the plain student.

    Args:
        frame: of ``reporting.tables.table``; rows without a gain or a time are left out. C2D and its sums are
            green, the label control is grey.
    """
    frame = frame[frame.gain.notna() & frame.relative_seconds.notna()]
    students = frame.student.unique().tolist() or ["no row has both"]
    columns = min(len(students), 3)
    tall = 2.6 + 0.1 * frame.student.value_counts().max() if len(frame) else 2.6
    figure, grid = new_figure(
        -(-len(students) // columns), columns, (4.0 * columns, tall * -(-len(students) // columns))
    )
    axes = [ax for row in grid for ax in row]
    for ax, student in zip(axes, students, strict=False):
        rows = frame[frame.student == student].sort_values("gain")
        names = [method_label(method) for method in rows.method]
        colors = [GREEN if name.startswith("C2D") else GREY if name == CONTROL else BLUE for name in names]
        for row, color in zip(rows.itertuples(), colors, strict=True):
            ax.plot(row.relative_seconds, row.gain, "o", color=color, markersize=4)
            if pd.notna(row.gain_low):
                ax.plot(
                    [row.relative_seconds] * 2,
                    [row.gain_low, row.gain_high],
                    color=color,
                    alpha=0.3,
                    linewidth=1,
                )
        plain_axes(ax)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.margins(x=0.08, y=0.1)
        ax.locator_params(axis="x", nbins=5)
        _names_beside(ax, names, rows.relative_seconds.tolist(), rows.gain.tolist(), colors)
        ax.set_title(student, fontsize=9)
    for ax in axes[len(students) :]:
        ax.set_axis_off()
    figure.get_layout_engine().set(w_pad=0.12)  # room for the names beside the axes
    figure.supxlabel("time of a training step, plain student = 1", fontsize=8)
    figure.supylabel("gain over the baseline, mAP points", fontsize=8)
    return figure


def _names_beside(ax: Axes, names: list[str], xs: list[float], ys: list[float], colors: list[str]) -> None:
    """A name per point, ys rising, in a column right of the axes; evenly spaced where they would overlap."""
    low, high = ax.get_ylim()
    step, right = 1 / max(len(names) + 1, 12), ax.get_xlim()[1]
    ax.set(ylim=(low, high), xlim=(ax.get_xlim()[0], right))
    places, floor = [], 0.0
    for y in ys:  # from the bottom up, and then from the top down
        floor = max((y - low) / (high - low), floor)
        places.append(floor)
        floor += step
    ceiling = 1.0
    for i in reversed(range(len(places))):
        places[i] = ceiling = min(places[i], ceiling)
        ceiling -= step
    for name, x, y, color, place in zip(names, xs, ys, colors, places, strict=True):
        ax.annotate(
            name,
            (x, y),
            (1.02, place),
            textcoords="axes fraction",
            fontsize=7,
            color=color,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "alpha": 0.3, "linewidth": 0.6},
        )


def gpu_hours(frame: pd.DataFrame, what: str) -> Figure:
    """GPU hours of a run per student and method.

    Hours that are estimated from counts have whiskers at half and twice their value.

    Args:
        frame: of ``cost.costs``, for one number of GPUs; its last method is drawn green.
        what: the label of the axis.
    """
    students, methods = frame.student.unique().tolist(), frame.method.unique().tolist()
    figure, ((ax,),) = new_figure(1, 1, (7.0, 0.9 + 0.27 * len(students) * len(methods)))
    height, shades = 0.8 / len(methods), [GREY, BLUE, LIGHT_BLUE][: len(methods) - 1]
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
    plain_axes(ax)
    ax.grid(axis="y", visible=False)
    ax.set_yticks(range(len(students)), students)
    ax.invert_yaxis()
    ax.set_xlabel(what, fontsize=8)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    return figure


def map_over_images(frame: pd.DataFrame, images: int) -> Figure:
    """mAP over the number of training images (table ``sizes``).

    There is a line per method, with bars of one standard deviation over seeds.

    Args:
        frame: of ``reporting.tables.table``, with the column ``train_share``.
        images: the number of training images at a share of 1.
    """
    students = frame.student.unique().tolist()
    figure, grid = new_figure(1, len(students), (max(3.4 * len(students), 5), 3.4), sharey=True)
    for ax, student in zip(grid[0], students, strict=True):
        for method, rows in frame[frame.student == student].groupby("method", sort=False):
            color, dashes = method_style(method)
            ax.errorbar(
                rows.train_share * images,
                rows.mAP,
                rows.mAP_sd.fillna(0),
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
        ax.set_title(student, fontsize=9)
        ax.set_xlabel("training images", fontsize=8)
    grid[0][0].set_ylabel("mAP", fontsize=8)
    legend_below(figure, grid[0][0])
    return figure


def ap_over_iou(frame: pd.DataFrame) -> Figure:
    """Gain over the student's baseline at each IoU, in AP points (Table 5).

    The paper's gain is dashed, the reproduced one solid.

    Args:
        frame: of ``reporting.tables.table``, with the columns AP50 to AP95 and paper_AP50 to paper_AP95.
    """
    students = frame.student.unique().tolist()
    figure, grid = new_figure(1, len(students), (max(3.4 * len(students), 5), 3.4), sharey=True)
    for ax, student in zip(grid[0], students, strict=True):
        rows = frame[frame.student == student].set_index("method")
        for method in rows.index.drop("baseline", errors="ignore"):
            color, _ = method_style(method)
            for prefix, dashes in (("paper_", "--"), ("", "-")):
                columns = [prefix + iou for iou in IOUS]
                gains = rows.reindex(columns=columns).astype(float).reindex([method, "baseline"])
                ax.plot(
                    range(50, 100, 5),
                    gains.iloc[0] - gains.iloc[1],
                    dashes,
                    color=color,
                    linewidth=1.4,
                    label="" if prefix else method_label(method),
                )
        plain_axes(ax)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set_title(student, fontsize=9)
        ax.set_xlabel("IoU threshold, %", fontsize=8)
    grid[0][0].set_ylabel("gain in AP over the baseline, points", fontsize=8)
    keys, names = grid[0][0].get_legend_handles_labels()
    keys += [plt.Line2D([], [], color="black", linestyle=dashes) for dashes in ("--", "-")]
    figure.legend(
        keys, [*names, "paper", "reproduced"], loc="outside lower center", ncols=3, fontsize=8, frameon=False
    )
    return figure
