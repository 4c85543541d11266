"""The teacher's figures show its probabilities, its accuracy per confidence and every crop."""

import matplotlib
import pandas as pd
import pytest
import torch

from c2dlib import figures
from c2dlib.evaluation.tide import TYPES, ErrorExample
from c2dlib.figures import Labelled
from c2dlib.figures.style import GREEN


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_teacher_view_marks_the_truth_among_the_bars(drawn):
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1]])
    crops, maps = torch.rand(2, 3, 8, 8) * 255, torch.randn(2, 4, 3, 3)
    figure = drawn(figures.teacher_view(crops, torch.tensor([0, 1]), probabilities, ["a", "b", "c"], maps))
    bars = figure.axes[4:]
    assert texts(bars[0]) == ["a  0.70", "b  0.20", "c  0.10"]
    green = matplotlib.colors.to_rgb(GREEN)
    assert [[bar.get_facecolor()[:3] == green for bar in ax.patches] for ax in bars] == [
        [True, False, False],
        [False, True, False],
    ]
    drawn(
        figures.teacher_view(
            torch.rand(9, 3, 8, 8),
            torch.zeros(9, dtype=torch.int64),
            torch.ones(9, 1),
            ["a"],
            torch.randn(9, 4, 3, 3),
        )
    )  # more than fit, and a single class


def test_a_class_name_may_hold_dollar_signs(drawn):
    """``5$_$ note`` is no formula."""
    names = ["5$_$ note", "$\\wrong{$", "c"]
    image = torch.zeros(3, 40, 40)
    boxes = torch.tensor([[1.0, 2, 30, 30]])
    crops, maps = torch.rand(3, 3, 8, 8) * 255, torch.randn(3, 4, 3, 3)
    probabilities, labels = torch.full((3, 3), 1 / 3), torch.arange(3)
    errors = [
        {"student": "S", "method": m, "class": name, **dict.fromkeys(TYPES, 1.0)}
        for m in ("baseline", "KDcls")
        for name in names
    ]
    box = [1.0, 2.0, 29.0, 28.0]
    error = ErrorExample("Cls", 1, box, 0, 0.9, box, 1, 0.7)
    for figure in (
        figures.errors_per_class(pd.DataFrame(errors), "KDcls"),
        figures.error_examples({1: image}, [error], dict(enumerate(names)), "Cls"),
        figures.compare_detections(
            [("gained", image, Labelled(boxes, names[:1]), {"KDcls": Labelled(boxes, names[1:2], [0.5])})]
        ),
        figures.teacher_view(crops, labels, probabilities, names, maps),
        figures.softened(probabilities, labels, names),
        figures.confusion(probabilities, names),
        figures.attention_maps(crops, torch.randn(3, 8, 8), names),
        figures.detections(
            image, Labelled(boxes, names[:1]), {"baseline": Labelled(boxes, names[1:2], [0.5])}
        ),
    ):
        drawn(figure)


def test_long_names_are_shortened_to_their_place(drawn):
    """Six crops with names as COCO's: every probability is read, no title lies on another."""
    names = ["baseball glove", "tennis racket", "sports ball", "traffic light", "fire hydrant", "snowboard"]
    crops, maps = torch.rand(6, 3, 8, 8) * 255, torch.randn(6, 4, 3, 3)
    probabilities = torch.full((6, 6), 0.1).fill_diagonal_(0.5)
    figure = drawn(figures.teacher_view(crops, torch.arange(6), probabilities, names, maps))
    for ax in figure.axes[12:]:
        right = ax.get_window_extent().x1
        assert all(text.get_window_extent().x1 <= right for text in ax.texts)
        assert sorted(text[-4:] for text in texts(ax)) == ["0.10"] * 4 + ["0.50"]
    titles = [f"student: {name}\nteacher: 0.10" for name in names]
    figure = drawn(figures.attention_maps(crops, torch.randn(6, 8, 8), titles))
    assert figure.axes[0].get_title() == "student: ba…glove\nteacher: 0.10"


def test_softened_shows_the_first_object_that_the_teacher_gets_right(drawn):
    logits = torch.tensor([[0.0, 2.0, 0.0], [3.0, 0.0, 1.0]])
    figure = drawn(figures.softened(logits, torch.tensor([0, 0]), ["x", "y", "z"], (1, 2)))
    one, two = figure.axes
    assert [bar.get_width() for bar in one.patches] == pytest.approx(logits[1].softmax(0).tolist())
    assert [bar.get_width() for bar in two.patches] == pytest.approx((logits[1] / 2).softmax(0).tolist())
    assert one.get_xlabel() == two.get_xlabel() == "probability"
    assert figure.get_suptitle() == "x (green): the teacher is right" and "0.84 at T = 1" in figure.alt
    wrong = drawn(figures.softened(logits, torch.tensor([2, 1]), ["x", "y", "z"]))
    assert wrong.get_suptitle() == "z (green): the teacher is wrong here, as on every object of this image"


def test_reliability_counts_and_bins_with_few_crops_are_pale(drawn):
    probabilities = torch.tensor([[0.4, 0.6]] * 20 + [[0.95, 0.05]] * 3)
    labels = torch.tensor([1] * 15 + [0] * 5 + [0, 0, 1])
    figure = drawn(figures.reliability(probabilities, labels))
    above, below = figure.axes
    assert [bar.get_height() for bar in above.patches] == pytest.approx([15 / 20, 2 / 3])
    assert [bar.get_alpha() for bar in above.patches] == [0.85, 0.25]
    assert sum(bar.get_height() for bar in below.patches) == 23
    names = [text.get_text() for text in above.get_legend().get_texts()]
    assert names == ["calibrated", "share correct", "fewer than 20 crops"]
    assert "0.67 of 3 crops at 0.9 to 1.0" in figure.alt


def test_confusion_says_what_its_columns_and_numbers_are_and_how_many_crops_there_are(drawn):
    figure = drawn(figures.confusion(torch.tensor([[0.75, 0.25], [0.0, 1.0]]), ["x", "y"], "crops"))
    ax, bar = figure.axes
    assert texts(ax) == ["75", "25", "100"]
    assert bar.get_ylim() == (0, 100) and bar.get_ylabel() == "% of the true class"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted class", "true class")
    assert figure.alt.endswith("crops. On the diagonal: x 75 %, y 100 %")
    figure = drawn(
        figures.confusion(torch.eye(2), ["x", "y"], crops=[17, 0], column="class", unit="mean probability, %")
    )
    ax, bar = figure.axes
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["x (17)", "y (0)"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["x", "y"]
    assert ax.get_xlabel() == "class" and bar.get_ylabel() == "mean probability, %" in figure.alt


def test_attention_shows_every_crop_on_one_scale(drawn):
    crops, maps = torch.rand(3, 3, 8, 8) * 255, torch.zeros(3, 8, 8)
    maps[0, 0, 0], maps[1, 0, 0] = 0.5, -0.8
    figure = drawn(figures.attention_maps(crops, maps, ["a", "b", "c"]))
    assert [ax.get_title() for ax in figure.axes[:3]] == ["a", "b", "c"]
    bar = figure.axes[-1]
    assert bar.get_ylim() == pytest.approx((-0.8, 0.8)) and "when covered" in bar.get_ylabel()
    below = figure.axes[3].images[0].get_array()  # the crop below its map has no colour of its own
    assert (below[..., 0] == below[..., 1]).all() and (below[..., 1] == below[..., 2]).all()
    assert figure.alt.endswith("a: 0.50, b: 0.00, c: 0.00")
    drawn(figures.attention_maps(crops[:0], maps[:0], []))
