"""Every setting of a run: what is accepted, what a run's identity holds, and that every scale builds."""

import dataclasses
import re
import shutil
from pathlib import Path

import pytest
import torch
import torchvision
import yaml

from c2dlib.config.experiment import (
    PRESETS,
    SCALES,
    Experiment,
    _read_scale,
    check_scale,
    draw_of,
    experiment,
    parse_override,
    parse_overrides,
    preset_names,
    preset_student,
    scale_data,
    scale_names,
    scale_settings,
)
from c2dlib.config.identity import digest, pretraining_identity, teacher_identity
from c2dlib.config.methods import METHODS, imitation_in
from c2dlib.config.students import ARCHITECTURES, STUDENTS
from c2dlib.config.weights import WeightsError
from c2dlib.detectors.backbones import IMAGENET, build_body
from c2dlib.files import sha256

SSD = "SSD300-VGG16"


@pytest.mark.parametrize(
    "call, nearest, valid",
    [
        (lambda: experiment("smok", SSD), "smoke", "mini"),
        (lambda: scale_data("mimi"), "mini", "smoke"),
        (lambda: scale_settings("smoke", "SSD300-VGG6"), SSD, "FasterRCNN-QR50"),
        (lambda: experiment("smoke", "RetinaNet-50"), "RetinaNet-R50", "SSD512-VGG16"),
        (lambda: experiment("smoke", SSD, "KDclss"), "KDcls", "C2D+FKD"),
        (lambda: experiment("smoke", SSD, temprature=3.0), "temperature", "batch_size"),
        (lambda: Experiment().replace(step=3), "steps", "lambda_kc"),
        (lambda: experiment("smoke", SSD, optimizer="adam"), "adamw", "sgd"),
        (lambda: experiment("smoke", SSD, eval_split="tests"), "test", "val"),
    ],
)
def test_unknown_names_are_answered_with_the_valid_ones(call, nearest, valid):
    with pytest.raises(ValueError, match="unknown") as error:
        call()
    assert nearest in str(error.value) and valid in str(error.value)


def test_the_nearest_name_is_suggested():
    with pytest.raises(ValueError, match="unknown setting 'learning_rat'"):
        experiment("smoke", SSD, learning_rat=1.0)
    for call, hint in [
        (lambda: experiment("smoke", "SSD300-VGG6"), "Did you mean SSD300-VGG16"),
        (lambda: experiment("smoke", SSD, lamda_kc=1.0), "Did you mean lambda_kc"),
    ]:
        with pytest.raises(ValueError, match=hint):
            call()


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": "20"},
        {"steps": 2.5},
        {"steps": True},
        {"flip": 1},
        {"flip": "yes"},
        {"lr": "fast"},
        {"lr": True},
        {"milestones": 0.5},
        {"teacher": 18},
        {"teacher": None},
        {"data": b"badges"},
    ],
)
def test_wrong_types_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}=.* must be (int|bool|float|tuple|str)"):
        experiment("smoke", SSD, **wrong)


@pytest.mark.parametrize(
    "name, value",
    [
        ("batch_size", 0),
        ("lr", -1.0),
        ("temperature", 0.0),
        ("image_size", -64),
        ("steps", -1),
        ("epochs", -1.0),
        ("milestones", [float("nan")]),
        ("milestones", ["a"]),
        ("milestones", [0.5, 2]),
        ("milestones", [True]),
        ("score_threshold", 2.0),
        ("score_threshold", -1.0),
        ("validate_every", -1),
        ("max_positives", -1),
        ("depth", -1.0),
        ("zoom_out", -4.0),
        ("zoom_out", 1e30),
        ("lambda_kc", -5.0),
        ("lambda_l", -0.1),
        ("lambda_kl", -0.1),
        ("lambda_fkd", -0.1),
        ("teacher_jitter", -3.0),
        ("teacher_jitter", 0.6),
        ("frozen_stages", 6),
        ("frozen_stages", -1),
        ("detector_teacher_frozen", -2),
        ("loc_min_iou", 1.5),
        ("kd_loc_layers", 6),
        ("image_size", 1),
        ("temperature", 1e300),
        ("temperature", 1e-300),
        ("momentum", 2.0),
        ("weight_decay", -1.0),
        ("first_level", 1),
        ("first_level", 4),
        *((name, 0) for name in ("fpn_channels", "box_head_dim", "rois_per_image", "rpn_top_n")),
        *((name, 0.0) for name in ("anchor_scale", "teacher_width", "teacher_lr", "pretrain_lr")),
        *((f"pretrain_{name}", value) for name in ("scenes", "steps", "batch", "size") for value in (0, -3)),
        *(("teacher_images", 0), ("detector_teacher_width", 0.0), ("detector_teacher_fpn", 0)),
        *(("teacher_image_size", -1), ("detector_teacher_epochs", -1), ("detector_teacher_lr", -0.1)),
    ],
)
def test_values_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name}=.* must (be|not)"):
        experiment("smoke", SSD, **{name: value})


@pytest.mark.parametrize("name", ["lr", "steps", "seed"])
def test_a_number_that_no_field_can_hold_is_refused(name):
    with pytest.raises(ValueError, match=f"^{name} is a number of more than 63 bits: "):
        Experiment().replace(**{name: 10**400})


def test_whole_numbers_and_lists_become_what_the_field_is():
    e = experiment("smoke", SSD, lr=1, milestones=[0.5, 0.75])
    assert type(e.lr) is float and e.milestones == (0.5, 0.75)
    assert e.hash() == experiment("smoke", SSD, lr=1.0, milestones=(0.5, 0.75)).hash()


def test_one_name_and_one_hash_per_method():
    e = experiment("smoke", SSD, "ours", seed=2)
    assert e.method == "KDcls+loc+KDloc" and e.name == "SSD300-VGG16.KDcls+loc+KDloc.s2"
    assert e.hash() == experiment("smoke", SSD, "KDloc+KDcls+loc", seed=2).hash()
    with_fkd = experiment("smoke", SSD, "ours+FKD")
    assert with_fkd.method == "KDcls+loc+KDloc+FKD"
    assert with_fkd.hash() == experiment("smoke", SSD, "FKD+loc+KDloc+KDcls").hash()
    hashes = {
        experiment("smoke", student, method, seed).hash()
        for student in STUDENTS
        for method in METHODS
        for seed in (0, 1)
        if imitation_in(method) not in ARCHITECTURES[student].family.undefined
    }
    undefined = 2 * (2 * 4 + 3)  # alone and under ours: four methods on each SSD, three on FCOS
    assert len(hashes) == (9 * (len(METHODS) - 1) - undefined) * 2  # C2D is KDcls+loc+KDloc


def test_a_detector_is_imitated_in_one_way_where_that_is_defined():
    for student, method in ((SSD, "FGFI"), (SSD, "ours+DeFeat"), ("FCOS-R50", "GID")):
        with pytest.raises(ValueError, match=f"{imitation_in(method)} is not defined for {student}"):
            experiment("smoke", student, method)
    with pytest.raises(ValueError, match="imitates a detector in 2 ways; choose one of FKD, PKD"):
        experiment("smoke", SSD, "FKD+ours+PKD")
    with pytest.raises(ValueError, match="no stronger detector that FasterRCNN-R101 could imitate"):
        experiment("smoke", "FasterRCNN-R101", "FKD")


EVERY = ["baseline", "KDcls", "KDcls-labels", "loc", "loc+KDloc", "ours", "FKD", "ours+FKD"]
WITH_TEACHER = ["KDcls", "loc+KDloc", "ours", "ours+FKD"]


@pytest.mark.parametrize(
    "change, relevant",
    [
        ({"lambda_kc": 0.123}, ["KDcls", "KDcls-labels", "ours", "ours+FKD"]),
        ({"temperature": 9.0}, ["KDcls", "KDcls-labels", "ours", "ours+FKD"]),
        ({"lambda_l": 0.123}, ["loc", "loc+KDloc", "ours", "ours+FKD"]),
        ({"sampling_size": 96}, ["loc", "loc+KDloc", "ours", "ours+FKD"]),
        ({"max_positives": 7}, ["loc", "loc+KDloc", "ours", "ours+FKD"]),
        ({"lambda_kl": 0.123}, ["loc+KDloc", "ours", "ours+FKD"]),
        ({"kd_loc_layers": 2}, ["loc+KDloc", "ours", "ours+FKD"]),
        ({"teacher": "resnet50"}, WITH_TEACHER),
        ({"teacher_steps": 77}, WITH_TEACHER),
        ({"teacher_size": 77}, WITH_TEACHER),
        ({"detector_teacher_steps": 77}, ["FKD", "ours+FKD"]),
        ({"detector_teacher_width": 0.77}, ["FKD", "ours+FKD"]),
        ({"lambda_fkd": 0.77}, ["FKD", "ours+FKD"]),
        ({"lambda_fkd": 1.0}, []),
        ({"lambda_pkd": 0.5}, []),
        ({"detector_teacher_lr": 0.77}, ["FKD", "ours+FKD"]),
        ({"pretrain_steps": 77}, EVERY),
        ({"backbone_weights": "none"}, EVERY),
        ({"seed": 7}, EVERY),
        ({"steps": 77}, EVERY),
        ({"image_size": 77}, EVERY),
        ({"data_hash": "x"}, EVERY),
        ({"eval_split": "test"}, EVERY),
        ({"workers": 4}, []),
    ],
)
def test_identity_holds_what_the_numbers_depend_on(change, relevant):
    changed = []
    for method in EVERY:
        before, after = (experiment("smoke", SSD, method).replace(**c) for c in ({}, change))
        assert (before.identity() == after.identity()) == (before.hash() == after.hash())
        changed += [method] if before.hash() != after.hash() else []
    assert changed == relevant


def test_a_setting_newer_than_the_records_leaves_them_valid():
    e = experiment("smoke", SSD, "FKD", lambda_fkd=1.0)
    assert e.lambda_fkd == 1.0 and "lambda_fkd" not in e.identity()
    assert e.replace(lambda_fkd=0.5).identity() == {**e.identity(), "lambda_fkd": 0.5}


def test_pretraining_counts_only_where_it_is_used():
    for weights, same in (("badges", False), ("crops", False), ("none", True), ("imagenet", True)):
        one, other = (experiment("smoke", SSD, backbone_weights=weights, pretrain_lr=lr) for lr in (0.1, 0.2))
        assert (one.hash() == other.hash()) == same


def test_every_field_has_a_sentence_and_a_plain_type():
    for f in dataclasses.fields(Experiment):
        sentence = f.metadata["doc"]
        assert sentence.endswith(".") and len(sentence.split()) >= 2, f.name
        assert type(f.default) in (int, float, bool, str, tuple), f.name


@pytest.mark.parametrize("path", sorted(SCALES.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_scale_builds_every_student(path):
    text = yaml.safe_load(path.read_text())
    assert path.read_text().splitlines()[0].startswith("# make reproduce-")
    assert set(text) <= {
        "like",
        "badges",
        "common",
        "families",
        "students",
        "own_data",
        "tables",
    }  # any other key would go unread
    assert set(text.get("own_data", {})) <= {"common", "families", "students"}
    assert set(text["badges"]) - {"seed"} == {"train", "val", "test"}
    for layer in (text, text.get("own_data", {})):
        assert set(layer.get("families", {})) <= {a.family.name for a in ARCHITECTURES.values()}
        assert set(layer.get("students", {})) <= set(ARCHITECTURES)
    for student in ARCHITECTURES:
        e = experiment(path.stem, student, "baseline")  # raises for an unknown key
        for key, value in text.get("students", {}).get(student, {}).items():
            assert getattr(e, key) == (tuple(value) if isinstance(value, list) else value)
        experiment(path.stem, student, data="photographs")
        assert (e.loc_min_iou > 0) == (e.architecture.family.name == "fcos")


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_preset_builds_every_student_and_is_no_scale(path):
    text = yaml.safe_load(path.read_text())
    assert set(text) | {"students"} == {"student", "badges", "common", "families", "students"}
    assert preset_student(path.stem) == text["student"] in ARCHITECTURES
    assert path.stem in preset_names() and path.stem not in scale_names()
    for student in ARCHITECTURES:
        e = experiment(path.stem, student, data="photographs")
        assert e.keep_best_every > 0 and e.patience > 0
        assert (e.loc_min_iou > 0) == (e.architecture.family.name == "fcos")
        for key, value in text.get("students", {}).get(student, {}).items():
            assert getattr(e, key) == value
    with pytest.raises(ValueError, match="unknown SCALE"):
        check_scale(path.stem)


@pytest.mark.parametrize("scale", ["laptop", "good", "coco"])
def test_torchvisions_weights_have_what_a_student_that_starts_from_them_needs(scale):
    """Else ``imagenet`` fails where the student is built, after its teacher's training."""
    sources = {
        "vgg16": "vgg16",
        "vgg19": "vgg19",
        "mv2": "mobilenet_v2",
        "r50": "resnet50",
        "r101": "resnet101",
    }
    assert sources.keys() == IMAGENET.keys()
    for student, architecture in ARCHITECTURES.items():
        e = experiment(scale, student)
        if e.backbone_weights != "imagenet" or architecture.body not in IMAGENET:
            continue
        with torch.device("meta"):
            ours = build_body(architecture.body, e.width, e.depth, e.norm).state_dict()
            theirs = torchvision.models.get_model(sources[architecture.body]).state_dict()
        theirs = {key.removeprefix("features."): value.shape for key, value in theirs.items()}
        missing = [k for k, v in ours.items() if theirs.get(k) != v.shape and "num_batches" not in k]
        assert not missing, f"{scale}, {student}: {missing[:3]}"


def test_data_of_ones_own_have_settings_of_their_own():
    """mini on photographs: its own size and schedule, a family's over those; the rest as on Badges."""
    badges, own = (experiment("mini", SSD, data=data) for data in ("badges", "groceries"))
    text = yaml.safe_load((SCALES / "mini.yaml").read_text())
    for key, value in (text["own_data"]["common"] | text["own_data"]["families"]["ssd"]).items():
        assert getattr(own, key) == value
    assert badges.backbone_weights == "badges" and own.backbone_weights == "crops"
    assert badges.optimizer == own.optimizer and badges.sampling_size == own.sampling_size
    assert experiment("smoke", SSD, data="groceries").replace(data="badges") == experiment("smoke", SSD)


def test_overrides_are_read_as_the_field_needs_them():
    values = dict(
        map(
            parse_override,
            ["lr=1e-4", "flip=false", "steps=20", "teacher=resnet18", "clip=3", "milestones=[0.5, 0.75]"],
        )
    )
    assert values == {
        "lr": 1e-4,
        "flip": False,
        "steps": 20,
        "teacher": "resnet18",
        "clip": 3,
        "milestones": [0.5, 0.75],
    }
    assert type(values["lr"]) is float and type(values["flip"]) is bool and type(values["steps"]) is int
    assert experiment("smoke", SSD, **values).milestones == (0.5, 0.75)


@pytest.mark.parametrize("name", ["student", "method", "seed", "scale", "data", "data_hash"])
def test_what_has_an_option_of_its_own_is_no_override(name):
    """Else data_hash=abc gives the record of other data, and seed=1 is not the seed of the run."""
    with pytest.raises(ValueError, match=f"SET cannot change {name}: student, method, seed, scale and data"):
        parse_overrides(["steps=3", f"{name}=1"])


def test_a_setting_is_named_once():
    assert parse_overrides(["lr=1e-3", "steps=3"]) == {"lr": 1e-3, "steps": 3}
    with pytest.raises(ValueError, match="SET names lr twice"):
        parse_overrides(["lr=1e-3", "steps=3", "lr=1e-4"])


def test_a_file_of_weights_is_named_by_its_content(tmp_path):
    """Else the rows of a table and its notebook are of other weights, once the file is replaced."""
    path = tmp_path / "body.safetensors"
    with pytest.raises(WeightsError, match="body.safetensors: no such file"):
        parse_overrides([f"backbone_weights={path}"])
    path.write_bytes(b"first")
    named = {name: f"{path}@{sha256(b'first')[:12]}" for name in ("backbone_weights", "teacher_weights")}
    assert parse_overrides([f"{name}={path}" for name in named]) == named
    assert parse_overrides([f"{name}={value}" for name, value in named.items()]) == named
    assert parse_overrides(["backbone_weights=none"]) == {"backbone_weights": "none"}


def test_no_is_a_precision():
    """YAML 1.1 reads it as False."""
    assert experiment("smoke", SSD, **dict([parse_override("precision=no")])).precision == "no"


@pytest.mark.parametrize(
    "wrong",
    [
        *("steps", "steps 20", "", "lr=[1", "steps=" + "[" * 5000, 'lr=!!int ""'),
        *("draw={a: 1, a: 2}", "feature_channels=[&a [1], *a]"),
    ],
)
def test_overrides_of_another_form(wrong):
    with pytest.raises(ValueError, match="setting=value"):
        parse_override(wrong)


@pytest.mark.parametrize(
    "value", ["[a.safetensors", "'b: {c}.safetensors", "@d%.safetensors", "#e", " f$x=1 "]
)
def test_a_text_is_taken_as_it_is_typed(value):
    """Such as a file's name that is no YAML."""
    assert parse_override(f"backbone_weights={value}") == ("backbone_weights", value)


def test_a_draw_is_another_training_set_teacher_and_backbone():
    e = experiment("regimes", SSD, "KDcls")
    other = experiment("regimes", SSD, "KDcls", draw=1)
    for identity in (teacher_identity, pretraining_identity):
        assert digest(identity(e, "d")) != digest(identity(other, "d"))
    assert e.hash() != other.hash()
    mini = experiment("mini", SSD, "KDcls")  # the committed backbones serve the first draw
    assert digest(pretraining_identity(e, "d")) == digest(pretraining_identity(mini, "d"))
    for wrong in (-1, 4):
        with pytest.raises(
            ValueError, match=f"draw={wrong} must be 0 or more, and below the number of parts"
        ):
            experiment("regimes", SSD, draw=wrong)
    with pytest.raises(ValueError, match="draw=1"):
        experiment("mini", SSD, draw=1)
    assert [draw_of("regimes", seed) for seed in (0, 1, 4, 7, 100)] == [0, 1, 0, 3, 0]
    assert draw_of("mini", 3) == 0 and experiment("regimes", SSD, seed=7).draw == 3


def test_a_scale_like_another_has_its_settings_unless_it_says_otherwise():
    """Three times the steps and KD_loc pooled by three, at the teacher's input size; the rest is mini's."""
    regimes, mini = experiment("regimes", SSD), experiment("mini", SSD)
    assert regimes.steps == 3 * mini.steps and regimes.lambda_kl == regimes.lambda_l
    assert regimes.sampling_size == regimes.teacher_size == 48 and regimes.pool_maps == 48 / 4 / 3
    assert regimes.teacher_image_size == regimes.image_size == mini.image_size  # of the student's own entry
    assert regimes.anchor_scale == mini.anchor_scale and regimes.lr == mini.lr
    assert scale_data("regimes")["test"] == 3000
    for data in ("badges-4", "badges-crowded"):  # settings are those of Badges, so only the data differ
        assert experiment("regimes", SSD, data=data).replace(data="badges") == regimes


@pytest.fixture
def own_scale(tmp_path, monkeypatch):
    """A scale ``mine`` of this text, beside those that there are."""

    def write(text: str) -> Path:
        shutil.copytree(SCALES, tmp_path / "scales", dirs_exist_ok=True)
        monkeypatch.setattr("c2dlib.config.experiment.SCALES", tmp_path / "scales")
        (tmp_path / "scales/mine.yaml").write_text(text)
        return tmp_path / "scales/mine.yaml"

    yield write
    _read_scale.cache_clear()


@pytest.mark.parametrize(
    "text, words",
    [
        ("common: {width: 1.0}\ncommon: {width: 0.5}", "line 2: common is there twice"),
        (
            "like: smoke\nfamilys: {ssd: {lr: 0.1}}",
            "unknown entry of the file 'familys'. Did you mean families",
        ),
        ("like: smoke\nfamilies: {sdd: {lr: 0.1}}", "unknown entry of families 'sdd'. Did you mean ssd"),
        ("like: smoke\nstudents: {SSD: {}}", "unknown entry of students 'SSD'"),
        ("like: smoke\ncommon: {widht: 1.0}", "unknown entry of common 'widht'. Did you mean width"),
        ("like: smoke\nfamilies: {ssd: 3}", "families: ssd is 3, must hold entries"),
        ("like: smoke\nown_data: {common: [a]}", "own_data: common is ['a'], must hold entries"),
        ("like: smoke\nbadges: 3", "badges is 3, must hold entries"),
        ("like: smoke\nbadges: {val: 06}", "badges: val is '06', must be a whole number"),
        ("like: smoke\nstudents: {SSD300-VGG16: {steps: many}}", "SSD300-VGG16: steps='many' must be int"),
        ("like: smoke\ncommon: {lr: -1.0}", "SSD300-VGG16: lr=-1.0 must be positive"),
        ("like: mine", "unknown scale in like 'mine'"),
        ("like: [smoke]", "unknown scale in like ['smoke']"),
        ("common: {}", "badges is missing"),
        ("- a", "the file is ['a'], must hold entries"),
        ("a: !!python/object:os.system x", "cannot be read as YAML: could not determine a constructor"),
    ],
)
def test_a_scale_that_cannot_be_used_is_named_with_its_file(text, words, own_scale):
    path = own_scale(text)
    with pytest.raises(ValueError, match=re.escape(f"{path}: ") + ".*" + re.escape(words)):
        scale_settings("mine", SSD)


def test_scales_that_are_like_each_other_are_refused(own_scale):
    path = own_scale("like: other")
    (path.parent / "other.yaml").write_text("like: mine")
    with pytest.raises(ValueError, match=r"mine.yaml: .*other.yaml: unknown scale in like 'mine'"):
        scale_settings("mine", SSD)


def test_a_scale_of_ones_own(own_scale):
    own_scale("like: smoke\ncommon: {steps: 7}\nown_data: {families: {ssd: {lr: 0.5}}}")
    smoke, mine = scale_settings("smoke", SSD), scale_settings("mine", SSD)
    assert mine == smoke | {"steps": 7} and scale_settings("mine", SSD, "cats") == mine | {"lr": 0.5}
