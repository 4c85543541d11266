"""The work list: the paper's rows as experiments, and those of the tables that the paper does not have."""

import csv
import dataclasses
import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from c2dlib.config.experiment import experiment
from c2dlib.config.identity import job_key
from c2dlib.records import ROOT
from c2dlib.reporting.labels import frame_labels, row_label
from c2dlib.reporting.notes import notes
from c2dlib.reporting.tables import markdown, table
from c2dlib.reporting.work_list import TABLES, Row, experiments, plan_rows, work_list
from c2dlib.teacher.classifier import Teacher, build_classifier
from c2dlib.workspace import Workspace
from tests.reporting.helpers import SSD, cells, record


def test_runs_go_seed_by_seed_and_compact_students_first(place):
    rows = work_list(
        "table2",
        *place,
        seeds=2,
        students=["FasterRCNN-R50", SSD.replace("300", "512")],
        methods=["baseline", "ours"],
    )
    assert [(e.seed, e.student[:3], e.method[:2]) for e in experiments(rows)] == [
        (seed, student, method) for seed in (0, 1) for student in ("SSD", "Fas") for method in ("ba", "KD")
    ]


@pytest.mark.parametrize("name", ["table1", "table2"])
def test_the_papers_table_is_the_work_list(place, name):
    with open(ROOT / "results" / "paper" / f"{name}.csv") as file:
        paper = list(csv.DictReader(file))
    rows = work_list(name, *place, seeds=3)
    papers_rows = [row for row in rows if row.paper]
    assert [(r.student, r.method) for r in papers_rows] == [(r["student"], r["method"]) for r in paper]
    assert [r.paper["mAP"] for r in papers_rows] == [float(r["mAP"]) for r in paper]
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


def settings_of(rows: list[Row], *settings: str) -> list[tuple]:
    assert {row.student for row in rows} == {SSD}
    return [(row.method, *(getattr(row.experiments[0], name) for name in settings)) for row in rows]


def test_table_3a_varies_weight_and_temperature(mini):
    rows = work_list("table3a", *mini)
    assert settings_of(rows, "lambda_kc", "temperature")[1:] == [
        ("KDcls", 0.1, 1),
        ("KDcls", 0.1, 2),
        ("KDcls", 0.2, 1),
        ("KDcls", 0.3, 1),
        ("KDcls", 0.4, 1),
        ("KDcls", 0.4, 2),
        ("KDcls", 0.4, 3),
        ("KDcls-labels", 0.4, 2),
    ]
    assert (rows[0].method, rows[0].paper["mAP"]) == ("baseline", 25.6)
    assert rows[6].experiments == work_list("table1", *mini, students=[SSD], methods=["KDcls"])[0].experiments
    with pytest.raises(ValueError, match="SET cannot change temperature: table3a varies it"):
        work_list("table3a", *mini, overrides={"temperature": 5.0, "steps": 3})


def test_table_3b_varies_the_teacher_and_shows_its_accuracy(mini):
    rows = work_list("table3b", *mini)
    assert settings_of(rows, "teacher", "teacher_size")[1:-1] == [
        ("KDcls", "resnet18", 48),
        ("KDcls", "resnet50", 48),
        ("KDcls", "resnext101_32x8d", 48),
        ("KDcls", "resnet50", 24),
        ("KDcls", "resnet50", 96),
    ]
    assert (rows[0].method, rows[0].paper["mAP"], rows[-1].method) == ("baseline", 25.6, "KDcls-labels")
    e = rows[2].experiments[0]
    frame = table(rows, {e.hash(): record(e, 20.0, teacher={"top1": 81.25})})
    shown = cells(markdown(frame, "T", []))
    assert [c["teacher_top1 paper / reproduced"] for c in shown[1:3]] == ["75.8 / –", "80.3 / 81.2"]
    assert shown[2]["teacher"] == "ResNet50" and shown[2]["input_size"] == "112"


@pytest.mark.parametrize("scale", ["smoke", "mini"])
def test_the_teachers_of_table_3b_build_and_read_their_crops(place, scale):
    """Grouped convolutions too, at the width and crop size of the scale."""
    for row in work_list("table3b", dataclasses.replace(place[0], scale=scale), place[1], methods=["KDcls"]):
        e = row.experiments[0]
        classifier = build_classifier(e.teacher, 12, e.teacher_size, e.teacher_width)
        reading = Teacher(classifier, 12, e.teacher_size).read(
            torch.rand(2, 3, e.teacher_size, e.teacher_size) * 255
        )
        assert reading.logits.shape == (2, 12) and torch.isfinite(reading.logits).all()


def test_table_4_varies_crops_pooling_and_layers(mini):
    rows = work_list("table4", *mini)
    assert settings_of(rows[1:10], "sampling_size", "pool_obj") == [
        ("loc", 4, 4),
        ("loc", 8, 4),
        ("loc", 16, 4),
        ("loc", 32, 4),
        ("loc", 64, 4),  # a
        ("loc", 32, 2),
        ("loc", 32, 4),
        ("loc", 32, 8),
        ("loc", 32, 16),
    ]  # b
    assert settings_of(rows[10:], "sampling_size", "pool_obj", "pool_maps", "kd_loc_layers") == [
        ("loc", 32, 8, 8, 1),
        ("KDloc", 32, 8, 8, 1),
        ("loc+KDloc", 32, 8, 8, 1),
        ("loc+KDloc", 32, 8, 8, 2),
    ]
    assert rows[0].method == "baseline" and rows[3].settings["sampling_size"] == 56  # the paper's pixels
    assert frame_labels(table(rows, {}))[-1] == "loc+KDloc, c, s 112, p 8, obj+l0+l1"


def test_table_5_reads_the_runs_of_table_1(mini):
    rows = work_list("table5", *mini)
    one = {row.method: row.experiments for row in work_list("table1", *mini, students=[SSD])}
    assert [row.method for row in rows] == [
        "baseline",
        "KDcls",
        "loc+KDloc",
        "KDcls+loc+KDloc",
        "KDcls-labels",
    ]
    assert all(row.experiments == one[row.method] for row in rows)
    made = [record(row.experiments[0]) for row in (*rows[:2], rows[-1])]
    for r, at95 in zip(made, (1.5, 4.0, 7.0), strict=True):
        r.metrics.update(dict.fromkeys((f"AP{iou}" for iou in range(50, 100, 5)), 9.0) | {"AP95": at95})
    shown = cells(markdown(table(rows, {r.hash: r for r in made}), "T", []))
    assert [c["AP95 paper / reproduced"] for c in shown[:3]] == ["0.5 / 1.5", "0.5 / 4.0", "1.3 / –"]
    assert (
        shown[0]["AP55 paper / reproduced"] == "41.3 / 9.0"
        and shown[-1]["AP95 paper / reproduced"] == "– / 7.0"
    )


def test_controls_and_sizes_are_tables_that_the_paper_does_not_have(mini):
    """They have no number of the paper.

    ``sizes`` shares its last lines with Table 1 and pairs each line within its share.
    """
    rows = work_list("controls", *mini)
    assert [r.student for r in rows] == [SSD] * 13 and not any(r.paper for r in rows)
    assert [r.method for r in rows[:5]] == ["baseline", "KDcls", "KDcls-labels", "KDcls-smooth", "KDcls-mean"]
    assert rows[-1].method == "C2D-free" and rows[-1].experiments[0].method == "KDcls-mean+loc-L1"
    sizes = work_list("sizes", *mini)
    assert [r.settings["train_share"] for r in sizes] == [s for s in (0.125, 0.25, 0.5, 1) for _ in range(4)]
    assert sizes[-4].experiments == work_list("table1", *mini, students=[SSD])[0].experiments
    assert (
        sizes[0].experiments[0].train_share == 0.125
        and "train_share" not in sizes[-1].experiments[0].identity()
    )
    values = [10, 12, 11, 11.5, 20, 21, 22, 23]  # of the first two shares
    records = {
        r.experiments[0].hash(): record(r.experiments[0], v) for r, v in zip(sizes[:8], values, strict=True)
    }
    frame = table(sizes, records)
    assert frame.gain[:8].tolist() == pytest.approx([math.nan, 2, 1, 1.5, math.nan, 1, 2, 3], nan_ok=True)
    assert (
        frame_labels(frame)[1] == "KDcls, share 0.125" and frame_labels(frame)[0] == "baseline, share 0.125"
    )


def test_choices_are_made_on_val_and_the_one_taken_is_among_them(mini):
    rows = work_list("choices", *mini)
    assert {e.eval_split for row in rows for e in row.experiments} == {"val"} != {mini[1].eval_split}
    assert len({row.experiments[0].hash() for row in rows}) == len(rows)
    for student in {row.student for row in rows}:
        taken = experiment("mini", student)
        compared = [
            row.settings["changed"].split() for row in rows if row.student == student and row.settings
        ]
        for name in {name for name, value in compared if value != "0.01"}:  # 0.01 was compared and not taken
            assert getattr(taken, name) in [float(value) for other, value in compared if other == name], (
                student,
                name,
            )
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
    frame = table(
        rows,
        {r.experiments[0].hash(): record(r.experiments[0], v) for r, v in zip(rows, values, strict=True)},
    )
    assert frame.gain.tolist() == pytest.approx([math.nan, 2, 1, 3, 0, math.nan, 1, 2, 3, -1], nan_ok=True)
    assert frame_labels(frame)[5] == "baseline, schedule x 3"
    with pytest.raises(ValueError, match="SET cannot change steps: schedules varies it"):
        work_list("schedules", *mini, overrides={"steps": 4})
    assert plan_rows("schedules", "coco")[-1].changes == {"epochs": 360.0}


def test_tables_share_runs_and_can_be_narrowed(place):
    one = work_list("table1", *place, students=["SSD512-VGG16"], methods=["ours"])
    two = work_list("table2", *place, students=["SSD512-VGG16"], methods=["KDcls+loc+KDloc"])
    assert [r.method for r in one + two] == ["KDcls+loc+KDloc", "ours"] and one[0].experiments == two[
        0
    ].experiments
    fgfi = work_list("table2", *place, methods=["FGFI"])
    assert [(r.student, r.experiments[0].method) for r in fgfi] == [
        ("FasterRCNN-R50", "FGFI"),
        ("RetinaNet-R50", "FGFI"),
    ]
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


def test_table2x_has_every_method_alone_and_with_c2d(place):
    rows = work_list("table2x", *place)
    both = ["KD", "FGFI", "GID", "FKD", "DeFeat", "FitNets", "AT", "PKD", "CWD"]
    for student, names in (
        ("FasterRCNN-R50", both),
        ("RetinaNet-R50", both),
        ("SSD512-VGG16", ["FKD", *both[5:]]),
    ):
        methods = [row.method for row in rows if row.student == student]
        assert methods == ["baseline", "ours", *names, *(f"ours+{n}" for n in names), "KDcls-labels"]
    for student in ("FCOS-R50", "MaskRCNN-R50"):
        assert [row.method for row in rows if row.student == student] == [
            "baseline",
            "KDcls",
            "ours",
            "KDcls-labels",
        ]
    paper = {(row.student, row.method): row.paper.get("mAP") for row in rows}
    assert paper["RetinaNet-R50", "GID"] == 39.1 and paper["RetinaNet-R50", "PKD"] is None
    shared = {row.experiments for row in work_list("table2", *place)} & {row.experiments for row in rows}
    assert len(shared) == 8 + 7 + 5  # Table 2's rows of the three students, controls with them


def test_names_of_tables_are_read_without_torch_and_pandas():
    """So that the command line's help is quick."""
    code = (
        "import sys; from c2dlib.reporting.work_list import TABLES; "
        "print(*TABLES, {'torch', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [*TABLES, "set()"]


def test_at_photos_other_students_take_the_places_of_the_papers():
    rows = plan_rows("table1", "photos", data="groceries")
    assert list(dict.fromkeys(row.student for row in rows)) == [
        "FasterRCNN-MV1x025",
        "SSD300-MV1x025",
        "RetinaNet-MV1x025",
    ]
    numbers = {(row.student, row.method): row.paper.get("mAP") for row in rows}
    assert numbers["FasterRCNN-MV1x025", "KDcls"] == 25.9  # of QR50
    assert numbers["SSD300-MV1x025", "baseline"] == 25.6  # of SSD300-VGG16
    assert numbers["RetinaNet-MV1x025", "loc"] is None  # Table 1 has no RetinaNet
    table2 = plan_rows("table2", "photos", students=["FasterRCNN-MV1x025"], data="groceries")
    assert [row.method for row in table2] == [
        *("baseline", "FKD", "ours", "ours+FKD", "CWD", "ours+CWD", "KDcls-labels")
    ]


def test_at_photos_no_student_without_a_detector_teacher_imitates_one():
    rows = plan_rows("table2", "photos", data="groceries")
    assert {row.method for row in rows if row.student == "FasterRCNN-MV1"} == {
        "baseline",
        "ours",
        "KDcls-labels",
    }


def test_the_seed_that_chose_a_setting_is_in_no_other_table(tmp_path):
    workspace = Workspace(
        "photos", tmp_path, tmp_path / "results" / "groceries-photos", tmp_path / "runs", "cpu"
    )
    folder = SimpleNamespace(annotation_hash="0" * 64, eval_split="test")
    seeds = {
        table: {e.seed for row in work_list(table, workspace, folder, 5) for e in row.experiments}
        for table in ("choices", "table1", "controls")
    }
    assert seeds == {
        "choices": {100, 101, 102, 103, 104, 105},
        "table1": set(range(5)),
        "controls": set(range(5)),
    }


def test_choices_at_photos_change_both_weights_of_loc_and_kd_loc():
    rows = plan_rows(
        "choices", "photos", students=["FasterRCNN-MV1x025"], methods=["loc+KDloc"], data="groceries"
    )
    assert [row.changes for row in rows] == [
        {"eval_split": "val", "steps": 5000, "lambda_l": value, "lambda_kl": value}
        for value in (0.0026, 0.01, 0.05)
    ]
    assert rows[0].settings == {"changed": "lambda_l = lambda_kl 0.0026"}


def test_a_scale_may_have_teachers_of_its_own(tmp_path):
    workspace = Workspace("photos", tmp_path, tmp_path / "groceries-photos", tmp_path / "runs", "cpu")
    folder = SimpleNamespace(annotation_hash="0" * 64, eval_split="test")
    rows = {
        (row.settings["teacher"], row.settings["input_size"]): row.experiments[0]
        for row in work_list("table3b", workspace, folder, methods=["KDcls"])
    }
    assert len(rows) == len({job_key("teacher", e) for e in rows.values()}) == 6
    (own,) = work_list("table1", workspace, folder, students=["FasterRCNN-MV1x025"], methods=["KDcls"])
    assert rows["MobileNetV1", 112] == own.experiments[0]
    slim = rows["MobileNetV1 x 0.25 from scratch", 56]
    assert (slim.teacher_size, slim.teacher_width, slim.teacher_weights) == (56, 0.25, "")
    assert rows["MobileNetV1", 224].teacher_weights == own.experiments[0].teacher_weights


def test_a_choice_may_have_a_seed_of_its_own_and_nothing_on_val_gets_a_control_on_test(tmp_path):
    rows = plan_rows("choices", "photos", methods=["baseline"], data="groceries")
    assert [(row.changes["steps"], row.first_seed) for row in rows[:3]] == [
        (5000, 100),
        (5000, 101),
        (10000, 101),
    ]
    assert rows[2].settings == {"changed": "steps 10000, seed 101"}
    for scale in ("mini", "photos", "regimes"):
        assert {row.changes["eval_split"] for row in plan_rows("choices", scale)} == {"val"}


def test_seeds_go_through_the_draws(tmp_path):
    folder = SimpleNamespace(annotation_hash="d", eval_split="test")
    place = Workspace("regimes", tmp_path, tmp_path / "badges-4-regimes", tmp_path, "cpu"), folder
    rows = work_list("controls", *place, seeds=6, students=[SSD], methods=["baseline", "loc"])
    for row in rows:
        assert [(e.seed, e.draw) for e in row.experiments] == [(s, s % 4) for s in range(6)]
        assert {e.data for e in row.experiments} == {"badges-4"} and row.experiments[0].train_share == 0.25
    choices = work_list("choices", *place, seeds=2, students=[SSD], methods=["loc+KDloc"])
    assert {(e.seed, e.draw, e.eval_split) for row in choices for e in row.experiments} == {
        (100, 0, "val"),
        (101, 1, "val"),
    }
    shares = [row.experiments[0].train_share for row in work_list("sizes", *place, methods=["baseline"])]
    assert shares == [0.25 / 8, 0.25 / 4, 0.25 / 2, 0.25]


def test_a_control_may_have_settings_of_its_own(monkeypatch):
    """``tuned`` of a scale: one row more, with its settings in its name; the first row keeps the scale's."""
    tuned = {"controls": [SSD], "tuned": {SSD: {"KDcls-labels": {"lambda_kc": 0.8, "temperature": 1}}}}
    monkeypatch.setattr("c2dlib.reporting.work_list.scale_tables", lambda scale: tuned)
    first, last = (plan for plan in plan_rows("controls", "mini") if plan.method == "KDcls-labels")
    assert first.changes == first.settings == {} and last.changes == {"lambda_kc": 0.8, "temperature": 1}
    assert row_label(last.method, last.settings) == "KDcls-labels, lambda_kc 0.8, temperature 1"


def test_reweighted_baselines_have_a_gain_and_are_no_baseline_of_others(mini):
    rows = work_list("reweighted", *mini)
    steps = rows[0].experiments[0].steps
    assert settings_of(rows[:7], "box_loss_weight", "class_loss_weight", "steps") == [
        ("baseline", 1, 1, steps),
        ("baseline", 2, 1, steps),
        ("baseline", 4, 1, steps),
        ("baseline", 1, 0.5, steps),
        ("KDcls-labels", 1, 1, steps),
        ("baseline", 1, 1, 1.2 * steps),
        ("baseline", 1, 1, 1.9 * steps),
    ]
    foreground = rows[4].experiments[0]
    assert (foreground.lambda_kc, foreground.temperature) == (0.5, 1.0)
    made = {r.experiments[0].hash(): record(r.experiments[0], 10.0 + i) for i, r in enumerate(rows)}
    frame = table(rows, made)
    assert frame.gain.tolist() == pytest.approx([math.nan, *range(1, 12)], nan_ok=True)
    assert frame_labels(frame)[1] == "baseline, boxes x 2" and frame_labels(frame)[-1] == "C2D"
    assert rows[0].experiments == work_list("controls", *mini)[0].experiments  # its run is shared


def test_a_table_without_students_has_the_numbers_of_the_papers_ssd300():
    (baseline, *_) = plan_rows("table4", "photos", data="groceries")
    assert (baseline.student, baseline.paper["mAP"]) == ("FasterRCNN-MV1x025", 25.6)
    (baseline,) = plan_rows("table1", "photos", 1, ["FasterRCNN-MV1x025"], ["baseline"], data="groceries")
    assert baseline.paper["mAP"] == 23.3  # of Faster R-CNN-QR50, in whose place it stands
