"""TIDE's errors: their cost over IoU, per type, per class, and single errors on their images (Figure 3)."""

from __future__ import annotations

from textwrap import fill

import pandas as pd
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from torch import Tensor

from c2dlib.config.methods import canonical
from c2dlib.evaluation.tide import MEANING, TYPES, ErrorExample
from c2dlib.figures.images import draw_boxes, show_image
from c2dlib.figures.style import (
    BLUE,
    GREEN,
    LIGHT_BLUE,
    ORANGE,
    PAGE,
    PINK,
    RED,
    STYLE,
    Picture,
    legend_above,
    listed,
    method_style,
    new_figure,
    plain_axes,
    show_legend,
)
from c2dlib.reporting.labels import method_label

TYPE_STYLES = dict(
    zip(
        TYPES,
        [(BLUE, "o"), (RED, "D"), (PINK, "s"), (ORANGE, "^"), (GREEN, "v"), (LIGHT_BLUE, "P")],
        strict=True,
    )
)
LOW = 0.1  # share of the highest bar: error types that are lower are too low to be read
SPREAD = 0.6  # share of a class's line over which the marks of its error types are spread
SMALL = 1.0  # AP points: error types that change by less in every class are named and not drawn


@rc_context(STYLE)
def errors_over_iou(by_iou: pd.DataFrame, types: tuple[str, ...] = ("Cls", "Loc")) -> Picture:
    """Cost of classification and localisation errors at each IoU, in AP points (Figure 3).

    A line is the mean over seeds, a dot is one run.

    Args:
        by_iou: TIDE errors of every run, the first frame of ``errors.gather``.
        types: error types, a row of panels each.
    """
    students = by_iou.student.unique().tolist()
    size = (max(2.4 * len(students) + 0.6, 5), 2.3 * len(types) + 0.7)
    figure, grid = new_figure(len(types), max(len(students), 1), size, sharex=True, sharey="row")
    for axes, kind in zip(grid, types, strict=True):
        axes[0].set_ylabel(f"cost of {kind} errors, AP points")
        for ax, student in zip(axes, students, strict=False):
            plain_axes(ax)
            for method, runs in by_iou[by_iou.student == student].groupby("method", sort=False):
                color, dashes = method_style(method)
                mean = runs.groupby("IoU")[kind].mean()
                ax.plot(
                    mean.index, mean, color=color, linestyle=dashes, linewidth=1.5, label=method_label(method)
                )
                if runs.seed.nunique() > 1:
                    ax.plot(runs.IoU, runs[kind], ".", color=color, markersize=2.5, alpha=0.6)
        axes[0].set_ylim(bottom=0)  # the row shares its axis: set after all panels are drawn
    for column, student in enumerate(students):
        grid[0][column].set_title(student)
    figure.supxlabel("IoU threshold, %")
    legend_above(figure, grid[0])
    sentences = []
    for kind, iou in zip(types, (50, 90), strict=False):
        at_iou = by_iou[by_iou.IoU == iou]
        sentences += [
            f"{s}, {kind} at {iou} %: {_means(at_iou[at_iou.student == s], kind)}." for s in students
        ]
    figure.alt = " ".join([f"Cost of {' and '.join(types)} errors over the IoU threshold.", *sentences])
    return figure


def _means(runs: pd.DataFrame, column: str) -> str:
    """``baseline 70.1, KDcls 64.0``: the means over seeds."""
    means = runs.groupby("method", sort=False)[column].mean().dropna()
    return ", ".join(f"{method_label(method)} {value:.1f}" for method, value in means.items())


@rc_context(STYLE)
def change_over_iou(lines: pd.DataFrame, what: str) -> Picture:
    """Change against the baseline at each IoU, its 95 % interval over seeds as a band; a panel per student.

    Students without a measurement have no panel.

    Args:
        lines: ``errors.differences`` of one type.
        what: the label of the axis.
    """
    measured = lines[lines.dAP.notna()]
    students = measured.student.unique().tolist()
    figure, grid = new_figure(1, max(len(students), 1), (max(2.4 * len(students) + 0.6, 5), 3.4), sharey=True)
    sentences = []
    for ax, student in zip(grid[0], students, strict=False):
        plain_axes(ax)
        ax.axhline(0, color="black", linewidth=0.8)
        of_student = measured[(measured.student == student) & (measured.method != "baseline")]
        for method, rows in of_student.groupby("method", sort=False):
            color, dashes = method_style(method)
            change = (
                rows.set_index("IoU").reindex(columns=["change", "change_low", "change_high"]).astype(float)
            )
            ax.plot(
                change.index,
                change.change,
                color=color,
                linestyle=dashes,
                linewidth=1.5,
                label=method_label(method),
            )
            ax.fill_between(
                change.index, change.change_low, change.change_high, color=color, alpha=0.12, linewidth=0
            )
            if change.change.notna().any():
                most = change.change.abs().idxmax()
                sentences.append(f"{student} {method_label(method)} {change.change[most]:+.1f} at {most} %")
        ax.set_title(student)
    if students:
        grid[0][0].set_ylabel(what)
        figure.supxlabel("IoU threshold, %")
        legend_above(figure, grid[0])
        figure.alt = f"{what}, over the IoU threshold. Largest change: {listed(sentences, 24)}."
    else:
        figure.alt = _nothing(grid[0][0], f"{what}: not measured in these runs")
    return figure


def _nothing(ax: Axes, why: str) -> str:
    """A figure that only says why it is empty."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, why, ha="center", wrap=True)
    return why


@rc_context(STYLE)
def error_bars(by_iou: pd.DataFrame, iou: int = 50) -> Picture:
    """Cost of all six error types at one IoU (the supplement's figure): a bar per method, a dot per seed.

    Of bars that are too low to be read the range of their methods is written: above them or, if a type is
    that low with every student, below the panel.

    Args:
        by_iou: TIDE errors of every run, the first frame of ``errors.gather``.
        iou: the IoU threshold, in percent.
    """
    at_iou = by_iou[by_iou.IoU == iou]
    students, methods = at_iou.student.unique().tolist(), at_iou.method.unique().tolist()
    most = max(at_iou[TYPES].max(axis=None), 0.1) if len(at_iou) else 0.1
    highest = at_iou.groupby(["student", "method"])[TYPES].mean().max()
    shown = [kind for kind in TYPES if highest[kind] >= LOW * most] or TYPES
    columns = min(max(len(students), 1), 4 if len(shown) <= 2 else 2)
    rows = max(-(-len(students) // columns), 1)
    width = min(4.35, max(2.1, 0.5 + 0.7 * len(shown)) if columns > 2 else 4.35)
    figure, grid = new_figure(rows, columns, (width * columns + 0.3, 2.6 * rows + 0.9), sharey=True)
    axes = [ax for row in grid for ax in row]
    for ax, student in zip(axes, students, strict=False):
        plain_axes(ax, "y")
        of_student = at_iou[at_iou.student == student]
        means = of_student.groupby("method", sort=False)[TYPES].mean().reindex(methods)
        ranges = {kind: _range(of_student, kind) for kind in TYPES if means[kind].max() < LOW * most}
        for i, method in enumerate(methods):
            runs = of_student[of_student.method == method]
            color, dashes = method_style(method)
            places = [x + (i + 0.5) / len(methods) * 0.84 - 0.42 for x in range(len(shown))]
            ax.bar(
                places,
                means.loc[method, shown],
                0.8 / len(methods),
                color=color,
                label=method_label(method),
                hatch="///" if dashes == "--" else None,
                edgecolor="white",
                linewidth=0.4,
            )
            if len(runs) > 1:
                for x, kind in zip(places, shown, strict=True):
                    if kind not in ranges:
                        ax.plot(
                            [x] * len(runs),
                            runs[kind],
                            "o",
                            color="black",
                            markeredgecolor="white",
                            markeredgewidth=0.6,
                            markersize=3,
                        )
        for x, kind in enumerate(shown):
            if kind in ranges:
                ax.text(x, of_student[kind].max() + 0.03 * most, ranges[kind], ha="center", va="bottom")
        ax.set(ylim=(0, 1.05 * most), xticks=range(len(shown)), xticklabels=shown, title=student)
        below = [
            f"{kind} {ranges[kind]}".replace(" ", "\N{NO-BREAK SPACE}") for kind in TYPES if kind not in shown
        ]
        ax.set_xlabel(fill(", ".join(below), int(11 * width)))
    for ax in axes[len(students) :]:
        ax.set_axis_off()
    if students:
        figure.supylabel(f"cost at IoU {iou / 100:.2f}, AP points")
        if len(shown) < len(TYPES):
            below = "below a panel: types that are too low to draw, with the range of their methods"
            figure.supxlabel(fill(below, int(12 * width * columns)))
    legend_above(figure, axes)
    figure.alt = f"Cost of six types of error at IoU {iou / 100:.2f}, in AP points. " + " ".join(
        f"{student}: "
        + "; ".join(f"{kind} {_range(at_iou[at_iou.student == student], kind, ' to ')}" for kind in TYPES)
        + "."
        for student in students
    )
    return figure


def _range(runs: pd.DataFrame, kind: str, between: str = "–") -> str:
    """``0.2–0.3``: from the lowest to the highest mean of a method; a number alone if both are the same."""
    means = runs.groupby("method")[kind].mean()
    return between.join(dict.fromkeys(f"{value:.1f}" for value in (means.min(), means.max())))


@rc_context(STYLE)
def errors_per_class(by_class: pd.DataFrame, method: str, other: str = "baseline") -> Picture:
    """Change in the cost of the error types per class, from ``other`` to ``method``; a panel per student.

    A mark left of zero is a lower cost; changes below half of ``SMALL`` points have none. Types that change
    by less than ``SMALL`` points in every class are named below instead.

    Args:
        by_class: TIDE errors per class at IoU 0.50, the second frame of ``errors.gather``. The figure shows
            means over seeds, in AP points.
    """
    by_class = by_class.assign(method=by_class.method.map(canonical))
    method, other = canonical(method), canonical(other)
    students = [
        s for s, runs in by_class.groupby("student", sort=False) if {method, other} <= set(runs.method)
    ]
    classes = by_class["class"].unique().tolist()
    size = (PAGE, 1.6 + 0.21 * len(classes))
    figure, grid = new_figure(1, max(len(students), 1), size, sharex=True, sharey=True)
    what = f"{method_label(method)} − {method_label(other)}"
    if not students:
        names = f"{method_label(method)} and {method_label(other)}"
        figure.alt = _nothing(grid[0][0], f"no student has runs of both {names}")
        return figure
    change = {
        s: (_mean_errors(by_class, s, method) - _mean_errors(by_class, s, other)).reindex(classes)
        for s in students
    }
    most = pd.concat(change.values())[TYPES].abs().max()
    drawn = [kind for kind in TYPES if most[kind] >= SMALL] or [str(most.idxmax())]
    for ax, student in zip(grid[0], students, strict=True):
        plain_axes(ax)
        ax.axvline(0, color="black", linewidth=0.8)
        for place, kind in reversed(list(enumerate(drawn))):
            color, marker = TYPE_STYLES[kind]
            below = SPREAD * (place - (len(drawn) - 1) / 2) / max(len(drawn) - 1, 2)
            values = change[student][kind]
            ax.plot(
                values.where(values.abs() >= SMALL / 2),
                [y + below for y in range(len(classes))],
                marker,
                color=color,
                markeredgecolor="white",
                markeredgewidth=0.5,
                markersize=6,
                label=f"{kind} ({MEANING[kind]})",
            )
        ax.set_yticks(range(len(classes)), classes, parse_math=False)
        ax.set(ylim=(len(classes) - 0.4, -0.6), title=student)
        ax.tick_params(axis="y", length=0)
    rest = [kind for kind in TYPES if kind not in drawn]
    small = f"; {', '.join(rest)}: less than {SMALL:g} point in every class" if rest else ""
    figure.supxlabel(f"change in cost, {what}, AP points (from {SMALL / 2:g} on){small}")
    legend_above(figure, grid[0], 3, order=tuple(f"{kind} ({MEANING[kind]})" for kind in TYPES))
    figure.alt = f"Change in the cost of errors per class, {what}{small}. " + " ".join(
        f"{student}: "
        + "; ".join(f"{kind} {frame[kind].min():+.1f} to {frame[kind].max():+.1f}" for kind in drawn)
        + "."
        for student, frame in change.items()
    )
    return figure


def _mean_errors(by_class: pd.DataFrame, student: str, method: str) -> pd.DataFrame:
    """Class x error type, the mean over seeds."""
    runs = by_class[(by_class.student == student) & (by_class.method == method)]
    return runs.groupby("class", sort=False)[TYPES].mean()


@rc_context(STYLE)
def error_examples(
    images: dict[int, Tensor], examples: list[ErrorExample], names: dict[int, str], title: str
) -> Picture:
    """Single errors: the detection in dashed red with class and score, the object it concerns in blue.

    Args:
        images: image id -> [3, H, W], uint8 or 0..1.
        examples: what to show, a panel each.
        names: category id -> name.
    """
    columns = max(min(len(examples), 4), 1)
    rows = max(-(-len(examples) // columns), 1)
    side = min(2.9, PAGE / columns)
    figure, grid = new_figure(rows, columns, (max(side * columns, 5.6), (side + 0.3) * rows + 0.6))
    axes = [ax for line in grid for ax in line]
    for ax in axes[len(examples) :]:
        ax.set_axis_off()
    sentences = []
    for ax, one in zip(axes, examples, strict=False):
        show_image(ax, images[one.image_id])
        shown = [
            (box, names[category] + score, color, who)
            for box, category, score, color, who in (
                (one.truth_box, one.truth_category_id, "", BLUE, "true"),
                (one.box, one.category_id, f" {one.score or 0:.2f}", RED, "detected"),
            )
            if box is not None
        ]
        corners = [[x, y, x + width, y + height] for (x, y, width, height), *_ in shown]
        draw_boxes(
            ax, torch.tensor(corners), [text for _, text, *_ in shown], [color for _, _, color, _ in shown]
        )
        words = [f"{who} {text}" for _, text, _, who in shown]
        where = f"image {one.image_id}" + ("" if one.iou is None else f", IoU {one.iou:.2f}")
        ax.set_title(where, fontsize=STYLE["font.size"])
        sentences.append(f"{where}: {', '.join(words)}")
    show_legend(
        figure,
        [Line2D([], [], color=BLUE), Line2D([], [], color=RED, linestyle="--")],
        ["ground truth", "detection"],
        title=title,
    )
    figure.alt = f"{title}. {'; '.join(sentences)}".rstrip()
    return figure
