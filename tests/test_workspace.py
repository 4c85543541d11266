"""The folders of runs and results, and the data that a scale accepts."""

import shutil

import pytest

from c2dlib.data.badges import make_badges
from c2dlib.data.validation import DataError
from c2dlib.workspace import open_workspace


def test_a_scale_whose_tables_report_test_refuses_data_without_one(tmp_path):
    folder = make_badges(tmp_path / "shelves", train=4, val=2, test=2)
    places = {"results": tmp_path / "results", "runs": tmp_path / "runs", "device": "cpu"}
    workspace, data = open_workspace("photos", folder, **places)
    assert data.eval_split == "test" and workspace.results.name == "shelves-photos"
    shutil.rmtree(folder / "test2017")
    (folder / "annotations" / "instances_test2017.json").unlink()
    with pytest.raises(DataError, match=r"shelves has no test split.*instances_test2017\.json.*SCALE=mini"):
        open_workspace("photos", folder, **places)
    assert open_workspace("mini", folder, **places)[1].eval_split == "val"
    assert not (tmp_path / "results").exists()
