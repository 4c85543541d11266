"""The first line of a table's command: what is finished here, what will be trained, how long it takes."""

import json
import os
import shutil

import pytest

from c2dlib.config.experiment import experiment
from c2dlib.files import write_whole
from c2dlib.records import write_record
from c2dlib.reporting.preview import preview
from c2dlib.reporting.request import Request
from c2dlib.reporting.work_list import work_list
from c2dlib.training.run import detector_teacher
from tests.reporting.helpers import SSD, record

ROWS = {"students": (SSD,), "methods": ("baseline", "KDcls")}


@pytest.fixture
def folders(place, tmp_path):
    return {"results": tmp_path / "results", "published": tmp_path / "published"}


def line(ask: dict, folders: dict) -> str:
    return preview(Request(**ask), **folders)


def publish_times(folders: dict, gpu: tuple[float, ...] = (), **seconds: float) -> None:
    """A published table that has only what the estimate reads, and its records.

    Args:
        gpu: seconds of further runs of each row, on a GPU.
    """
    place, lines = folders["published"] / "badges-smoke", ["student,method,paper_mAP,seeds,status,records"]
    for method, time in seconds.items():
        runs = [
            record(
                experiment("smoke", SSD, method, seed),
                wall_seconds=wall_seconds,
                device="NVIDIA H200" if seed else "cpu",
            )
            for seed, wall_seconds in enumerate((time, *gpu))
            if wall_seconds
        ]
        for run in runs:
            write_record(run, place / "records")
        lines.append(f"{SSD},{method},20.0,{len(runs)},done,{' '.join(run.name for run in runs)}")
    write_whole(place / "table1.csv", "\n".join([*lines, ""]))


def test_the_time_is_that_of_the_published_runs(folders):
    publish_times(folders, baseline=600.0, KDcls=1200.0)
    ask = {"name": "table1", "scale": "smoke", "jobs": 2, **ROWS}
    assert line(ask, folders) == (
        "2 rows: 0 on this machine, 2 to train, about 15 minutes on 2 cores (as the published runs took)"
    )
    text = line(ask | {"seeds": 3, "jobs": 1}, folders)
    assert text.startswith("2 rows, 6 runs: 0 on this machine, 6 to train, about 1.5 hours on 1 core (")
    assert line(ask | {"seeds": 9, "jobs": 1}, folders).count("about 4.5 hours on 1 core") == 1
    assert line(ask | {"overrides": {"steps": 2}}, folders).endswith("2 to train")
    assert line(ask | {"device": "cuda"}, folders).endswith("2 to train")
    publish_times(folders, gpu=(30.0, 40.0), baseline=600.0, KDcls=1200.0)  # a GPU's time is not a CPU's
    assert "about 15 minutes on 2 cores" in line(ask, folders)
    unknown = "2 to train; how long is not known, for some of these rows no run on a CPU is published"
    publish_times(folders, gpu=(30.0, 40.0), baseline=600.0, KDcls=0.0)
    assert line(ask, folders).endswith(unknown)
    publish_times(folders, baseline=600.0)
    assert line(ask, folders).endswith(unknown)


def test_finished_runs_of_these_data_are_counted(folders, place, tmp_path):
    results = folders["results"] / "badges-smoke"
    rows = work_list("table1", *place, students=[SSD], methods=["baseline", "KDcls"])
    (baseline,), (distilled,) = (row.experiments for row in rows)
    identity = {"experiment": json.loads(json.dumps(baseline.identity()))}
    write_record(record(baseline, **identity), results / "records")
    write_record(record(distilled, status="failed", reason="of memory", **identity), results / "records")
    ask = {"name": "table1", "scale": "smoke", **ROWS}
    assert line(ask, folders).startswith("2 rows: 1 on this machine, 1 to train")
    publish_times(folders, KDcls=60.0)  # the other run needs no time
    assert "1 to train, about a minute on 2 cores" in line(ask | {"jobs": 2}, folders)
    write_record(record(distilled, **identity), results / "records")
    assert line(ask, folders) == "2 rows: 2 on this machine, 0 to train"
    shutil.rmtree(results / "records")
    (results / "records").mkdir()
    (results / "records" / f"{baseline.name}.{baseline.hash()}.json").write_text("{")  # damaged
    assert line(ask, folders).startswith("2 rows: 0 on this machine")


def test_a_damaged_record_is_left_out(folders, place):
    """Its changed settings are no settings, and it may be nested too deeply."""
    records = folders["results"] / "badges-smoke" / "records"
    (row,) = work_list("table1", *place, students=[SSD], methods=["baseline"])
    (e,) = row.experiments
    path = write_record(record(e, experiment=json.loads(json.dumps(e.identity()))), records)
    ask, whole = {"name": "table1", "scale": "smoke", **ROWS}, path.read_text()
    assert line(ask, folders).startswith("2 rows: 1 on this machine, 1 to train")
    for damaged in (whole.replace('"eval_split": "test"', '"eval_split": "tesu"'), "[" * 99999):
        assert damaged != whole
        path.write_text(damaged)
        assert line(ask, folders).startswith("2 rows: 0 on this machine, 2 to train")


def test_a_pipe_in_the_place_of_annotations_is_not_waited_for(folders, tmp_path):
    (tmp_path / "mine/annotations").mkdir(parents=True)
    os.mkfifo(tmp_path / "mine/annotations/instances_val2017.json")
    ask = {"name": "table1", "scale": "smoke", "data": str(tmp_path / "mine"), **ROWS}
    assert line(ask, folders).startswith("2 rows: 0 on this machine, 2 to train")


def test_a_damaged_record_of_an_imitated_detector_leaves_the_time_unknown(folders, place):
    student, published = "FasterRCNN-R50", folders["published"] / "badges-smoke"
    (row,) = work_list("table2", *place, students=[student], methods=["FKD"])
    path = write_record(
        record(detector_teacher(row.experiments[0]), wall_seconds=540.0), published / "records"
    )
    own = record(row.experiments[0])
    write_record(own, published / "records")
    lines = ["student,method,paper_mAP,seeds,status,records", f"{student},FKD,41.5,1,done,{own.name}", ""]
    write_whole(published / "table2.csv", "\n".join(lines))
    ask = {"name": "table2", "scale": "smoke", "jobs": 1, "students": (student,), "methods": ("FKD",)}
    assert "1 to train, about 10 minutes on 1 core" in line(ask, folders)
    path.write_text(path.read_text().replace("540.0", "640.0"))
    assert "1 to train; how long is not known" in line(ask, folders)


def test_the_hash_of_a_folder_is_the_one_of_its_validation(place, tmp_path, folders):
    """A record counts only for the annotations that it was computed with."""
    data = tmp_path / "mine"
    shutil.copytree(place[0].data, data)
    rows = work_list("table1", *place, students=[SSD], methods=["baseline"], overrides={})
    e = rows[0].experiments[0].replace(data="mine")
    write_record(record(e), folders["results"] / "mine-smoke" / "records")
    ask = {"name": "table1", "scale": "smoke", "data": str(data), **ROWS} | {"methods": ("baseline",)}
    assert line(ask, folders).startswith("1 row: 1 on this machine")
    annotations = data / "annotations" / "instances_val2017.json"
    annotations.write_text(annotations.read_text() + " ")
    assert line(ask, folders).startswith("1 row: 0 on this machine")


def test_a_misspelt_name_is_named(folders):
    with pytest.raises(ValueError, match="SSD300-VGG16"):
        preview(Request("table1", "smoke", students=("SSD30",)), **folders)
