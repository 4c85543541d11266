"""The teacher: the crops it reads, its class probabilities, confusions, calibration and attention.

A class name is text, whatever dollar signs are in it (``parse_math=False``).
"""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from c2dlib.figures.images import show_image
from c2dlib.figures.style import BLUE, GREEN, GREY, new_figure, plain_axes


def teacher_view(crops: Tensor, labels: Tensor, probabilities: Tensor, names: list, maps: Tensor) -> Figure:
    """Up to six crops as the teacher reads them; below each, an early map and the five likeliest classes.

    Args:
        crops: [G, 3, s, s] in 0..255.
        labels: [G] 0..C-1, the true class: green among the bars.
        probabilities: [G, C], of the teacher.
        maps: [G, C_l, H_l, W_l]; shown is the mean absolute activation over the channels.
    """
    count = min(len(crops), 6)
    figure, axes = new_figure(3, count, (max(1.75 * count, 3.5), 5.2), height_ratios=[1.2, 1.2, 1])
    for i in range(count):
        show_image(axes[0][i], crops[i].clamp(0, 255) / 255, torch.zeros(0, 4), [])
        axes[0][i].set_title(names[labels[i]], fontsize=9, color=GREEN, parse_math=False)
        axes[1][i].imshow(maps[i].abs().mean(0).cpu().numpy(), cmap="cividis")
        axes[1][i].set(xticks=[], yticks=[])
        best, ax = probabilities[i].topk(min(5, len(names))), axes[2][i]
        ax.barh(
            range(len(best.values)),
            best.values.tolist(),
            height=0.8,
            alpha=0.6,
            color=[GREEN if c == labels[i] else GREY for c in best.indices],
        )
        for y, c in enumerate(best.indices.tolist()):
            text = f"{names[c]}  {best.values[y]:.2f}"
            ax.text(0.03, y, text, va="center", fontsize=7, parse_math=False)
        ax.set(xlim=(0, 1), yticks=[], xticks=[0, 1], ylim=(len(best.values) - 0.4, -0.6))
        ax.tick_params(labelsize=7)
    for row, text in zip(axes, ("crop", "map l0, mean |activation|", "probability"), strict=True):
        row[0].set_ylabel(text, fontsize=8)
    return figure


def class_probabilities(probabilities: dict[str, Tensor], names: list[str], label: int) -> Figure:
    """Distributions over the classes, a panel per title, the true class in green.

    Args:
        probabilities: title -> [C].
    """
    figure, axes = new_figure(
        1, len(probabilities), (2.3 * len(probabilities) + 0.8, 0.9 + 0.19 * len(names)), sharey=True
    )
    for ax, (title, row) in zip(axes[0], probabilities.items(), strict=True):
        ax.barh(
            range(len(names)), row.tolist(), color=[GREEN if c == label else GREY for c in range(len(names))]
        )
        plain_axes(ax)
        ax.set_yticks(range(len(names)), names, parse_math=False)
        ax.set(xlim=(0, 1), ylim=(len(names) - 0.4, -0.6))
        ax.set_title(title, fontsize=9)
    return figure


def confusion(matrix: Tensor, names: list[str], title: str = "") -> Figure:
    """A matrix [C, C] of shares 0..1: a row per true class, a column per predicted class.

    Up to 26 classes, each cell from 1 % on also shows its percentage.
    """
    count = len(names)
    side = min(2.2 + 0.28 * count, 11)
    figure, axes = new_figure(1, 1, (side + 0.8, side))
    ax = axes[0][0]
    heat = ax.imshow(matrix.numpy(), cmap="Blues", vmin=0, vmax=1)
    if count <= 26:
        for y in range(count):
            for x in range(count):
                if (share := float(matrix[y][x])) >= 0.01:
                    ax.text(
                        x,
                        y,
                        f"{100 * share:.0f}",
                        ha="center",
                        va="center",
                        fontsize=6,
                        color="white" if share > 0.6 else "black",
                    )
        ax.set_xticks(range(count), names, rotation=90, parse_math=False)
        ax.set_yticks(range(count), names, parse_math=False)
    ax.tick_params(labelsize=7)
    ax.set(xlabel="predicted class", ylabel="true class", title=title)
    figure.colorbar(heat, ax=ax, shrink=0.7)
    return figure


def reliability(probabilities: Tensor, labels: Tensor, bins: int = 10) -> Figure:
    """Share of correct predictions over confidence; it is on the diagonal if the teacher is calibrated.

    Below, the number of crops at each confidence.

    Args:
        probabilities: [G, C]. labels: [G] 0..C-1.
    """
    confidence, predicted = probabilities.max(1)
    bin_of = (confidence * bins).long().clamp(max=bins - 1)
    correct = (predicted == labels).double()
    size = torch.bincount(bin_of, minlength=bins)
    accuracy = torch.bincount(bin_of, correct, minlength=bins) / size.clamp(min=1)
    figure, axes = new_figure(2, 1, (4.2, 4.4), sharex=True, height_ratios=[2.4, 1])
    centres = [(b + 0.5) / bins for b in range(bins)]
    filled = [b for b in range(bins) if size[b]]
    axes[0][0].plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    axes[0][0].bar(
        [centres[b] for b in filled],
        [float(accuracy[b]) for b in filled],
        0.92 / bins,
        color=BLUE,
        alpha=0.85,
    )
    axes[1][0].bar(centres, size.tolist(), 0.92 / bins, color=GREY)
    for (ax,), text in zip(axes, ("share correct", "crops"), strict=True):
        plain_axes(ax)
        ax.set_ylabel(text, fontsize=8)
    axes[0][0].set(xlim=(0, 1), ylim=(0, 1))
    axes[1][0].set_xlabel("probability of the predicted class", fontsize=8)
    return figure


def attention_maps(crops: Tensor, maps: Tensor, titles: list[str]) -> Figure:
    """Crops, and below each its occlusion map.

    A place is red if covering it lowers the class probability, blue if covering it raises the probability.
    Each map has its own scale.

    Args:
        crops: [G, 3, s, s] in 0..255.
        maps: [G, s, s], of ``teacher.attention``.
        titles: a text per crop.
    """
    count = max(len(crops), 1)
    figure, axes = new_figure(2, count, (max(1.7 * count, 3.5), 3.9))
    for i in range(len(crops)):
        for row in axes:
            show_image(row[i], crops[i].clamp(0, 255) / 255, torch.zeros(0, 4), [])
        most = float(maps[i].abs().max().clamp(min=1e-9))
        axes[1][i].imshow(maps[i].numpy(), cmap="RdBu_r", vmin=-most, vmax=most, alpha=0.65)
        axes[0][i].set_title(titles[i], fontsize=8, parse_math=False)
    return figure
