"""The forest plot shows the paper's sum, each student's, the pooled one with interval, and the verdict."""

import math

import pandas as pd
import pytest

from c2dlib import figures

NAN = math.nan


def parts() -> pd.DataFrame:
    columns = ["id", "part", "sum", "within", "otherwise_within", "paper", "value", "low", "high", "verdict"]
    rows = [
        (1, 1, "a - b, mAP", NAN, NAN, 1.2, 0.6, 0.1, 1.1, "reproduced"),
        (1, 2, "(a - b, AP50) - (a - b, AP75)", NAN, NAN, NAN, 2.0, NAN, NAN, "reproduced"),
        (2, 1, "a - c, mAP", 0.75, NAN, NAN, NAN, NAN, NAN, "not run"),
        (3, 1, "c - b, mAP", NAN, 0.5, NAN, 0.0, -0.2, 0.2, "equivalent"),
    ]
    return pd.DataFrame(rows, columns=columns)


def test_forest(drawn):
    students = pd.DataFrame(
        [(1, 1, "A", 0.9), (1, 1, "B", 0.3), (2, 1, "A", NAN)], columns=["id", "part", "student", "value"]
    )
    figure = drawn(figures.claims_forest(parts(), students))
    (ax,) = figure.axes
    assert [t.get_text() for t in ax.texts] == ["reproduced", "not run", "equivalent"]
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert labels == ["1  a - b, mAP", "(a - b, AP50)\n- (a - b, AP75)", "2  a - c, mAP", "3  c - b, mAP"]
    points = {(round(x, 2), line.get_marker()) for line in ax.lines for x in line.get_xdata()}
    assert {(1.2, "D"), (0.6, "s"), (2.0, "s"), (0.9, "o"), (0.3, "^")} <= points
    intervals = [list(line.get_xdata()) for line in ax.lines if line.get_color() == "black"]
    assert [0.1, 1.1] in intervals and [-0.2, 0.2] in intervals
    margins = [c.get_datalim(ax.transData).x1 for c in ax.collections]
    assert margins == pytest.approx([0.75, 0.5])
    assert "2 reproduced" not in figure.alt and "1 reproduced, 1 not run, 1 equivalent" in figure.alt
    assert "1: a - b, mAP +0.6 [+0.1, +1.1]" in figure.alt
    names = [t.get_text() for t in figure.legends[0].texts]
    assert "A" in names and "B" in names and "paper" in names


def test_forest_without_any_run(drawn):
    nothing = parts().assign(paper=NAN, value=NAN, low=NAN, high=NAN, verdict="not run")
    students = pd.DataFrame(columns=["id", "part", "student", "value"])
    (ax,) = drawn(figures.claims_forest(nothing, students)).axes
    assert {t.get_text() for t in ax.texts} == {"not run"}
