"""The teacher: the crops it reads, its class probabilities, confusions, calibration and attention.

A class name is text, whatever dollar signs are in it (``parse_math=False``).
"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib import colormaps, rc_context
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from torch import Tensor

from c2dlib.figures.images import fit_into, show_image
from c2dlib.figures.style import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    PAGE,
    STYLE,
    Picture,
    listed,
    new_figure,
    plain_axes,
)

FEW_CROPS = 20  # a bin with fewer says little


@rc_context(STYLE)
def teacher_view(crops: Tensor, labels: Tensor, probabilities: Tensor, names: list, maps: Tensor) -> Picture:
    """Up to six crops as the teacher reads them; below each, an early map and the five likeliest classes.

    Names that are too long for their place lose their middle.

    Args:
        crops: [G, 3, s, s] in 0..255.
        labels: [G] 0..C-1, the true class: green among the bars.
        probabilities: [G, C], of the teacher.
        maps: [G, C_l, H_l, W_l]; shown is the mean absolute activation over the channels.
    """
    count = min(len(crops), 6)
    width = min(1.9, (PAGE - 0.3) / count)
    figure, axes = new_figure(
        3, count, (max(width * count + 0.3, 4.6), 2 * width + 1.8), height_ratios=[width, width, 1.15]
    )
    for i in range(count):
        show_image(axes[0][i], crops[i].clamp(0, 255) / 255)
        axes[0][i].set_title(names[labels[i]], color=GREEN, parse_math=False)
        axes[1][i].imshow(maps[i].abs().mean(0).cpu().numpy(), cmap="cividis")
        axes[1][i].set(xticks=[], yticks=[])
        best, ax = probabilities[i].topk(min(5, len(names))), axes[2][i]
        ax.barh(
            range(len(best.values)),
            best.values.tolist(),
            height=0.85,
            color=[GREEN if c == labels[i] else FAINT for c in best.indices],
            alpha=0.6,
        )
        lines = [f"{names[c]}  {p:.2f}" for c, p in zip(best.indices, best.values, strict=True)]
        likeliest = [
            ax.text(0.03, y, line, va="center", parse_math=False, in_layout=False)
            for y, line in enumerate(lines)
        ]
        fit_into(ax, likeliest, 0.97)
        fit_into(axes[0][i], [axes[0][i].title])
        ax.set(xlim=(0, 1), yticks=[], xticks=[0, 1], ylim=(len(best.values) - 0.4, -0.6))
    for row, words in zip(axes, ("crop", "early map", "probability"), strict=True):
        row[0].set_ylabel(words)
    figure.alt = "Crops, early feature maps and likeliest classes of the teacher: " + listed(
        [f"{names[labels[i]]} has probability {float(probabilities[i, labels[i]]):.2f}" for i in range(count)]
    )
    return figure


@rc_context(STYLE)
def softened(
    logits: Tensor, labels: Tensor, names: list[str], temperatures: tuple[float, ...] = (1, 2, 4)
) -> Picture:
    """The teacher's class probabilities of one object, softened by rising temperatures.

    The object is the first one whose class the teacher gets right. If there is none, it is the first one, and
    the title says so.

    Args:
        logits: [G, C]. labels: [G] 0..C-1.
    """
    right = (logits.argmax(1) == labels).nonzero().flatten().tolist()
    chosen = right[0] if right else 0
    label = int(labels[chosen])
    figure, axes = new_figure(
        1, len(temperatures), (min(2.5 * len(temperatures) + 1, PAGE), 1.2 + 0.19 * len(names)), sharey=True
    )
    probabilities = [(logits[chosen] / t).softmax(0) for t in temperatures]
    for ax, t, row in zip(axes[0], temperatures, probabilities, strict=True):
        ax.barh(
            range(len(names)), row.tolist(), color=[GREEN if c == label else GREY for c in range(len(names))]
        )
        plain_axes(ax)
        ax.set_yticks(range(len(names)), names, parse_math=False)
        ax.set(xlim=(0, 1), ylim=(len(names) - 0.4, -0.6), xlabel="probability", xticks=[0, 0.5, 1])
        ax.set_title(f"T = {t:g}")
    verdict = "is right" if right else "is wrong here, as on every object of this image"
    title = f"{names[label]} (green): the teacher {verdict}"
    figure.suptitle(title, parse_math=False)
    figure.alt = f"Class probabilities of one object. {title}. Probability of the true class: " + ", ".join(
        f"{float(row[label]):.2f} at T = {t:g}" for t, row in zip(temperatures, probabilities, strict=True)
    )
    return figure


@rc_context(STYLE)
def confusion(
    matrix: Tensor,
    names: list[str],
    title: str = "",
    *,
    crops: list[int] | None = None,
    column: str = "predicted class",
    unit: str = "% of the true class",
) -> Picture:
    """A matrix [C, C] of shares 0..1 in percent, a row per true class.

    Up to 26 classes, each cell from 1 % on also shows its number.

    Args:
        crops: the number of crops of each true class, which then stands behind its name: ``flour (17)``.
        column, unit: what a column is, and what the numbers are.
    """
    count, percent = len(names), 100 * matrix.numpy()
    side = min(2.2 + 0.32 * count, PAGE - 0.9)
    figure, axes = new_figure(1, 1, (side + (0.9 if crops is None else 1.4), side))
    ax = axes[0][0]
    heat = ax.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    if count <= 26:
        for y, x in np.argwhere(percent >= 1):
            color = "white" if percent[y, x] > 60 else "black"
            ax.text(x, y, f"{percent[y, x]:.0f}", ha="center", va="center", color=color)
        ax.set_xticks(range(count), names, rotation=90, parse_math=False)
        rows = names if crops is None else [f"{n} ({of})" for n, of in zip(names, crops, strict=True)]
        ax.set_yticks(range(count), rows, parse_math=False)
    ax.set(xlabel=column, ylabel="true class", title=title)
    figure.colorbar(heat, ax=ax, shrink=0.6).set_label(unit)
    figure.alt = (
        f"Matrix, {unit}: {count} true classes by {column}{f', {title}' if title else ''}. On the diagonal: "
        + listed([f"{name} {percent[i, i]:.0f} %" for i, name in enumerate(names)])
    )
    return figure


@rc_context(STYLE)
def reliability(probabilities: Tensor, labels: Tensor, bins: int = 10) -> Picture:
    """Share of correct predictions over confidence; it is on the diagonal if the teacher is calibrated.

    Below, the number of crops at each confidence. Bars of fewer than ``FEW_CROPS`` crops are pale.

    Args:
        probabilities: [G, C]. labels: [G] 0..C-1.
    """
    confidence, predicted = probabilities.max(1)
    bin_of = (confidence * bins).long().clamp(max=bins - 1)
    correct = (predicted == labels).double()
    size = torch.bincount(bin_of, minlength=bins)
    accuracy = torch.bincount(bin_of, correct, minlength=bins) / size.clamp(min=1)
    figure, axes = new_figure(2, 1, (5.0, 4.8), sharex=True, height_ratios=[2.4, 1])
    upper, lower = axes[0][0], axes[1][0]
    upper.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="calibrated")
    shown = set()
    for b in (b for b in range(bins) if size[b]):
        few = bool(size[b] < FEW_CROPS)
        name = f"fewer than {FEW_CROPS} crops" if few else "share correct"
        upper.bar(
            (b + 0.5) / bins,
            float(accuracy[b]),
            0.92 / bins,
            color=BLUE,
            alpha=0.25 if few else 0.85,
            label=None if name in shown else name,
        )
        shown.add(name)
    lower.bar([(b + 0.5) / bins for b in range(bins)], size.tolist(), 0.92 / bins, color=GREY)
    for ax, words in ((upper, "share correct"), (lower, "crops")):
        plain_axes(ax)
        ax.set_ylabel(words)
    upper.set(xlim=(0, 1), ylim=(0, 1))
    upper.legend(loc="upper left")
    lower.set_xlabel("probability of the predicted class")
    figure.alt = "Reliability diagram. Share correct by confidence: " + listed(
        [
            f"{float(accuracy[b]):.2f} of {int(size[b])} crops at {b / bins:.1f} to {(b + 1) / bins:.1f}"
            for b in range(bins)
            if size[b]
        ]
    )
    return figure


@rc_context(STYLE)
def attention_maps(crops: Tensor, maps: Tensor, titles: list[str]) -> Picture:
    """Crops, and below each its occlusion map on the crop in grey: by how much a covered patch lowers it.

    Brown: covering the place lowers the probability of the class. Purple: covering it raises the probability.
    All maps have one scale.

    Args:
        crops: [G, 3, s, s] in 0..255.
        maps: [G, s, s], of ``teacher.attention``: falls of a probability.
        titles: a text per crop; a line that is wider than the crop loses its middle.
    """
    count = max(len(crops), 1)
    width = min(1.8, (PAGE - 0.9) / count)
    figure, axes = new_figure(2, count, (max(width * count + 0.9, 3.5), 2 * width + 0.7))
    most = float(maps.abs().max().clamp(min=0.01)) if len(maps) else 0.01
    colors = ScalarMappable(Normalize(-most, most), colormaps["PuOr_r"])
    for i in range(len(crops)):
        crop = crops[i].clamp(0, 255) / 255
        show_image(axes[0][i], crop)
        show_image(axes[1][i], 0.5 + 0.5 * crop.mean(0, keepdim=True).expand(3, -1, -1))  # pale and grey
        values = maps[i].numpy()
        axes[1][i].imshow(colors.to_rgba(values), alpha=(np.abs(values) / most) ** 0.5 * 0.85)
        axes[0][i].set_title(titles[i], fontsize=STYLE["font.size"], parse_math=False)
        fit_into(axes[0][i], [axes[0][i].title])
    figure.colorbar(colors, ax=[row[-1] for row in axes], location="right", shrink=0.8).set_label(
        "fall of the probability\nwhen covered"
    )
    figure.alt = (
        "Occlusion maps. The largest fall of the class probability when a patch is covered: "
        + listed(
            [
                f"{title.replace(chr(10), ', ')}: {float(one.max()):.2f}"
                for title, one in zip(titles, maps, strict=False)
            ]
        )
    )
    return figure
