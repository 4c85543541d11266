"""The plot of the regimes, and classes against boxes."""

import math

import pandas as pd
import pytest

from c2dlib import figures
from c2dlib.figures.front import unexceeded
from c2dlib.figures.regimes import regimes_plot
from c2dlib.reporting.regimes import PLACES

SSD = "SSD300-VGG16"


def test_every_place_with_runs_has_a_row_and_every_gain_a_point(drawn):
    baselines = pd.DataFrame(
        [("Badges", SSD, 50.0, 1.0), ("Badges-4", SSD, 6.0, math.nan)],
        columns=["place", "student", "Cls50", "Loc50"],
    )
    gains = pd.DataFrame(
        [
            ("Badges", SSD, "KDcls", "mAP", 2.0, 1.0, 3.0),
            ("Badges", SSD, "KDcls", "AP50", 7.0, 6.0, 8.0),
            ("Badges", SSD, "KDcls-labels", "mAP", 0.5, math.nan, math.nan),
            ("Badges-4", SSD, "KDcls+loc+KDloc", "mAP", -1.0, -2.0, 0.0),
        ],
        columns=["place", "student", "method", "metric", "gain", "low", "high"],
    )
    figure = drawn(regimes_plot(baselines, gains))
    errors, kd_cls, loc, both, c2d = figure.axes
    labels = [t.get_text() for t in errors.get_yticklabels()]
    assert labels == [f"Badges\n{SSD}", f"Badges-4\n{SSD}"]
    not_run = [place.name for place in PLACES if place.name not in ("Badges", "Badges-4")]
    assert figure.get_supxlabel() == f"not run with all planned seeds yet: {', '.join(not_run)}"
    assert figure.get_supxlabel() in figure.alt
    texts = [t.get_text().strip() for t in errors.texts]
    assert texts == ["50.0", "1.0", "6.0", "not measured"]

    def points(ax):
        return sorted(line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o")

    assert points(kd_cls) == [0.5, 2.0] and points(c2d) == [-1.0] and points(loc) == points(both) == []
    assert [1.0, 3.0] in [list(line.get_xdata()) for line in kd_cls.lines]
    assert kd_cls.get_xlim() == c2d.get_xlim()
    titles = [ax.get_title().split("\n")[1] for ax in (kd_cls, loc, both, c2d)]
    assert titles == ["○ KDcls-labels", " ", " ", " "]  # no control is named that has no point
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[:2] == ["wrong classes", "inexact boxes"] and names[-1] == "what it is compared with"
    alone = drawn(regimes_plot(baselines, gains[gains.method != "KDcls-labels"])).legends[0].get_texts()
    assert [text.get_text() for text in alone] == names[:-1]
    nothing = drawn(regimes_plot(baselines[:0], gains[:0]))
    assert nothing.alt.startswith("not run with all planned seeds yet: Badges, 800 steps, Badges, ")


def test_the_front_joins_the_baselines_that_none_exceeds(drawn):
    points = pd.DataFrame({"AP50": [1.0, 2, 3, 2.5], "boxes75": [9.0, 5, 4, 6]})
    assert unexceeded(points).AP50.tolist() == [1, 2.5, 3]
    frame = pd.DataFrame(
        [
            ("S", "baseline", math.nan, 40.0, 60.0),
            ("S", "baseline", "boxes x 2", 38.0, 62.0),
            ("S", "baseline", "boxes x 4", 37.0, 61.0),
            ("S", "KDcls", math.nan, 44.0, 59.0),
            ("T", "baseline", math.nan, 44.0, math.nan),
        ],
        columns=["student", "method", "own_losses", "AP50", "boxes75"],
    )
    first, second = drawn(figures.front(frame)).axes
    assert [t.get_text() for t in first.texts] == ["baseline", "boxes x 2", "boxes x 4", "KDcls"]
    assert list(first.lines[0].get_xdata()) == pytest.approx([38, 40])
    assert [t.get_text() for t in second.texts] == ["no detections on this machine"]
