"""Notes under a table and the comparison in sentences: only what the records support."""

import dataclasses
from types import SimpleNamespace

from c2dlib.reporting.notes import comparison, notes, whose_numbers
from c2dlib.reporting.reproduce import _print_table
from c2dlib.reporting.tables import table
from c2dlib.reporting.work_list import Row, work_list
from tests.reporting.helpers import SSD, record


def test_notes_say_what_numbers_mean(place):
    workspace, folder = place
    assert any("`smoke`" in n and "mean nothing" in n for n in notes(workspace, folder, {}))
    own = dataclasses.replace(workspace, scale="mini", results=workspace.results.with_name("mine-mini"))
    small = [n for n in notes(own, folder, {}) if "mean nothing" in n]
    assert len(small) == 1 and "24 training and 16 evaluation images" in small[0]
    large = SimpleNamespace(
        image_counts={"train": 5000, "val": 500},
        categories=[1] * 80,
        eval_split="val",
        annotation_hash="0" * 64,
    )
    for scale, words in (("mini", True), ("coco", False)):
        text = " ".join(notes(dataclasses.replace(workspace, scale=scale), large, {}))
        assert "mean nothing" not in text and ("not the paper's number" in text) == words
    e = work_list("table1", *place, students=[SSD], methods=["KDcls"])[0].experiments[0]
    taught = record(
        e, teacher={"title": "teacher (SSD)", "hash": "1", "top1": 61.25, "ECE": 3.5, "split": "test"}
    )
    text = " ".join(notes(workspace, folder, {e.hash(): taught}))
    assert "top-1 61.2 %" in text and "cccccccccc (dirty)" in text


def test_the_name_of_the_data_is_text_in_markdown_and_in_a_terminal(place, capsys):
    workspace, folder = place
    own = dataclasses.replace(workspace, results=workspace.results.with_name("a <b> & [c](d)-smoke"))
    assert notes(own, folder, {})[0].startswith("Data: a &#60;b&#62; &#38; &#91;c&#93;(d), 12 classes")
    rows = work_list("table1", own, folder, students=[SSD], methods=["KDcls"])
    _print_table("table1", table(rows, {}), rows, own, folder)
    assert "- Data: a <b> & [c](d), 12 classes" in capsys.readouterr().out


def test_tables_with_several_seeds_say_why_the_claims_have_other_intervals(place):
    workspace, folder = place
    rows = work_list("table1", *place, seeds=2, students=[SSD], methods=["KDcls"])
    one, two = rows[0].experiments
    photos = dataclasses.replace(workspace, results=workspace.results.with_name("groceries-photos"))
    for own, recorded, expected in ((photos, [one, two], 1), (photos, [one], 0), (workspace, [one, two], 0)):
        said = notes(own, folder, {e.hash(): record(e) for e in recorded}, rows)
        assert (
            sum("paired by seed. Those of the primary claims in `claims.md`" in note for note in said)
            == expected
        )


def test_teachers_of_the_same_settings_and_other_weights_are_told_apart(place):
    workspace, folder = place
    rows = work_list("table3a", *place, seeds=3, students=[SSD], methods=["KDcls"])[:3]
    one, two, three = (row.experiments[0] for row in rows)

    def taught(e, top1, **more):
        about = {"title": "teacher t", "hash": "1", "top1": top1, "ECE": 3.5, "split": "val"}
        return record(e, teacher=about | more)

    def of_teachers(*records):
        text = notes(workspace, folder, {r.hash: r for r in records}, rows)
        return [note for note in text if note.startswith("teacher t")]

    assert len(of_teachers(taught(one, 61.2), taught(two, 61.2, weights_sha256="a"))) == 1  # the same one
    names = [f"{SSD} KDcls, λ_kc {value}" for value in ("0.1, T 1", "0.1, T 2", "0.2, T 1")]
    for differs in (
        [taught(one, 61.2), taught(two, 71.2), taught(three, 61.2)],
        [taught(e, 61.2, weights_sha256=w) for e, w in ((one, "a"), (two, "b"), (three, "a"))],
    ):
        first, second = of_teachers(*differs)
        assert "top-1 61.2 %" in first and f"**It taught {names[0]}; {names[2]}. Another training" in first
        assert f"**It taught {names[1]}. Another training" in second
    seeds = [taught(e, 61.2 + 10 * (e.seed == 1)) for e in rows[0].experiments]
    assert [n.partition("**")[2].partition(" Another")[0] for n in of_teachers(*seeds)] == [
        f"It taught {names[0]} (seed 0, 2).",
        f"It taught {names[0]} (seed 1).",
    ]


def test_detector_teachers_of_other_weights_are_told_apart(place):
    workspace, folder = place
    e = work_list("table1", *place, students=[SSD])[0].experiments[0].replace(method="FKD")
    teacher = {"detector": "SSD512-VGG19", "detector_hash": "1", "detector_mAP": 30.0}
    runs = [
        record(e.replace(seed=seed), teacher=teacher | {"detector_weights_sha256": weights})
        for seed, weights in enumerate("aab")
    ]
    text = notes(workspace, folder, {r.hash: r for r in runs})
    notes_of_teachers = [note for note in text if note.startswith("Detector teacher SSD512-VGG19: 30.0 mAP.")]
    assert [note.partition("**")[2].partition(" Another")[0] for note in notes_of_teachers] == [
        f"It taught {SSD} FKD (seed 0, 1).",
        f"It taught {SSD} FKD (seed 2).",
    ]


def test_a_detector_teacher_is_compared_with_students_on_its_own_split(place):
    workspace, folder = place
    baseline = work_list("table1", *place, students=[SSD])[0].experiments[0]
    teacher = {"detector": "SSD300-VGG19", "detector_hash": "1", "detector_mAP": 3.0}
    student = record(baseline, eval_split="val")  # of a higher mAP
    assert student.metrics["mAP"] > 3.0
    for split, warned in (("val", True), ("test", False)):
        imitating = record(baseline.replace(method="FKD"), teacher=teacher | {"detector_split": split})
        (said,) = [
            note
            for note in notes(workspace, folder, {"1": student, "2": imitating})
            if note.startswith("Detector teacher")
        ]
        assert f"3.0 mAP on `{split}`." in said and ("not better than a student" in said) == warned


def test_the_comparison_in_sentences(place):
    rows = work_list("table2x", *place, students=["FasterRCNN-R50", "SSD512-VGG16"])
    points = {"baseline": 20.0, "KD": 19.0, "FGFI": 22.0, "FKD": 21.0, "ours": 21.5, "ours+FKD": 21.4}
    done = [
        record(row.experiments[0], points[row.method], relative_seconds=1.0 + (row.method == "FGFI"))
        for row in rows
        if row.student == "FasterRCNN-R50" and row.method in points
    ]
    of_r50 = (
        "**FasterRCNN-R50**: of 3 methods that imitate a detector, FGFI gains most (+2.0, 2.0x the time) "
        "and KD least (-1.0, 1.0x the time); C2D gains +1.5, 1.0x the time, more than 2 of them; "
    )
    assert comparison(table(rows, {r.hash: r for r in done})) == [
        of_r50 + "C2D + FKD has +0.4 mAP over FKD alone."
    ]
    points |= {"ours+KD": 19.6, "ours+FGFI": 21.8}
    done = [
        record(row.experiments[0], points[row.method], relative_seconds=1.0 + (row.method == "FGFI"))
        for row in rows
        if row.student == "FasterRCNN-R50" and row.method in points
    ]
    assert comparison(table(rows, {r.hash: r for r in done})) == [
        of_r50 + "C2D combined with 3 of them has +0.3 mAP on average over the method alone, "
        "and more mAP in 2 of 3 cases."
    ]
    done = [
        record(row.experiments[0], points[row.method], relative_seconds=1.5)
        for row in rows
        if row.student == "SSD512-VGG16" and row.method in ("baseline", "FKD", "ours", "ours+FKD")
    ]
    assert comparison(table(rows, {r.hash: r for r in done})) == [
        "**SSD512-VGG16**: FKD gains +1.0, 1.5x the time; C2D gains +1.5, 1.5x the time; "
        "C2D + FKD has +0.4 mAP over FKD alone."
    ]
    more = next(row for row in rows if (row.student, row.method) == ("SSD512-VGG16", "FKD")).experiments[0]
    frame = table(rows, {r.hash: r for r in done})
    frame.loc[frame.records.str.contains(more.hash()), "seeds"] = 0  # fewer than the other rows
    assert comparison(frame) == ["**SSD512-VGG16**: C2D gains +1.5, 1.5x the time."]
    assert comparison(table(rows, {})) == []


def test_every_device_of_a_table_is_named(place):
    workspace, folder = place
    e = work_list("table1", *place, students=[SSD], methods=["baseline"])[0].experiments[0]
    devices = "cpu", "H200", "H200 (90 steps) and cpu (10 steps)", "H200 (80 steps) and cpu (20 steps)"
    runs = [record(e.replace(seed=seed), device=device) for seed, device in enumerate(devices)]
    words = {1: "Device: cpu; commits: ", 4: "Devices: cpu; H200; H200 and cpu; commits: "}
    for count, expected in words.items():
        text = notes(workspace, folder, {r.hash: r for r in runs[:count]})
        assert sum(expected in note for note in text) == 1


def test_whose_numbers_of_the_paper_stand_beside_a_student_in_place_of_another(place):
    workspace, _ = place
    rows = [
        Row(student, method, paper, ())
        for student, method, paper in (
            ("FasterRCNN-MV1x025", "baseline", {"mAP": 23.3}),
            ("FasterRCNN-MV1x025", "KDcls", {"mAP": 25.9}),
            ("SSD300-MV1x025", "KDcls-labels", {}),
            ("SSD300-VGG16", "baseline", {"mAP": 25.6}),
        )
    ]
    photos = dataclasses.replace(workspace, scale="photos")
    (note,) = whose_numbers("table1", photos, rows)
    assert "beside FasterRCNN-MV1x025 are those of FasterRCNN-QR50" in note
    (note,) = whose_numbers("table4", photos, rows)  # it names no student: its numbers are SSD300's
    assert "beside FasterRCNN-MV1x025 are those of SSD300-VGG16" in note
    assert not whose_numbers("table1", workspace, rows)
