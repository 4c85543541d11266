"""Tables: the paper's rows, our records, and words where there is no number."""

import csv
import dataclasses
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from c2dlib.config.experiment import SCALES, experiment
from c2dlib.records import RunRecord, read_record, write_record
from c2dlib.reporting.tables import (
    Printer,
    Row,
    check,
    collect,
    comparison,
    experiments,
    labels,
    markdown,
    notes,
    paired,
    table,
    update_readme,
    work_list,
    write_table,
)
from c2dlib.teacher.classifier import Teacher, build_classifier
from c2dlib.workspace import open_workspace

ROOT = Path(__file__).resolve().parents[2]
METRICS = ["mAP", "AP50", "AP75", "APs", "APm", "APl", "mAR", "ARs", "ARm", "ARl"]
SSD = "SSD300-VGG16"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workspace")
    return open_workspace("smoke", results=folder / "results", runs=folder / "runs", device="cpu")


def test_runs_go_seed_by_seed_and_compact_students_first(place):
    rows = work_list("table2", *place, seeds=2, students=["FasterRCNN-R50", SSD.replace("300", "512")],
                     methods=["baseline", "ours"])
    assert [(e.seed, e.student[:3], e.method[:2]) for e in experiments(rows)] == [
        (seed, student, method) for seed in (0, 1) for student in ("SSD", "Fas") for method in ("ba", "KD")]


def record(e, mAP=10.0, status="done", reason="", **changes) -> RunRecord:
    metrics = {m: 5.0 for m in METRICS} | {"mAP": mAP, "APl": None} if status == "done" else {}
    fields = {f.name: {} for f in dataclasses.fields(RunRecord)}
    said = {
        "hash": e.hash(),
        "status": status,
        "reason": reason,
        "student": e.student,
        "method": e.method,
        "seed": e.seed,
        "scale": "smoke",
        "metrics": metrics,
        "parameters": 1_500_000 if metrics else 0,
        "seconds_per_step": 0.25,
        "wall_seconds": 60.0,
        "commit": "c" * 40,
        "dirty": True,
        "device": "cpu",
    }
    return RunRecord(**{**fields, **said, **changes})


@pytest.mark.parametrize("name", ["table1", "table2"])
def test_the_papers_table_is_the_work_list(place, name):
    with open(ROOT / "results" / "paper" / f"{name}.csv") as file:
        paper = list(csv.DictReader(file))
    rows = work_list(name, *place, seeds=3)
    ours = [row for row in rows if row.paper]
    assert [(r.student, r.method) for r in ours] == [(r["student"], r["method"]) for r in paper]
    assert [r.paper["mAP"] for r in ours] == [float(r["mAP"]) for r in paper]
    students = list(dict.fromkeys(r["student"] for r in paper))
    controls = [(i, row) for i, row in enumerate(rows) if not row.paper]
    assert [row.student for _, row in controls] == students
    for i, row in controls:  # the last row of its student
        assert row.method == "KDcls-labels" and rows[i - 1].student == row.student
        assert i + 1 == len(rows) or rows[i + 1].student != row.student
    for row in rows:
        assert [e.seed for e in row.experiments] == [0, 1, 2]
        assert all(e.student == row.student for e in row.experiments)
    frame = table(rows, {})
    assert list(frame.columns[:7]) == ["student", "method", "paper_mAP", "mAP", "mAP_sd", "seeds", "status"]
    assert set(frame.status) == {"not run"} and set(frame.seeds) == {0} and frame.mAP.isna().all()


@pytest.fixture(scope="module")
def mini(place):
    return dataclasses.replace(place[0], scale="mini"), place[1]  # crops of 48 px for the teacher, 32 px for loc


def asked(rows: list[Row], *settings: str) -> list[tuple]:
    assert {row.student for row in rows} == {SSD}
    return [(row.method, *(getattr(row.experiments[0], name) for name in settings)) for row in rows]


def test_table_3a_varies_weight_and_temperature(mini):
    rows = work_list("table3a", *mini)
    assert asked(rows, "lambda_kc", "temperature")[1:] == [
        ("KDcls", 0.1, 1), ("KDcls", 0.1, 2), ("KDcls", 0.2, 1), ("KDcls", 0.3, 1), ("KDcls", 0.4, 1),
        ("KDcls", 0.4, 2), ("KDcls", 0.4, 3), ("KDcls-labels", 0.4, 2)]
    assert (rows[0].method, rows[0].paper["mAP"]) == ("baseline", 25.6)
    assert rows[6].experiments == work_list("table1", *mini, students=[SSD], methods=["KDcls"])[0].experiments
    with pytest.raises(ValueError, match="SET cannot change temperature: table3a varies it"):
        work_list("table3a", *mini, overrides={"temperature": 5.0, "steps": 3})


def test_table_3b_varies_the_teacher_and_shows_its_accuracy(mini):
    rows = work_list("table3b", *mini)
    assert asked(rows, "teacher", "teacher_size")[1:-1] == [
        ("KDcls", "resnet18", 48), ("KDcls", "resnet50", 48), ("KDcls", "resnext101_32x8d", 48),
        ("KDcls", "resnet50", 24), ("KDcls", "resnet50", 96)]
    assert (rows[0].method, rows[0].paper["mAP"], rows[-1].method) == ("baseline", 25.6, "KDcls-labels")
    e = rows[2].experiments[0]
    frame = table(rows, {e.hash(): record(e, 20.0, teacher={"top1": 81.25})})
    shown = cells(markdown(frame, "T", []))
    assert [c["teacher_top1 paper / ours"] for c in shown[1:3]] == ["75.8 / –", "80.3 / 81.2"]
    assert shown[2]["teacher"] == "ResNet50" and shown[2]["input_size"] == "112"


@pytest.mark.parametrize("scale", ["smoke", "mini"])
def test_the_teachers_of_table_3b_build_and_read_their_crops(place, scale):
    """Grouped convolutions too, at the width and crop size of the scale."""
    for row in work_list("table3b", dataclasses.replace(place[0], scale=scale), place[1], methods=["KDcls"]):
        e = row.experiments[0]
        classifier = build_classifier(e.teacher, 12, e.teacher_size, e.teacher_width)
        reading = Teacher(classifier, 12, e.teacher_size).read(torch.rand(2, 3, e.teacher_size, e.teacher_size) * 255)
        assert reading.logits.shape == (2, 12) and torch.isfinite(reading.logits).all()


def test_table_4_varies_crops_pooling_and_layers(mini):
    rows = work_list("table4", *mini)
    assert asked(rows[1:10], "sampling_size", "pool_obj") == [
        ("loc", 4, 4), ("loc", 8, 4), ("loc", 16, 4), ("loc", 32, 4), ("loc", 64, 4),  # a
        ("loc", 32, 2), ("loc", 32, 4), ("loc", 32, 8), ("loc", 32, 16)]  # b
    assert asked(rows[10:], "sampling_size", "pool_obj", "pool_maps", "kd_loc_layers") == [
        ("loc", 32, 8, 8, 1), ("KDloc", 32, 8, 8, 1), ("loc+KDloc", 32, 8, 8, 1), ("loc+KDloc", 32, 8, 8, 2)]
    assert rows[0].method == "baseline" and rows[3].settings["sampling_size"] == 56  # the paper's pixels
    assert labels(table(rows, {}))[-1] == "loc+KDloc, c, s 112, p 8, obj+l0+l1"


def test_table_5_reads_the_runs_of_table_1(mini):
    rows = work_list("table5", *mini)
    one = {row.method: row.experiments for row in work_list("table1", *mini, students=[SSD])}
    assert [row.method for row in rows] == ["baseline", "KDcls", "loc+KDloc", "KDcls+loc+KDloc", "KDcls-labels"]
    assert all(row.experiments == one[row.method] for row in rows)
    made = [record(row.experiments[0]) for row in (*rows[:2], rows[-1])]
    for r, at95 in zip(made, (1.5, 4.0, 7.0), strict=True):
        r.metrics.update(dict.fromkeys((f"AP{iou}" for iou in range(50, 100, 5)), 9.0) | {"AP95": at95})
    shown = cells(markdown(table(rows, {r.hash: r for r in made}), "T", []))
    assert [c["AP95 paper / ours"] for c in shown[:3]] == ["0.5 / 1.5", "0.5 / 4.0", "1.3 / –"]
    assert shown[0]["AP55 paper / ours"] == "41.3 / 9.0" and shown[-1]["AP95 paper / ours"] == "– / 7.0"


def test_controls_and_sizes_are_tables_of_our_own(mini):
    """No number of the paper; ``sizes`` shares its last lines with Table 1 and pairs each line within its share."""
    rows = work_list("controls", *mini)
    assert [r.student for r in rows] == [SSD] * 9 and not any(r.paper for r in rows)
    assert [r.method for r in rows[:5]] == ["baseline", "KDcls", "KDcls-labels", "KDcls-smooth", "KDcls-mean"]
    sizes = work_list("sizes", *mini)
    assert [r.settings["train_share"] for r in sizes] == [s for s in (0.125, 0.25, 0.5, 1) for _ in range(4)]
    assert sizes[-4].experiments == work_list("table1", *mini, students=[SSD])[0].experiments
    assert sizes[0].experiments[0].train_share == 0.125 and "train_share" not in sizes[-1].experiments[0].identity()
    values = [10, 12, 11, 11.5, 20, 21, 22, 23]  # of the first two shares
    records = {r.experiments[0].hash(): record(r.experiments[0], v) for r, v in zip(sizes[:8], values, strict=True)}
    frame = table(sizes, records)
    assert frame.gain[:8].tolist() == pytest.approx([math.nan, 2, 1, 1.5, math.nan, 1, 2, 3], nan_ok=True)
    assert labels(frame)[1] == "KDcls, share 0.125" and labels(frame)[0] == "baseline, share 0.125"


def test_gains_are_told_only_from_the_same_initial_weights(place):
    rows = work_list("table1", *place, students=[SSD])
    origins = dict(zip((row.method for row in rows), ("a", "a", "b", "a"), strict=False))
    made = [record(row.experiments[0], 10 + i, data={"initial_weights": origins[row.method]}) for i, row in enumerate(rows[:4])]
    frame = table(rows, records := {r.hash: r for r in made})
    assert frame.gain[:4].tolist() == pytest.approx([math.nan, 1, math.nan, 3], nan_ok=True) and frame.mAP[2] == 12
    warnings = [note for note in notes(*place, records) if "another pre-training" in note]
    assert len(warnings) == 1 and warnings[0].startswith(f"**{SSD}, loc: ")
    assert not any("another pre-training" in note for note in notes(*place, {r.hash: r for r in made[:2]}))


def test_choices_are_made_on_val_and_the_one_taken_is_among_them(mini):
    rows = work_list("choices", *mini)
    assert {e.eval_split for row in rows for e in row.experiments} == {"val"} != {mini[1].eval_split}
    assert len({row.experiments[0].hash() for row in rows}) == len(rows)
    for student in {row.student for row in rows}:
        taken = experiment("mini", student)
        tried = [row.settings["changed"].split() for row in rows if row.student == student and row.settings]
        for name in {name for name, value in tried if value != "0.01"}:  # a hundredth was tried and not taken
            assert getattr(taken, name) in [float(value) for other, value in tried if other == name], (student, name)
    records = {rows[0].experiments[0].hash(): record(rows[0].experiments[0], eval_split="val")}
    assert "metrics on `val`" in notes(*mini, records)[0]
    with pytest.raises(ValueError, match="SET cannot change lambda_pkd: choices varies it"):
        work_list("choices", *mini, overrides={"lambda_pkd": 0.5})


def test_a_longer_schedule_has_a_baseline_of_its_own(mini):
    rows = work_list("schedules", *mini)
    assert [r.settings["schedule"] for r in rows] == [1] * 5 + [3] * 5
    assert [r.experiments[0].steps for r in rows] == [3500] * 5 + [10500] * 5
    assert rows[0].experiments == work_list("table1", *mini, students=[SSD])[0].experiments
    values = [10, 12, 11, 13, 10, 20, 21, 22, 23, 19]
    frame = table(rows, {r.experiments[0].hash(): record(r.experiments[0], v) for r, v in zip(rows, values, strict=True)})
    assert frame.gain.tolist() == pytest.approx([math.nan, 2, 1, 3, 0, math.nan, 1, 2, 3, -1], nan_ok=True)
    assert labels(frame)[5] == "baseline, schedule x 3"
    with pytest.raises(ValueError, match="SET cannot change steps: schedules varies it"):
        work_list("schedules", *mini, overrides={"steps": 4})
    assert check("schedules", "coco")[-1].changes == {"epochs": 360.0}


def test_tables_share_runs_and_can_be_narrowed(place):
    one = work_list("table1", *place, students=["SSD512-VGG16"], methods=["ours"])
    two = work_list("table2", *place, students=["SSD512-VGG16"], methods=["KDcls+loc+KDloc"])
    assert [r.method for r in one + two] == ["KDcls+loc+KDloc", "ours"] and one[0].experiments == two[
        0
    ].experiments
    fgfi = work_list("table2", *place, methods=["FGFI"])
    assert [(r.student, r.experiments[0].method) for r in fgfi] == [("FasterRCNN-R50", "FGFI"), ("RetinaNet-R50", "FGFI")]
    (row,) = work_list("table1", *place, students=[SSD], methods=["loc"], overrides={"steps": 3})
    assert row.experiments[0].steps == 3
    for wrong in (
        {"students": ["RetinaNet-R50"]},
        {"methods": ["KDCls"]},
        {"overrides": {"step": 3}},
        {"seeds": 0},
        {"methods": ["FKD"]},
    ):
        with pytest.raises(ValueError):
            work_list("table1", *place, **wrong)


def test_paired_by_hand():
    assert paired([]) == {} and paired([(31.0, 30.0)]) == {"gain": 1.0}
    three = paired([(31.0, 30.0), (33.0, 31.0), (36.0, 33.0)])  # 1, 2, 3: sd 1, t(0.975, 2) = 4.302653
    assert three == pytest.approx({"gain": 2.0, "gain_low": -0.484138, "gain_high": 4.484138}, abs=1e-5)


def test_mean_spread_and_gain_over_the_seeds_both_have(place):
    rows = work_list("table1", *place, seeds=3, students=[SSD], methods=["baseline", "loc", "KDcls"])
    base, kd, loc = (next(r for r in rows if r.method == m) for m in ("baseline", "KDcls", "loc"))
    records = [
        record(base.experiments[0], 30.0),
        record(base.experiments[1], 31.0),
        record(base.experiments[2], 33.0),
        record(loc.experiments[0], 31.0),
        record(loc.experiments[2], 36.0),
        record(kd.experiments[0], 30.5),
        record(kd.experiments[1], status="failed", reason="step 3: loss term b"),
    ]
    frame = table(rows, {r.hash: r for r in records}).set_index("method")
    assert frame.status.to_dict() == {
        "baseline": "done",
        "loc": "2 of 3 seeds",
        "KDcls": "failed: step 3: loss term b",
    }
    assert frame.mAP.to_dict() == pytest.approx({"baseline": 94 / 3, "loc": 33.5, "KDcls": 30.5})
    assert frame.mAP_sd["baseline"] == pytest.approx((7 / 3) ** 0.5) and pd.isna(frame.mAP_sd["KDcls"])
    assert (
        frame.gain["loc"] == pytest.approx(2.0)
        and frame.gain["KDcls"] == 0.5
        and pd.isna(frame.gain["baseline"])
    )
    half = 12.706205 * 2**0.5 / 2**0.5  # t(0.975, 1), sd of 1 and 3, two seeds
    assert (frame.gain_low["loc"], frame.gain_high["loc"]) == pytest.approx((2 - half, 2 + half), abs=1e-4)
    assert (
        pd.isna(frame.gain_low["KDcls"]) and frame.APl.isna().all() and frame.paper_AP50["baseline"] == 43.8
    )
    assert frame.records["KDcls"] == f"{SSD}.KDcls.s0.{kd.experiments[0].hash()}"
    assert frame.parameters["loc"] == 1_500_000


def test_table2x_has_every_method_alone_and_under_ours(place):
    rows = work_list("table2x", *place)
    both = ["KD", "FGFI", "GID", "FKD", "DeFeat", "FitNets", "AT", "PKD", "CWD"]
    for student, names in (("FasterRCNN-R50", both), ("RetinaNet-R50", both), ("SSD512-VGG16", ["FKD", *both[5:]])):
        mine = [row.method for row in rows if row.student == student]
        assert mine == ["baseline", "ours", *names, *(f"ours+{n}" for n in names), "KDcls-labels"]
    for student in ("FCOS-R50", "MaskRCNN-R50"):
        assert [row.method for row in rows if row.student == student] == ["baseline", "KDcls", "ours", "KDcls-labels"]
    paper = {(row.student, row.method): row.paper.get("mAP") for row in rows}
    assert paper["RetinaNet-R50", "GID"] == 39.1 and paper["RetinaNet-R50", "PKD"] is None
    shared = {row.experiments for row in work_list("table2", *place)} & {row.experiments for row in rows}
    assert len(shared) == 8 + 7 + 5  # Table 2's rows of the three students, controls with them


def test_cost_is_told_in_time_of_the_plain_student_and_in_memory(place):
    rows = work_list("table2", *place, seeds=3, students=["FasterRCNN-R50"], methods=["baseline", "FKD", "ours"])
    base, fkd, ours = (row.experiments for row in rows[:3])
    told = [(base[0], 1.0, 900.0), (fkd[0], 1.5, 1200.0), (fkd[1], 1.7, 1300.0), (fkd[2], 1.8, 0.0), (ours[0], 0.0, 0.0)]
    records = {e.hash(): record(e, seconds_per_step=0.09, relative_seconds=x, memory_mb=m) for e, x, m in told}
    frame = table(rows, records).set_index("method")
    assert frame.relative_seconds.to_dict() == pytest.approx({"baseline": 1.0, "FKD": 1.7, "ours": math.nan}, nan_ok=True)
    assert frame.memory_mb[["baseline", "FKD"]].tolist() == [900, 1250] and pd.isna(frame.memory_mb["ours"])
    shown = {c["method"]: c for c in cells(markdown(frame.reset_index(), "Title", []))}
    assert shown["FKD"]["s / step (x plain)"] == "0.090 (1.70x)" and shown["FKD"]["memory, MB"] == "1250"
    assert shown["ours"]["s / step (x plain)"] == "0.090" and shown["ours"]["memory, MB"] == "–"
    assert any("turn by turn" in note for note in notes(*place, records))


def test_a_split_without_objects_gives_no_number_and_no_error(place):
    rows = work_list("table1", *place, seeds=2, students=[SSD], methods=["baseline", "loc"])
    frame = table(rows, {e.hash(): record(e, None) for row in rows for e in row.experiments})
    assert frame.mAP.isna().all() and frame.gain.isna().all()


def cells(text: str) -> list[dict]:
    lines = [
        [c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_markdown_says_in_words_what_is_missing(place):
    rows = work_list("table2", *place, seeds=2, students=["FasterRCNN-R50"])
    experiments = {r.method: r.experiments for r in rows}
    records = [record(e, 20.0) for e in experiments["baseline"]] + [
        record(experiments["FKD"][0], status="OOM", reason="out of memory"),
        record(experiments["ours"][0], 21.0),
    ]
    text = markdown(table(rows, {r.hash: r for r in records}), "Title", ["a note"])
    assert text.startswith("# Title\n") and "- a note" in text
    shown = {c["method"]: c for c in cells(text)}
    ours = {method: c["our mAP"] for method, c in shown.items()}
    assert ours == {"baseline": "20.0 ± 0.0", "KD": "not run", "FGFI": "not run", "GID": "not run",
                    "FKD": "OOM: out of memory", "ours": "21.0", "ours+FKD": "not run",
                    "*KDcls-labels* (control)": "not run"}
    assert (
        shown["ours"]["seeds"] == "1 of 2 seeds"
        and shown["ours"]["gain over our baseline [95 % CI]"] == "+1.0"
    )
    assert shown["GID"]["paper mAP"] == "40.2" and shown["*KDcls-labels* (control)"]["paper mAP"] == "–"
    for c in shown.values():
        assert all(v for k, v in c.items() if not k.startswith("gain")) and "nan" not in str(c).lower()


def test_notes_say_what_numbers_mean(place):
    workspace, folder = place
    assert any("Smoke" in n and "mean nothing" in n for n in notes(workspace, folder, {}))
    own = dataclasses.replace(workspace, scale="mini", results=workspace.results.with_name("mine-mini"))
    small = [n for n in notes(own, folder, {}) if "mean nothing" in n]
    assert len(small) == 1 and "24 training and 16 evaluation images" in small[0]
    large = SimpleNamespace(image_counts={"train": 5000, "val": 500}, categories=[1] * 80, eval_split="val",
                            annotation_hash="0" * 64)
    for scale, words in (("mini", True), ("coco", False)):
        said = " ".join(notes(dataclasses.replace(workspace, scale=scale), large, {}))
        assert "mean nothing" not in said and ("not the paper's number" in said) == words
    e = work_list("table1", *place, students=[SSD], methods=["KDcls"])[0].experiments[0]
    taught = record(
        e, teacher={"title": "teacher (SSD)", "hash": "1", "top1": 61.25, "ECE": 3.5, "split": "test"}
    )
    said = " ".join(notes(workspace, folder, {e.hash(): taught}))
    assert "top-1 61.2 %" in said and "cccccccccc (dirty)" in said


def test_written_tables_come_from_verified_records(place, capsys):
    workspace, folder = place
    rows = work_list("table1", workspace, folder, students=[SSD], methods=["baseline", "loc"])
    printer, made = Printer(rows, workspace), [record(row.experiments[0], m) for row, m in zip(rows, (30.0, 31.5))]
    for r in made:
        path = write_record(r, workspace.results / "records")
        printer(r)
    write_table("table1", rows, workspace, folder)
    with open(workspace.results / "table1.csv") as file:
        written = list(csv.DictReader(file))
    assert [(r["mAP"], r["gain"], r["status"]) for r in written] == [
        ("30.0000", "", "done"),
        ("31.5000", "1.5000", "done"),
    ]
    assert "SSD300-VGG16" in (workspace.results / "table1.md").read_text()
    assert re.search(r"25\.6 +30\.0.*\n.*27\.1 +31\.5 +\+1\.5", capsys.readouterr().out)
    path.write_text(path.read_text().replace("31.5", "99.9"))
    frame = write_table("table1", rows, workspace, folder)
    assert list(frame.status) == ["done", "not run"] and str(path) in capsys.readouterr().err
    assert len(collect(rows, workspace)) == 1 and isinstance(rows[0], Row)


COMMITTED = sorted(ROOT.glob("results/*-*/table*.csv"))
EMBEDDED = [p for p in COMMITTED if p.parent.name.removeprefix("badges-") in {s.stem for s in SCALES.glob("*.yaml")}]


@pytest.mark.parametrize("path", EMBEDDED, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_the_committed_table_is_what_its_records_say(path, tmp_path):
    text = path.read_text()
    committed = pd.read_csv(path)
    seeds = max(
        [int(s) for s in re.findall(r"\d+ of (\d+) seeds", text)]
        + [int(s) + 1 for s in re.findall(r"\.s(\d+)\.", text)]
    )
    place = open_workspace(path.parent.name.removeprefix("badges-"), "", ROOT / "results", tmp_path, "cpu")
    rows = work_list(
        path.stem, *place, seeds, list(committed.student.unique()), list(committed.method.unique())
    )
    again = table(rows, collect(rows, place[0])).to_csv(index=False, float_format="%.4f")
    assert again == text


@pytest.mark.parametrize("path", COMMITTED, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_committed_number_leads_to_its_records(path):
    """Also where the data are not at hand: means and paired gains, computed anew from the records a row names."""
    baseline = {}
    for row in pd.read_csv(path).dropna(subset="records").to_dict("records"):
        found = [read_record(path.parent / "records" / f"{name}.json") for name in row["records"].split()]
        mine = {record.seed: record for record in found}
        assert len(mine) == row["seeds"] and {r.student for r in found} == {row["student"]}
        assert re.fullmatch(r"done|\d of \d seeds", row["status"]) and not any(r.dirty for r in found)
        for metric in METRICS:
            values = [r.metrics[metric] for r in found if r.metrics[metric] is not None]
            mean = sum(values) / len(values) if values else float("nan")
            assert row[metric] == pytest.approx(mean, abs=1e-4, nan_ok=True)
        if row["method"] == "baseline":
            baseline[row["student"]] = mine
        else:
            other = baseline[row["student"]]
            gains = [r.metrics["mAP"] - other[seed].metrics["mAP"] for seed, r in mine.items()
                     if r.data.get("initial_weights") == other[seed].data.get("initial_weights")]
            mean = sum(gains) / len(gains) if gains else float("nan")
            assert row["gain"] == pytest.approx(mean, abs=1e-4, nan_ok=True)


def test_the_readme_shows_the_committed_tables(tmp_path):
    now = (ROOT / "README.md").read_text()
    readme = tmp_path / "README.md"
    readme.write_text(re.sub(r"(make readme` -->\n).*?(<!-- end)", r"\1stale\n\2", now, flags=re.DOTALL))
    assert "stale" in readme.read_text()
    update_readme(readme)
    assert readme.read_text() == now
    readme.write_text("<!-- results/none.csv: written by `make readme` -->\n<!-- end -->")
    with pytest.raises(FileNotFoundError, match="none.csv"):
        update_readme(readme)
    assert readme.read_text().startswith("<!-- results/none.csv")


def test_the_comparison_in_sentences(place):
    rows = work_list("table2x", *place, students=["FasterRCNN-R50", "SSD512-VGG16"])
    points = {"baseline": 20.0, "KD": 19.0, "FGFI": 22.0, "FKD": 21.0, "ours": 21.5, "ours+FKD": 21.4}
    done = [record(row.experiments[0], points[row.method], relative_seconds=1.0 + (row.method == "FGFI"))
            for row in rows if row.student == "FasterRCNN-R50" and row.method in points]
    of_r50 = ("**FasterRCNN-R50**: of 3 methods that imitate a detector FGFI gains most (+2.0, 2.0x the time) and KD least "
              "(-1.0, 1.0x the time); ours gains +1.5, 1.0x the time, above 2 of them; ")
    assert comparison(table(rows, {r.hash: r for r in done})) == [of_r50 + "on top of FKD ours adds +0.4."]
    points |= {"ours+KD": 19.6, "ours+FGFI": 21.8}
    done = [record(row.experiments[0], points[row.method], relative_seconds=1.0 + (row.method == "FGFI"))
            for row in rows if row.student == "FasterRCNN-R50" and row.method in points]
    assert comparison(table(rows, {r.hash: r for r in done})) == [
        of_r50 + "on top of 3 of them ours adds +0.3 on average, 2 of 3 times something."]
    done = [record(row.experiments[0], points[row.method], relative_seconds=1.5)
            for row in rows if row.student == "SSD512-VGG16" and row.method in ("baseline", "FKD", "ours", "ours+FKD")]
    assert comparison(table(rows, {r.hash: r for r in done})) == [
        "**SSD512-VGG16**: FKD gains +1.0, 1.5x the time; ours gains +1.5, 1.5x the time; on top of FKD ours adds +0.4."]
    assert comparison(table(rows, {})) == []
