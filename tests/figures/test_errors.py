"""TIDE's figures: means over seeds, one dot per run, intervals as bands, changes per class."""

import math

import pandas as pd
import torch

from c2dlib import figures
from c2dlib.evaluation.tide import TYPES, ErrorExample


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def by_iou(cost=12.0) -> pd.DataFrame:
    """Two methods, two seeds, two thresholds; the distilled loses 2 points less to Cls."""
    return pd.DataFrame(
        [
            {
                "student": "A",
                "method": method,
                "seed": seed,
                "draw": 0,
                "pairing": "a",
                "IoU": iou,
                **dict.fromkeys(TYPES, 0.0),
                "Cls": max(cost + seed - 2 * (method == "ours"), 0) if cost else 0.0,
            }
            for method in ("baseline", "ours")
            for seed in (0, 1)
            for iou in (50, 75)
        ]
    )


def test_errors_over_iou_draws_the_mean_and_every_seed(drawn):
    above, below = drawn(figures.errors_over_iou(by_iou())).axes
    means = {
        line.get_label(): list(line.get_ydata())
        for line in above.lines
        if not line.get_label().startswith("_")
    }
    assert means == {"baseline": [12.5, 12.5], "C2D": [10.5, 10.5]}
    assert sorted(y for line in above.lines if line.get_marker() == "." for y in line.get_ydata()) == [
        10,
        10,
        11,
        11,
        12,
        12,
        13,
        13,
    ]
    assert above.get_ylim()[0] == below.get_ylim()[0] == 0 and above.get_ylim()[1] >= 13


def test_change_over_iou_has_a_line_and_a_band_per_method(drawn):
    lines = pd.DataFrame(
        [
            {"student": "A", "method": m, "IoU": iou, "type": "AP_boxes", "dAP": 30.0, "seeds": 2}
            | ({} if m == "baseline" else {"change": 1.5, "change_low": 1.0, "change_high": 2.0})
            for m in ("baseline", "ours")
            for iou in (50, 75)
        ]
    )
    (ax,) = drawn(figures.change_over_iou(lines, "AP of the boxes")).axes
    assert {
        line.get_label(): list(line.get_ydata()) for line in ax.lines if not line.get_label().startswith("_")
    } == {"C2D": [1.5, 1.5]}
    (band,) = ax.collections
    assert sorted({y for _, y in band.get_paths()[0].vertices.tolist()}) == [1.0, 2.0] and not texts(ax)
    unmeasured = lines.assign(student="B", dAP=float("nan"), change=float("nan"))
    figure = drawn(figures.change_over_iou(pd.concat([lines, unmeasured]), "AP of the boxes"))
    assert [ax.get_title() for ax in figure.axes] == ["A"] and "A C2D +1.5 at 50 %" in figure.alt
    (ax,) = drawn(figures.change_over_iou(unmeasured, "AP of the boxes")).axes
    assert texts(ax) == ["AP of the boxes: not measured in these runs"]


def test_error_bars_have_a_linear_axis_and_numbers_where_bars_are_too_low(drawn):
    runs = by_iou().assign(Loc=lambda frame: 0.2 + 0.1 * (frame.method == "ours"), Miss=0.1)
    figure = drawn(figures.error_bars(runs))
    (ax,) = figure.axes
    assert ax.get_yscale() == "linear" and [bar.get_height() for bar in ax.patches] == [12.5, 10.5]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["Cls"] and not texts(ax)
    assert {dots.get_markeredgecolor() for dots in ax.lines} == {"white"}  # seen on a black bar
    numbers = " ".join(ax.get_xlabel().split())
    assert numbers == "Loc 0.2–0.3, Both 0.0, Dupe 0.0, Bkg 0.0, Miss 0.1"
    assert "Cls 10.5 to 12.5; Loc 0.2 to 0.3; Both 0.0;" in figure.alt
    other = runs.assign(student="B", Loc=9.0)  # there bars of Loc are high, so that both students have some
    a, b = drawn(figures.error_bars(pd.concat([runs, other]))).axes
    assert [tick.get_text() for tick in a.get_xticklabels()] == ["Cls", "Loc"]
    assert texts(a) == ["0.2–0.3"] and not texts(b) and "Loc" not in a.get_xlabel()


def test_error_bars_of_a_perfect_detector_are_flat_and_whole(drawn):
    (ax,) = drawn(figures.error_bars(by_iou(cost=0))).axes
    assert len(ax.patches) == 12 and {bar.get_height() for bar in ax.patches} == {0}
    assert [tick.get_text() for tick in ax.get_xticklabels()] == TYPES
    drawn(figures.error_bars(by_iou().iloc[:0]))  # nothing finished yet
    drawn(figures.errors_over_iou(by_iou().iloc[:0]))


def test_errors_per_class_draws_the_types_that_change_and_names_the_rest(drawn):
    frame = pd.DataFrame(
        [
            {"student": "A", "method": m, "seed": 0, "class": c, **dict.fromkeys(TYPES, 0.0), "Loc": v}
            for m, values in (("baseline", (5, 6)), ("ours", (2, 6)))
            for c, v in zip("xy", values, strict=True)
        ]
    )
    figure = drawn(figures.errors_per_class(frame, "ours"))
    (ax,) = figure.axes
    (marks,) = [line for line in ax.lines if not line.get_label().startswith("_")]
    assert marks.get_xdata()[0] == -3 and math.isnan(marks.get_xdata()[1])  # no change, no mark
    assert [t.get_text() for t in ax.get_yticklabels()] == ["x", "y"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["Loc (right class, IoU too low)"]
    assert "Cls, Both, Dupe, Bkg, Miss: less than 1 point in every class" in figure.get_supxlabel()
    assert "A: Loc -3.0 to +0.0." in figure.alt
    whole = frame.replace({"method": {"ours": "KDcls+loc+KDloc"}})  # the same method by its parts
    assert drawn(figures.errors_per_class(whole, "ours")).alt == figure.alt
    every = drawn(figures.errors_per_class(frame.assign(**{kind: frame.Loc for kind in TYPES}), "ours"))
    assert len(every.legends[0].get_texts()) == len(TYPES)
    marks = [line for line in every.axes[0].lines if not line.get_label().startswith("_")]
    heights = sorted(line.get_ydata()[0] for line in marks)
    assert len(set(heights)) == len(TYPES) and -0.5 < heights[0] and heights[-1] < 0.5  # none covers another
    alone = drawn(figures.errors_per_class(frame[frame.method == "ours"], "ours"))
    assert texts(alone.axes[0]) == ["no student has runs of both C2D and baseline"]


def test_the_truths_label_is_above_its_box_and_the_detections_does_not_cover_it(drawn):
    one = ErrorExample("Cls", 1, [20.0, 20, 30, 30], 3, 0.82, [21.0, 21, 30, 30], 7, 0.9)
    figure = drawn(
        figures.error_examples({1: torch.zeros(3, 80, 80)}, [one], {3: "bun", 7: "cup"}, "Cls: 1 of 1")
    )
    ax = figure.axes[0]
    true, detected = ax.texts
    assert detected.get_text() == "bun 0.82" and true.get_text() == "cup"
    assert (
        not detected.get_bbox_patch().get_window_extent().overlaps(true.get_bbox_patch().get_window_extent())
    )
    assert ax.transData.inverted().transform(true.get_window_extent())[0][1] < 21  # y rises downwards
    assert true.get_zorder() > detected.get_zorder()
    assert [patch.get_linestyle() for patch in ax.patches[1::2]] == ["-", "--"]
    assert figure.alt == "Cls: 1 of 1. image 1, IoU 0.90: true cup, detected bun 0.82"
    assert figure.legends[0].get_title().get_text() == "Cls: 1 of 1"
    drawn(figures.error_examples({}, [], {}, "Miss (an object without any box): none"))
