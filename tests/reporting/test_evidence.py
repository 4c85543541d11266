"""The primary claims: the right rows are estimated, and the verdict is what the file says it is."""

import dataclasses
import math
import re
import subprocess
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from c2dlib.data.coco import CocoFolder
from c2dlib.data.validation import Report
from c2dlib.evaluation.halves import METRICS as METRICS_OF_HALVES
from c2dlib.records import ROOT, write_record
from c2dlib.reporting.errors import RunErrors
from c2dlib.reporting.evidence import (
    ALSO_COLUMNS,
    REPRODUCED,
    Evidence,
    Runs,
    by_device,
    by_student,
    evidence,
    find,
    image_error,
    judge,
    own_runs,
    paper_numbers,
)
from c2dlib.reporting.ledger import ledger_text
from c2dlib.reporting.primary_claims import (
    EXPLORATORY,
    FILE,
    Part,
    PrimaryClaim,
    Regime,
    Term,
    read_claims,
    regime_of,
)
from c2dlib.reporting.statistics import Estimate, holm
from c2dlib.reporting.work_list import IOUS, METRICS
from c2dlib.training.run import experiment_for
from c2dlib.workspace import PUBLISHED, Workspace
from tests.reporting.helpers import record

NOTHING_POOLED = pd.DataFrame(columns=ALSO_COLUMNS)
ONE = Regime("test", "simulated runs", {"compact": ["A"], "other": ["B"]}, exploratory=False)


def simulated(means: dict[tuple[str, str], float], sd=0.0, seeds=4, draws=1, seed=0) -> pd.DataFrame:
    """Runs with these means of mAP per student and method."""
    generator, lines = np.random.default_rng(seed), []
    for (student, method), mean in means.items():
        for draw in range(draws):
            for run in range(seeds):
                lines.append((student, method, run, f"d{draw}", "CPU", mean + generator.normal(0, sd)))
    return pd.DataFrame(lines, columns=["student", "method", "seed", "draw", "device", "mAP"])


def gain(method="KDcls", group="compact", over="baseline", metric="mAP", **bound) -> Part:
    terms = (Term(1, group, method, metric), Term(-1, group, over, metric))
    return Part(terms, **(bound or {"above": 0.0}))


def claim(*parts: Part, id=1, **more) -> PrimaryClaim:
    return PrimaryClaim(id, "family", f"claim {id}", 0.5, parts, **more)


def verdicts(claims: list[PrimaryClaim], runs: pd.DataFrame, regime: Regime = ONE) -> list[str]:
    return judge(claims, regime, Runs(runs), {}, "mini").drop_duplicates("id").verdict.tolist()


def test_the_file_has_fifteen_claims_of_four_families():
    claims = read_claims()
    assert [c.id for c in claims] == list(range(1, 16))
    assert [c.family for c in claims] == ["classes"] * 3 + ["boxes"] * 5 + ["together"] * 5 + ["controls"] * 2
    assert claims[1].text == "KD_cls raises AP50 and AP75, and AP50 more"
    assert claims[1].parts[2].text == "(KDcls - baseline, AP50) - (KDcls - baseline, AP75)"
    assert claims[1].parts[2].direction == {"AP50": 1, "AP75": -1}
    assert claims[9].parts[0].row_weights == {
        ("more compact", "KDcls+loc+KDloc"): 1,
        ("more compact", "baseline"): -1,
        ("less compact", "KDcls+loc+KDloc"): -1,
        ("less compact", "baseline"): 1,
    }
    assert claims[14].parts[1].text == "loc - loc-L1, AP80 of the boxes"


def test_rows_that_are_compared_by_different_metrics_are_refused():
    part = Part((Term(1, "compact", "KDcls", "AP50"), Term(-1, "compact", "baseline", "AP75")), above=0.0)
    with pytest.raises(ValueError, match="different metrics"):
        _ = part.direction


def test_the_residual_is_pooled_over_all_methods_of_a_student_and_welch_over_students():
    runs = pd.DataFrame(
        {
            "student": list("AAAAAABBBB"),
            "method": ["baseline", "baseline", "KDcls", "KDcls", "loc", "loc"] + ["baseline", "KDcls"] * 2,
            "seed": [0, 1, 0, 1, 0, 1, 0, 0, 1, 1],
            "draw": "d",
            "device": "CPU",
            "mAP": [10.0, 12.0, 13.0, 13.0, 9.0, 13.0, 20.0, 20.5, 21.0, 21.5],
        }
    )
    one = find(gain(), {"compact": ["A"]}, runs).estimate
    variance = (2 + 0 + 8) / 3  # squares about the means of baseline, KDcls and loc; 3 degrees of freedom
    assert one == pytest.approx((2.0, (variance * (1 / 2 + 1 / 2)) ** 0.5, 3))
    two = find(gain(), {"compact": ["A", "B"]}, runs).estimate
    a, b = variance / 4, 0.5 / 4  # variances of half the gain; B: squares .5 + .5, 2 degrees of freedom
    assert two == pytest.approx((1.25, (a + b) ** 0.5, (a + b) ** 2 / (a**2 / 3 + b**2 / 2)))
    between = find(
        Part((*gain().terms, Term(-1, "other", "KDcls", "mAP"), Term(1, "other", "baseline", "mAP")), 0.0),
        {"compact": ["A"], "other": ["B"]},
        runs,
    )
    assert between.value == pytest.approx(2 - 0.5) and between.fewest == 2


def test_a_claim_holds_only_if_all_its_parts_do():
    means = {("A", "baseline"): 10.0, ("A", "KDcls"): 12.0, ("A", "loc"): 10.1}
    runs = simulated(means, sd=0.3)
    both = claim(gain(), gain("loc"))
    frame = judge([both], ONE, Runs(runs), {}, "mini")
    one, other = (find(part, ONE.groups, runs).estimate for part in both.parts)
    assert frame.p.tolist() == [pytest.approx(max(one.p_above(), other.p_above()))] * 2
    assert verdicts([both], runs) == ["undecided"] and verdicts([claim(gain())], runs) == [REPRODUCED]


def test_each_verdict():
    means = {("A", m): v for m, v in (("baseline", 10), ("KDcls", 12), ("loc", 8), ("loc-L1", 8.02))}
    runs = simulated(means, sd=0.1)
    same = gain("loc", over="loc-L1", within=0.5)
    assert verdicts([claim(gain())], runs) == ["reproduced"]
    assert verdicts([claim(gain("loc"))], runs) == ["contradicted"]
    assert verdicts([claim(gain(), gain("loc"))], runs) == ["contradicted"]
    assert verdicts([claim(same)], runs) == ["equivalent"]
    assert verdicts([claim(gain(within=0.5))], runs) == ["contradicted"]  # the difference is 2
    assert verdicts([claim(gain(), same)], runs) == ["reproduced"]
    negligible = gain("loc", over="loc-L1")
    assert verdicts([claim(negligible)], runs) == ["undecided"]
    assert verdicts([claim(negligible, otherwise_within=0.5)], runs) == ["equivalent"]
    explored = Regime("test", "", ONE.groups, exploratory=True)
    assert verdicts([claim(gain()), claim(gain("loc"), id=2)], runs, explored) == [
        "in the paper's direction",
        "against the paper",
    ]


def test_holms_correction_is_made_within_a_family_of_its_full_size():
    runs = simulated({("A", "baseline"): 10.0, ("A", "KDcls"): 10.7}, sd=0.4, seeds=5, seed=4)
    alone = judge([claim(gain())], ONE, Runs(runs), {}, "mini").iloc[0]
    not_run = [claim(gain("loc"), id=2), claim(gain("FKD"), id=3)]
    frame = judge([claim(gain()), *not_run], ONE, Runs(runs), {}, "mini")
    assert alone.p_holm == alone.p == frame.p[0] and frame.p_holm[0] == pytest.approx(3 * alone.p)
    assert frame.mde[0] > alone.mde  # at the strictest step of the correction
    assert frame.verdict.tolist()[1:] == ["incomplete"] * 2 and frame.why[1] == "not run: loc (A)"
    other = judge([claim(gain("loc", over="FKD"))], ONE, Runs(runs), {}, "mini")  # neither row has a run
    assert other.verdict.tolist() == ["not run"] and other.why[0] == "not run: loc, FKD (A)"


def test_what_missing_rows_would_show_is_that_of_three_runs_of_each():
    """The variance is that of the runs there are; a student without any tells nothing."""
    means = {("A", "baseline"): 10.0, ("A", "KDcls"): 12.0}
    runs = simulated(means, sd=0.5, seeds=5)
    (line,) = judge([claim(gain("loc"))], ONE, Runs(runs), {}, "mini").itertuples()
    residual = Estimate(0.0, find(gain(), ONE.groups, runs).estimate.se / (2 / 5) ** 0.5, 8)
    expected = Estimate(0.0, residual.se * (1 / 3 + 1 / 5) ** 0.5, 8).detectable(0.025)
    assert line.mde == pytest.approx(expected) and pd.isna(line.low) and line.seeds == "0"
    both = judge([claim(gain("loc"), otherwise_within=0.5)], ONE, Runs(runs), {}, "mini").iloc[0]
    assert both.mde == pytest.approx(expected) and both.mde_within > both.mde
    assert pd.isna(judge([claim(gain(group="other"))], ONE, Runs(runs), {}, "mini").mde[0])
    small = runs[runs.seed < 2]
    assert pd.isna(
        judge([claim(gain())], ONE, Runs(small), {}, "mini").mde[0]
    )  # two seeds: no verdict either


def test_rows_of_fewer_than_three_seeds_have_no_interval_and_no_verdict():
    means = {("A", "baseline"): 10.0, ("A", "KDcls"): 12.0, ("A", "loc"): 10.0}
    for seeds, word in ((1, "no verdict: one seed"), (2, "no verdict: 2 seeds")):
        frame = judge([claim(gain())], ONE, Runs(simulated(means, sd=0.1, seeds=seeds)), {}, "mini")
        assert (
            frame.verdict[0] == word and pd.isna(frame.low[0]) and frame.value[0] == pytest.approx(2, abs=0.5)
        )


def test_of_a_student_on_two_kinds_of_device_a_difference_is_of_the_same_seeds():
    runs = simulated({("A", "baseline"): 10.0, ("A", "KDcls"): 12.0, ("B", "baseline"): 10.0}, seeds=5)
    runs.loc[runs.seed > 2, "mAP"] += 5.0  # on the GPU
    less = runs[(runs.method != "KDcls") | (runs.seed < 3)]
    assert find(gain(), ONE.groups, less).value == pytest.approx(12 - (3 * 10 + 2 * 15) / 5)
    two = less.assign(device=less.seed.gt(2).map({True: "GPU", False: "CPU"}))
    finding = find(gain(), ONE.groups, two)
    assert finding.value == pytest.approx(2) and (finding.fewest, finding.most) == (3, 3)


def test_what_is_missing_of_a_student_on_two_kinds_of_device_is_named():
    """A row without runs does not hide those of the others, and runs on another device are measured."""
    runs = simulated({("A", method): 10.0 for method in ("baseline", "KDcls", "loc")})
    runs = runs.assign(device=runs.seed.gt(1).map({True: "GPU", False: "CPU"}))
    of_row = {"baseline": ["CPU", "GPU"], "KDcls": ["CPU"], "loc": ["GPU"]}
    runs = runs[[device in of_row[method] for device, method in zip(runs.device, runs.method, strict=True)]]
    assert find(gain("KDloc"), ONE.groups, runs).missing == (("not run", "KDloc", "A"),)
    why = "no seed in common with the other rows (runs on CPUs and on a GPU)"
    assert find(gain("loc", over="KDcls"), ONE.groups, runs).missing == (
        (why, "loc", "A"),
        (why, "KDcls", "A"),
    )


def test_rows_from_different_initial_weights_are_not_compared():
    """Their difference would be one of the weights; pre-training on another machine makes such rows."""
    runs = simulated({("A", "baseline"): 10.0, ("A", "KDcls"): 12.0, ("A", "loc"): 10.0}, sd=0.2)
    runs.loc[runs.method == "KDcls", "draw"] = "other weights"
    why = "no draw in common (other initial weights or training images)"
    assert find(gain(), ONE.groups, runs).missing == ((why, "KDcls", "A"), (why, "baseline", "A"))
    assert find(gain("loc"), ONE.groups, runs).estimate is not None
    assert judge([claim(gain())], ONE, Runs(runs), {}, "mini").verdict.tolist() == ["incomplete"]


def test_several_draws_widen_the_interval_by_what_differs_between_them():
    runs = simulated({("A", "baseline"): 10.0, ("A", "KDcls"): 12.0, ("A", "loc"): 11.0}, sd=0.2, draws=4)
    shift = {"d0": -2.0, "d1": 2.0, "d2": -2.0, "d3": 2.0}
    runs.loc[runs.method == "KDcls", "mAP"] += runs.draw.map(shift)
    finding = find(gain(), ONE.groups, runs)
    assert finding.draws == 4 and finding.estimate.value == pytest.approx(2, abs=0.2)
    assert finding.estimate.se > 0.9 and finding.estimate.df == 6
    assert judge([claim(gain())], ONE, Runs(runs), {}, "mini").verdict[0] == "undecided"


def test_without_a_valid_fit_there_is_a_value_and_no_verdict(monkeypatch):
    monkeypatch.setattr("c2dlib.reporting.evidence.mixed_estimate", lambda runs, weights: None)
    runs = simulated({("A", "baseline"): 10.0, ("A", "KDcls"): 12.0}, draws=4)
    frame = judge([claim(gain())], ONE, Runs(runs), {}, "mini")
    assert frame.verdict.tolist() == ["no verdict: the mixed model has no valid fit"]
    assert frame.value[0] == pytest.approx(2) and frame[["low", "mde", "p"]].isna().all(axis=None)


def test_the_papers_sum_is_on_its_students_and_says_which():
    paper = paper_numbers()
    assert paper["SSD300-VGG16", "KDcls+loc+KDloc", "mAP"] == 27.9
    badges = Workspace("mini", Path(), Path("badges-mini"), Path(), "cpu")
    frame = judge(read_claims(), regime_of(badges), Runs(simulated({})), paper, "mini").set_index(
        ["id", "part"]
    )
    # 26.3 - 25.6, 30.3 - 29.4, 25.9 - 23.3, 32.6 - 31.9
    assert frame.paper[1, 1] == pytest.approx((0.7 + 0.9 + 2.6 + 0.7) / 4)
    assert frame.paper[10, 1] == pytest.approx(3.9 - 0.8) and frame.paper_students[7, 1] == "SSD300-VGG16"
    assert frame.paper[[14, 15]].isna().all()
    photos = Workspace("photos", Path(), Path("groceries-photos"), Path(), "cpu")
    frame = judge(read_claims(), regime_of(photos), Runs(simulated({})), paper, "photos").set_index(
        ["id", "part"]
    )
    assert frame.paper[1, 1] == pytest.approx((2.6 + 0.7) / 2)  # of Faster R-CNN-QR50 and SSD300


def test_no_regime_no_claim():
    for name in ("photos-mini", "badges-smoke"):
        scale = name.split("-")[1]
        assert regime_of(Workspace(scale, Path(), Path(name), Path(), "cpu")) is None


@pytest.fixture
def photos(tmp_path) -> tuple[Workspace, CocoFolder]:
    folder = CocoFolder(
        Path("nowhere"),
        "groceries",
        {"train": range(3456), "val": range(742), "test": range(743)},
        list(range(25)),
        Report(),
        (0, 0),
        "ab" * 32,
    )
    (tmp_path / "groceries-photos").mkdir()
    return Workspace("photos", Path("nowhere"), tmp_path / "groceries-photos", Path("nowhere"), "cpu"), folder


def recorded(
    photos, student: str, method: str, seed: int, mAP: float, device="cpu", teacher="", **changes
) -> None:
    workspace, folder = photos
    e = experiment_for(workspace, folder, student, method, seed, **changes)
    data = {"annotation_hash": folder.annotation_hash, "initial_weights": "w"}
    metrics = dict.fromkeys([*METRICS, *IOUS], 5.0) | {"mAP": mAP, "mAR": mAP}
    fields = {"eval_split": e.eval_split, "data": data, "experiment": e.identity(), "device": device}
    fields["teacher"] = {"hash": "h", "top1": float(teacher), "ECE": 2.0} if teacher else {}
    write_record(record(e, metrics=metrics, **fields), workspace.results / "records")


def test_which_records_count(photos):
    """The scale's own settings, the test split, seeds that chose nothing, one kind of device per seed."""
    student, other = "FasterRCNN-MV1x025", "SSD300-MV1x025"
    for seed in range(3):
        for method, mAP in (("baseline", 20.0), ("KDcls", 22.0)):
            recorded(photos, student, method, seed, mAP + 0.1 * seed)
            recorded(photos, other, method, seed, mAP + 0.1 * seed)
    recorded(photos, student, "KDcls", 100, 99.0)
    recorded(photos, student, "KDcls", 3, 99.0, eval_split="val")
    recorded(photos, student, "KDcls", 4, 99.0, lambda_kc=0.4)
    recorded(photos, student, "AT", 0, 99.0)  # no claim names it
    recorded(photos, student, "baseline", 5, 99.0)
    recorded(photos, student, "KDcls", 5, 99.0, device="NVIDIA H100")
    found = evidence(*photos)
    line = found.parts.set_index("id").loc[1]
    assert (line.value, line.seeds, line.verdict) == (pytest.approx(2.0), "3", REPRODUCED)
    assert found.left_out == [f"{student}, seed 5: left out, because its rows are from CPUs and from a GPU"]
    assert found.students[found.students.id == 1].value.tolist() == pytest.approx([2.0, 2.0])
    assert "AP80 of the boxes" in found.parts.set_index("id").loc[15, "sum"].tolist()[1]
    text = ledger_text(found)
    assert "| 1. KD_cls raises mAP | KDcls - baseline, mAP | +1.7 | +2.0 [+1.9, +2.1] |" in text
    assert re.search(r"loc - baseline, mAP \| \+1.2 \| – \| \(0.\d\) \| ", text)
    assert (
        "**reproduced**" in text
        and "| incomplete; not run: loc (FasterRCNN-MV1x025, SSD300-MV1x025) |" in text
    )
    assert "noise of the seed alone" in text and found.left_out[0] in text


def test_runs_on_other_annotations_do_not_count(photos):
    """As when an annotation was corrected after some of the runs."""
    workspace, folder = photos
    before = workspace, dataclasses.replace(folder, annotation_hash="cd" * 32)
    for seed in range(6):
        for method, mAP in (("baseline", 20.0), ("KDcls", 22.0)):
            for student in ("FasterRCNN-MV1x025", "SSD300-MV1x025"):
                recorded(before if seed > 3 else photos, student, method, seed, mAP + 10 * (seed > 3))
    found = evidence(*photos).parts.set_index("id").loc[1]
    assert (found.seeds, found.draws, found.value) == ("4", 1, pytest.approx(2.0))
    most, _ = own_runs(workspace, None, ["baseline"])  # without the data: the annotations of most runs
    assert {e.seed for e, _ in most} == {0, 1, 2, 3}


def test_several_trainings_of_a_teacher_are_named(photos):
    """One is what the text says of every student; rows without a teacher do not count as another."""
    for seed in range(3):
        for student, method in product(("FasterRCNN-MV1x025", "SSD300-MV1x025"), ("baseline", "KDcls")):
            other = student == "SSD300-MV1x025" and seed == 2
            teacher = "" if method == "baseline" else "81" if other else "82"
            recorded(photos, student, method, seed, 20.0 + 0.1 * seed, teacher=teacher)
    found = evidence(*photos)
    assert found.teachers == {"SSD300-MV1x025": 2}
    sentence = "Rows of SSD300-MV1x025, however, have 2 trainings of that teacher"
    assert sentence in ledger_text(found) and "FasterRCNN-MV1x025, however" not in ledger_text(found)


def test_rows_of_different_trainings_of_a_teacher_are_named(photos):
    """Where no run of one row has the teacher of the other, no interval contains what these differ by."""
    student = "FasterRCNN-MV1x025"
    for seed, (method, teacher) in product(
        range(3), {"baseline": "", "KDcls": "82", "KDcls-mean": "81"}.items()
    ):
        recorded(photos, student, method, seed, 20.0 + 0.1 * seed, teacher=teacher)
    found = evidence(*photos)
    assert found.teachers == {}
    assert found.left_out == [
        f"{student}: KDcls and KDcls-mean had teachers from different trainings, so their difference "
        "contains what these teachers differ by, and its interval does not"
    ]
    recorded(photos, student, "KDcls-mean", 3, 20.0, teacher="82")
    assert evidence(*photos).left_out == []


def test_a_run_that_stopped_is_named(photos):
    """A row that is judged on the runs that survived says so."""
    workspace, folder = photos
    for seed, method in product(range(3), ("baseline", "KDcls")):
        recorded(photos, "SSD300-MV1x025", method, seed, 20.0)
    e = experiment_for(workspace, folder, "SSD300-MV1x025", "KDcls", 3)
    stopped = {"status": "failed", "reason": "KDcls is nan at step 7", "eval_split": "test"}
    data = {"annotation_hash": folder.annotation_hash, "initial_weights": "w"}
    path = write_record(
        record(e, data=data, experiment=e.identity(), **stopped), workspace.results / "records"
    )
    why = "left out, because it did not finish (failed: KDcls is nan at step 7)"
    assert evidence(*photos).left_out == [f"SSD300-MV1x025 KDcls, seed 3: {why}"]
    path.write_text("{")
    (sentence,) = evidence(*photos).left_out
    assert sentence.startswith("left out: ") and path.name in sentence


def test_the_same_sums_on_one_kind_of_device(photos):
    for seed, student in product(range(5), ("FasterRCNN-MV1x025", "SSD300-MV1x025")):
        on_gpu = seed > 2 and student == "SSD300-MV1x025"
        device = "NVIDIA H100" if on_gpu else "cpu"
        recorded(photos, student, "baseline", seed, 20.0 + 0.1 * seed, device)
        recorded(photos, student, "KDcls", seed, 22.0 + 0.1 * seed + on_gpu, device)
    found = evidence(*photos)
    devices = by_device(read_claims(), found.regime, found.runs)
    first = devices[devices["sum"].str.startswith("1. ")].set_index(["student", "device"])
    assert first.value["", "CPU"] == pytest.approx(2) and not math.isnan(first.low["", "CPU"])
    assert first.value["SSD300-MV1x025", "GPU"] == pytest.approx(3) and math.isnan(
        first.low["SSD300-MV1x025", "GPU"]
    )
    assert set(devices["sum"].str[0]) == set("123")  # the others have no runs
    text = ledger_text(found)
    assert "### On one kind of device" in text and "/ +3.0 |" in text


def test_the_detectable_margin_is_that_of_the_strictest_step():
    runs = simulated({("A", "baseline"): 10.0, ("A", "KDcls"): 10.0}, sd=1.0)
    part = gain(within=0.5)
    two = judge([claim(part), claim(part, id=2)], ONE, Runs(runs), {}, "mini")
    expected = find(part, ONE.groups, runs).estimate.detectable_margin(0.05 / 2)
    assert two.mde.tolist() == pytest.approx([expected, expected])


def test_a_margin_that_no_difference_would_reach_is_named():
    runs = simulated({("A", "baseline"): 10.0, ("A", "KDcls"): 10.0}, sd=1.0)
    found = judge([claim(gain(within=0.5)), claim(gain(within=9.0), id=2)], ONE, Runs(runs), {}, "mini")
    se, df = find(gain(within=0.5), ONE.groups, runs).estimate[1:]
    assert found.p_at_best.tolist() == pytest.approx([Estimate(0, se, df).p_within(m) for m in (0.5, 9.0)])
    text = ledger_text(Evidence(ONE, found, by_student([], ONE, Runs(runs)), NOTHING_POOLED, []))
    sentence = "even a difference of exactly 0 (KDcls - baseline, mAP) would not be shown"
    assert f"Claim 1: with this noise {sentence}" in text and "Claim 2: with" not in text
    three = judge([claim(gain(within=m), id=i) for i, m in ((1, 9.0), (2, 1.9))], ONE, Runs(runs), {}, "mini")
    assert three.p_at_best_holm.tolist() == pytest.approx(holm(three.p_at_best.tolist()))


def test_boxes_that_are_not_measured_are_named(photos):
    for seed in range(3):
        for method in ("loc", "loc-L1"):
            recorded(photos, "FasterRCNN-MV1x025", method, seed, 20.0 + 0.1 * seed)
            recorded(photos, "SSD300-MV1x025", method, seed, 20.0 + 0.1 * seed)
    line = evidence(*photos).parts.set_index(["id", "part"]).loc[15, 2]
    assert line.verdict == "incomplete" and line.why == (
        "AP80 of the boxes not measured: loc, loc-L1 (FasterRCNN-MV1x025, SSD300-MV1x025)"
    )


def divided(of_images: np.ndarray, divisions: int = 300) -> pd.DataFrame:
    """Halves of a metric that is a mean over images: [images] values of a run."""
    differences = []
    for number in range(divisions):
        order = np.random.default_rng(number).permutation(len(of_images))
        first, second = np.array_split(of_images[order], 2)
        differences.append(first.mean() - second.mean())
    return pd.DataFrame(dict.fromkeys(METRICS_OF_HALVES, differences))


@pytest.mark.parametrize("of_runs", [0.0, 3.0], ids=["equal runs", "noisy runs"])
def test_the_error_from_the_choice_of_images_is_without_that_of_single_runs(of_runs):
    """What the methods do on each image is known, so the variance of their difference is."""
    generator, images, seeds = np.random.default_rng(0), 500, 4
    of_method = {"baseline": generator.normal(0, 2, images), "KDcls": generator.normal(0, 1, images)}
    runs = simulated({("A", method): 10.0 for method in of_method}, seeds=seeds).assign(AP50=1.0, boxes80=1.0)
    known = {
        ("A", method, seed): divided(values + generator.normal(0, of_runs, images))
        for method, values in of_method.items()
        for seed in range(seeds)
    }
    expected = (of_method["KDcls"] - of_method["baseline"]).std(ddof=1) / images**0.5
    assert image_error(gain(), ONE.groups, Runs(runs, halves=known)) == pytest.approx(expected, rel=0.15)
    both = Part((*gain(metric="AP50").terms, *(t._replace(weight=-t.weight) for t in gain().terms)), 0.0)
    assert image_error(both, ONE.groups, Runs(runs, halves=known)) == pytest.approx(0, abs=1e-9)
    assert image_error(gain(metric="boxes80"), ONE.groups, Runs(runs, halves=known)) is None
    one = {key: frame for key, frame in known.items() if key[1] == "KDcls" or key[2] == 0}
    assert image_error(gain(), ONE.groups, Runs(runs, halves=one)) is None  # one baseline has halves
    empty = {key: frame * math.nan for key, frame in known.items()}
    assert image_error(gain(), ONE.groups, Runs(runs, halves=empty)) is None
    same = known | {("A", "KDcls", seed): known["A", "baseline", seed] for seed in range(seeds)}
    assert image_error(gain(), ONE.groups, Runs(runs, halves=same)) == 0.0  # below 0 before it is cut


def test_the_ledger_has_the_noise_of_the_images_and_the_order_of_the_boxes(photos, monkeypatch):
    for seed, student, method in product(
        range(3), ("FasterRCNN-MV1x025", "SSD300-MV1x025"), ("baseline", "KDcls")
    ):
        recorded(photos, student, method, seed, 20.0 + 0.1 * seed)
    assert "Other test images" not in ledger_text(evidence(*photos))
    assert "best order" not in ledger_text(evidence(*photos))
    ious = np.arange(50, 100, 5)

    def errors(e, workspace):
        taught = e.method == "KDcls"
        by_iou = pd.DataFrame(
            {"AP_boxes": 90.0 - ious, "score_IoU": 0.4 - ious / 1000, "AP_oracle": 100.0 - ious}, index=ious
        )
        if taught:
            by_iou += np.stack([ious / 10, 0.1 + 0 * ious, ious / 50], axis=1)
        if e.student != "SSD300-MV1x025":
            return RunErrors(by_iou, pd.DataFrame())
        noise = np.random.default_rng(1).normal(0, 4.0 if taught else 0.0, 400)
        return RunErrors(by_iou, pd.DataFrame(), divided(noise))

    monkeypatch.setattr("c2dlib.reporting.evidence.known_errors", errors)
    text = ledger_text(evidence(*photos))
    assert "| KDcls - baseline, AP80 of the boxes | – | +8.0 [+8.0, +8.0] | +8.0" in text
    assert "| KDcls - baseline, AP50 of the boxes | – | +5.0 " in text
    assert "| KDcls - baseline, mAP in the best order | – | +1.5 [" in text  # the mean of 50 to 95, over 50
    assert "| KDcls - baseline, AP80 in the best order | – | +1.6 [" in text
    for iou in (50, 80):
        name = f"rank correlation x 100 of score and IoU, from IoU .{iou} on"
        assert f"| KDcls - baseline, {name} | – | +10.0 [" in text
    assert "nearly the mAR" in text
    images = text[text.index("### Other test images") :]
    assert "| 1. KDcls - baseline, mAP | – | – | 0.1 / 0.2 |" in images  # 4 / sqrt(400)


def test_a_part_on_one_student_has_no_line_by_student():
    runs = simulated({("A", "baseline"): 10.0, ("A", "KDcls"): 12.0}, sd=0.1)
    assert by_student([claim(gain())], ONE, Runs(runs)).empty


def git(*arguments: str) -> str:
    completed = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
    )
    return completed.stdout.strip() if completed.returncode == 0 else ""


@pytest.mark.parametrize(
    "results",
    [p.parent for p in sorted(PUBLISHED.glob("*/records"))],
    ids=lambda p: p.name,
)
def test_the_claims_are_older_than_the_records_that_test_them(results):
    """The last change of the claims' file is an ancestor of every commit that added a record of a regime."""
    changed = git("log", "-1", "--format=%H", "--", str(FILE))
    if not changed or git("rev-parse", "--is-shallow-repository") == "true":
        pytest.skip("no git history")
    regime = regime_of(Workspace(results.name.rpartition("-")[2], Path(), results, Path(), "cpu"))
    if regime is None:
        pytest.skip("no claim is tested on these data")
    folders = (results / "records", ROOT / "results" / results.name / "records")  # also where they were first
    added = git("log", "--find-renames", "--diff-filter=A", "--format=%H", "--", *map(str, folders)).split()
    later = [c for c in added if git("merge-base", changed, c) == changed]
    assert regime.exploratory == (results.name in EXPLORATORY)
    assert later == ([] if regime.exploratory else added)
