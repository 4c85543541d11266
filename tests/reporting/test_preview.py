"""The first line of a table's command: what is finished here, what will be trained, how long it takes."""

import json
import shutil

import pytest

from c2dlib.files import write_whole
from c2dlib.records import write_record
from c2dlib.reporting.preview import preview
from c2dlib.reporting.work_list import work_list
from tests.reporting.helpers import SSD, record

ROWS = {"students": (SSD,), "methods": ("baseline", "KDcls")}


@pytest.fixture
def folders(place, tmp_path):
    return {"results": tmp_path / "results", "published": tmp_path / "published"}


def publish_times(folders: dict, **seconds: float) -> None:
    """A published table that has only what the estimate reads."""
    head = "student,method,paper_mAP,seeds,status,wall_seconds"
    lines = [f"{SSD},{method},20.0,1,done,{time}" for method, time in seconds.items()]
    write_whole(folders["published"] / "badges-smoke" / "table1.csv", "\n".join([head, *lines, ""]))


def test_the_time_is_that_of_the_published_runs(folders):
    publish_times(folders, baseline=600.0, KDcls=1200.0)
    ask = {"table": "table1", "scale": "smoke", "jobs": 2, **ROWS, **folders}
    assert preview(**ask) == (
        "2 rows: 0 on this machine, 2 to train, about 15 minutes on 2 cores (as the published runs took)"
    )
    text = preview(**ask | {"seeds": 3, "jobs": 1})
    assert text.startswith("2 rows, 6 runs: 0 on this machine, 6 to train, about 1.5 hours on 1 core (")
    assert preview(**ask | {"seeds": 9, "jobs": 1}).count("about 4.5 hours on 1 core") == 1
    assert preview(**ask | {"overrides": {"steps": 2}}).endswith("2 to train")
    assert preview(**ask | {"device": "cuda"}).endswith("2 to train")
    publish_times(folders, baseline=600.0)
    assert preview(**ask).endswith("2 to train; how long is not known, nothing is published for these rows")


def test_finished_runs_of_these_data_are_counted(folders, place, tmp_path):
    results = folders["results"] / "badges-smoke"
    rows = work_list("table1", *place, students=[SSD], methods=["baseline", "KDcls"])
    (baseline,), (distilled,) = (row.experiments for row in rows)
    identity = {"experiment": json.loads(json.dumps(baseline.identity()))}
    write_record(record(baseline, **identity), results / "records")
    write_record(record(distilled, status="failed", reason="of memory", **identity), results / "records")
    ask = {"table": "table1", "scale": "smoke", **ROWS, **folders}
    assert preview(**ask).startswith("2 rows: 1 on this machine, 1 to train")
    publish_times(folders, KDcls=60.0)  # the other run needs no time
    assert "1 to train, about a minute on 2 cores" in preview(**ask, jobs=2)
    write_record(record(distilled, **identity), results / "records")
    assert preview(**ask) == "2 rows: 2 on this machine, 0 to train"
    shutil.rmtree(results / "records")
    (results / "records").mkdir()
    (results / "records" / f"{baseline.name}.{baseline.hash()}.json").write_text("{")  # damaged
    assert preview(**ask).startswith("2 rows: 0 on this machine")


def test_the_hash_of_a_folder_is_the_one_of_its_validation(place, tmp_path, folders):
    """A record counts only for the annotations that it was computed with."""
    data = tmp_path / "mine"
    shutil.copytree(place[0].data, data)
    rows = work_list("table1", *place, students=[SSD], methods=["baseline"], overrides={})
    e = rows[0].experiments[0].replace(data="mine")
    write_record(record(e), folders["results"] / "mine-smoke" / "records")
    ask = {"table": "table1", "scale": "smoke", "data": str(data), **ROWS, **folders} | {
        "methods": ("baseline",)
    }
    assert preview(**ask).startswith("1 rows: 1 on this machine")
    annotations = data / "annotations" / "instances_val2017.json"
    annotations.write_text(annotations.read_text() + " ")
    assert preview(**ask).startswith("1 rows: 0 on this machine")


def test_a_misspelt_name_is_named(folders):
    with pytest.raises(ValueError, match="SSD300-VGG16"):
        preview("table1", "smoke", students=("SSD30",), **folders)
