"""Damaged scales have the settings that their files say, or are refused with their file.

hypothesis damages a scale, the same way each time. ``make test ARGS=--long`` tries ten times as many damages.
"""

import json

import pytest
import yaml
from hypothesis import given, settings

from c2dlib.config import experiment as config
from c2dlib.config.experiment import SCALES, Experiment, scale_data, scale_settings
from tests.data.test_mutants import damaged_bytes, mutants

FAMILY = {"SSD300-VGG16": "ssd", "FCOS-R50": "fcos"}
WHOLE = {
    "badges": {"train": 24, "val": 8, "test": 16},
    "common": {"steps": 4, "lr": 0.002, "flip": True, "norm": "batch", "milestones": [0.5, 0.75]},
    "families": {"ssd": {"anchor_scale": 2.0, "steps": 5}, "fcos": {"loc_min_iou": 0.5}},
    "students": {"FCOS-R50": {"width": 0.25, "lr": 0.1}},
    "own_data": {"common": {"lr": 0.01}, "students": {"SSD300-VGG16": {"depth": 0.5}}},
}
fewer = settings(max_examples=settings().max_examples // 3)


@pytest.fixture(scope="module", autouse=True)
def scales(tmp_path_factory):
    """A folder with the scales, which a mutant is put beside."""
    folder = tmp_path_factory.mktemp("scales")
    (folder / "smoke.yaml").write_text((SCALES / "smoke.yaml").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "SCALES", folder)
        yield folder
    config._read_scale.cache_clear()


def plain_reading(text: dict, student: str, own_data: bool) -> dict:
    changed = {}
    for layer in [text, text.get("own_data", {})][: 1 + own_data]:
        for entry in (
            layer.get("common", {}),
            layer.get("families", {}).get(FAMILY[student], {}),
            layer.get("students", {}).get(student, {}),
        ):
            changed |= entry
    return changed


def require_exact_or_refused(folder, text: bytes) -> None:
    path = folder / "mine.yaml"
    path.write_bytes(text)
    config._read_scale.cache_clear()
    for student in FAMILY:
        for data in ("badges", "cats"):
            try:
                read = scale_settings("mine", student, data)
            except ValueError as error:
                assert str(error).startswith(f"{path}: ") and len(str(error)) > len(f"{path}: "), str(error)
            else:
                whole = yaml.safe_load(text)
                assert repr(read) == repr(plain_reading(whole, student, data == "cats"))
                assert scale_data("mine") == whole["badges"]
                Experiment().replace(**{**read, "student": student})
    assert path.read_bytes() == text


@fewer
@given(mutant=mutants(WHOLE))
def test_changed_entries(scales, mutant):
    require_exact_or_refused(scales, json.dumps(mutant).encode())


@fewer
@given(text=damaged_bytes(yaml.safe_dump(WHOLE).encode()))
def test_damaged_files(scales, text):
    require_exact_or_refused(scales, text)


def test_the_undamaged_scale_has_its_settings(scales):
    require_exact_or_refused(scales, yaml.safe_dump(WHOLE).encode())
    assert scale_settings("mine", "FCOS-R50")["lr"] == 0.1 and scale_data("mine")["val"] == 8
