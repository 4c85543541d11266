"""Errors of finished runs: kept with their checkpoint, paired with the baseline, written as Figure 3."""

import gzip
import json

import pandas as pd
import pytest

from c2dlib.evaluation.halves import DIVISIONS
from c2dlib.evaluation.tide import TYPES
from c2dlib.files import json_with_hash, write_whole
from c2dlib.records import RecordError
from c2dlib.reporting import errors
from c2dlib.reporting.errors import differences, gather, markdown, run_errors, unknown, write_figure3
from c2dlib.reporting.work_list import work_list
from c2dlib.training.finished import find_record, run_folder
from c2dlib.training.run import experiment_for, run
from c2dlib.workspace import Workspace
from tests.damage import damages


def test_errors_of_a_run_are_kept_beside_its_record(place, monkeypatch, capsys):
    (workspace, folder), settings = place, {"steps": 2, "pretrain_steps": 1, "pretrain_scenes": 8}
    rows = work_list("table1", *place, 1, ["SSD300-VGG16"], ["baseline", "loc"], settings)
    e = experiment_for(workspace, folder, "SSD300-VGG16", **settings)
    with pytest.raises(FileNotFoundError, match="no detections of SSD300-VGG16.baseline.s0"):
        run_errors(e, workspace)
    assert all(frame.empty for frame in gather(rows, workspace))
    record = run(e, workspace)
    assert unknown(rows, workspace) == [rows[1].experiments[0]]
    first, kept = run_errors(e, workspace), workspace.results / "errors" / f"{record.name}.json"
    assert first.by_iou.index.tolist() == list(range(50, 100, 5)) and len(first.by_class) == len(
        folder.categories
    )
    assert first.by_iou.AP[50] == pytest.approx(record.metrics["AP50"], abs=1e-4)

    with monkeypatch.context() as patch:  # read, not computed again
        patch.setattr(errors, "tide", None)
        pd.testing.assert_frame_equal(run_errors(e, workspace).by_iou, first.by_iou)
    by_iou, by_class = gather(rows, workspace)
    assert (
        by_iou.method.unique().tolist() == ["baseline"] and by_iou.IoU.tolist() == first.by_iou.index.tolist()
    )
    assert by_class["class"].tolist() == [c.name for c in folder.categories]

    body = json.loads(kept.read_text())
    write_whole(kept, json.dumps(body | {"checkpoint_sha256": "of another training"}))
    pd.testing.assert_frame_equal(run_errors(e, workspace).by_iou, first.by_iou)
    assert json.loads(kept.read_text()) == body
    assert f"{kept}: damaged (content does not match its hash), not used" in capsys.readouterr().err
    assert len(first.halves) == DIVISIONS
    del body["sha256"], body["halves"]  # a file of an earlier version has no hash of its own
    write_whole(kept, json.dumps(body) + "\n")
    with monkeypatch.context() as patch:
        patch.setattr(errors, "tide", None)
        pd.testing.assert_frame_equal(run_errors(e, workspace).by_iou, first.by_iou)
    assert run_errors(e, workspace).halves.empty
    older = json.loads(kept.read_text())  # a file without box_ap and ranking
    kept_columns = older["by_iou"]["columns"].index("AP_boxes")
    del older["by_iou"]["columns"][kept_columns:]
    older["by_iou"]["data"] = [row[:kept_columns] for row in older["by_iou"]["data"]]
    write_whole(kept, json.dumps(older))
    assert run_errors(e, workspace).by_iou.AP_boxes.isna().all() and first.by_iou.AP_boxes.notna().all()


def test_any_changed_or_missing_byte_of_kept_errors_is_named(tmp_path, capsys):
    frame = {"columns": [*TYPES, "AP_boxes"], "index": [50], "data": [[1.5, 2, 3, 4, 5, 6, 80.25]]}
    body = {"checkpoint_sha256": "f" * 64, "by_iou": frame, "by_class": frame}
    path = tmp_path / "errors.json"
    write_whole(path, whole := json_with_hash(body, indent=None))
    assert errors._read(path, "f" * 64).by_iou.AP_boxes[50] == 80.25
    for damaged in damages(whole.encode(), 0):
        path.write_bytes(damaged)
        assert errors._read(path, "f" * 64) is None, damaged
        assert f"{path}: damaged (" in capsys.readouterr().err


def test_detections_of_another_training_are_refused(place):
    (workspace, folder), settings = place, {"steps": 1, "pretrain_steps": 1, "pretrain_scenes": 8}
    e = experiment_for(workspace, folder, "SSD300-VGG16", **settings)
    run(e, workspace)
    perfect = [
        {k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 1.0}
        for a in folder.splits[e.eval_split].annotations["annotations"]
    ]
    write_whole(run_folder(e, workspace) / "detections.json.gz", gzip.compress(json.dumps(perfect).encode()))
    with pytest.raises(RecordError, match="does not match the hash in its record"):
        run_errors(e, workspace)
    assert find_record(e, workspace).status == "done"


def test_differences_are_paired_by_seed():
    base, other = [30.0, 34.0, 32.0], [29.0, 31.0, 32.0]
    frame = pd.DataFrame(
        [
            {
                "student": "S",
                "method": m,
                "seed": seed,
                "draw": 0,
                "pairing": "a",
                "IoU": 50,
                **dict.fromkeys(TYPES, 0.0),
                "Cls": v,
            }
            for m, values in (("baseline", base), ("KDcls", other))
            for seed, v in enumerate(values)
        ]
    )
    lines = differences(frame, ["Cls"]).set_index("method")
    assert lines.dAP.tolist() == pytest.approx([32, 92 / 3]) and pd.isna(lines.change["baseline"])
    line = lines.loc["KDcls"]  # differences -1, -3, 0: mean -4/3, sd 1.527525, t(2) = 4.302653
    assert line.change == pytest.approx(-4 / 3)
    assert line.change_high - line.change == pytest.approx(4.302653 * 1.527525 / 3**0.5, abs=1e-4)
    frame.loc[frame.index[-1], "pairing"] = "b"  # pre-trained on another machine than its baseline
    assert differences(frame, ["Cls"]).set_index("method").change["KDcls"] == pytest.approx(-2)


def test_differences_count_the_seeds_of_a_draw_as_one():
    frame = pd.DataFrame(
        [
            {"student": "S", "method": m, "seed": seed, "draw": seed % 2, "pairing": "a", "IoU": 50, "Cls": v}
            for m, values in (("baseline", [30.0] * 4), ("KDcls", [29.0, 26.0, 31.0, 24.0]))
            for seed, v in enumerate(values)
        ]
    )
    line = differences(frame, ["Cls"]).set_index("method").loc["KDcls"]
    assert line.seeds == 4 and line.change == pytest.approx(-2.5)  # draws: 0 and -5
    half = 12.7062 * 3.53553 / 2**0.5  # t(1), sd of 0 and -5
    assert line.change_high - line.change == pytest.approx(half, abs=1e-3)


def test_the_boxes_alone_are_written_where_they_were_measured(tmp_path):
    workspace = Workspace("smoke", tmp_path, tmp_path / "results", tmp_path / "runs")
    frame = pd.DataFrame(
        [
            {
                "student": "S",
                "method": m,
                "seed": 0,
                "draw": 0,
                "pairing": "a",
                "IoU": iou,
                **dict.fromkeys(TYPES, 1.0),
                "AP_boxes": v,
            }
            for m, v in (("baseline", 80.0), ("loc", 84.5))
            for iou in range(50, 100, 5)
        ]
    )
    text = write_figure3(frame, workspace)
    assert (
        "| S | loc | 1 | 84.5 (+4.5) | 84.5 (+4.5) |" in text
        and "AP_boxes" in (tmp_path / "results" / "figure3.csv").read_text()
    )
    text = write_figure3(frame.assign(AP_boxes=float("nan")), workspace)
    assert "boxes" not in text and "AP_boxes" not in (tmp_path / "results" / "figure3.csv").read_text()


def test_figure_3_in_words_has_cost_and_change_with_interval():
    line = {
        "student": "S",
        "method": "KDcls",
        "type": "Cls",
        "IoU": 50,
        "dAP": 9.0,
        "seeds": 3,
        "change": -2,
        "change_low": -3,
        "change_high": -1,
    }
    assert "9.0 (-2.0 [-3.0, -1.0])" in markdown(pd.DataFrame([line]), (50,), ("Cls",))


def test_figure3_without_a_run_of_these_data_says_so(place):
    with pytest.raises(ValueError, match="no record of table1 is of these data"):
        write_figure3(pd.DataFrame(), place[0])
    assert not (place[0].results / "figure3.csv").exists()
