"""A workspace at smoke scale, and the same at mini scale."""

import dataclasses

import pytest

from c2dlib.workspace import open_workspace


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workspace")
    return open_workspace("smoke", results=folder / "results", runs=folder / "runs", device="cpu")


@pytest.fixture(scope="module")
def mini(place):
    return dataclasses.replace(place[0], scale="mini"), place[
        1
    ]  # crops of 48 px for the teacher, 32 px for loc
