"""Result tables: means and gains from the records, and words where there is no number."""

import csv
import dataclasses
import math
import re

import pandas as pd
import pytest

from c2dlib.config.experiment import SCALES
from c2dlib.records import read_record, write_record
from c2dlib.reporting.notes import notes
from c2dlib.reporting.tables import Printer, collect, markdown, table, with_errors, write_table
from c2dlib.reporting.work_list import METRICS, work_list
from c2dlib.workspace import PUBLISHED, open_workspace
from tests.reporting.helpers import SSD, cells, record


def test_gains_are_computed_only_from_the_same_initial_weights(place):
    rows = work_list("table1", *place, students=[SSD])
    origins = dict(zip((row.method for row in rows), ("a", "a", "b", "a"), strict=False))
    made = [
        record(row.experiments[0], 10 + i, data={"initial_weights": origins[row.method]})
        for i, row in enumerate(rows[:4])
    ]
    frame = table(rows, records := {r.hash: r for r in made})
    assert (
        frame.gain[:4].tolist() == pytest.approx([math.nan, 1, math.nan, 3], nan_ok=True)
        and frame.mAP[2] == 12
    )
    warnings = [note for note in notes(*place, records) if "pre-trained on another machine" in note]
    assert len(warnings) == 1 and warnings[0].startswith(f"**{SSD}, loc: ")
    assert not any(
        "pre-trained on another machine" in note for note in notes(*place, {r.hash: r for r in made[:2]})
    )


def test_gains_are_computed_only_between_runs_on_one_kind_of_device(place):
    """A run counts as that of the device that did most of its steps."""
    rows = work_list("table1", *place, students=[SSD], methods=["baseline", "KDcls", "loc"])
    devices = {"KDcls": "NVIDIA H200", "loc": "cpu, 1 thread(s) (60 steps) and NVIDIA H200 (40 steps)"}
    made = [
        record(row.experiments[0], 10 + i, device=devices.get(row.method, "cpu, 1 thread(s)"))
        for i, row in enumerate(rows)
    ]
    frame = table(rows, records := {r.hash: r for r in made}).set_index("method")
    assert frame.gain[["KDcls", "loc"]].tolist() == pytest.approx([math.nan, 2], nan_ok=True)
    warnings = [note for note in notes(*place, records) if "another kind of device" in note]
    assert len(warnings) == 1 and warnings[0].startswith(f"**{SSD}, KDcls: ")


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


def test_the_gain_of_several_draws_has_an_interval_over_draws(place):
    regimes = dataclasses.replace(place[0], scale="regimes"), place[1]
    rows = work_list("controls", *regimes, 6, [SSD], ["baseline", "loc"])
    gains = [1.0, 2.0, 3.0, 4.0, 3.0, 4.0]  # draws: 1, 3; 2, 4; 3; 4
    made = [record(e, 10 + i * gains[e.seed]) for i, row in enumerate(rows) for e in row.experiments]
    line = table(rows, records := {r.hash: r for r in made}).set_index("method").loc["loc"]
    half = 3.182446 * (2 / 3) ** 0.5 / 2  # of the draws' means 2, 3, 3, 4; t for 3 degrees of freedom
    assert (line.gain, line.gain_low, line.gain_high) == pytest.approx((3, 3 - half, 3 + half), abs=1e-5)
    assert line.seeds == 6
    assert any("its interval is over draws" in note for note in notes(*regimes, records, rows))
    one = [dataclasses.replace(row, experiments=row.experiments[:1]) for row in rows]
    assert not any("over draws" in note for note in notes(*regimes, records, one))


def test_cost_is_relative_time_of_a_step_and_memory(place):
    rows = work_list(
        "table2", *place, seeds=3, students=["FasterRCNN-R50"], methods=["baseline", "FKD", "ours"]
    )
    base, fkd, ours = (row.experiments for row in rows[:3])
    costs = [
        (base[0], 1.0, 900.0),
        (fkd[0], 1.5, 1200.0),
        (fkd[1], 1.7, 1300.0),
        (fkd[2], 1.8, 0.0),
        (ours[0], 0.0, 0.0),
    ]
    records = {
        e.hash(): record(e, seconds_per_step=0.09, relative_seconds=x, memory_mb=m) for e, x, m in costs
    }
    frame = table(rows, records).set_index("method")
    assert frame.relative_seconds.to_dict() == pytest.approx(
        {"baseline": 1.0, "FKD": 1.7, "ours": math.nan}, nan_ok=True
    )
    assert frame.memory_mb[["baseline", "FKD"]].tolist() == [900, 1250] and pd.isna(frame.memory_mb["ours"])
    shown = {c["method"]: c for c in cells(markdown(frame.reset_index(), "Title", []))}
    assert shown["FKD"]["s / step (x plain)"] == "0.090 (1.70x)" and shown["FKD"]["memory, MB"] == "1250"
    assert shown["C2D"]["s / step (x plain)"] == "0.090" and shown["C2D"]["memory, MB"] == "–"
    assert [n for n in notes(*place, records) if "x plain" in n and "may be of" not in n]


@pytest.mark.parametrize(("method", "setting"), [("ours", "remembered_crops"), ("FKD", "remembered_images")])
def test_a_time_with_what_a_teacher_remembers_says_so(place, method, setting):
    regimes = dataclasses.replace(place[0], scale="regimes"), place[1]
    baseline, row = work_list("table2", *regimes, 1, ["FasterRCNN-QR50"], ["baseline", method])
    records = {
        e.hash(): record(e, relative_seconds=1.0) for e in (baseline.experiments[0], row.experiments[0])
    }
    (note,) = (note for note in notes(*regimes, records) if note.startswith("x plain"))
    assert f"(setting `{setting}`); x plain never is." in note
    assert ("remembered_images" in note) == (method == "FKD")


def test_a_split_without_objects_gives_no_number_and_no_error(place):
    rows = work_list("table1", *place, seeds=2, students=[SSD], methods=["baseline", "loc"])
    frame = table(rows, {e.hash(): record(e, None) for row in rows for e in row.experiments})
    assert frame.mAP.isna().all() and frame.gain.isna().all()


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
    reproduced = {method: c["reproduced mAP"] for method, c in shown.items()}
    assert reproduced == {
        "baseline": "20.0 ± 0.0",
        "KD": "not run",
        "FGFI": "not run",
        "GID": "not run",
        "FKD": "OOM: out of memory",
        "C2D": "21.0",
        "C2D + FKD": "not run",
        "*KDcls-labels* (control)": "not run",
    }
    assert (
        shown["C2D"]["seeds"] == "1 of 2 seeds"
        and shown["C2D"]["gain over the reproduced baseline [95 % CI]"] == "+1.0"
    )
    assert shown["GID"]["paper mAP"] == "40.2" and shown["*KDcls-labels* (control)"]["paper mAP"] == "–"
    for c in shown.values():
        assert all(v for k, v in c.items() if not k.startswith("gain")) and "nan" not in str(c).lower()


def test_written_tables_come_from_verified_records(place, capsys):
    workspace, folder = place
    rows = work_list("table1", workspace, folder, students=[SSD], methods=["baseline", "loc"])
    printer = Printer(rows)
    made = [record(row.experiments[0], mAP) for row, mAP in zip(rows, (30.0, 31.5), strict=False)]
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
    assert len(collect(rows, workspace)) == 1


COMMITTED = sorted(PUBLISHED.glob("*/table*.csv"))
EMBEDDED = [
    p for p in COMMITTED if p.parent.name.removeprefix("badges-") in {s.stem for s in SCALES.glob("*.yaml")}
]


@pytest.mark.parametrize("path", EMBEDDED, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_the_committed_table_is_what_its_records_say(path, tmp_path):
    text = path.read_text()
    committed = pd.read_csv(path)
    seeds = max(
        [int(s) for s in re.findall(r"\d+ of (\d+) seeds", text)]
        + [int(s) + 1 for s in re.findall(r"\.s(\d+)\.", text)]
    )
    place = open_workspace(path.parent.name.removeprefix("badges-"), "", PUBLISHED, tmp_path, "cpu")
    rows = work_list(
        path.stem, *place, seeds, list(committed.student.unique()), list(committed.method.unique())
    )
    again = table(rows, collect(rows, place[0])).to_csv(index=False, float_format="%.4f")
    assert again == text


@pytest.mark.parametrize("path", COMMITTED, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_committed_number_leads_to_its_records(path):
    """Means and paired gains are computed again from the records that a row names, which needs no data."""
    baseline = {}
    for row in pd.read_csv(path).dropna(subset="records").to_dict("records"):
        records = [read_record(path.parent / "records" / f"{name}.json") for name in row["records"].split()]
        by_seed = {record.seed: record for record in records}
        assert len(by_seed) == row["seeds"] and {r.student for r in records} == {row["student"]}
        assert re.fullmatch(r"done|\d of \d seeds", row["status"]) and not any(r.dirty for r in records)
        for metric in METRICS:
            values = [r.metrics[metric] for r in records if r.metrics[metric] is not None]
            mean = sum(values) / len(values) if values else float("nan")
            assert row[metric] == pytest.approx(mean, abs=1e-4, nan_ok=True)
        if row["method"] == "baseline":
            baseline[row["student"]] = by_seed
        else:
            other = baseline[row["student"]]
            gains = [
                r.metrics["mAP"] - other[seed].metrics["mAP"]
                for seed, r in by_seed.items()
                if r.data.get("initial_weights") == other[seed].data.get("initial_weights")
            ]
            mean = sum(gains) / len(gains) if gains else float("nan")
            assert row["gain"] == pytest.approx(mean, abs=1e-4, nan_ok=True)


def test_the_head_says_where_rows_have_one_seed(place):
    rows = work_list("table1", *place, seeds=3, students=[SSD], methods=["baseline", "loc"])
    first, every = ([e for row in rows for e in row.experiments[:count]] for count in (1, 3))
    texts = [
        markdown(table(rows, {e.hash(): record(e) for e in done}), "Title", [])
        for done in (first, [*first, *rows[0].experiments], every, [])
    ]
    assert "# Title\n\n**One seed per row: " in texts[0] and "no verdict rests on them" in texts[0]
    assert "**One seed in 1 of 2 rows: " in texts[1]
    assert "One seed" not in texts[2] and "One seed" not in texts[3]


def test_a_mask_rcnn_without_masks_is_called_so(place):
    workspace, folder = place
    rows = work_list("table2x", *place, students=["MaskRCNN-R50"], methods=["baseline", "KDcls"])
    for row in rows:
        write_record(record(row.experiments[0]), workspace.results / "records")
    frame = write_table("table2x", rows, workspace, folder)
    text = (workspace.results / "table2x.md").read_text()
    assert [line["student"] for line in cells(text)] == ["FasterRCNN-R50 (as MaskRCNN-R50)"] * 2
    assert "which is a Faster R-CNN" in text and set(frame.student) == {"MaskRCNN-R50"}


def test_columns_from_the_detections_are_means_over_seeds(place, monkeypatch):
    rows = work_list("reweighted", *place, seeds=2, methods=["baseline"])[:2]
    frame = table(rows, {})
    values = {e.hash(): float(i) for i, e in enumerate(e for row in rows for e in row.experiments)}

    def gathered(of_rows, workspace):
        lines = [
            {"IoU": iou, "AP_boxes": 10 * v + iou, "score_IoU": v / 10, "AP_oracle": v}
            for row in of_rows
            for v in (values[e.hash()] for e in row.experiments)
            for iou in range(50, 100, 5)
        ]
        return pd.DataFrame(lines), None

    monkeypatch.setattr("c2dlib.reporting.tables.errors.gather", gathered)
    more = with_errors(frame, rows, place[0], ("boxes75", "score_IoU", "oracle_mAP"))
    assert list(more.columns) == [*frame.columns, "boxes75", "score_IoU", "oracle_mAP"]
    assert more.boxes75.tolist() == [80, 100] and more.oracle_mAP.tolist() == [0.5, 2.5]
    assert more.score_IoU.tolist() == pytest.approx([0.05, 0.25])
    monkeypatch.undo()
    unknown = with_errors(frame, rows, place[0], ("boxes75", "score_IoU"))  # nothing was run
    assert list(unknown.columns) == list(frame.columns)


def test_a_row_whose_imitation_swamps_the_detector_says_so(place):
    workspace, folder = place
    rows = work_list("table2x", *place, students=["RetinaNet-R50"], methods=["baseline", "KD", "FGFI"])
    own = {"classification": [1.0, 0.3], "bbox_regression": [0.5, 0.1], "step": [10, 20]}
    curves = {"KD": {"kd_hint": [1800.0, 20.0]}, "FGFI": {"fgfi": [8.0, 1.0]}}
    for row in rows:
        curve = own | curves.get(row.method, {})
        write_record(record(row.experiments[0], curve=curve), workspace.results / "records")
    write_table("table2x", rows, workspace, folder)
    text = (workspace.results / "table2x.md").read_text()
    assert [line["method"] for line in cells(text) if line["student"] == "RetinaNet-R50"] == [
        "baseline",
        "KD (its loss begins 1,200 times as large as the detector's own)",
        "FGFI",
        "*KDcls-labels* (control)",
    ][: len(rows)]
    assert "an effect of the loss's scale" in text
