"""Curves of a detector on its own: which point is marked, which classes are drawn, in which order."""

import numpy as np
import pandas as pd

from c2dlib.config.experiment import experiment
from c2dlib.evaluation.scores import Threshold
from c2dlib.figures.evaluation import MOST_PANELS, precision_recall_curves, validation_curves
from tests.reporting.helpers import SSD, record

THRESHOLD = Threshold(0.3, 60.0, 50.0, 75.0, "val")


def classes(*ap50: float) -> pd.DataFrame:
    lines = [
        {
            "class": f"class {i}",
            "objects": 5,
            "AP": v / 2,
            "AP50": v,
            "shown": 4,
            "precision": v,
            "recall": 40.0,
        }
        for i, v in enumerate(ap50)
    ]
    return pd.DataFrame(lines)


def test_the_kept_weights_are_marked(drawn):
    records = [
        record(experiment("smoke", SSD, method), validation={s: {"mAP": v} for s, v in values.items()})
        for method, values in (
            ("baseline", {"200": 3.0, "100": 5.0, "300": 5.0}),
            ("ours", {"100": None, "200": 7.0}),
        )
    ]
    (ax,) = drawn(validation_curves(records)).axes
    assert ax.lines[0].get_xydata().tolist() == [[100, 5], [200, 3], [300, 5]]
    assert ax.lines[1].get_xydata().tolist() == [[100, 5]]  # the first of equal ones
    assert ax.lines[2].get_xydata().tolist() == [[100, 0], [200, 7]]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "baseline, seed 0: 5.0 at step 100",
        "C2D, seed 0: 7.0 at step 200",
    ]


def test_a_panel_per_class_from_the_best_to_the_worst(drawn):
    frame = classes(20.0, 80.0, np.nan)
    curves = {"class 0": np.full(101, 0.2), "class 1": np.full(101, 0.8)}  # class 2 has no object
    figure = drawn(precision_recall_curves(curves, frame, THRESHOLD))
    shown = [ax for ax in figure.axes if ax.axison]
    assert [ax.get_title() for ax in shown] == ["class 1: AP50 80", "class 0: AP50 20"]
    assert set(shown[0].lines[2].get_ydata()) == {80.0}
    assert shown[0].lines[3].get_xydata().tolist() == [[40, 80]]  # recall and precision at the threshold
    plain = drawn(precision_recall_curves(curves, frame, None))
    assert len(plain.axes[0].lines) == 3


def test_of_many_classes_the_best_and_the_worst_are_drawn(drawn):
    count = MOST_PANELS + 7
    frame = classes(*range(count))
    figure = drawn(precision_recall_curves({n: np.zeros(101) for n in frame["class"]}, frame, THRESHOLD))
    titles = [ax.get_title() for ax in figure.axes if ax.axison]
    half = MOST_PANELS // 2
    expected = [*range(count - 1, count - 1 - half, -1), *range(half - 1, -1, -1)]
    assert titles == [f"class {i}: AP50 {i}" for i in expected]
    assert f"{half} best and {half} worst of {count}" in figure.get_suptitle()
