"""TIDE's figures: means over seeds, one dot per run, intervals as bands, changes per class."""

import pandas as pd

from c2dlib import figures
from c2dlib.evaluation.tide import TYPES


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
                "origin": "a",
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
    (ax,) = drawn(figures.change_over_iou(lines.assign(dAP=float("nan"), change=float("nan")), "AP")).axes
    assert texts(ax) == ["not measured"]


def test_error_bars_of_a_perfect_detector_are_flat_and_whole(drawn):
    (ax,) = drawn(figures.error_bars(by_iou())).axes
    assert [bar.get_height() for bar in ax.patches][::6] == [12.5, 10.5]
    (ax,) = drawn(figures.error_bars(by_iou(cost=0))).axes
    assert len(ax.patches) == 12 and {bar.get_height() for bar in ax.patches} == {0}
    assert [tick.get_text() for tick in ax.get_xticklabels()] == TYPES
    drawn(figures.error_bars(by_iou().iloc[:0]))  # nothing finished yet
    drawn(figures.errors_over_iou(by_iou().iloc[:0]))


def test_errors_per_class_shows_the_change(drawn):
    frame = pd.DataFrame(
        [
            {"student": "A", "method": m, "seed": 0, "class": c, **dict.fromkeys(TYPES, 0.0), "Loc": v}
            for m, values in (("baseline", (5, 6)), ("ours", (2, 6)))
            for c, v in zip("xy", values, strict=True)
        ]
    )
    ax = drawn(figures.errors_per_class(frame, "ours")).axes[0]
    assert ax.get_images()[0].get_array()[:, TYPES.index("Loc")].tolist() == [-3, 0] and texts(ax) == ["-3"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["x", "y"]
    whole = frame.replace({"method": {"ours": "KDcls+loc+KDloc"}})  # the same method by its parts
    assert texts(drawn(figures.errors_per_class(whole, "ours")).axes[0]) == ["-3"]
    alone = drawn(figures.errors_per_class(frame[frame.method == "ours"], "ours"))
    assert texts(alone.axes[0]) == ["no student has runs of both C2D and baseline"]
