"""Images with boxes: ground truth in blue, detections in red."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn
from torchvision.ops import nms

from c2dlib.figures.style import BLUE, RED, new_figure
from c2dlib.reporting.labels import method_label

Labelled = tuple[Tensor, list[str]]  # boxes [N, 4] xyxy in the image's pixels, a text for each


def show_image(ax: Axes, image: Tensor, boxes: Tensor, labels: list[str], color: str = BLUE) -> Axes:
    """An image [3, H, W] (uint8 or 0..1) with boxes [N, 4] in its pixels and a text for each."""
    ax.imshow(image.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
    height, width = image.shape[-2:]
    draw_boxes(ax, boxes, labels, color, (height, width))
    ax.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    return ax


def draw_boxes(ax: Axes, boxes: Tensor, labels: list[str], color: str, size: tuple[int, int]) -> None:
    """Boxes [N, 4] with a text each, on an image of height and width ``size``; no text leaves the image."""
    for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels, strict=True):
        for edge, line in (("white", 3.2), (color, 1.8)):
            ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=edge, linewidth=line))
        right, below = x1 > 0.6 * size[1], y1 < 0.06 * size[0]
        ax.text(
            x2 if right else x1,
            y1,
            label,
            fontsize=7,
            color="white",
            parse_math=False,  # a class name may hold dollar signs
            ha="right" if right else "left",
            va="top" if below else "bottom",
            bbox={"facecolor": color, "edgecolor": "none", "pad": 1.2},
        )


def detections(image: Tensor, truth: Labelled, detected: dict[str, Labelled]) -> Figure:
    """One image: its ground truth in blue, then a panel per detector with its boxes in red.

    Args:
        image: [3, H, W], uint8 or 0..1.
        truth: boxes and class names.
        detected: title of a panel -> boxes and texts; empty for the ground truth alone.
    """
    figure, axes = new_figure(1, 1 + len(detected), (3.4 * (1 + len(detected)), 3.6))
    for ax, (title, (boxes, texts)) in zip(axes[0], {"ground truth": truth, **detected}.items(), strict=True):
        show_image(ax, image, boxes, texts, RED if title in detected else BLUE).set_title(title, fontsize=9)
    return figure


def compare_detections(lines: list[tuple[str, Tensor, Labelled, dict[str, Labelled]]]) -> Figure:
    """Figure 4: an image per line, ground truth in blue, then each detector's boxes in red.

    Args:
        lines: the text beside the image, the image [3, H, W], its ground truth, and method -> its detections.
    """
    titles = ["ground truth", *map(method_label, lines[0][3])]
    tall = [image.shape[1] / image.shape[2] for _, image, _, _ in lines]
    size = (2.9 * len(titles), 2.9 * sum(tall) + 0.08 * len(lines) + 0.3)
    figure, grid = new_figure(len(lines), len(titles), size, height_ratios=tall)
    for axes, (text, image, truth, detected) in zip(grid, lines, strict=True):
        for ax, (boxes, texts), color in zip(
            axes, [truth, *detected.values()], [BLUE, *[RED] * len(detected)], strict=True
        ):
            show_image(ax, image, boxes, texts, color)
        axes[0].set_ylabel(text, fontsize=8)
    for ax, title in zip(grid[0], titles, strict=True):
        ax.set_title(title, fontsize=9)
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
    kept = nms(boxes, torch.tensor([result["score"] for result in results], dtype=torch.float32), 0.5)[:count]
    return boxes[kept], [f"{names[results[i]['category_id']]} {results[i]['score']:.2f}" for i in kept]


@torch.inference_mode()
def top_detections(detector: nn.Module, image: Tensor, names: list[str], count: int) -> Labelled:
    """The ``count`` boxes of highest score on an image [3, H, W] in 0..1, with class name and score."""
    output = detector([image])[0]
    best = output["scores"].argsort(descending=True)[:count]
    return output["boxes"][best], [
        f"{names[output['labels'][i] - 1]} {output['scores'][i]:.2f}" for i in best
    ]
