"""The teacher's figures show its probabilities, its accuracy per confidence and every crop."""

import matplotlib
import pandas as pd
import pytest
import torch

from c2dlib import figures
from c2dlib.evaluation.tide import TYPES, ErrorExample
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
        figures.compare_detections([("gained", image, (boxes, names[:1]), {"KDcls": (boxes, names[1:2])})]),
        figures.teacher_view(crops, labels, probabilities, names, maps),
        figures.class_probabilities({"T = 1": probabilities[0]}, names, 0),
        figures.confusion(probabilities, names),
        figures.attention_maps(crops, torch.randn(3, 8, 8), names),
        figures.detections(image, (boxes, names[:1]), {"baseline": (boxes, names[1:2])}),
    ):
        drawn(figure)


def test_reliability_and_confusion_count(drawn):
    probabilities = torch.tensor([[0.95, 0.05], [0.95, 0.05], [0.4, 0.6], [0.05, 0.95]])
    above, below = drawn(figures.reliability(probabilities, torch.tensor([0, 1, 1, 1]))).axes
    assert [bar.get_height() for bar in above.patches] == pytest.approx(
        [1, 2 / 3]
    )  # at 0.6; at 0.95 two of three
    assert sum(bar.get_height() for bar in below.patches) == 4
    ax = drawn(figures.confusion(torch.tensor([[0.75, 0.25], [0.0, 1.0]]), ["x", "y"])).axes[0]
    assert texts(ax) == ["75", "25", "100"]


def test_attention_shows_every_crop(drawn):
    crops = torch.rand(3, 3, 8, 8) * 255
    figure = drawn(figures.attention_maps(crops, torch.randn(3, 8, 8), ["a", "b", "c"]))
    assert [ax.get_title() for ax in figure.axes[:3]] == ["a", "b", "c"]
    panels = drawn(figures.class_probabilities({"T = 1": torch.tensor([0.9, 0.1])}, ["x", "y"], 1)).axes
    assert [bar.get_width() for bar in panels[0].patches] == pytest.approx([0.9, 0.1])
