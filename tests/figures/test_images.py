"""Images with boxes: every box and text is drawn, ground truth in blue, detections in red."""

import matplotlib
import torch

from c2dlib import figures
from c2dlib.figures.style import BLUE, RED, new_figure

IMAGE = torch.linspace(0, 1, 3 * 40 * 60).reshape(3, 40, 60)
BOXES = torch.tensor([[1.0, 2, 20, 30], [40, 1, 59, 39]])


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_show_image_draws_every_box_with_its_text_inside_the_image(drawn):
    figure, axes = new_figure(1, 1, (3, 3))
    ax = figures.show_image(axes[0][0], (IMAGE * 255).to(torch.uint8), BOXES, ["one", "two"])
    drawn(figure)
    assert texts(ax) == ["one", "two"] and len(ax.patches) == 4  # a white edge under each coloured one
    frame = ax.get_window_extent()
    for text in ax.texts:
        extent = text.get_window_extent()
        assert frame.x0 - 2 <= extent.x0 and extent.x1 <= frame.x1 + 2


def test_detections_in_red_beside_the_truth_in_blue(drawn):
    detected = {"FKD": (BOXES[:1], ["a 0.9"]), "none": (BOXES[:0], [])}
    figure = drawn(figures.detections(IMAGE, (BOXES, ["a", "b"]), detected))
    assert [ax.get_title() for ax in figure.axes] == ["ground truth", "FKD", "none"]
    edges = [matplotlib.colors.to_hex(ax.patches[1].get_edgecolor()).upper() for ax in figure.axes[:2]]
    assert edges == [BLUE, RED]


def test_top_detections_are_the_highest_scores_in_order():
    class Detector(torch.nn.Module):
        def forward(self, images):
            return [
                {
                    "boxes": torch.arange(12.0).reshape(3, 4),
                    "labels": torch.tensor([1, 2, 2]),
                    "scores": torch.tensor([0.1, 0.9, 0.5]),
                }
            ]

    boxes, names = figures.top_detections(Detector(), IMAGE, ["a", "b"], 2)
    assert boxes[:, 0].tolist() == [4, 8] and names == ["b 0.90", "b 0.50"]


def test_top_results_show_each_place_once(drawn):
    rows = [
        {"image_id": 1, "category_id": 3, "bbox": [0, 0, 10, 10], "score": 0.5},
        {
            "image_id": 1,
            "category_id": 7,
            "bbox": [0, 0, 10, 9],
            "score": 0.6,
        },  # the same place, a higher score
        {"image_id": 1, "category_id": 3, "bbox": [20, 20, 10, 10], "score": 0.4},
        {"image_id": 2, "category_id": 3, "bbox": [0, 0, 10, 10], "score": 0.9},
    ]
    boxes, names = figures.top_results(rows, 1, {3: "bun", 7: "cup"}, 5)
    assert names == ["cup 0.60", "bun 0.40"] and boxes.tolist() == [[0, 0, 10, 9], [20, 20, 30, 30]]
    boxes, names = figures.top_results(rows, 9, {}, 5)
    assert boxes.shape == (0, 4) and names == []
    truth = BOXES, ["a", "b"]
    figure = drawn(figures.compare_detections([("gained", IMAGE, truth, {"ours": (boxes, names)})] * 2))
    assert [ax.get_title() for ax in figure.axes] == ["ground truth", "C2D", "", ""]
