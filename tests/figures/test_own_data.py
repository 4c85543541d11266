"""What the notebook your_data shows beside the figures: its commands, and which presets have a curve."""

import dataclasses
import shlex
import sys

import pytest

from c2dlib.config.experiment import preset_names, scale_data
from c2dlib.figures.own_data import OwnDataPage
from c2dlib.records import ROOT
from tests.reporting.helpers import record


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> OwnDataPage:
    folder = tmp_path_factory.mktemp("page")
    places = {"results": str(folder / "results"), "runs": str(folder / "runs")}
    page = OwnDataPage("SSD300-VGG16", "ours", [0], {}, 1, scale="smoke", data="", device="cpu", **places)
    page.records = {page.distilled.hash(): record(page.distilled)}
    return page


def test_without_a_curve_every_preset_that_has_one_is_named(page):
    text = page.curves().data
    assert all(f"`{name}`" in text for name in preset_names())


def test_without_a_student_it_is_the_presets(tmp_path, monkeypatch):
    scenes = scale_data("smoke")
    monkeypatch.setattr("c2dlib.workspace.scale_data", lambda _: scenes)
    places = {"results": str(tmp_path / "results"), "runs": str(tmp_path / "runs"), "device": "cpu"}
    students = [
        OwnDataPage("", "ours", [0], {}, 1, scale=scale, data="", **places).distilled.student
        for scale in ("smoke", "laptop")
    ]
    assert students == ["SSD300-VGG16", "FasterRCNN-MV2"]


@pytest.mark.parametrize(
    "python, shown", [(ROOT / ".venv/bin/python", ".venv/bin/python"), ("/opt/an env/bin/python", "python")]
)
def test_the_commands_start_as_from_the_repository_and_name_no_folder_of_the_machine(
    page, monkeypatch, python, shown
):
    monkeypatch.setattr(sys, "executable", str(python))
    text = page.places().data
    commands = text.split("```sh\n")[1].split("\n```")[0].splitlines()
    starts = [f"{shown} -m c2dlib {name}" for name in ("detect runs/", "evaluate runs/", "runs")]
    assert all(map(str.startswith, commands, starts)) and len(commands) == 3
    assert "/opt" not in text and str(ROOT) not in text


def test_a_command_is_one_command_whatever_the_data_are_called(page, monkeypatch):
    place = page.workspace.results.with_name("a b;$(x)-smoke")
    monkeypatch.setattr(page, "workspace", dataclasses.replace(page.workspace, results=place))
    lines = page.places().data.split("```sh\n")[1].splitlines()
    for line, rest in zip(lines, (["photo.jpg"], ["--data", "FOLDER"]), strict=False):
        *_, folder = shlex.split(line)[: -len(rest)]
        assert folder.startswith("runs/a b;$(x)-smoke/") and shlex.split(line)[-len(rest) :] == rest
