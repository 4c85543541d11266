"""Images with boxes: ground truth in blue, right detections in green, wrong ones in dashed red."""

from itertools import combinations

import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.transforms import Bbox

from c2dlib import figures
from c2dlib.figures import Labelled
from c2dlib.figures.images import draw_boxes, right_detections, zoom
from c2dlib.figures.style import BLUE, GREEN, RED, new_figure

IMAGE = torch.linspace(0, 1, 3 * 40 * 60).reshape(3, 40, 60)
BOXES = torch.tensor([[1.0, 2, 20, 30], [40, 1, 59, 39]])
TRUTH = Labelled(BOXES, ["a", "b"])


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def labelled(drawn, boxes: torch.Tensor, labels: list[str], size: tuple[float, float] = (3, 3)):
    """The axes of a drawn image with boxes; no text covers another, none leaves the image."""
    figure, ((ax,),) = new_figure(1, 1, size)
    figure.alt = "an image with many boxes"
    figures.show_image(ax, (IMAGE * 255).to(torch.uint8))
    draw_boxes(ax, boxes, labels, [BLUE] * len(boxes))
    drawn(figure)
    frame, extents = ax.get_window_extent().padded(0.01), labels_of(ax)
    for extent in extents:
        assert frame.x0 <= extent.x0 and extent.x1 <= frame.x1
        assert frame.y0 <= extent.y0 and extent.y1 <= frame.y1
    for one, other in combinations(extents, 2):
        assert not one.padded(-0.01).overlaps(other)
    return ax


def labels_of(ax) -> list[Bbox]:
    """The coloured boxes behind the texts."""
    return [text.get_bbox_patch().get_window_extent() for text in ax.texts]


def test_every_box_has_its_text_inside_the_image(drawn):
    ax = labelled(drawn, BOXES, ["one", "two"])
    assert texts(ax) == ["one", "two"] and len(ax.patches) == 4  # a white edge under each coloured one


@pytest.mark.parametrize("seed", range(6))
def test_the_texts_of_crowded_boxes_do_not_cover_one_another(drawn, seed):
    random = torch.Generator().manual_seed(seed)
    middles = torch.rand(12, 2, generator=random) * torch.tensor([60, 40])
    boxes = torch.cat([middles - 6, middles + 6], 1)  # some leave the image
    boxes[3] = boxes[2]
    ax = labelled(drawn, boxes, [f"class {i} 0.5" for i in range(12)], (6, 4))
    assert len(ax.texts) == 12


def test_a_text_is_above_its_box_else_below_it_else_inside(drawn):
    box, tall = [10.0, 15, 40, 30], [2.0, 0, 50, 40]
    boxes = torch.tensor([box] * 6 + [tall])
    ax = labelled(drawn, boxes, ["a class name"] * 6 + ["all of it"], (5, 4))
    pixels = [ax.transData.transform([corners[:2], corners[2:]]) for corners in (box, tall)]
    (left, top), (right, bottom) = pixels[0]
    *labels, whole = labels_of(ax)
    assert [label.x0 for label in labels[::2]] == pytest.approx([left] * 3)
    assert [label.x1 for label in labels[1::2]] == pytest.approx([right] * 3)
    assert [label.y0 for label in labels[:2]] == pytest.approx([top] * 2)  # above
    assert [label.y1 for label in labels[2:4]] == pytest.approx([bottom] * 2)  # below
    assert [label.y1 for label in labels[4:]] == pytest.approx([top] * 2)  # inside
    assert whole.y1 == pytest.approx(pixels[1][0][1])  # nothing is above or below a box of the image's height


def test_a_text_that_is_wider_than_the_image_is_shortened_and_keeps_its_score(drawn):
    name = "a class whose name is longer than the image is wide, by far"
    ax = labelled(drawn, BOXES, [f"{name} 0.53", "two"], (2.2, 2))
    (text, other) = texts(ax)
    assert text.startswith("a class") and text.endswith("… 0.53") and other == "two"
    assert labels_of(ax)[0].width > 0.8 * ax.get_window_extent().width


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
