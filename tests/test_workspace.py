"""The folders of runs and results, and the data that a scale accepts."""

import dataclasses
import shutil

import pytest

from c2dlib.data import badges
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


def test_a_changed_look_is_another_data_set(tmp_path, monkeypatch):
    """Its folder and annotation hash differ, so no earlier run counts; other families stay as they are."""
    scenes = {"train": 4, "val": 2, "test": 2, "seed": 0}
    monkeypatch.setattr("c2dlib.workspace.scale_data", lambda scale: scenes)
    places = {"results": tmp_path / "results", "runs": tmp_path / "runs", "device": "cpu"}

    def opened(data: str) -> tuple:
        workspace, folder = open_workspace("smoke", data, **places)
        return workspace.data, folder.annotation_hash

    before, crowded = opened("badges-4"), opened("badges-crowded")
    revised = dataclasses.replace(badges.LOOKS["crowded"], revision=2)
    monkeypatch.setitem(badges.LOOKS, "crowded", revised)
    again = opened("badges-crowded")
    assert again[0] != crowded[0] and again[1] != crowded[1] and opened("badges-4") == before
    assert "revision" not in (before[0] / "annotations" / "instances_train2017.json").read_text()
    with pytest.raises(FileExistsError, match=r"crowded, seed 0, version \d, revision 2, images"):
        make_badges(crowded[0], **scenes, family="crowded")
