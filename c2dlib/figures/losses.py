"""The losses: a crop that moves with its box, gradients on a box, losses over its shift."""

from __future__ import annotations

from itertools import pairwise

from matplotlib import colormaps, rc_context
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from torch import Tensor, stack

from c2dlib.figures.images import draw_boxes, show_image, zoom
from c2dlib.figures.style import (
    BLUE,
    GREEN,
    GREY,
    PAGE,
    RED,
    STYLE,
    Picture,
    new_figure,
    new_picture,
    plain_axes,
    show_legend,
)


@rc_context(STYLE)
def moving_crop(image: Tensor, boxes: Tensor, crops: Tensor) -> Picture:
    """A box at several places on its part of an image, from light to dark, and its crop at each.

    Args:
        image: [3, H, W]. boxes: [N, 4] in its pixels. crops: [N, 3, s, s] in 0..255.
    """
    count = len(boxes)
    figure = new_picture((PAGE, 2 * PAGE / (count + 2) + 0.3))
    places = figure.add_gridspec(1, count + 2)
    whole = show_image(figure.add_subplot(places[0, :2]), image)
    zoom(whole, boxes, image.shape[-2:], 0.25)
    shades = [to_hex(colormaps["plasma"](0.85 * (1 - i / max(count - 1, 1)))) for i in range(count)]
    draw_boxes(whole, boxes, [str(i) for i in range(count)], shades)
    for i, (crop, shade) in enumerate(zip(crops, shades, strict=True)):
        ax = show_image(figure.add_subplot(places[0, 2 + i]), crop.clamp(0, 255) / 255)
        ax.set_title(str(i))
        for side in ax.spines.values():
            side.set(color=shade, linewidth=2.5)
    figure.alt = (
        f"An object with a box at {count} places, each further to one side, and the crop of each box."
    )
    return figure


@rc_context(STYLE)
def box_gradients(image: Tensor, truth: Tensor, box: Tensor, gradients: dict[str, Tensor]) -> Picture:
    """Minus the gradient of each loss on a predicted box, as an arrow on each of its sides.

    The arrow shows where the loss moves the side. The figure shows the part of the image around both boxes.

    Args:
        image: [3, H, W].
        truth, box: [4] xyxy in its pixels.
        gradients: title -> [4]; each panel has its own scale, its longest arrow has a fixed length.
    """
    width = min(3.1, PAGE / len(gradients))
    figure, axes = new_figure(1, len(gradients), (width * len(gradients), width + 0.6))
    x1, y1, x2, y2 = box.tolist()
    middles = [(x1, (y1 + y2) / 2), ((x1 + x2) / 2, y1), (x2, (y1 + y2) / 2), ((x1 + x2) / 2, y2)]
    sides = []
    for ax, (title, gradient) in zip(axes[0], gradients.items(), strict=True):
        show_image(ax, image)
        both = stack([truth, box])
        draw_boxes(ax, both, ["", ""], [BLUE, RED])
        scale = 0.16 * zoom(ax, both, image.shape[-2:]) / gradient.abs().max().clamp(min=1e-12)
        for i, (x, y) in enumerate(middles):
            step = float(-gradient[i] * scale)
            ax.annotate(
                "",
                (x + step, y) if i % 2 == 0 else (x, y + step),
                (x, y),
                annotation_clip=False,
                arrowprops={
                    "arrowstyle": "-|>",
                    "color": "black",
                    "linewidth": 2.2,
                    "mutation_scale": 14,
                    "shrinkA": 0,
                    "shrinkB": 0,
                    "path_effects": [withStroke(linewidth=4, foreground="white")],
                },
            )
        ax.set_title(title)
        towards = sum(float(g * (b - t)) > 0 for g, b, t in zip(gradient, box, truth, strict=True))
        sides.append(f"{title} {towards}")
    show_legend(
        figure,
        [
            Line2D([], [], color=BLUE),
            Line2D([], [], color=RED, linestyle="--"),
            Line2D([], [], color="black", marker=">", markevery=[1]),
        ],
        ["ground truth", "predicted box", "where the loss moves a side"],
    )
    figure.alt = (
        "A predicted box beside the true one, with an arrow per side where a loss moves it. "
        f"Sides moved towards the truth, of four: {', '.join(sides)}."
    )
    return figure


@rc_context(STYLE)
def losses_over_shift(errors: list[float], values: dict[str, list[float]], what: str) -> Picture:
    """Losses over the shift of a box, each divided by its largest value, and below their slopes.

    The title gives each loss's mean slope up to a quarter of the largest shift, and beyond.

    Args:
        errors: the shifts. values: name of a loss -> its value at each shift. what: the label of the axis.
    """
    figure, axes = new_figure(2, 1, (6.4, 5.2), sharex=True)
    upper, lower = axes[0][0], axes[1][0]
    quarter = max(abs(e) for e in errors) / 4
    means = []
    for (name, row), color, line in zip(
        values.items(), (BLUE, GREEN, RED, GREY), ("-", "--", "-.", ":"), strict=False
    ):
        scaled = [v / max(max(row), 1e-12) for v in row]
        middles = [(a + b) / 2 for a, b in pairwise(errors)]
        slopes = [
            (b - a) / (v - u) for (a, b), (u, v) in zip(pairwise(scaled), pairwise(errors), strict=True)
        ]
        upper.plot(errors, scaled, line, color=color, label=name, linewidth=1.8)
        lower.plot(middles, slopes, line, color=color, linewidth=1.4)
        outward = [s if m > 0 else -s for m, s in zip(middles, slopes, strict=True)]
        near, far = (
            [s for m, s in zip(middles, outward, strict=True) if (abs(m) <= quarter) == inside]
            for inside in (True, False)
        )
        means.append(f"{name} {sum(near) / max(len(near), 1):.1f} → {sum(far) / max(len(far), 1):.1f}")
    for ax in (upper, lower):
        plain_axes(ax)
    lower.axhline(0, color="black", linewidth=0.8)
    upper.set_ylabel("loss / its largest value")
    lower.set_ylabel("slope")
    lower.set_xlabel(what)
    upper.legend()
    title = f"Mean outward slope, shift up to {quarter:g} → beyond"
    upper.set_title(f"{title}:\n{', '.join(means)}")
    shown = f"Losses over the {what}, each divided by its largest value, and their slopes."
    figure.alt = f"{shown} {title}: {', '.join(means)}."
    return figure
