"""TIDE's errors: their cost over IoU, per type, per class, and single errors on their images (Figure 3)."""

from __future__ import annotations

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from c2dlib.config.methods import canonical
from c2dlib.evaluation.tide import TYPES, ErrorExample
from c2dlib.figures.images import draw_boxes, show_image
from c2dlib.figures.style import BLUE, RED, legend_below, method_style, new_figure, plain_axes
from c2dlib.reporting.labels import method_label


def errors_over_iou(by_iou: pd.DataFrame, types: tuple[str, ...] = ("Cls", "Loc")) -> Figure:
    """Cost of classification and localisation errors at each IoU, in AP points (Figure 3).

    A line is the mean over seeds, a dot is one run.

    Args:
        by_iou: TIDE errors of every run, the first frame of ``errors.gather``.
        types: error types, a row of panels each.
    """
    students = by_iou.student.unique().tolist()
    size = (max(2.6 * len(students) + 0.6, 5), 2.3 * len(types) + 0.7)
    figure, grid = new_figure(len(types), max(len(students), 1), size, sharex=True, sharey="row")
    for axes, kind in zip(grid, types, strict=True):
        axes[0].set_ylabel(f"{kind} error, AP points", fontsize=8)
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
        grid[0][column].set_title(student, fontsize=9)
        grid[-1][column].set_xlabel("IoU threshold, %", fontsize=8)
    legend_below(figure, grid[0][0])
    return figure


def change_over_iou(lines: pd.DataFrame, what: str) -> Figure:
    """Change against the baseline at each IoU, its 95 % interval over seeds as a band; a panel per student.

    Args:
        lines: ``errors.differences`` of one type.
        what: the label of the axis.
    """
    students = lines.student.unique().tolist()
    figure, grid = new_figure(1, max(len(students), 1), (max(2.9 * len(students) + 0.6, 5), 3.2), sharey=True)
    for ax, student in zip(grid[0], students, strict=False):
        plain_axes(ax)
        ax.axhline(0, color="black", linewidth=0.8)
        for method, rows in lines[(lines.student == student) & (lines.method != "baseline")].groupby(
            "method", sort=False
        ):
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
        if lines[lines.student == student].dAP.isna().all():
            ax.text(
                0.5, 0.6, "not measured", transform=ax.transAxes, ha="center", fontsize=8, color="#595959"
            )
        ax.set_title(student, fontsize=9)
        ax.set_xlabel("IoU threshold, %", fontsize=8)
    grid[0][0].set_ylabel(what, fontsize=8)
    legend_below(figure, grid[0][0])
    return figure


def error_bars(by_iou: pd.DataFrame, iou: int = 50) -> Figure:
    """Cost of all six error types at one IoU (the supplement's figure): a bar per method, a dot per seed.

    The axis is a square root, because one type often costs far more than the others.

    Args:
        by_iou: TIDE errors of every run, the first frame of ``errors.gather``.
        iou: the IoU threshold, in percent.
    """
    at_iou = by_iou[by_iou.IoU == iou]
    students, methods = at_iou.student.unique().tolist(), at_iou.method.unique().tolist()
    figure, grid = new_figure(1, max(len(students), 1), (max(3.0 * len(students) + 0.6, 5), 3.2), sharey=True)
    for ax, student in zip(grid[0], students, strict=False):
        plain_axes(ax)
        for i, method in enumerate(methods):
            runs = at_iou[(at_iou.student == student) & (at_iou.method == method)]
            color, dashes = method_style(method)
            places = [x + (i + 0.5) / len(methods) * 0.84 - 0.42 for x in range(len(TYPES))]
            ax.bar(
                places,
                runs[TYPES].mean(),
                0.8 / len(methods),
                color=color,
                alpha=0.85,
                label=method_label(method),
                hatch="//" if dashes == "--" else None,
                edgecolor="white",
                linewidth=0.4,
            )
            for x, kind in zip(places, TYPES, strict=True):
                if len(runs) > 1:
                    ax.plot([x] * len(runs), runs[kind], ".", color="black", markersize=2.5)
        ax.set_yscale("function", functions=(lambda v: v.clip(0) ** 0.5, lambda v: v**2))
        ax.set_ylim(0, 1.05 * max(at_iou[TYPES].max(axis=None), 0.1))
        ax.set_xticks(range(len(TYPES)), TYPES)
        ax.set_title(student, fontsize=9)
    grid[0][0].set_ylabel(f"cost at IoU {iou / 100:.2f}, AP points (square-root scale)", fontsize=8)
    legend_below(figure, grid[0][0])
    return figure


def errors_per_class(by_class: pd.DataFrame, method: str, other: str = "baseline") -> Figure:
    """Change in the cost of each error type per class, from ``other`` to ``method``; a panel per student.

    Blue is a lower cost, red a higher one.

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
    size = (max(2.7 * len(students) + 1.6, 5), 1.4 + 0.24 * len(classes))
    figure, grid = new_figure(1, max(len(students), 1), size, sharey=True)
    change = {s: _mean_errors(by_class, s, method) - _mean_errors(by_class, s, other) for s in students}
    most = max([1.0, *(frame.abs().max(axis=None) for frame in change.values())])
    for ax, student in zip(grid[0], students, strict=False):
        values = change[student].reindex(classes)
        heat = ax.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
        for (y, x), value in (
            (at, v)
            for at, v in zip(
                ((y, x) for y in range(len(classes)) for x in range(len(TYPES))),
                values.to_numpy().ravel(),
                strict=True,
            )
            if abs(v) >= 0.5
        ):
            ax.text(
                x,
                y,
                f"{value:+.0f}",
                ha="center",
                va="center",
                fontsize=6,
                color="white" if abs(value) > 0.6 * most else "black",
            )
        ax.set_xticks(range(len(TYPES)), TYPES)
        ax.set_yticks(range(len(classes)), classes, parse_math=False)  # a class name may hold dollar signs
        ax.tick_params(labelsize=7)
        ax.set_title(student, fontsize=9)
    if students:
        figure.colorbar(heat, ax=grid[0], shrink=0.8).set_label(
            f"{method_label(method)} − {method_label(other)}, AP points", fontsize=8
        )
    else:
        grid[0][0].set_axis_off()
        grid[0][0].text(
            0.5,
            0.5,
            f"no student has runs of both {method_label(method)} and {method_label(other)}",
            ha="center",
            fontsize=9,
        )
    return figure


def _mean_errors(by_class: pd.DataFrame, student: str, method: str) -> pd.DataFrame:
    """Class x error type, the mean over seeds."""
    runs = by_class[(by_class.student == student) & (by_class.method == method)]
    return runs.groupby("class", sort=False)[TYPES].mean()


def error_examples(
    images: dict[int, Tensor], examples: list[ErrorExample], names: dict[int, str], title: str
) -> Figure:
    """Single errors: the detection in red with label and score, the object it concerns in blue.

    Args:
        images: image id -> [3, H, W], uint8 or 0..1.
        examples: what to show, a panel each.
        names: category id -> name.
    """
    columns = max(min(len(examples), 4), 1)
    rows = max(-(-len(examples) // columns), 1)
    figure, grid = new_figure(rows, columns, (2.7 * columns, 2.9 * rows + 0.4))
    figure.suptitle(title, fontsize=10)
    for ax, one in zip(
        (ax for line in grid for ax in line),
        [*examples, *[None] * (rows * columns - len(examples))],
        strict=True,
    ):
        if one is None:
            ax.set_axis_off()
            continue
        show_image(ax, images[one.image_id], torch.zeros(0, 4), [])
        for box, category, color, more in (
            (one.truth_box, one.truth_category_id, BLUE, ""),
            (one.box, one.category_id, RED, f" {one.score or 0:.2f}"),
        ):
            if box is not None:
                corners = torch.tensor([[box[0], box[1], box[0] + box[2], box[1] + box[3]]])
                draw_boxes(ax, corners, [names[category] + more], color, images[one.image_id].shape[-2:])
        ax.set_title(
            f"image {one.image_id}" + ("" if one.iou is None else f", IoU {one.iou:.2f}"), fontsize=8
        )
    return figure
