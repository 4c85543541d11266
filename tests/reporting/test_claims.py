"""Claims: the number that decides each is the right difference, and the word follows from its interval."""

import pytest

from c2dlib.records import write_record
from c2dlib.reporting.claims import (
    SOURCES,
    Evidence,
    claims,
    judge,
    not_tested,
    summary,
    verdict,
    verdicts,
    write_claims,
)
from c2dlib.reporting.tables import METRICS, collect, labels, table, work_list
from c2dlib.workspace import open_workspace
from tests.reporting.test_tables import record


@pytest.fixture
def place(tmp_path):
    return open_workspace("smoke", results=tmp_path / "results", runs=tmp_path / "runs", device="cpu")


def recorded(place, table: str, student: str, method: str, **metrics: list[float]) -> None:
    """Records of the row with these numbers, one per seed."""
    count = len(next(iter(metrics.values())))
    (row,) = work_list(table, *place, count, [student], [method])
    for seed, e in enumerate(row.experiments):
        values = dict.fromkeys([*METRICS, "AP90"], 1.0) | {name: row[seed] for name, row in metrics.items()}
        write_record(record(e, metrics=values), place[0].results / "records")


@pytest.mark.parametrize("effect, word", [
    ({0: 1.0, 1: 1.2, 2: 1.1}, "holds"), ({0: -1.0, 1: -1.2, 2: -1.1}, "does not hold"),
    ({0: 1.0, 1: -1.0, 2: 3.0}, "not enough evidence"), ({0: 9.0}, "not enough evidence"), ({}, "not run")])
def test_the_word_follows_from_the_interval(effect, word):
    found = judge(effect)
    assert found["verdict"] == word and found["seeds"] == len(effect)


def test_every_claim_can_be_asked_and_nothing_is_run_yet(place):
    frame = verdicts(*place)
    assert set(frame.verdict) == {"not run"} and (frame.seeds == 0).all() and frame.effect.isna().all()
    assert len(frame) == len(claims()) > 100 and not frame.duplicated(["source", "claim"]).any()
    assert set(frame.source) == {"Table 1", "Table 2", "Table 2, extended", "Table 3a", "Table 3b", "Table 4", "Table 5", "Figure 3", "Controls",
                                 "Training images", "Longer schedule"}


def test_every_row_that_a_claim_speaks_of_exists(place):
    """A misspelt label would be `not run` for ever."""
    asked = {source: set() for source in SOURCES}
    for claim in claims():
        def see(student, row, metric="mAP", source=claim.source):
            asked[source].add((student, row.replace("ours", "KDcls+loc+KDloc")))
            return {}

        claim.effect(see)
    for source, rows in asked.items():
        frame = table(work_list("table1" if source == "figure3" else source, *place), {})
        there = {(s, name.replace("ours", "KDcls+loc+KDloc")) for s, name in zip(frame.student, labels(frame), strict=True)}
        assert rows and rows <= there, (source, rows - there)


def test_the_paper_supports_its_own_claims(place):
    """Signs and rows are right: each difference that is claimed is above 0 in the paper's own numbers."""
    frame = verdicts(*place).query("not ours and source != 'Figure 3'")
    assert frame.paper.notna().all() and frame[frame.paper <= 0].claim.tolist() == []


def test_differences_are_paired_by_seed_and_go_the_right_way(place):
    ssd = "SSD300-VGG16"
    recorded(place, "table1", ssd, "baseline", mAP=[10, 11, 12], AP50=[20, 20, 20], AP75=[9, 9, 9], AP90=[1, 1, 1])
    recorded(place, "table1", ssd, "KDcls", mAP=[12, 13.5, 14], AP50=[25, 26, 25], AP75=[10, 10, 11], AP90=[1, 1, 0])
    recorded(place, "table1", ssd, "loc+KDloc", mAP=[9, 10.5, 11], AP50=[19, 18, 19], AP75=[9, 9, 9], AP90=[3, 3, 3])
    recorded(place, "table1", ssd, "KDcls+loc+KDloc", mAP=[13, 13, 13])
    recorded(place, "table1", ssd, "KDcls-labels", mAP=[13, 14.5])  # two seeds only
    told = verdicts(*place).query("source in ('Table 1', 'Table 5')").set_index("claim")
    line = told.loc[f"{ssd}: KD_cls lifts mAP"]
    assert line.paper == pytest.approx(0.7)
    assert (line.effect, line.seeds, line.verdict) == (pytest.approx(6.5 / 3), 3, "holds")
    assert told.effect[f"{ssd}: KD_cls lifts AP50 more than AP75"] == pytest.approx((5 + 6 + 5) / 3 - (1 + 1 + 2) / 3)
    assert told.verdict[f"{ssd}: loc + KD_loc lift mAP"] == "does not hold"
    line = told.loc[f"{ssd}: KD_cls lifts mAP more than labels in the teacher's place"]
    assert (line.effect, line.seeds) == (pytest.approx(-1), 2)
    assert told.effect[f"{ssd}: all three are better than KD_cls alone"] == pytest.approx((13 - 12 + 13 - 13.5 + 13 - 14) / 3)
    assert told.effect[f"{ssd}: all three are better than loc + KD_loc alone"] == pytest.approx((4 + 2.5 + 2) / 3)
    assert told.effect[f"{ssd}: loc + KD_loc gain more at IoU 0.90 than at 0.50"] == pytest.approx(2 + 4 / 3)
    assert told.effect[f"{ssd}: loc + KD_loc lift AP75 more than AP50"] == pytest.approx(0 + 4 / 3)
    assert told.verdict[f"{ssd}: loc lifts mAP"] == "not run"


def test_runs_of_different_origin_are_no_pair(place):
    rows = {row.method: row for row in work_list("table1", *place, 2, ["SSD300-VGG16"], ["baseline", "KDcls"])}
    for method, origins in (("baseline", "ab"), ("KDcls", "aa")):
        for e, origin in zip(rows[method].experiments, origins, strict=True):
            made = record(e, metrics=dict.fromkeys([*METRICS, "AP90"], 5.0 + e.seed), data={"initial_weights": origin})
            write_record(made, place[0].results / "records")
    told = verdicts(*place).query("source == 'Table 1'").set_index("claim")
    assert told.loc["SSD300-VGG16: KD_cls lifts mAP", ["effect", "seeds"]].tolist() == [0, 1]


def test_on_errors_less_is_better(place, monkeypatch):
    cost = {"baseline": 30.0, "KDcls": 27.0, "loc+KDloc": 31.0}
    monkeypatch.setattr(Evidence, "__call__", lambda self, student, row, metric="mAP": {(0, ""): cost.get(row, 0.0)})
    told = verdicts(*place).query("source == 'Figure 3'").set_index("claim").effect
    assert told["SSD300-VGG16: KD_cls cuts classification error at IoU 0.50"] == 3
    assert told["SSD300-VGG16: loc + KD_loc cut localisation error at IoU 0.75"] == -1


def test_errors_that_are_elsewhere_are_not_run(place):
    for method in ("baseline", "KDcls"):
        recorded(place, "table1", "SSD300-VGG16", method, mAP=[10, 11])
    told = verdicts(*place).query("source == 'Figure 3'").set_index("claim").verdict
    assert told["SSD300-VGG16: KD_cls cuts classification error at IoU 0.50"] == "not run"


def test_a_notebook_judges_the_claims_on_its_own_rows(place):
    ssd = "SSD300-VGG16"
    recorded(place, "table1", ssd, "baseline", mAP=[10.0, 11.0], AP50=[20, 20], AP75=[9, 9])
    recorded(place, "table1", ssd, "KDcls", mAP=[9.0, 10.1], AP50=[20, 20], AP75=[10, 10])
    rows = work_list("table1", *place, 2, [ssd], ["baseline", "KDcls", "KDcls-labels"])
    frame = verdict("table1", rows, collect(rows, place[0]), place[0])
    assert len(frame) == 9 and frame.claim.str.startswith(ssd).all()  # none on students that are not among its rows
    assert frame.verdict.value_counts().to_dict() == {"does not hold": 2, "not run": 7}
    half = 12.706205 * 0.05 * 2**0.5 / 2**0.5  # Student's t for 1 degree of freedom, sd of -1.0 and -0.9
    assert frame.loc[0, ["effect", "low", "high"]].tolist() == pytest.approx([-0.95, -0.95 - half, -0.95 + half], abs=1e-5)
    assert summary(frame) == ("Of 9 claims 0 holds, 2 does not hold; 0 without enough evidence; 7 not run. "
                              "2 point against the paper, surely or not.")


def test_one_seed_is_never_enough_evidence(place):
    for method in ("baseline", "FKD", "ours", "ours+FKD", "KDcls-labels"):
        recorded(place, "table2", "RetinaNet-R50", method, mAP=[20.0])
    rows = work_list("table2", *place, 1, ["RetinaNet-R50"])
    frame = verdict("table2", rows, collect(rows, place[0]), place[0])
    assert set(frame.verdict) == {"not enough evidence", "not run"} and (frame.verdict == "not run").sum() == 4  # FGFI's, GID's
    assert "6 of them for want of a second seed" in summary(frame)
    said = " ".join(not_tested(place[0], 1))
    assert "chance" in said and "SEEDS=1" in said


def test_written_beside_the_tables(place):
    for name, method in (("table2", "ours"), ("table2", "FKD")):
        recorded(place, name, "FasterRCNN-QR50", method, mAP=[10, 11, 12] if method == "ours" else [8, 9.5, 10])
    text = write_claims(*place)
    assert (place[0].results / "claims.md").read_text() == text and "reading.md" not in text
    assert "| FasterRCNN-QR50: ours is better than FKD | +1.1 | +1.8 [+1.1, +2.6] | 3 | **holds** |" in text
    of_paper = sum(not claim.ours for claim in claims())
    assert f"**1** holds, **0** does not hold, **0** not enough evidence, **{of_paper - 1}** not run, of {of_paper}" in text
    (place[0].results / "reading.md").write_text("what was tried")
    assert "(reading.md)" in write_claims(*place)
