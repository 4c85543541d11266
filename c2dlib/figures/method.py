"""The method in one picture: from the boxes of a training image to the terms of the loss."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from c2dlib.data.badges import scene
from c2dlib.figures.style import BLUE, PAGE, RED, Picture, new_figure
from c2dlib.files import write_whole

ALT = (
    "Diagram of the method. A training image goes through the compact detector, the student, whose head "
    "gives class logits and a predicted box for each object. Crops of the true box and of the predicted box "
    "go through the frozen image classifier, the teacher. KD_cls compares the student's class logits with "
    "the teacher's for the true crop. KD_loc compares the teacher's early maps of the two crops, loc their "
    "pixels. The gradients of KD_loc and loc reach the predicted box through its crop. At inference the "
    "student alone remains."
)
SEED, OBJECT = 20, 0  # of the picture's scene, and of the object that is followed
TEXT, SMALL = 10, 9  # points
DARK, CLASS, BOX = "#404040", "#00755A", "#8A5A00"  # lines; terms of the class and of the box


def method_diagram() -> Picture:
    """The student above, the teacher below, the three distillation terms on the right.

    The picture is a scene of Badges; nothing is trained or computed for it.
    """
    figure, axes = new_figure(1, 1, (PAGE, 4.7))
    ax = axes[0][0]
    ax.set(xlim=(0, 100), ylim=(0, 51))
    ax.axis("off")
    _pictures(ax)
    _student(ax)
    _teacher(ax)
    _losses(ax)
    figure.alt = ALT
    return figure


def write_diagram(path: Path) -> None:
    """Write the diagram as SVG; the same code writes the same bytes."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "c2dlib"}):
        method_diagram().savefig(buffer, format="svg", metadata={"Date": None, "Title": ALT})
    write_whole(path, buffer.getvalue())


def _pictures(ax: Axes) -> None:
    """The training image with its two boxes; below it the crops of the two boxes."""
    pixels, boxes, _ = scene(np.random.Generator(np.random.PCG64(SEED)), "graded")
    truth = boxes[OBJECT]
    side = truth[2:] - truth[:2]
    predicted = truth + np.array([0.22, -0.18, 0.3, -0.1]) * np.tile(side, 2)
    ax.imshow(pixels, extent=(1, 17, 33, 49), aspect="auto", interpolation="nearest", zorder=1)
    scale = 16 / pixels.shape[0]
    for (x1, y1, x2, y2), color in ((truth, BLUE), (predicted, RED)):
        corner = (1 + x1 * scale, 49 - y2 * scale)
        ax.add_patch(Rectangle(corner, (x2 - x1) * scale, (y2 - y1) * scale, fill=False, ec=color, lw=2.2))
    _text(ax, 9, 31.4, "training image", SMALL)
    for (x1, y1, x2, y2), (left, bottom), color in (
        (np.clip(predicted, 0, len(pixels)), (5, 14.5), RED),
        (truth, (5, 2.5), BLUE),
    ):
        crop = pixels[round(y1) : round(y2), round(x1) : round(x2)]
        extent = (left, left + 9, bottom, bottom + 9)
        ax.imshow(crop, extent=extent, aspect="auto", interpolation="nearest", zorder=1)
        ax.add_patch(Rectangle((left, bottom), 9, 9, fill=False, ec=color, lw=2.6))
    _text(ax, 9.5, 25, "crop of predicted box", SMALL, RED)
    _text(ax, 9.5, 0.8, "crop of true box", SMALL, BLUE)


def _student(ax: Axes) -> None:
    """The detector: backbone and head, and what the head gives for an object."""
    _frame(ax, 21, 33, 34, 16, "compact detector (student)")
    _block(ax, 23, 35, 14, 9, "backbone\nand neck")
    _block(ax, 40, 35, 13, 9, "head")
    _arrow(ax, (17.5, 39.5), (23, 39.5))
    _arrow(ax, (37, 39.5), (40, 39.5))
    _block(ax, 59, 41.5, 15, 5.5, "class logits $z$")
    _block(ax, 59, 32.5, 15, 5.5, r"predicted box $\hat b$", RED)
    _arrow(ax, (53, 41), (59, 44.2))
    _arrow(ax, (53, 38), (59, 35.2))
    ax.plot([66.5, 66.5, 19.5, 19.5], [32.5, 29, 29, 21.5], color=RED, lw=1.6)
    _arrow(ax, (19.5, 21.5), (14.6, 21.5), RED)
    _text(ax, 43, 30.6, "the gradient of KD_loc and loc: back along the red arrows", SMALL, RED)


def _teacher(ax: Axes) -> None:
    """The classifier: early layers for both crops, all layers for the true one."""
    _frame(ax, 21, 6.6, 34, 20.4, "image classifier (teacher, frozen)")
    _block(ax, 23, 8.6, 14, 13.4, "early\nlayers")
    _block(ax, 40, 8.2, 13, 6.4, "other\nlayers")
    _arrow(ax, (14.6, 19), (23, 19), RED)
    _arrow(ax, (14.6, 10.4), (23, 10.4), BLUE)
    _arrow(ax, (37, 11.4), (40, 11.4), BLUE)
    _block(ax, 59, 16, 15, 5.5, r"early maps $\ell_0$")
    _block(ax, 59, 8.6, 15, 5.5, "class logits $t$", BLUE)
    _arrow(ax, (37, 19.6), (59, 19.6), RED)
    _arrow(ax, (37, 17.8), (59, 17.8), BLUE)
    _arrow(ax, (53, 11.4), (59, 11.4), BLUE)


def _losses(ax: Axes) -> None:
    """The terms, each beside what it compares."""
    _loss(ax, 84, 41, "KD_cls", "class, eq. 3", CLASS)
    _loss(ax, 84, 15.2, "KD_loc", "box, eq. 10", BOX)
    _loss(ax, 84, 0.6, "loc", "box, eq. 11", BOX)
    _arrow(ax, (74, 44.2), (84, 44.2))
    ax.plot([74, 79, 79], [11.4, 11.4, 42.5], color=BLUE, lw=1.6)
    _arrow(ax, (79, 42.5), (84, 42.5), BLUE)
    _arrow(ax, (74, 18.7), (84, 18.7))
    ax.plot([14.6, 18.4, 18.4], [15.5, 15.5, 4.6], color=RED, lw=1.6)
    _arrow(ax, (18.4, 4.6), (84, 4.6), RED)
    _arrow(ax, (14.6, 2.9), (84, 2.9), BLUE)
    total = "loss of a step (eq. 12):\nthe detector's own terms\n+ the weighted terms\nKD_cls, KD_loc and loc"
    ax.text(80.5, 31, total, ha="left", va="center", fontsize=SMALL, linespacing=1.35)


def _loss(ax: Axes, x: float, y: float, name: str, about: str, color: str) -> None:
    patch = FancyBboxPatch((x, y), 15, 7, boxstyle="round,pad=0,rounding_size=1.2", fc=color, ec="none")
    ax.add_patch(patch)
    ax.text(x + 7.5, y + 4.6, name, ha="center", va="center", fontsize=TEXT, weight="bold", color="white")
    ax.text(x + 7.5, y + 1.9, about, ha="center", va="center", fontsize=SMALL, color="white")


def _frame(ax: Axes, x: float, y: float, width: float, height: float, title: str) -> None:
    """A shaded net with its title inside, at the top."""
    style = "round,pad=0,rounding_size=1.2"
    ax.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, fc="#F2F2F2", ec="#8C8C8C", lw=1))
    _text(ax, x + width / 2, y + height - 2.6, title, TEXT)


def _block(ax: Axes, x: float, y: float, width: float, height: float, text: str, color: str = DARK) -> None:
    style = "round,pad=0,rounding_size=0.8"
    ax.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, fc="white", ec=color, lw=1.4))
    _text(ax, x + width / 2, y + height / 2, text, TEXT)


def _text(ax: Axes, x: float, y: float, text: str, size: float, color: str = "black") -> None:
    ax.text(x, y, text, ha="center", va="center", fontsize=size, color=color)


def _arrow(ax: Axes, start: tuple, end: tuple, color: str = DARK) -> None:
    style = {"arrowstyle": "-|>", "mutation_scale": 13, "shrinkA": 0, "shrinkB": 0, "lw": 1.6}
    ax.add_patch(FancyArrowPatch(start, end, color=color, **style))
