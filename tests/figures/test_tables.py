"""The tables' figures show the paper's gain and the reproduced one, and why a number is missing."""

import math
from itertools import pairwise

import pandas as pd
import pytest

from c2dlib import figures


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def frame() -> pd.DataFrame:
    nothing = math.nan
    rows = [
        ("A", "baseline", 30.0, 40.0, nothing, nothing, nothing, "done"),
        ("A", "KD", 31.0, nothing, nothing, nothing, nothing, "not run"),
        ("A", "ours", 33.0, 41.5, 1.5, 0.5, 2.5, "done"),
        ("A", "KDcls-labels", nothing, 39.0, -1.0, nothing, nothing, "done"),
        ("B", "baseline", 20.0, 25.0, nothing, nothing, nothing, "done"),
        ("B", "ours", 22.0, nothing, nothing, nothing, nothing, "failed: step 7: loss term loc is nan"),
    ]
    columns = ["student", "method", "paper_mAP", "mAP", "gain", "gain_low", "gain_high", "status"]
    return pd.DataFrame(rows, columns=columns)


def test_table_bars_shows_the_papers_gain_the_reproduced_one_and_why_there_is_none(drawn):
    a, b = drawn(figures.table_bars(frame())).axes
    widths = [bar.get_width() for bar in a.patches]
    assert widths == pytest.approx([1.0, 3.0, 1.5, -1.0])  # KD paper; ours paper and ours; the control
    assert texts(a) == ["not run"] and texts(b) == ["failed"]
    assert a.get_title() == "A\n30.0 | 40.0"
    intervals = [line.get_xdata() for line in a.lines if len(set(line.get_xdata())) == 2]
    assert [list(x) for x in intervals] == [[0.5, 2.5]]
    assert [label.get_text() for label in a.get_yticklabels()] == ["KD", "C2D", "KDcls-labels"]


def test_table_bars_without_a_baseline_or_any_method(drawn):
    only = frame()[frame().method == "ours"].assign(gain=math.nan)
    a, _ = drawn(figures.table_bars(only)).axes
    assert texts(a) == ["no baseline"] and len(a.patches) == 0
    drawn(figures.table_bars(frame()[frame().method == "baseline"]))


def test_ap_over_iou_subtracts_the_papers_and_the_reproduced_baseline(drawn):
    ours = {f"AP{iou}": [20.0, 20.0 + iou / 10] for iou in range(50, 100, 5)}
    paper = {f"paper_AP{iou}": [40.0, 43.0] for iou in range(50, 100, 5)}
    figure = drawn(
        figures.ap_over_iou(
            pd.DataFrame({"student": "A", "method": ["baseline", "KDcls"], "paper_mAP": 1.0, **ours, **paper})
        )
    )
    (ax,) = figure.axes
    paper, reproduced = (line.get_ydata() for line in ax.lines if len(line.get_ydata()) == 10)
    assert list(paper) == [3.0] * 10 and list(reproduced) == pytest.approx(
        [iou / 10 for iou in range(50, 100, 5)]
    )
    assert [t.get_text() for t in figure.legends[0].texts] == ["KDcls", "paper", "reproduced"]


def test_map_over_images_has_a_line_per_method(drawn):
    frame = pd.DataFrame(
        [
            {"student": "A", "method": m, "train_share": s, "mAP": v, "mAP_sd": math.nan}
            for m, s, v in (("baseline", 0.5, 10), ("baseline", 1, 20), ("KDcls", 0.5, 15), ("KDcls", 1, 21))
        ]
    )
    (ax,) = drawn(figures.map_over_images(frame, 300)).axes
    lines = [line for line in ax.lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in lines] == [[150, 300]] * 2
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["150", "300"]


def test_gain_over_cost_leaves_out_what_has_no_gain_or_no_time(drawn):
    data = frame().assign(relative_seconds=[1.0, 1.2, 1.5, math.nan, 1.0, 1.4])
    figure = drawn(figures.gain_over_cost(data))
    (ax,) = figure.axes
    assert texts(ax) == ["C2D"] and ax.get_title() == "A"
    point, interval, zero = ax.lines
    assert point.get_xydata().tolist() == [[1.5, 1.5]] and interval.get_ydata().tolist() == [0.5, 2.5]
    assert zero.get_ydata() == [0, 0]
    empty = drawn(figures.gain_over_cost(data.iloc[:1]))
    assert not empty.axes[0].lines[:-1]


def test_names_beside_the_points_do_not_overlap(drawn):
    rows = [
        ("A", f"ours+{n}", 0.001 * i, math.nan, math.nan, 1.5)
        for i, n in enumerate(["KD", "FGFI", "GID", "FKD", "PKD", "AT"] * 3)
    ]
    data = pd.DataFrame(
        rows, columns=["student", "method", "gain", "gain_low", "gain_high", "relative_seconds"]
    )
    figure = drawn(figures.gain_over_cost(data))
    places = [text.xyann[1] for text in figure.axes[0].texts]  # share of the axes' height
    assert (
        len(places) == 18
        and all(b - a > 0.05 for a, b in pairwise(places))
        and 0 <= places[0]
        and places[-1] <= 1
    )
    assert [text.get_text() for text in figure.axes[0].texts] == [
        name.replace("ours+", "C2D + ") for name in data.method
    ]  # by rising gain
