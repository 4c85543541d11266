"""The values that were tried on val: which is the highest, and which can be compared with the baseline."""

import math

import pandas as pd

from c2dlib import figures


def frame() -> pd.DataFrame:
    nothing = math.nan
    rows = [
        ("A", "baseline", None, nothing, 30.0, nothing),
        ("A", "baseline", "lr 0.01", nothing, 28.0, nothing),
        ("A", "baseline", "steps 5, seed 101", nothing, 29.0, nothing),
        ("A", "baseline", "steps 9, seed 101", nothing, 34.0, nothing),
        ("A", "KDcls", "lambda_kc 0.1", nothing, 33.0, nothing),  # another kind of device
        ("A", "KDcls", "lambda_kc 0.4", nothing, 31.0, nothing),
        ("A", "KDcls", "temperature 4", nothing, 32.0, 2.0),
        ("A", "loc", "lambda_l 0.1", nothing, 30.5, 0.5),
        ("A", "loc", "lambda_l 0.2", nothing, nothing, nothing),  # not run
        ("B", "baseline", None, nothing, 20.0, nothing),
    ]
    frame = pd.DataFrame(rows, columns=["student", "method", "changed", "paper_mAP", "mAP", "gain"])
    return frame.assign(seeds=1)


def test_the_highest_value_of_a_method_and_what_the_baselines_device_did_not_run(drawn):
    figure = drawn(figures.values_tried(frame()))
    a, b = figure.axes
    dashed, *marks = [line for line in a.lines if len(line.get_xdata())]
    assert list(dashed.get_xdata()) == [30.0, 30.0]
    assert [(*line.get_xdata(), line.get_marker()) for line in marks] == [
        (28.0, "o"),
        (29.0, "o"),
        (34.0, "^"),
        (33.0, "^"),
        (31.0, "o"),
        (32.0, "o"),
        (30.5, "o"),  # the only value of loc that was run: nothing to choose
    ]
    assert [line.get_markerfacecolor() == "white" for line in marks] == [
        *(False, True, True),
        *(True, True, False, False),
    ]
    names = [label.get_text() for label in a.get_yticklabels()]
    assert names == [
        "baseline, lr 0.01",
        "baseline, steps 5, seed 101",
        "baseline, steps 9, seed 101",
        "KDcls, lambda_kc 0.1",
        "KDcls, lambda_kc 0.4",
        "KDcls, temperature 4",
        "loc, lambda_l 0.1",
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "baseline",
        "a value that was tried",
        "highest value of that setting",
        "not comparable with the baseline",
    ]
    assert figure.legends[0].get_title().get_text() == "One seed a row: a difference may be chance"
    assert not figures.values_tried(frame().assign(seeds=3)).legends[0].get_title().get_text()
    assert b.get_title() == "B" and "A KDcls, lambda_kc 0.1 33.0" in figure.alt


def test_nothing_tried_yet(drawn):
    figure = drawn(figures.values_tried(frame().assign(mAP=math.nan)))
    assert figure.legends[0].get_title().get_text() == "No value has been tried yet"
