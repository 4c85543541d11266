"""Labels: what methods and rows are called in what people read."""

import pytest

from c2dlib.reporting.labels import method_label, row_label, run_labels
from c2dlib.reporting.markdown import markdown_table, number
from c2dlib.reporting.work_list import work_list
from tests.reporting.helpers import SSD


@pytest.mark.parametrize(
    "method, label",
    [
        ("ours", "C2D"),
        ("KDcls+loc+KDloc", "C2D"),
        ("ours+FKD", "C2D + FKD"),
        ("FKD+ours", "C2D + FKD"),
        ("baseline", "baseline"),
        ("loc+KDloc", "loc+KDloc"),
        ("KDcls-labels", "KDcls-labels"),
        ("loc-L1+KDloc-L1", "loc-L1+KDloc-L1"),
    ],
)
def test_the_papers_method_is_called_c2d(method, label):
    assert method_label(method) == label


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="unknown method 'KDclss'"):
        method_label("KDclss")


def test_rows_are_named_by_method_and_settings():
    assert row_label("KDcls", {"lambda_kc": 0.4, "T": 2.0}) == "KDcls, λ_kc 0.4, T 2"
    assert row_label("baseline", {"lambda_kc": 0.0, "T": float("nan")}) == "baseline"
    assert (
        row_label("ours", {"train_share": 0.25}) == "C2D, share 0.25"
        and row_label("baseline", {"schedule": 3}) == "baseline, schedule x 3"
    )


def test_runs_are_named_by_their_rows(place):
    rows = [
        work_list(table, *place, students=["SSD512-VGG16"], methods=["ours"])[0]
        for table in ("table1", "table2")
    ]
    assert run_labels(rows) == {rows[0].experiments[0].hash(): "C2D"}
    assert set(run_labels(work_list("table3a", *place, students=[SSD], methods=["baseline"])).values()) == {
        "baseline"
    }


def test_a_markdown_table_by_hand():
    assert markdown_table(
        ["name", "value"], [["a", number(1.25, 2)], ["b", number(None)]], text_columns=(0,)
    ) == ("| name | value |\n|---|---:|\n| a | 1.25 |\n| b | – |")
