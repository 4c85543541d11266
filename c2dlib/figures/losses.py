"""The losses: a crop that moves with its box, gradients on a box, losses over its shift, training curves."""

from __future__ import annotations

from itertools import pairwise

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from c2dlib.config.methods import IMITATIONS, PARTS, canonical
from c2dlib.figures.images import draw_boxes, show_image
from c2dlib.figures.style import BLUE, GREEN, GREY, METHOD_STYLES, RED, new_figure, plain_axes
from c2dlib.records import RunRecord
from c2dlib.reporting.labels import method_label


def moving_crop(image: Tensor, boxes: Tensor, crops: Tensor) -> Figure:
    """A box at several places on an image, from light to dark, and its crop at each.

    Args:
        image: [3, H, W]. boxes: [N, 4] in its pixels. crops: [N, 3, s, s] in 0..255.
    """
    count = len(boxes)
    figure = plt.figure(figsize=(1.5 * count + 3.2, 3.1), dpi=100, layout="constrained")
    plt.close(figure)
    places = figure.add_gridspec(1, count + 2)
    whole = show_image(figure.add_subplot(places[0, :2]), image, torch.zeros(0, 4), [])
    for i, (box, crop) in enumerate(zip(boxes, crops, strict=True)):
        shade = plt.get_cmap("cividis")(1 - i / max(count - 1, 1))
        draw_boxes(whole, box[None], [str(i)], shade, image.shape[-2:])
        ax = show_image(figure.add_subplot(places[0, 2 + i]), crop.clamp(0, 255) / 255, torch.zeros(0, 4), [])
        ax.set_title(str(i), fontsize=9)
        plt.setp(ax.spines.values(), color=shade, linewidth=2.5)
    return figure


def box_gradients(image: Tensor, truth: Tensor, box: Tensor, gradients: dict[str, Tensor]) -> Figure:
    """Minus the gradient of each loss on a predicted box, as an arrow on each of its sides.

    The arrow shows where the loss moves the side.

    Args:
        image: [3, H, W].
        truth, box: [4] xyxy in its pixels.
        gradients: title -> [4]; each panel has its own scale, its longest arrow has a fixed length.
    """
    figure, axes = new_figure(1, len(gradients), (3.1 * len(gradients), 3.4))
    x1, y1, x2, y2 = box.tolist()
    middles = [(x1, (y1 + y2) / 2), ((x1 + x2) / 2, y1), (x2, (y1 + y2) / 2), ((x1 + x2) / 2, y2)]
    for ax, (title, gradient) in zip(axes[0], gradients.items(), strict=True):
        show_image(ax, image, truth[None], ["ground truth"])
        draw_boxes(ax, box[None], ["predicted"], RED, image.shape[-2:])
        scale = 0.18 * image.shape[-1] / gradient.abs().max().clamp(min=1e-12)
        for i, (x, y) in enumerate(middles):
            step = float(-gradient[i] * scale)
            ax.annotate(
                "",
                (x + step, y) if i % 2 == 0 else (x, y + step),
                (x, y),
                annotation_clip=False,
                arrowprops={"arrowstyle": "-|>", "color": "black", "linewidth": 2, "mutation_scale": 12},
            )
        ax.set_title(title, fontsize=9)
    return figure


def losses_over_shift(errors: list[float], values: dict[str, list[float]], what: str) -> Figure:
    """Losses over the shift of a box, each divided by its largest value, and below their slopes.

    Args:
        errors: the shifts. values: name of a loss -> its value at each shift. what: the label of the axis.
    """
    figure, axes = new_figure(2, 1, (6.2, 4.6), sharex=True)
    upper, lower = axes[0][0], axes[1][0]
    for (name, row), color in zip(values.items(), (BLUE, GREEN, RED, GREY), strict=False):
        scaled = [v / max(max(row), 1e-12) for v in row]
        slopes = [
            (b - a) / (v - u) for (a, b), (u, v) in zip(pairwise(scaled), pairwise(errors), strict=True)
        ]
        upper.plot(errors, scaled, color=color, label=name, linewidth=1.6)
        lower.plot([(a + b) / 2 for a, b in pairwise(errors)], slopes, color=color, linewidth=1.2)
    plain_axes(upper)
    plain_axes(lower)
    lower.axhline(0, color="black", linewidth=0.8)
    upper.set_ylabel("loss / its largest value", fontsize=8)
    lower.set_ylabel("slope", fontsize=8)
    lower.set_xlabel(what, fontsize=8)
    upper.legend(fontsize=8, frameon=False)
    return figure


def training_curves(records: list[RunRecord], names: dict[str, str] | None = None) -> Figure:
    """Losses along training, a line per run: above the detector's own, below the distillation terms.

    An axis is logarithmic where its values differ by a factor above 100.

    Args:
        records: finished runs.
        names: experiment hash -> the run's label, see ``tables.names``; without it, its method.
    """
    students = list(dict.fromkeys(r.student for r in records))
    figure, grid = new_figure(
        2, max(len(students), 1), (max(2.2 * len(students) + 0.6, 5), 4.6), sharex="col"
    )
    lines, styles, imitation_terms = {}, {}, {name.lower() for name in IMITATIONS}
    for record in records:
        name = (names or {}).get(record.hash) or method_label(record.method)
        if name not in styles:
            style = (
                METHOD_STYLES.get(canonical(record.method)) if name == method_label(record.method) else None
            )
            styles[name] = style or (plt.get_cmap("tab20")(len(styles) % 20), "-")
        color, dashes = styles[name]
        added = [k for k in record.curve if k in PARTS or k.split("_")[0] in imitation_terms]
        own = [k for k in record.curve if k not in ("step", *added)]
        for axes, terms in zip(grid, (own, added), strict=True):
            total = [sum(values) for values in zip(*(record.curve[k] for k in terms), strict=True)]
            if total:
                (line,) = axes[students.index(record.student)].plot(
                    record.curve["step"],
                    total,
                    color=color,
                    linestyle=dashes,
                    linewidth=1.3,
                    alpha=0.85,
                    marker="o" if len(total) < 3 else None,
                    markersize=4,
                )
                lines.setdefault(name, line)
    for axes, text in zip(grid, ("detector's losses", "distillation terms"), strict=True):
        axes[0].set_ylabel(text, fontsize=8)
        for ax in axes:
            plain_axes(ax)
            ax.set_xlim(left=0)
            ends = [value for line in ax.lines for value in line.get_ydata() if value > 0]
            if ends and max(ends) > 100 * min(ends):
                ax.set_yscale("log")
    for column, student in enumerate(students):
        grid[0][column].set_title(student, fontsize=9)
        grid[1][column].set_xlabel("step", fontsize=8)
    if lines:
        options = {"ncols": 3, "fontsize": 8, "frameon": False}
        figure.legend(lines.values(), lines.keys(), loc="outside lower center", **options)
    return figure
