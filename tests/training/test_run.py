"""run(experiment): recorded, resumed, never twice, never half, never believed unread."""

import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save
from torchvision.models.detection.ssd import SSD

from c2dlib.config.experiment import experiment
from c2dlib.config.weights import WeightsError
from c2dlib.data.validation import DataError
from c2dlib.deployment.student import load_student
from c2dlib.evaluation.metrics import coco_metrics
from c2dlib.files import json_with_hash
from c2dlib.records import RecordError, code_version, read_record
from c2dlib.reporting import evidence
from c2dlib.reporting.notes import notes
from c2dlib.training import classifiers, loop
from c2dlib.training import run as runs
from c2dlib.training.classifiers import classifier_teacher, initial_weights
from c2dlib.training.finished import find_record, run_folder, trained_student
from c2dlib.training.run import detector_teacher, experiment_for, run
from c2dlib.training.schedule import plan
from c2dlib.workspace import open_workspace

ROOT = Path(__file__).resolve().parents[2]
STUDENT = "SSD512-VGG16"
TINY = {
    "steps": 2,
    "teacher_steps": 2,
    "teacher_images": 4,
    "pretrain_steps": 1,
    "pretrain_scenes": 8,
    "image_size": 64,
    "batch_size": 2,
    "detector_teacher_steps": 2,
}

LONGER = {"steps": 6, "flip": True, "vertical_flip": True}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workspace")
    return open_workspace("smoke", results=folder / "results", runs=folder / "runs", device="cpu")


def tiny(place, method="baseline", **changes):
    return experiment_for(*place, STUDENT, method, **TINY | changes)


def no_training(*_, **__):
    raise AssertionError("nothing should be trained")


def test_a_run_leaves_a_record_and_its_student_and_is_not_repeated(place, monkeypatch):
    (workspace, data), e, seen = place, tiny(place), []
    record = run(e, workspace, lambda *row: seen.append(row))
    assert (e.name, 2, 2) in seen
    path = workspace.results / "records" / f"{STUDENT}.baseline.s0.{e.hash()}.json"
    assert read_record(path) == record and record.status == "done" and record.hash == e.hash()
    assert record.experiment == json.loads(json.dumps(e.identity())) and record.experiment["steps"] == 2
    assert record.data["images"] == {"train": 24, "val": 8, "test": 16} and record.eval_split == "test"
    assert (
        record.data["annotation_hash"] == data.annotation_hash
        and record.teacher == {}
        and record.dirty in (0, 1)
    )
    folder = run_folder(e, workspace)
    assert sorted(p.name for p in folder.iterdir()) == ["detections.json.gz", "student.safetensors"]
    weights = (folder / "student.safetensors").read_bytes()
    student = load_student(folder)
    about = runs.describe(e, data, student.threshold)
    about = json.dumps(about)  # the hash is that of the file without the hash in its header
    assert hashlib.sha256(save(load(weights), {"c2dlib": about})).hexdigest() == record.checkpoint_sha256
    assert record.checkpoint_sha256.encode() in weights
    student = trained_student(e, workspace)
    assert type(student) is SSD and not student.training
    assert record.parameters == sum(p.numel() for p in student.parameters())
    found = json.loads(gzip.decompress((folder / "detections.json.gz").read_bytes()))
    test = data.splits["test"]
    assert coco_metrics(test.annotations, found, data.area_cuts) == record.metrics
    weights = initial_weights(e, workspace)  # from the cache
    assert record.origin == hashlib.sha256(save(weights)).hexdigest()[:12]
    monkeypatch.setattr(runs, "fit", no_training)
    assert run(e, workspace) == record


def test_a_damaged_record_is_named_and_the_run_repeated(place, capsys):
    workspace, e = place[0], tiny(place)
    record = run(e, workspace)
    path = workspace.results / "records" / f"{record.name}.json"
    path.write_text(path.read_text()[:-40])
    again = run(e, workspace)
    assert str(path) in capsys.readouterr().err and read_record(path) == again
    assert (again.metrics, again.checkpoint_sha256) == (record.metrics, record.checkpoint_sha256)


SCRIPT = """
import json, os, signal, sys, torch
from pathlib import Path
from c2dlib.training import loop, run as runs
from c2dlib.workspace import open_workspace
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell would have it ignored
torch.set_num_threads(1)
loop.CHECKPOINT_SECONDS = 0
folder, student, settings, kill, marker = json.loads(sys.argv[1])
folder = Path(folder)
workspace, data = open_workspace("smoke", results=folder / "results", runs=folder / "runs", device="cpu")
e = runs.experiment_for(workspace, data, student, "KDcls", **settings)
def progress(what, done, of):
    if what == e.name:
        with open(marker, "a") as file:
            file.write(f"{done}\\n")
        if done == 4 and kill:
            os.kill(os.getpid(), kill)
print("hash", runs.run(e, workspace, progress).checkpoint_sha256)
"""


def start(folder, kill, marker):
    arguments = json.dumps([str(folder), STUDENT, TINY | LONGER, kill, str(marker)])
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, arguments],
        cwd=ROOT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def site_in(folder):
    return open_workspace("smoke", results=folder / "results", runs=folder / "runs", device="cpu")


@pytest.fixture(scope="module")
def uninterrupted(place):
    return run(tiny(place, "KDcls", **LONGER), place[0])


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_run_that_was_ended_goes_on_as_if_it_was_not(place, uninterrupted, tmp_path, kill):
    process = start(tmp_path, int(kill), tmp_path / "marker")
    process.communicate(timeout=120)
    assert process.returncode != 0 and (tmp_path / "marker").read_text().split() == ["1", "2", "3", "4"]
    other = site_in(tmp_path)
    e = tiny(other, "KDcls", **LONGER)
    assert not list(tmp_path.glob("results/**/*.json"))
    (checkpoint,) = run_folder(e, other[0]).glob("step-*.pt")
    done = int(checkpoint.name[5:13])
    assert 1 <= done < 4
    seen = []
    record = run(e, other[0], lambda what, step, of: seen.append((what, step)))
    assert [step for what, step in seen if what == e.name] == list(range(done + 1, 7))
    assert not any("teacher" in what or "pre-training" in what for what, _ in seen)
    assert record.checkpoint_sha256 == uninterrupted.checkpoint_sha256
    assert record.metrics == uninterrupted.metrics and record.hash == uninterrupted.hash


@pytest.mark.parametrize("version", ["of this code", "of earlier code"])
def test_a_record_names_every_device_and_code_that_a_run_was_trained_with(tmp_path, monkeypatch, version):
    """Begun on a GPU with another commit (names put in their places), ended on this CPU.

    Checkpoints of earlier code do not name it.
    """
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    workspace, data = open_workspace(
        "smoke", results=tmp_path / "results", runs=tmp_path / "runs", device="cpu"
    )
    e = experiment_for(workspace, data, STUDENT, **TINY | {"steps": 6})

    def stop(what, done, of):
        if what.startswith(e.name) and done == 4:
            raise KeyboardInterrupt

    code = {"commit": "c" * 40, "dirty": True, "torch": "2.0"} if version == "of this code" else {}
    with monkeypatch.context() as gpu, pytest.raises(KeyboardInterrupt):
        gpu.setattr(loop, "device_name", lambda kind: "NVIDIA H200")
        gpu.setattr(loop, "code_version", lambda: code)
        run(e, workspace, stop)
    (checkpoint,) = run_folder(e, workspace).glob("step-*.pt")
    on_gpu = int(checkpoint.name[5:13])
    record = run(e, workspace)
    parts = {"NVIDIA H200": on_gpu, f"cpu, {torch.get_num_threads()} thread(s)": 6 - on_gpu}
    most_first = sorted(parts, key=parts.get, reverse=True)
    assert record.device == " and ".join(f"{name} ({parts[name]} steps)" for name in most_first)
    assert evidence.run_line(record)["device"] == ("GPU" if on_gpu >= 3 else "CPU")
    unknown = {"commit": "unknown", "dirty": False, "torch": "unknown"}
    codes = [(code or unknown) | {"steps": on_gpu}, code_version() | {"steps": 6 - on_gpu}]
    assert record.code == sorted(codes, key=lambda part: -part["steps"])
    assert "torch" not in record.curve and record.commit == code_version()["commit"]
    (origin,) = [n for n in notes(workspace, data, {record.hash: record}) if "commits: " in n]
    assert codes[0]["commit"][:10] in origin and record.commit[:10] in origin


def test_other_weights_than_those_that_a_run_began_with_are_refused(tmp_path, monkeypatch):
    """Its initial weights and its teachers; a checkpoint of an earlier version does not name them."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    place = site_in(tmp_path)
    e = tiny(place, "KDcls", steps=4, backbone_weights="none")
    folder = run_folder(e, place[0])

    def stop(what, done, of):
        if what == e.name and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(e, place[0], stop)
    started = json.loads((folder / "started.json").read_text())
    _, report = classifier_teacher(e, place[0])
    assert started["weights"] == {
        "initial weights": "none",
        "classification teacher": report["weights_sha256"],
    }

    def another_teacher(*arguments):
        teacher, report = classifier_teacher(*arguments)
        return teacher, report | {"weights_sha256": "0" * 64}

    changes = {"classifier_teacher": another_teacher, "_fingerprint": lambda initial: "0" * 12}
    for name, change in changes.items():
        with monkeypatch.context() as changed, pytest.raises(WeightsError, match="changed since") as raised:
            changed.setattr(runs, name, change)
            run(e, place[0])
        assert "000000000000 now" in str(raised.value) and f"delete {folder} to start" in str(raised.value)
    del started["weights"], started["sha256"]
    (folder / "started.json").write_text(json_with_hash(started))
    with monkeypatch.context() as changed:
        changed.setattr(runs, "_fingerprint", changes["_fingerprint"])
        seen = []
        assert run(e, place[0], lambda what, done, of: seen.append((what, done))).status == "done"
    assert (e.name, 1) not in seen and (e.name, 4) in seen


def test_of_two_processes_one_trains(uninterrupted, tmp_path):
    both = [start(tmp_path, 0, tmp_path / f"marker{i}") for i in range(2)]
    outputs = [process.communicate(timeout=180) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert [out.split()[-1] for out, _ in outputs] == [uninterrupted.checkpoint_sha256] * 2
    steps = [p.read_text().split() for p in sorted(tmp_path.glob("marker*"))]
    assert steps == [["1", "2", "3", "4", "5", "6"]]  # one process only
    assert len(list(tmp_path.glob("results/*/records/*.json"))) == 1


def test_a_loss_that_is_not_finite_is_a_failed_row(place):
    from c2dlib.reporting.tables import table
    from c2dlib.reporting.work_list import Row

    e = tiny(place, lr=1e30, steps=5, clip=0.0)
    record = run(e, place[0])
    assert record.status == "failed" and record.metrics == {}
    assert "step 1" in record.reason and any(
        term in record.reason for term in ("bbox_regression", "classification")
    )
    frame = table([Row(STUDENT, "baseline", {"mAP": 29.4}, (e,))], {e.hash(): record})
    assert frame.status[0].startswith("failed: step 1") and frame.mAP.isna()[0] and frame.paper_mAP[0] == 29.4
    with pytest.raises((FileNotFoundError, RecordError)):
        trained_student(e, place[0])


def test_a_compiled_backbone_leaves_the_same_checkpoint(place, monkeypatch):
    """``compile`` is a setting of the machine, not of the experiment."""
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    plain, e = (tiny(place, compile=setting).replace(seed=7) for setting in (False, True))
    assert plain.hash() == e.hash()
    record = run(e, place[0])
    assert record.status == "done" and [type(m).__name__ for m in compiled] == ["SSDBackbone"]
    assert trained_student(plain, place[0]).backbone.scale_weight.shape == compiled[0].scale_weight.shape


def test_out_of_memory_is_recorded_and_tried_again(place, monkeypatch):
    def greedy(*_, **__):
        raise torch.cuda.OutOfMemoryError

    e = tiny(place, steps=3)
    with monkeypatch.context() as patch:
        patch.setattr(runs, "fit", greedy)
        record = run(e, place[0])
    assert record.status == "OOM" and "2 images of 64 px" in record.reason
    assert run(e, place[0]).status == "done"


def test_an_altered_student_is_refused(place):
    e = tiny(place)
    run(e, place[0])
    path = run_folder(e, place[0]) / "student.safetensors"
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(RecordError, match="does not match the hash"):
            trained_student(e, place[0])
        path.unlink()
        with pytest.raises(FileNotFoundError, match=str(path)):
            trained_student(e, place[0])
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize(
    "file, damage",
    [
        ("weights.safetensors", lambda c: c[:-1] + bytes([c[-1] ^ 1])),
        ("weights.safetensors", lambda c: c[:100]),
        ("report.json", lambda c: c[:-9]),
        ("report.json", lambda c: c.replace(b'"top1"', b'"top5"')),
        ("report.json", lambda c: b"[]"),
    ],
)
def test_a_damaged_teacher_is_named_and_trained_again(place, capsys, file, damage):
    workspace, e, steps = place[0], tiny(place, "KDcls"), []
    before, report = classifier_teacher(e, workspace)
    folder = workspace.runs / "cache" / f"teacher-{report['hash']}"
    path = folder / file
    path.write_bytes(damage(path.read_bytes()))
    capsys.readouterr()
    after, again = classifier_teacher(e, workspace, lambda what, done, of: steps.append(done))
    assert str(folder) in capsys.readouterr().err and steps == [1, 2] and again["top1"] == report["top1"]
    assert all(torch.equal(v, after.state_dict()[k]) for k, v in before.state_dict().items())


def test_a_teacher_is_trained_once_for_all_splits_that_it_is_reported_on(place, monkeypatch, capsys):
    """Settings are chosen on val, tables are of test: both have the same teacher."""
    workspace, of_val = place[0], tiny(place, "KDcls", eval_split="val", teacher_lr=0.0119)
    teacher, on_val = classifier_teacher(of_val, workspace)
    with monkeypatch.context() as patch:
        patch.setattr("c2dlib.training.classifiers.fit", lambda *_: pytest.fail("trained again"))
        same, on_test = classifier_teacher(of_val.replace(eval_split="test"), workspace)
    assert all(torch.equal(v, same.state_dict()[k]) for k, v in teacher.state_dict().items())
    assert on_test["weights_sha256"] == on_val["weights_sha256"] and on_test["hash"] != on_val["hash"]
    assert (on_val["split"], on_test["split"]) == ("val", "test") and on_test["crops"] != on_val["crops"]
    assert on_test["seconds"] >= on_val["seconds"] > 0  # those of the training are among them

    cache, steps = workspace.runs / "cache", []
    (cache / f"teacher-{on_val['hash']}" / "weights.safetensors").write_bytes(b"")
    shutil.rmtree(cache / f"teacher-{on_test['hash']}")
    classifier_teacher(
        of_val.replace(eval_split="test"), workspace, lambda what, done, of: steps.append(done)
    )
    assert steps == [1, 2]  # what is damaged is not used


def test_only_the_student_learns_and_only_the_student_is_kept(place, monkeypatch):
    workspace, teachers = place[0], []
    e = tiny(place, "ours+FKD")

    def kept_from(make):
        return lambda *arguments: (teachers.append(make(*arguments)), teachers[-1])[1]

    for name in ("classifier_teacher", "build_imitation"):
        monkeypatch.setattr(runs, name, kept_from(getattr(runs, name)))
    record = run(e, workspace)
    (teacher, report), fkd = teachers
    assert record.status == "done" and {"KDcls", "loc", "KDloc", "fkd_feature"} <= set(record.curve)
    assert record.teacher["hash"] == report["hash"] and record.teacher["detector"] == "SSD512-VGG19"
    assert record.teacher["weights_sha256"] == report["weights_sha256"]
    imitated = find_record(detector_teacher(e), workspace)
    assert record.teacher["detector_weights_sha256"] == imitated.checkpoint_sha256
    kept = classifier_teacher(e, workspace)[0].state_dict()  # as the cache, checked by its hash, has it
    assert all(torch.equal(v, kept[k]) for k, v in teacher.state_dict().items())
    detector = load((run_folder(detector_teacher(e), workspace) / "student.safetensors").read_bytes())
    assert (
        all(torch.equal(v, detector[k]) for k, v in fkd.teacher.state_dict().items()) and len(detector) > 20
    )
    plain = load_file(
        run_folder(tiny(place), workspace) / "student.safetensors"
    )  # a baseline has no teacher at all
    student = load_file(run_folder(e, workspace) / "student.safetensors")
    assert {k: v.shape for k, v in student.items()} == {k: v.shape for k, v in plain.items()}
    assert record.parameters == sum(p.numel() for p in trained_student(e, workspace).parameters())


@pytest.mark.parametrize("method", ["FKD", "CWD", "ours+FKD"])
def test_a_run_does_not_depend_on_who_trained_its_detector_teacher(method, tmp_path):
    """In this process, or before in another one, as ``reproduce`` does."""
    place = site_in(tmp_path)
    workspace, e = place[0], tiny(place, method, steps=1, detector_teacher_steps=1, backbone_weights="none")
    in_one_go = run(e, workspace)
    (workspace.results / "records" / f"{in_one_go.name}.json").unlink()
    teacher_was_there = run(e, workspace)
    assert in_one_go.checkpoint_sha256 == teacher_was_there.checkpoint_sha256
    assert in_one_go.curve == teacher_was_there.curve and in_one_go.teacher == teacher_was_there.teacher


def test_choices_on_val_and_tables_of_test_share_a_detector_teacher(tmp_path, monkeypatch):
    place = site_in(tmp_path)
    workspace, of_test = (
        place[0],
        tiny(place, "FKD", steps=1, detector_teacher_steps=1, backbone_weights="none"),
    )
    on_val, trained = of_test.replace(eval_split="val"), []
    train = runs._train_and_evaluate
    monkeypatch.setattr(
        runs, "_train_and_evaluate", lambda e, *rest: trained.append(e.name) or train(e, *rest)
    )
    first, second = run(of_test, workspace), run(on_val, workspace)
    fkd = f"{first.student}.FKD.s0"
    assert trained == [fkd, "SSD512-VGG19.baseline.s0", fkd]  # the teacher begins within the first run
    assert first.curve == second.curve
    differs = {key for key, value in first.teacher.items() if second.teacher[key] != value}
    assert differs == {"detector_hash"} and second.teacher["detector_split"] == "test"
    assert [job.e.name for job in plan([on_val.replace(seed=1)], workspace)] == [first.student + ".FKD.s1"]


def test_pretraining_depends_on_its_cache_key_alone(place, tmp_path):
    """With settings it does not know of, another run's cached weights are those it would have made itself."""
    initial_weights(tiny(place, vertical_flip=False), place[0])
    found = initial_weights(tiny(place, vertical_flip=True), place[0])
    other = site_in(tmp_path)
    made = initial_weights(tiny(other, vertical_flip=True), other[0])
    assert all(torch.equal(v, found[k]) for k, v in made.items())


def test_a_published_backbone_is_not_trained_again(tmp_path, monkeypatch, capsys):
    there = site_in(tmp_path)
    workspace, e = there[0], tiny(there)
    first = initial_weights(e, workspace)
    (cached,) = (p for p in (workspace.runs / "cache").iterdir() if p.is_dir())
    monkeypatch.setattr("c2dlib.workspace.PUBLISHED", tmp_path / "published")
    kept = workspace.published / "backbones" / cached.name
    assert not kept.is_relative_to(workspace.results)
    shutil.move(cached, kept)
    monkeypatch.setattr(classifiers, "fit", no_training)
    assert all(torch.equal(first[k], v) for k, v in initial_weights(e, workspace).items())
    (kept / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(AssertionError, match="nothing should be trained"):  # so it would be
        initial_weights(e, workspace)
    assert f"{kept}: damaged, not used" in capsys.readouterr().err


def test_a_teacher_may_be_trained_at_the_students_resolution(place, monkeypatch):
    """Its images are scaled first, boxes with them; at 0 the setting is not in its identity."""
    (workspace, _), seen = place, []
    cut = classifiers.crop_batch
    monkeypatch.setattr(
        classifiers,
        "crop_batch",
        lambda images, targets, *more: (
            seen.append((images[0].shape[-2:], targets[0]["boxes"].max())),
            cut(images, targets, *more),
        )[1],
    )
    _, full = classifier_teacher(tiny(place, "KDcls", teacher_lr=0.0123), workspace)
    whole, _ = zip(*seen, strict=True)
    seen.clear()
    _, half = classifier_teacher(tiny(place, "KDcls", teacher_lr=0.0123, teacher_image_size=40), workspace)
    assert set(whole) == {(128, 128)} and {size for size, _ in seen} == {(40, 40)}
    assert max(edge for _, edge in seen) <= 40
    assert full["hash"] != half["hash"] and "teacher_image_size" not in full["identity"]
    assert half["identity"] == full["identity"] | {"teacher_image_size": 40}


def test_a_backbone_may_learn_from_the_crops_of_the_data_themselves(place):
    """``crops``: as many classes as the data have, judged on val, and other weights for other data."""
    (workspace, data), before = place, set((place[0].runs / "cache").glob("pretrain-*/report.json"))
    e = tiny(place, backbone_weights="crops")
    weights = initial_weights(e, workspace)
    (path,) = set((workspace.runs / "cache").glob("pretrain-*/report.json")) - before
    report = json.loads(path.read_text())
    assert report["split"] == "val" and report["identity"]["data"] == data.annotation_hash
    saved = load_file(path.parent / "weights.safetensors")
    assert saved[[name for name in saved if name.endswith("weight")][-1]].shape[0] == len(data.categories)
    again = initial_weights(e.replace(pretrain_scenes=77), workspace)  # of badges: nothing to do with it
    assert all(torch.equal(value, again[name]) for name, value in weights.items())
    assert run(e, workspace).experiment["backbone_weights"] == "crops"


def test_missing_data_writes_nothing(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        open_workspace("smoke", tmp_path / "none", tmp_path / "results", tmp_path / "runs", "cpu")
    with pytest.raises(ValueError, match="unknown SCALE"):
        open_workspace("smoky", "", tmp_path / "results", tmp_path / "runs", "cpu")
    assert not list(tmp_path.iterdir())


def test_a_split_that_the_data_do_not_have_is_refused(place):
    workspace, data = place
    assert experiment_for(workspace, data, STUDENT, eval_split="val").eval_split == "val"
    two = replace(data, splits={name: data.splits[name] for name in ("train", "val")})
    with pytest.raises(ValueError, match=f"eval_split=test: {data.root} has no test split"):
        experiment_for(workspace, two, STUDENT, eval_split="test")


def test_the_detector_teacher_may_learn_at_its_own_rate():
    e = experiment("smoke", "SSD512-VGG16", "ours+FKD", lr=0.004)
    assert detector_teacher(e).lr == 0.004 and detector_teacher(e.replace(detector_teacher_lr=0.5)).lr == 0.5
    assert detector_teacher(e).student == "SSD512-VGG19" and detector_teacher(e).method == "baseline"


def test_mask_rcnn_trains_its_mask_branch_where_there_are_masks(place, tmp_path):
    """The embedded data have none: the box branch alone. With outlines in the annotation file, both."""
    workspace, data = place
    small = {k: v for k, v in TINY.items() if k != "detector_teacher_steps"}
    plain = run(experiment_for(workspace, data, "MaskRCNN-R50", "ours", **small), workspace)
    assert (
        plain.status == "done"
        and {"KDcls", "loc", "KDloc", "loss_classifier"} <= set(plain.curve)
        and "loss_mask" not in plain.curve
    )
    assert any("no masks" in note for note in notes(workspace, data, {plain.hash: plain}))
    root = shutil.copytree(data.root, tmp_path / "outlined")
    for path in (root / "annotations").glob("*.json"):
        body = json.loads(path.read_text())
        for row in body["annotations"]:
            x, y, w, h = row["bbox"]
            row["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        path.write_text(json.dumps(body))
    there = open_workspace("smoke", root, tmp_path / "results", tmp_path / "runs", "cpu")
    masked = run(experiment_for(*there, "MaskRCNN-R50", **small), there[0])
    assert masked.status == "done" and "loss_mask" in masked.curve
    assert not any("no masks" in note for note in notes(*there, {masked.hash: masked}))
    with torch.no_grad():
        found = trained_student(experiment_for(*there, "MaskRCNN-R50", **small), there[0])(
            [torch.rand(3, 64, 64)]
        )[0]
    assert "masks" in found


def test_ours_works_without_anchors(place):
    workspace, data = place
    record = run(experiment_for(workspace, data, "FCOS-R50", "ours", **TINY), workspace)
    assert record.status == "done" and {"KDcls", "loc", "KDloc", "bbox_ctrness"} <= set(record.curve)
    assert record.memory_mb > 100 or not Path("/proc/self/clear_refs").exists()
    assert (
        record.relative_seconds > 0
        and run(experiment_for(workspace, data, "FCOS-R50", **TINY), workspace).relative_seconds == 1.0
    )
