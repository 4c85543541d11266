"""What reaches which hash: by ``used_by`` alone, with nothing to list elsewhere."""

import dataclasses
import os

import pytest

from c2dlib.config.experiment import Experiment, experiment, setting
from c2dlib.config.identity import (
    PRETRAINING,
    USERS,
    digest,
    job_key,
    pretraining_identity,
    run_identity,
    teacher_identity,
)
from c2dlib.config.methods import BOX_CONTROLS, CLASS_CONTROLS, PARTS
from c2dlib.config.weights import WeightsError, weights_path

SSD = "SSD300-VGG16"


def with_setting(name: str, default: float, **metadata) -> type[Experiment]:
    """Experiment with one setting more, as a developer would add it."""
    return dataclasses.make_dataclass(
        "Longer",
        [(name, float, setting("A new setting.", default, **metadata))],
        bases=(Experiment,),
        frozen=True,
    )


def hashes(e: Experiment) -> dict[str, str]:
    return {
        "run": digest(run_identity(e)),
        "teacher": digest(teacher_identity(e, "d")),
        "pretraining": digest(pretraining_identity(e, "d")),
    }


@pytest.mark.parametrize(
    "used_by, changed",
    [
        ("teacher", {"run", "teacher"}),  # of a run whose method has a classification teacher
        ("student", {"run"}),
        ("pretraining", {"run", "pretraining"}),
        (("student", "teacher", "pretraining"), {"run", "teacher", "pretraining"}),
        ("FKD", set()),
        ("machine", set()),
    ],
)
def test_a_new_setting_reaches_the_hashes_its_used_by_names(used_by, changed):
    longer = with_setting("teacher_dropout", 0.0, used_by=used_by, since=2)
    settings = dataclasses.asdict(experiment("mini", SSD, "C2D"))
    before, at_default, after = (
        experiment("mini", SSD, "C2D"),
        longer(**settings),
        longer(**settings, teacher_dropout=0.5),
    )
    assert hashes(at_default) == hashes(before)  # records of the first schema stay valid
    assert {name for name, value in hashes(after).items() if value != hashes(before)[name]} == changed


def test_a_setting_of_the_first_schema_counts_at_its_default_too():
    longer = with_setting("teacher_dropout", 0.0, used_by="teacher")
    settings = dataclasses.asdict(experiment("mini", SSD, "KDcls"))
    assert hashes(longer(**settings))["teacher"] != hashes(experiment("mini", SSD, "KDcls"))["teacher"]


def test_a_misspelt_user_is_named():
    with pytest.raises(ValueError, match="unknown user of a setting 'techer'. Did you mean teacher"):
        setting("A sentence.", 0.0, used_by="techer")
    for f in dataclasses.fields(Experiment):
        assert f.metadata["used_by"] and set(f.metadata["used_by"]) <= set(USERS), f.name


def test_experiments_that_differ_in_a_teacher_setting_do_not_share_its_job():
    e = experiment("mini", SSD, "KDcls")
    for change in (
        {"teacher_lr": 0.5},
        {"teacher_steps": 7},
        {"teacher_jitter": 0.5},
        {"flip": False},
        {"teacher_width": 0.9},
    ):
        assert job_key("teacher", e) != job_key("teacher", e.replace(**change))
        assert job_key("pretrain", e) == job_key("pretrain", e.replace(**change))
    for change in ({"pretrain_lr": 0.5}, {"norm": "frozen"}, {"vertical_flip": False}, {"width": 0.5}):
        assert job_key("pretrain", e) != job_key("pretrain", e.replace(**change))
    assert job_key("teacher", e) == job_key("teacher", experiment("mini", "SSD512-VGG16", "C2D", seed=3))
    assert job_key("teacher", e) != job_key("teacher", experiment("mini", "RetinaNet-R50", "C2D"))
    assert job_key("run", e) == f"run:{e.hash()}"


def test_a_file_of_weights_is_identified_by_its_content(tmp_path):
    """Wherever it lies; a file that is put in its place is another one, even of equal size and time."""
    path, other = tmp_path / "body.safetensors", tmp_path / "elsewhere" / "body.safetensors"
    other.parent.mkdir()
    for place in (path, other):
        place.write_bytes(b"first")
    first = experiment("mini", SSD, backbone_weights=str(path))
    assert first.hash() == experiment("mini", SSD, backbone_weights=str(other)).hash()
    other.write_bytes(b"third")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    named = first.with_hashes()
    assert named.hash() == first.hash() and named.with_hashes() == named
    assert named.backbone_weights == f"{path}@{first.identity()['backbone_weights'].partition('@')[2]}"
    before, written = first.hash(), first.identity()["backbone_weights"].partition("@")[2]
    os.replace(other, path)
    assert first.hash() != before == named.hash()
    with pytest.raises(WeightsError, match="its content has the hash"):
        weights_path(f"{path}@{written}")


@pytest.mark.parametrize(
    "given", [{"backbone_weights": "x.pt"}, {"teacher_weights": "x.pth"}, {"detector_teacher_weights": "x"}]
)
def test_weights_of_another_kind_are_refused(given):
    with pytest.raises(WeightsError, match="a file that ends in .safetensors"):
        experiment("mini", SSD, **given)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_settings_are_finite(value):
    with pytest.raises(ValueError, match="weight_decay=.* must be a finite number"):
        experiment("mini", SSD, weight_decay=value)


def test_data_counts_for_a_pretraining_on_crops_only():
    for weights, counts in zip(PRETRAINING, (False, True), strict=True):
        e = experiment("mini", SSD, backbone_weights=weights)
        assert (pretraining_identity(e, "a") != pretraining_identity(e, "b")) == counts
        assert (
            pretraining_identity(e, "a") != pretraining_identity(e.replace(train_share=0.5), "a")
        ) == counts
        assert (pretraining_identity(e, "a") != pretraining_identity(e.replace(pretrain_scenes=7), "a")) == (
            not counts
        )


def test_the_pretraining_of_an_imitated_detector_counts():
    for weights, change in zip(PRETRAINING, ({"pretrain_scenes": 7}, {"pretrain_lr": 0.5}), strict=True):
        for method, counts in (("FKD", True), ("KDcls", False)):
            e = experiment("mini", SSD, method, backbone_weights="imagenet", detector_teacher_weights=weights)
            assert (e.replace(**change).hash() != e.hash()) == counts


def test_the_weight_of_an_imitation_is_one_setting():
    assert experiment("mini", "FasterRCNN-R50", "C2D+PKD", lambda_pkd=0.3).imitation_weight == 0.3
    assert experiment("mini", SSD, "FKD").imitation_weight == experiment("mini", SSD, "FKD").lambda_fkd == 0.1
    assert experiment("mini", SSD, "C2D", lambda_fkd=0.3).imitation_weight == 1.0


def test_ours_and_c2d_are_one_method():
    assert (
        experiment("mini", SSD, "ours+FKD")
        == experiment("mini", SSD, "C2D+FKD")
        == experiment("mini", SSD, "KDcls+loc+KDloc+FKD")
    )


def test_a_setting_of_a_loss_is_in_the_hash_of_each_run_with_that_loss():
    """Else a run with another weight would return the record of the first one."""
    checked = set()
    for f in dataclasses.fields(Experiment):
        for part in set(f.metadata["used_by"]) & set(PARTS):
            student = "FasterRCNN-R50"
            plain = experiment("mini", student, part)
            value = getattr(plain, f.name)
            changed = plain.replace(**{f.name: "bfloat16" if f.name == "teacher_dtype" else value + 1})
            assert changed.hash() != plain.hash(), f"{f.name} of {part}"
            checked.add(part)
    assert checked == {part for part in PARTS if part in USERS}


def test_every_loss_is_a_user_of_settings_or_the_control_of_one():
    assert set(PARTS) - set(USERS) == {*CLASS_CONTROLS, *BOX_CONTROLS}
