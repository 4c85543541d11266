"""Result tables in a terminal: at most 100 columns, every number, and reasons in full."""

import pandas as pd
import pytest

from c2dlib.files import read_csv
from c2dlib.records import PUBLISHED, ROOT, recorded_seeds, results_name
from c2dlib.reporting.console import WIDTH, published_table, read_lines, show, text_table
from c2dlib.reporting.work_list import TABLES

PUBLISHED_TABLES = [path for path in sorted(PUBLISHED.glob("*/*.csv")) if path.stem in TABLES]
CSV_FILES = [*PUBLISHED_TABLES, *sorted((ROOT / "results" / "paper").glob("*.csv"))]


def line(method: str, mAP: float, **more) -> dict:
    nothing = dict.fromkeys(("mAP_sd", "gain", "gain_low", "gain_high"), float("nan"))
    row = {"student": "SSD300-VGG16", "method": method, "paper_mAP": 25.6, "mAP": mAP}
    return row | nothing | {"seeds": 1, "status": "done"} | more


@pytest.mark.parametrize("path", CSV_FILES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_csv_file_is_read_as_pandas_reads_it(path):
    lines, frame = read_csv(path), pd.read_csv(path)
    if path in PUBLISHED_TABLES:
        assert lines == read_lines(path) or any(v != v for line in lines for v in line.values())
    pd.testing.assert_frame_equal(pd.DataFrame(lines), frame)


@pytest.mark.parametrize("path", PUBLISHED_TABLES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_table_beside_the_published_one_fits_a_terminal(path):
    lines = [
        row | {f"published_{name}": row[name] for name in ("mAP", "mAP_sd", "gain", "gain_low", "gain_high")}
        for row in read_lines(path)
    ]
    text = text_table(lines)
    assert all(len(shown) <= WIDTH for shown in text.splitlines())
    for row in lines:
        assert row["student"] in text and (not row["seeds"] or text.count(f"{row['mAP']:.1f}") >= 2)
    assert all(len(shown) <= WIDTH for shown in published_table(read_lines(path)).splitlines())


def test_a_line_of_a_table_by_hand():
    lines = [
        line("baseline", 20.0, published_mAP=21.5, published_mAP_sd=0.25),
        line("ours", 22.0, gain=2.0, published_mAP=float("nan"), published_gain=1.0, published_gain_low=-0.5)
        | {"published_gain_high": 2.5},
        line("loc", float("nan"), status="failed: step 3: loss term b is not finite"),
    ]
    head, student, baseline, ours, loc, _, note = text_table(lines).splitlines()
    assert head.split("  ")[-1].strip() == "gain here [95 % CI]" and "this machine" in head
    assert student == "SSD300-VGG16"
    assert baseline.split() == ["baseline", "25.6", "21.5", "±", "0.2", "20.0"]
    assert ours.split() == ["C2D", "25.6", "–", "22.0", "+1.0", "[-0.5,", "+2.5]", "+2.0"]
    assert loc.split() == ["loc", "25.6", "–", "failed"]
    assert note == "SSD300-VGG16, loc: failed: step 3: loss term b is not finite"
    assert "published" not in text_table([line("baseline", 20.0)])


def test_a_label_without_room_has_a_line_of_its_own():
    long = {"student": "S", "method": "loc", "a": "x" * 90, "paper_mAP": 1.0}
    rows = text_table([long | line("loc", 2.0)]).splitlines()
    assert rows[-2].strip() == f"loc, {'x' * 90}" and rows[-1].split() == ["25.6", "2.0"]


def test_show_names_the_published_table_and_how_to_train(tmp_path):
    text = show("table2", "mini")
    assert "results/published/badges-mini/table2.csv (3 seeds per row)" in text
    assert "Nothing was trained here" in text and "make reproduce-table2\n" in text
    assert "C2D + FKD" in text and "paper   published" in text
    assert "00_method.ipynb" in show("method", "mini") and "figure3.md" in show("figure3", "mini")
    with pytest.raises(
        FileNotFoundError, match="table5 is not published for groceries-photos; published there"
    ):
        show("table5", "photos", "/somewhere/groceries")
    assert "make reproduce-table1 SCALE=photos DATA='/a b/groceries'\n" in show(
        "table1", "photos", "/a b/groceries"
    )
    with pytest.raises(FileNotFoundError, match="published there: nothing"):
        show("table5", "mini", root=tmp_path)


def test_the_folder_of_results_and_the_seeds_in_it(tmp_path):
    assert results_name("mini") == "badges-mini"
    assert results_name("photos", "data/groceries/") == "groceries-photos"
    assert results_name("mini", tmp_path / "badges") == "badges-of-yours-mini"
    (tmp_path / "records").mkdir()
    for name in ("A.loc+KDloc.s2.ff", "A.loc+KDloc.s0.ff", "A.loc+KDloc.s0.aa", "B.loc.s7.ff", "B.loc.sx.ff"):
        (tmp_path / "records" / f"{name}.json").touch()
    assert recorded_seeds(tmp_path) == {("A", "loc+KDloc"): [0, 2], ("B", "loc"): [7]}
    assert recorded_seeds(tmp_path / "none") == {}
