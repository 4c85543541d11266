"""Images with boxes: ground truth in blue, right detections in green, wrong ones in dashed red."""

import torch
from matplotlib.colors import to_hex

from c2dlib import figures
from c2dlib.figures import Labelled
from c2dlib.figures.images import draw_boxes, right_detections, zoom
from c2dlib.figures.style import BLUE, GREEN, RED, new_figure

IMAGE = torch.linspace(0, 1, 3 * 40 * 60).reshape(3, 40, 60)
BOXES = torch.tensor([[1.0, 2, 20, 30], [40, 1, 59, 39]])
TRUTH = Labelled(BOXES, ["a", "b"])


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_every_box_has_its_text_inside_the_image(drawn):
    figure, axes = new_figure(1, 2, (6, 3))
    figure.alt = "two images with two boxes"
    for ax, below in zip(axes[0], (False, True), strict=True):
        figures.show_image(ax, (IMAGE * 255).to(torch.uint8))
        draw_boxes(ax, BOXES, ["one", "two"], [BLUE, BLUE], below=below)
    drawn(figure)
    for ax in axes[0]:
        assert texts(ax) == ["one", "two"] and len(ax.patches) == 4  # a white edge under each coloured one
        frame = ax.get_window_extent()
        for text in ax.texts:
            extent = text.get_window_extent()
            assert frame.x0 - 2 <= extent.x0 and extent.x1 <= frame.x1 + 2
            assert frame.y0 - 2 <= extent.y0 and extent.y1 <= frame.y1 + 2


def test_zoom_shows_the_boxes_and_nothing_outside_the_image():
    _, ((ax,),) = new_figure(1, 1, (3, 3))
    figures.show_image(ax, IMAGE)
    assert zoom(ax, BOXES[:1], (40, 60), 0.1) == 28 * 1.2
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    assert left == -0.5 and right >= 20 and top <= 2 and bottom >= 30  # x1 = 1: no room for the margin
    assert zoom(ax, BOXES, (40, 60)) == 40  # not more than the image


def test_a_detection_is_right_by_class_overlap_and_one_per_object():
    found = Labelled(
        torch.stack([BOXES[0], BOXES[0] + 1, BOXES[1], BOXES[1] + 30]),
        ["a", "a", "a", "b"],
        [0.5, 0.9, 0.8, 0.7],
    )
    # the second has the higher score and takes the object; the third has another class; the fourth lies off
    assert right_detections(found, TRUTH) == [False, True, False, False]
    assert right_detections(Labelled(BOXES[:0], [], []), TRUTH) == []
    assert right_detections(found, Labelled(BOXES[:0], [])) == [False] * 4


def test_right_and_wrong_detections_differ_in_colour_line_and_mark(drawn):
    found = Labelled(BOXES, ["a", "a"], [0.9, 0.25])
    figure = drawn(figures.detections(IMAGE, TRUTH, {"FKD": found, "none": Labelled(BOXES[:0], [], [])}))
    truth, panel, _ = figure.axes
    assert [ax.get_title() for ax in figure.axes] == ["ground truth", "FKD", "none"]
    assert [to_hex(patch.get_edgecolor()).upper() for patch in truth.patches[1::2]] == [BLUE, BLUE]
    looks = [(to_hex(p.get_edgecolor()).upper(), p.get_linestyle()) for p in panel.patches[1::2]]
    assert looks == [(GREEN, "-"), (RED, "--")] and texts(panel) == ["✓ a 0.90", "✗ a 0.25"]
    assert "FKD: 1 of 2 detections are right" in figure.alt
    assert [t.get_text()[0] for t in figure.legends[0].get_texts()] == ["g", "✓", "✗"]


def test_the_ground_truth_alone_needs_no_legend(drawn):
    figure = drawn(figures.detections(IMAGE, TRUTH, {}))
    assert not figure.legends and figure.alt == "An image with 2 objects: a, b."


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
    found = figures.top_results(rows, 1, {3: "bun", 7: "cup"}, 5)
    assert found.names == ["cup", "bun"] and found.scores == [0.6, 0.4]
    assert found.boxes.tolist() == [[0, 0, 10, 9], [20, 20, 30, 30]]
    nothing = figures.top_results(rows, 9, {}, 5)
    assert nothing.boxes.shape == (0, 4) and nothing.names == nothing.scores == []
    figure = drawn(figures.compare_detections([("gained", IMAGE, TRUTH, {"ours": nothing})] * 2))
    assert [ax.get_title() for ax in figure.axes] == ["ground truth", "C2D", "", ""]
    assert "gained; of 2 objects right: C2D 0." in figure.alt
