"""Images with boxes: ground truth in blue; detections are green if they are right, and dashed red if not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from torch import Tensor
from torchvision.ops import box_iou, nms

from c2dlib.figures.style import (
    BLUE,
    GREEN,
    PAGE,
    RED,
    STYLE,
    AtDrawing,
    Picture,
    new_figure,
    show_legend,
)
from c2dlib.reporting.labels import method_label

RIGHT_IOU = 0.5  # of a detection with an object of its class, to be right
PAD = 1.2  # points around the text of a box
SCORE = 5  # characters, such as " 0.53", that a shortened text keeps at its end


class Labelled(NamedTuple):
    """Boxes on an image, with a class each; of detections also the score."""

    boxes: Tensor  # [N, 4] xyxy in the image's pixels
    names: list[str]
    scores: list[float] | None = None  # None: ground truth


def show_image(ax: Axes, image: Tensor) -> Axes:
    """An image [3, H, W] (uint8 or 0..1), without ticks."""
    ax.imshow(image.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
    height, width = image.shape[-2:]
    ax.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    return ax


def zoom(ax: Axes, boxes: Tensor, size: tuple[int, int], margin: float = 0.5) -> float:
    """Show the part of an image of height and width ``size`` that holds all boxes [N, 4], as a square.

    Args:
        margin: around the boxes, as a share of their common side.

    Returns:
        The side of that part in pixels.
    """
    x1, y1, x2, y2 = *boxes[:, :2].amin(0).tolist(), *boxes[:, 2:].amax(0).tolist()
    side = min(max(x2 - x1, y2 - y1) * (1 + 2 * margin), *size)
    left, top = (
        min(max((low + high - side) / 2, 0), whole - side)
        for low, high, whole in ((x1, x2, size[1]), (y1, y2, size[0]))
    )
    ax.set(xlim=(left - 0.5, left + side - 0.5), ylim=(top + side - 0.5, top - 0.5))
    return side


def draw_boxes(ax: Axes, boxes: Tensor, labels: list[str], colors: list[str]) -> None:
    """Boxes [N, 4] with a text and a colour each; red ones are dashed. The first ones are on top.

    No text leaves what is shown of the image, and while there is room none covers another, see ``_places``.
    One that is wider than the image is shortened. Call it once for all boxes of an image.
    """
    texts = []
    for i, ((x1, y1, x2, y2), label, color) in enumerate(zip(boxes.tolist(), labels, colors, strict=True)):
        for edge, thick, dashes in (("white", 3.2, "-"), (color, 1.8, "--" if color == RED else "-")):
            ax.add_patch(
                Rectangle(
                    (x1, y1),
                    x2 - x1,
                    y2 - y1,
                    fill=False,
                    edgecolor=edge,
                    linewidth=thick,
                    linestyle=dashes,
                    zorder=2 - i / len(labels),
                )
            )
        texts.append(
            ax.text(
                x1,
                y1,
                label,
                color=_text_color(color),
                parse_math=False,  # a class name may hold dollar signs
                va="bottom",
                zorder=4 - i / len(labels),
                in_layout=False,
                bbox={"facecolor": color, "edgecolor": "none", "pad": PAD},
            )
        )

    def place(renderer: RendererBase) -> None:
        pad = renderer.points_to_pixels(PAD)
        image, taken = ax.get_window_extent(renderer), []
        for box, label, text in zip(boxes.tolist(), labels, texts, strict=True):
            if not label:
                continue
            text.set_text(shortened(text, label, image.width - 2 * pad, renderer))
            extent = text.get_window_extent(renderer)
            size = extent.width + 2 * pad, extent.height + 2 * pad
            corners = ax.transData.transform([box[:2], box[2:]])  # left and top, right and bottom
            x, y = _free_place(_places(corners, size, image), size, taken)
            taken.append(Bbox.from_bounds(x, y, *size))
            text.set_position(ax.transData.inverted().transform((x + pad, y + pad)))

    AtDrawing(ax, place)


def _text_color(background: str) -> str:
    """Black on a light colour, white on a dark one."""
    red, green, blue = to_rgb(background)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def fit_into(ax: Axes, texts: list[Text], share: float = 1.0) -> None:
    """Shorten the lines of texts that are wider than a share of their axes, when these are drawn."""
    whole = [text.get_text().splitlines() for text in texts]

    def place(renderer: RendererBase) -> None:
        width = share * ax.get_window_extent(renderer).width
        for text, lines in zip(texts, whole, strict=True):
            text.set_text("\n".join([shortened(text, line, width, renderer) for line in lines]))

    AtDrawing(ax, place)


def shortened(text: Text, label: str, width: float, renderer: RendererBase) -> str:
    """The label, without its middle where it is wider than ``width``: its end may be a score."""
    for kept in range(len(label), -1, -1):
        shown = label if kept == len(label) else f"{label[:kept].rstrip()}…{label[kept:][-SCORE:]}"
        text.set_text(shown)
        if text.get_window_extent(renderer).width <= width:
            break
    return shown


def _places(corners: np.ndarray, size: tuple[float, float], image: Bbox) -> Iterator[tuple[float, float]]:
    """Places for the text of a box, as its lower left corner in pixels of the figure, the best one first.

    They are above the box, below it, inside at its top and at its bottom, each from its left side on and up
    to its right side; then all others, from the nearest on. All are in the image.

    Args:
        corners: of the box, left and top, right and bottom. size: of the text, width and height.
    """
    (left, top), (right, bottom) = corners
    width, height = size
    highest, rightmost = image.y1 - height, image.x1 - width
    sides = (left, right - width) if left + right < image.x0 + image.x1 else (right - width, left)
    for y in (top, bottom - height, top - height, bottom):
        if image.y0 <= y <= highest:
            yield from ((min(max(x, image.x0), rightmost), y) for x in sides)
    grid = [
        (x, y)
        for x in np.linspace(image.x0, rightmost, 40)
        for y in np.arange(image.y0, max(highest, image.y0) + 1, height / 4)
    ]
    yield from sorted(grid, key=lambda place: abs(place[0] - left) + abs(place[1] - top))


def _free_place(
    places: Iterator[tuple[float, float]], size: tuple[float, float], taken: list[Bbox]
) -> tuple[float, float]:
    """The first place that is free of other texts, or the one that covers least of them."""
    covered = {}
    for place in places:
        own = Bbox.from_bounds(*place, *size)
        overlaps = [part for other in taken if (part := Bbox.intersection(own, other)) is not None]
        covered[place] = sum(part.width * part.height for part in overlaps)
        if not covered[place]:
            return place
    return min(covered, key=covered.__getitem__)


def right_detections(found: Labelled, truth: Labelled) -> list[bool]:
    """Whether each detection has the class of an object and an IoU of 0.5 or more with it.

    As in COCO's evaluation the detections come in the order of their scores, and each object serves one.
    """
    overlap, free = box_iou(found.boxes, truth.boxes), [True] * len(truth.names)
    scores = torch.tensor(found.scores or [])
    right = [False] * len(found.names)
    for i in scores.argsort(descending=True, stable=True).tolist():
        candidates = [
            j
            for j, name in enumerate(truth.names)
            if free[j] and name == found.names[i] and overlap[i, j] >= RIGHT_IOU
        ]
        if candidates:
            free[max(candidates, key=lambda j: float(overlap[i, j]))] = False
            right[i] = True
    return right


def _show_truth(ax: Axes, image: Tensor, truth: Labelled) -> None:
    show_image(ax, image)
    draw_boxes(ax, truth.boxes, truth.names, [BLUE] * len(truth.names))


def _show_detections(ax: Axes, image: Tensor, found: Labelled, truth: Labelled) -> int:
    """Detections with class, score and a mark; returns how many are right."""
    show_image(ax, image)
    right = right_detections(found, truth)
    texts = [
        f"{'✓' if good else '✗'} {name} {score:.2f}"
        for good, name, score in zip(right, found.names, found.scores or [], strict=True)
    ]
    draw_boxes(ax, found.boxes, texts, [GREEN if good else RED for good in right])
    return sum(right)


def _legend(figure: Figure) -> None:
    keys = [
        Line2D([], [], color=color, linestyle=line)
        for color, line in ((BLUE, "-"), (GREEN, "-"), (RED, "--"))
    ]
    names = ["ground truth", f"✓ right: its class, IoU ≥ {RIGHT_IOU}", "✗ wrong"]
    show_legend(figure, keys, names)


@rc_context(STYLE)
def detections(image: Tensor, truth: Labelled, detected: dict[str, Labelled]) -> Picture:
    """One image: its ground truth, then a panel per detector with its boxes.

    Args:
        image: [3, H, W], uint8 or 0..1.
        truth: boxes and class names.
        detected: title of a panel -> its detections; empty for the ground truth alone.
    """
    columns = 1 + len(detected)
    side = min(3.4, PAGE / columns)
    figure, axes = new_figure(1, columns, (side * columns, side * image.shape[1] / image.shape[2] + 0.5))
    _show_truth(axes[0][0], image, truth)
    axes[0][0].set_title("ground truth")
    figure.alt = f"An image with {len(truth.names)} objects: {', '.join(truth.names)}."
    for ax, (title, found) in zip(axes[0][1:], detected.items(), strict=True):
        count = _show_detections(ax, image, found, truth)
        ax.set_title(title)
        figure.alt += f" {title}: {count} of {len(found.names)} detections are right."
    if detected:
        _legend(figure)
    return figure


@rc_context(STYLE)
def compare_detections(lines: list[tuple[str, Tensor, Labelled, dict[str, Labelled]]]) -> Picture:
    """Figure 4: an image per line with its ground truth, then each detector's boxes.

    Args:
        lines: the text beside the image, the image [3, H, W], its ground truth, and method -> its detections.
    """
    titles = ["ground truth", *map(method_label, lines[0][3])]
    tall = [image.shape[1] / image.shape[2] for _, image, _, _ in lines]
    side = min(2.9, (PAGE - 0.3) / len(titles))
    figure, grid = new_figure(
        len(lines), len(titles), (side * len(titles) + 0.3, side * sum(tall) + 0.6), height_ratios=tall
    )
    figure.alt = f"{len(lines)} images with their ground truth, and the boxes of {' and '.join(titles[1:])}."
    for axes, (text, image, truth, detected) in zip(grid, lines, strict=True):
        _show_truth(axes[0], image, truth)
        counts = [
            _show_detections(ax, image, found, truth)
            for ax, found in zip(axes[1:], detected.values(), strict=True)
        ]
        axes[0].set_ylabel(text)
        right = ", ".join(f"{name} {count}" for name, count in zip(titles[1:], counts, strict=True))
        figure.alt += f" {text}; of {len(truth.names)} objects right: {right}."
    for ax, title in zip(grid[0], titles, strict=True):
        ax.set_title(title)
    _legend(figure)
    return figure


def top_results(results: list[dict], image_id: int, names: dict[int, str], count: int) -> Labelled:
    """The ``count`` boxes of highest score on one image, out of COCO results of a whole split.

    A box that overlaps one of higher score by an IoU above 0.5 is left out, whatever its class.

    Args:
        results: COCO results (image_id, category_id, bbox as x, y, width, height, score).
        names: category id -> name.
    """
    results = [result for result in results if result["image_id"] == image_id]
    boxes = torch.tensor(
        [[x, y, x + w, y + h] for x, y, w, h in (result["bbox"] for result in results)], dtype=torch.float32
    ).reshape(-1, 4)
    scores = [result["score"] for result in results]
    kept = nms(boxes, torch.tensor(scores, dtype=torch.float32), 0.5)[:count]
    return Labelled(
        boxes[kept], [names[results[i]["category_id"]] for i in kept], [scores[i] for i in kept.tolist()]
    )
