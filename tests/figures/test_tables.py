"""The tables' figures show the paper's gain and the reproduced one, and why a number is missing."""

import math
import random
from itertools import combinations

import pandas as pd
import pytest
from matplotlib.text import Text

from c2dlib import figures
from c2dlib.reporting.labels import method_label


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
    figure = drawn(figures.table_bars(frame()))
    a, b = figure.axes
    legend = figure.legends[0]
    assert [t.get_text() for t in legend.get_texts()] == ["paper", "reproduced", "95 % interval over seeds"]
    assert not legend.get_title().get_text() and "A C2D +1.5 (paper +3.0)" in figure.alt
    widths = [bar.get_width() for bar in a.patches]
    assert widths == pytest.approx([1.0, 3.0, 1.5, -1.0])  # KD paper; ours paper and ours; the control
    assert texts(a) == ["not run"] and texts(b) == ["failed"]
    assert a.get_title() == "A\npaper 30.0\nhere 40.0" and b.get_title() == "B\npaper 20.0\nhere 25.0"
    intervals = [line.get_xdata() for line in a.lines if len(set(line.get_xdata())) == 2]
    assert [list(x) for x in intervals] == [[0.5, 2.5]]
    assert [label.get_text() for label in a.get_yticklabels()] == ["KD", "C2D", "KDcls-labels"]


def test_table_bars_without_a_baseline_or_any_method(drawn):
    only = frame()[frame().method == "ours"].assign(gain=math.nan)
    a, _ = drawn(figures.table_bars(only)).axes
    assert texts(a) == ["no baseline"] and len(a.patches) == 0
    drawn(figures.table_bars(frame()[frame().method == "baseline"]))


def test_table_bars_name_a_row_that_has_another_device_than_its_baseline(drawn):
    a, _ = drawn(figures.table_bars(frame().assign(gain=math.nan))).axes
    assert texts(a) == ["not run", "not comparable", "not comparable"]


def test_table_bars_of_one_seed_say_so_and_have_no_legend_without_marks(drawn):
    one = frame().assign(gain_low=math.nan, gain_high=math.nan, paper_mAP=math.nan)
    legend = drawn(figures.table_bars(one)).legends[0]
    assert [t.get_text() for t in legend.get_texts()] == ["reproduced"]
    assert legend.get_title().get_text() == "One seed a row: a difference may be chance"


def test_table_bars_take_the_baseline_of_the_scale_where_several_were_tried(drawn):
    several = pd.concat([frame().iloc[:1].assign(mAP=99.0, changed="lr 1"), frame().assign(changed=math.nan)])
    several = several[["student", "method", "changed", *frame().columns[2:]]]
    a, _ = drawn(figures.table_bars(several)).axes
    assert a.get_title().endswith("here 40.0")


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


def test_ap_over_iou_has_the_methods_lines_and_its_whole_legend_on_the_page(drawn):
    methods = ["baseline", "KDcls", "loc+KDloc", "KDcls+loc+KDloc", "KDcls-labels"]
    values = {f"{source}AP{iou}": range(5) for source in ("", "paper_") for iou in range(50, 100, 5)}
    figure = drawn(figures.ap_over_iou(pd.DataFrame({"student": "A", "method": methods, **values})))
    names = [t.get_text() for t in figure.legends[0].texts]
    assert names == ["KDcls", "loc+KDloc", "C2D", "KDcls-labels", "paper", "reproduced"]
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 10]
    assert [line.get_linestyle() for line in lines] == [s for s in ("-", "-.", "-", "--") for _ in range(2)]
    assert [line.get_marker() for line in lines] == ["o", "None"] * 4  # the paper's have circles


def test_map_over_images_has_a_line_per_method(drawn):
    frame = pd.DataFrame(
        [
            {"student": "A", "method": m, "train_share": s, "mAP": v, "mAP_sd": math.nan}
            for m, s, v in (("baseline", 0.5, 10), ("baseline", 1, 20), ("KDcls", 0.5, 15), ("KDcls", 1, 21))
        ]
    )
    figure = drawn(figures.map_over_images(frame, 300))
    (ax,) = figure.axes
    assert not ax.collections and "A KDcls 15.0 with 150, 21.0 with 300" in figure.alt  # one seed: no bars
    lines = [line for line in ax.lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in lines] == [[150, 300]] * 2
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["150", "300"]


def test_gain_over_cost_names_what_has_no_gain_or_no_time(drawn):
    data = frame().assign(relative_seconds=[1.0, 1.2, 1.5, math.nan, 1.0, 1.4])
    figure = drawn(figures.gain_over_cost(data))
    (ax,) = figure.axes
    assert texts(ax) == ["1"] and ax.get_title() == "A" and "A C2D +1.5 at 1.5." in figure.alt
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["1  C2D"]
    point, interval, zero = ax.lines
    assert point.get_xydata().tolist() == [[1.5, 1.5]] and interval.get_ydata().tolist() == [0.5, 2.5]
    assert zero.get_ydata() == [0, 0]
    for sentence in (
        "Not drawn, without a gain: KD (A); C2D (B)",
        "Not drawn, without a measured time: KDcls-labels (A)",
    ):
        assert sentence in figure.get_supxlabel() and sentence in figure.alt
    empty = drawn(figures.gain_over_cost(data.iloc[:1]))
    assert texts(empty.axes[0]) == ["no row has both a gain and a time"]


@pytest.mark.parametrize("seed", range(5))
def test_numbers_cover_no_point_and_are_nearest_to_their_own(drawn, seed):
    draw = random.Random(seed)
    names = ["KD", "FGFI", "GID", "FKD", "PKD", "AT", "CWD", "FitNets"]
    methods = [*names, *(f"ours+{name}" for name in names)]
    rows = [("A", m, draw.gauss(2, 3), math.nan, math.nan, draw.uniform(1, 2.5)) for m in methods]
    columns = ["student", "method", "gain", "gain_low", "gain_high", "relative_seconds"]
    data = pd.DataFrame(rows, columns=columns)
    ax = drawn(figures.gain_over_cost(data)).axes[0]
    ranked = data.sort_values("gain", ascending=False)
    assert texts(ax) == [str(i) for i in range(1, 17)]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        f"{i}  {method_label(m)}" for i, m in enumerate(ranked.method, 1)
    ]
    points = ax.transData.transform(ranked[["relative_seconds", "gain"]].to_numpy())
    boxes = [Text.get_window_extent(text).padded(-0.1) for text in ax.texts]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    for i, box in enumerate(boxes):
        assert not any(box.contains(*point) for point in points)
        distances = [math.dist((box.p0 + box.p1) / 2, point) for point in points]
        assert distances.index(min(distances)) == i
