"""Comparisons: each is the right difference of the right rows, and none of them has a verdict."""

import dataclasses

import pytest

from c2dlib.records import write_record
from c2dlib.reporting.claims import (
    Numbers,
    all_comparisons,
    comparisons,
    find_row,
    markdown,
    not_tested,
    require_rows,
    summary,
    write_claims,
)
from c2dlib.reporting.paper_claims import SOURCES, Claim, Gain, claims, claims_at, row
from c2dlib.reporting.tables import collect
from c2dlib.reporting.work_list import METRICS, work_list
from c2dlib.workspace import open_workspace
from tests.reporting.helpers import SSD, record


@pytest.fixture
def place(tmp_path):
    return open_workspace("smoke", results=tmp_path / "results", runs=tmp_path / "runs", device="cpu")


def recorded(place, table: str, student: str, method: str, **metrics: list[float]) -> None:
    """Records of the row with these numbers, one per seed."""
    count = len(next(iter(metrics.values())))
    (line,) = work_list(table, *place, count, [student], [method])
    for seed, e in enumerate(line.experiments):
        values = dict.fromkeys([*METRICS, "AP90"], 1.0) | {
            name: numbers[seed] for name, numbers in metrics.items()
        }
        write_record(record(e, metrics=values), place[0].results / "records")


def test_every_comparison_is_there_and_nothing_is_run_yet(place):
    frame = all_comparisons(*place)
    assert "verdict" not in frame and (frame.seeds == 0).all() and frame.effect.isna().all()
    assert len(frame) == len(claims()) > 100 and not frame.duplicated(["source", "claim"]).any()
    assert set(frame.source) == {
        "Table 1",
        "Table 2",
        "Table 2, extended",
        "Table 3a",
        "Table 3b",
        "Table 4",
        "Table 5",
        "Figure 3",
        "Controls",
        "Reweighted",
        "Training images",
        "Longer schedule",
    }


def test_the_papers_column_is_there_where_the_paper_has_a_number(place):
    frame = all_comparisons(*place)
    heads = {name: markdown(part).splitlines()[0] for name, part in frame.groupby("source")}
    assert heads["Figure 3"] == heads["Controls"] == "| comparison | gain, points [95 % CI] | seeds |"
    assert heads["Table 1"] == "| comparison | paper | gain, points [95 % CI] | seeds |"
    assert {line.count("|") for line in markdown(frame[frame.source == "Controls"]).splitlines()} == {4}


def test_every_claim_refers_to_rows_that_its_table_has(place):
    for source in SOURCES:
        rows = work_list("table1" if source == "figure3" else source, *place)
        require_rows([claim for claim in claims() if claim.source == source], rows)


@pytest.mark.parametrize(
    "better, over, words",
    [
        (row("KDcls", lambda_kc=0.4, T=5), row("baseline"), "KDcls, lambda_kc = 0.4, T = 5"),
        (row("ours"), row("baseline"), "KDcls.loc.KDloc"),
        (row("KDcls", lambda_kc=0.4, T=2), row("KDcls", lambda_k=0.4), "KDcls, lambda_k = 0.4"),
    ],
)
def test_a_claim_on_a_row_that_its_table_lacks_is_refused(place, monkeypatch, better, over, words):
    claim = Claim("table3a", "is true", (Gain(SSD, better, over),))
    with pytest.raises(
        ValueError,
        match=f"the claim '{SSD}: is true' refers to a row that table3a does not have: {SSD}, {words}",
    ):
        require_rows([claim], work_list("table3a", *place))
    monkeypatch.setattr("c2dlib.reporting.claims.claims_at", lambda scale: [claim])
    with pytest.raises(ValueError, match="table3a does not have"):
        all_comparisons(*place)


def test_rows_are_chosen_by_method_and_settings(place):
    rows = work_list("table3a", *place)
    assert find_row(rows, SSD, row("KDcls", lambda_kc=0.4, T=2)).experiments[0].temperature == 2
    assert (
        find_row(rows, SSD, row("baseline")).method == "baseline"
        and find_row(rows, "SSD512-VGG16", row("baseline")) is None
    )
    with pytest.raises(
        ValueError, match="3 rows of SSD300-VGG16 have method KDcls and settings {'lambda_kc': 0.4}"
    ):
        find_row(rows, SSD, row("KDcls", lambda_kc=0.4))
    same = [
        find_row(work_list(table, *place), "SSD512-VGG16", row(name))
        for table, name in (("table1", "ours"), ("table2", "KDcls+loc+KDloc"))
    ]
    assert [r.method for r in same] == ["KDcls+loc+KDloc", "ours"]


def test_of_several_rows_the_one_without_other_settings_is_meant(place, monkeypatch):
    """Where labels have a row with settings of their own, and where baselines are reweighted."""
    tuned = {"controls": [SSD], "tuned": {SSD: {"KDcls-labels": {"lambda_kc": 0.8}}}}
    monkeypatch.setattr("c2dlib.reporting.work_list.scale_tables", lambda scale: tuned)
    monkeypatch.setattr("c2dlib.reporting.claims.SOURCES", {"controls": "Controls"})
    rows = work_list("controls", *place)
    assert find_row(rows, SSD, row("KDcls-labels")).settings == {}
    changed = find_row(rows, SSD, row("KDcls-labels", changed="lambda_kc 0.8"))
    assert changed.experiments[0].lambda_kc == 0.8
    frame = all_comparisons(*place)
    assert f"{SSD}: KD_cls raises mAP more than labels with lambda_kc 0.8" in frame.claim.tolist()
    assert find_row(work_list("reweighted", *place), SSD, row("baseline")).settings == {}


def test_the_losses_are_compared_with_weight_on_the_same_term_and_with_as_much_computing():
    compared = {
        f"{claim.gains[0].row.method} {claim.gains[0].over.settings['own_losses']}"
        for claim in claims()
        if claim.source == "reweighted"
    }
    boxes = ("boxes x 2", "boxes x 4")
    assert compared == {
        *(f"KDcls {text}" for text in ("foreground x 1.5", "steps x 1.2")),
        *(f"loc {text}" for text in (*boxes, "steps x 1.2")),
        *(f"loc+KDloc {text}" for text in (*boxes, "steps x 1.9")),
        *(f"KDcls+loc+KDloc {text}" for text in ("foreground x 1.5", *boxes, "steps x 1.9")),
    }


def test_seeds_of_a_draw_count_as_one(place, monkeypatch):
    regimes = dataclasses.replace(place[0], scale="regimes"), place[1]
    rows = work_list("controls", *regimes, 6, [SSD], ["baseline", "KDcls"])
    values = {"baseline": [0.0] * 6, "KDcls": [1.0, 2.0, 3.0, 4.0, 3.0, 4.0]}  # draws: 1, 3; 2, 4; 3; 4
    records = {
        e.hash(): record(e, values[r.method][e.seed])
        for r in rows
        for e in r.experiments
        if r.method in values
    }
    line = (
        comparisons("controls", rows, records, regimes[0]).set_index("claim").loc[f"{SSD}: KD_cls raises mAP"]
    )
    half = 3.182446 * (2 / 3) ** 0.5 / 2  # of the draws' means 2, 3, 3, 4; t for 3 degrees of freedom
    assert (line.effect, line.low, line.high) == pytest.approx((3, 3 - half, 3 + half), abs=1e-5)
    assert line.seeds == 6
    monkeypatch.setattr("c2dlib.reporting.claims.SOURCES", {"controls": "Controls"})
    write_claims(*regimes)
    assert "Seeds share draws" in (place[0].results / "claims.md").read_text()
    write_claims(*place)
    assert "Seeds share draws" not in (place[0].results / "claims.md").read_text()


def test_the_paper_supports_its_own_claims(place):
    """Signs and rows are right: each difference that is claimed is above 0 in the paper's own numbers."""
    frame = all_comparisons(*place).query("not control and source != 'Figure 3'")
    assert frame.paper.notna().all() and frame[frame.paper <= 0].claim.tolist() == []


def test_differences_are_paired_by_seed_and_go_the_right_way(place):
    recorded(
        place, "table1", SSD, "baseline", mAP=[10, 11, 12], AP50=[20, 20, 20], AP75=[9, 9, 9], AP90=[1, 1, 1]
    )
    recorded(
        place,
        "table1",
        SSD,
        "KDcls",
        mAP=[12, 13.5, 14],
        AP50=[25, 26, 25],
        AP75=[10, 10, 11],
        AP90=[1, 1, 0],
    )
    recorded(
        place,
        "table1",
        SSD,
        "loc+KDloc",
        mAP=[9, 10.5, 11],
        AP50=[19, 18, 19],
        AP75=[9, 9, 9],
        AP90=[3, 3, 3],
    )
    recorded(place, "table1", SSD, "KDcls+loc+KDloc", mAP=[13, 13, 13])
    recorded(place, "table1", SSD, "KDcls-labels", mAP=[13, 14.5])  # two seeds only
    judged = all_comparisons(*place).query("source in ('Table 1', 'Table 5')").set_index("claim")
    line = judged.loc[f"{SSD}: KD_cls raises mAP"]
    assert line.paper == pytest.approx(0.7)
    assert (line.effect, line.seeds) == (pytest.approx(6.5 / 3), 3)
    half = 4.302653 * (1 / 12) ** 0.5 / 3**0.5  # of the differences 2, 2.5, 2; t for 2 degrees of freedom
    assert (line.low, line.high) == pytest.approx((6.5 / 3 - half, 6.5 / 3 + half), abs=1e-5)
    assert judged.effect[f"{SSD}: KD_cls raises AP50 more than AP75"] == pytest.approx(
        (5 + 6 + 5) / 3 - (1 + 1 + 2) / 3
    )
    assert judged.high[f"{SSD}: loc + KD_loc raises mAP"] < 0
    line = judged.loc[f"{SSD}: KD_cls raises mAP more than the label control"]
    assert (line.effect, line.seeds) == (pytest.approx(-1), 2)
    assert judged.effect[f"{SSD}: C2D is better than KD_cls alone"] == pytest.approx(
        (13 - 12 + 13 - 13.5 + 13 - 14) / 3
    )
    assert judged.effect[f"{SSD}: C2D is better than loc + KD_loc alone"] == pytest.approx((4 + 2.5 + 2) / 3)
    assert judged.effect[f"{SSD}: loc + KD_loc gains more at IoU 0.90 than at 0.50"] == pytest.approx(
        2 + 4 / 3
    )
    assert judged.effect[f"{SSD}: loc + KD_loc raises AP75 more than AP50"] == pytest.approx(0 + 4 / 3)
    assert judged.seeds[f"{SSD}: loc raises mAP"] == 0


def test_runs_of_different_origin_are_no_pair(place):
    rows = {row.method: row for row in work_list("table1", *place, 2, [SSD], ["baseline", "KDcls"])}
    for method, origins in (("baseline", "ab"), ("KDcls", "aa")):
        for e, origin in zip(rows[method].experiments, origins, strict=True):
            metrics = dict.fromkeys([*METRICS, "AP90"], 5.0 + e.seed)
            write_record(
                record(e, metrics=metrics, data={"initial_weights": origin}), place[0].results / "records"
            )
    judged = all_comparisons(*place).query("source == 'Table 1'").set_index("claim")
    assert judged.loc["SSD300-VGG16: KD_cls raises mAP", ["effect", "seeds"]].tolist() == [0, 1]


def test_on_errors_less_is_better(place, monkeypatch):
    cost = {"baseline": 30.0, "KDcls": 27.0, "loc+KDloc": 31.0}
    monkeypatch.setattr(
        Numbers,
        "reproduced",
        lambda self, student, choice, metric, iou: {(0, ""): cost.get(choice.method, 0.0)},
    )
    judged = all_comparisons(*place).query("source == 'Figure 3'").set_index("claim").effect
    assert judged["SSD300-VGG16: KD_cls reduces classification error at IoU 0.50"] == 3
    assert judged["SSD300-VGG16: loc + KD_loc reduces localisation error at IoU 0.75"] == -1


def test_without_errors_on_this_machine_a_claim_is_not_run(place):
    for method in ("baseline", "KDcls"):
        recorded(place, "table1", SSD, method, mAP=[10, 11])
    judged = all_comparisons(*place).query("source == 'Figure 3'").set_index("claim").seeds
    assert judged["SSD300-VGG16: KD_cls reduces classification error at IoU 0.50"] == 0


def test_a_notebook_shows_the_comparisons_of_its_own_rows(place):
    recorded(place, "table1", SSD, "baseline", mAP=[10.0, 11.0], AP50=[20, 20], AP75=[9, 9])
    recorded(place, "table1", SSD, "KDcls", mAP=[9.0, 10.1], AP50=[20, 20], AP75=[10, 10])
    rows = work_list("table1", *place, 2, [SSD], ["baseline", "KDcls", "KDcls-labels"])
    frame = comparisons("table1", rows, collect(rows, place[0]), place[0])
    assert (
        len(frame) == 9 and frame.claim.str.startswith(SSD).all()
    )  # none on students that are not among its rows
    half = 12.706205 * 0.05 * 2**0.5 / 2**0.5  # Student's t for 1 degree of freedom, sd of -1.0 and -0.9
    assert frame.loc[0, ["effect", "low", "high"]].tolist() == pytest.approx(
        [-0.95, -0.95 - half, -0.95 + half], abs=1e-5
    )
    assert summary(frame) == (
        "9 comparisons, 7 of them not run. "
        "They are descriptive: verdicts are given in `claims.md`, on the primary claims only."
    )


def test_one_seed_is_named(place):
    for method in ("baseline", "FKD", "ours", "ours+FKD", "KDcls-labels"):
        recorded(place, "table2", "RetinaNet-R50", method, mAP=[20.0])
    rows = work_list("table2", *place, 1, ["RetinaNet-R50"])
    frame = comparisons("table2", rows, collect(rows, place[0]), place[0])
    assert frame.low.isna().all()
    assert "4 of them not run and 6 with one seed only" in summary(frame)  # not run: FGFI's, GID's
    text = " ".join(not_tested(place[0], 1))
    assert "Chance" in text and "SEEDS=1" in text


def test_written_beside_the_tables_without_a_verdict(place):
    for name, method in (("table2", "ours"), ("table2", "FKD")):
        recorded(
            place, name, "FasterRCNN-QR50", method, mAP=[10, 11, 12] if method == "ours" else [8, 9.5, 10]
        )
    assert write_claims(*place) is None  # no regime of the primary claims has this name
    text = (place[0].results / "claims.md").read_text()
    assert "are not tested on these data" in text and "reading.md" not in text
    assert "| FasterRCNN-QR50: C2D is better than FKD | +1.1 | +1.8 [+1.1, +2.6] | 3 |\n" in text
    assert "verdict" not in text.replace("has a verdict", "") and "holds" not in text
    (place[0].results / "reading.md").write_text("what was tried")
    write_claims(*place)
    assert "(reading.md)" in (place[0].results / "claims.md").read_text()


def test_where_other_students_take_the_places_of_the_papers():
    here = claims_at("photos")
    assert {claim.source for claim in here} >= {
        "table1",
        "table2",
        "table3a",
        "table4",
        "controls",
        "figure3",
    }
    assert {student for claim in here for student in claim.students} == {
        "FasterRCNN-MV1x025",
        "SSD300-MV1x025",
        "FasterRCNN-MV1",
        "RetinaNet-MV1x025",
    }
    of_controls = {student for claim in here if claim.source == "controls" for student in claim.students}
    assert of_controls == {"SSD300-MV1x025"}  # in the place of the student of tables that name none
    assert claims_at("mini") == claims()


def test_a_table_without_claims_is_left_out(place, monkeypatch):
    """As a new table is at first; the others are judged as before."""
    written = place[0].results / "claims.csv"
    write_claims(*place)
    before = written.read_text()
    monkeypatch.setitem(SOURCES, "choices", "Choices")
    write_claims(*place)
    assert written.read_text() == before != ""
