"""Whatever a run wrote and a disk damaged is named, not used, and made again where it can be."""

import gzip
import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save

from c2dlib.config.identity import digest, teacher_identity
from c2dlib.config.weights import WeightsError
from c2dlib.data.validation import DataError
from c2dlib.deployment.student import evaluate, load_student
from c2dlib.detectors.backbones import build_body
from c2dlib.files import json_with_hash, sha256, write_whole
from c2dlib.records import RecordError, read_record, write_record
from c2dlib.training import classifiers, loop
from c2dlib.training import run as runs
from c2dlib.training.checkpoints import load_checkpoint, save_checkpoint, student_file, student_hash
from c2dlib.training.classifiers import classifier_teacher
from c2dlib.training.finished import finished, run_detections, run_folder, sweep_leftovers, trained_student
from c2dlib.training.run import detector_teacher, experiment_for, run
from c2dlib.training.validator import read_working_file
from c2dlib.workspace import open_workspace
from tests.damage import damages

TINY = {
    "steps": 1,
    "image_size": 64,
    "batch_size": 2,
    "backbone_weights": "none",
    "detector_teacher_steps": 1,
    "score_threshold": 0.0,
}
STUDENT = "SSD512-VGG16"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workspace")
    return open_workspace("smoke", "", folder / "results", folder / "runs", "cpu")


@pytest.fixture(scope="module")
def trained(place):
    workspace, data = place
    e = experiment_for(workspace, data, STUDENT, **TINY)
    return e, run(e, workspace)


def test_any_changed_or_missing_byte_of_a_record_is_named(trained, tmp_path):
    path = write_record(trained[1], tmp_path)
    assert read_record(path) == trained[1]
    for damaged in damages(path.read_bytes(), 1500):
        path.write_bytes(damaged)
        with pytest.raises(RecordError, match=re.escape(str(path))):
            read_record(path)


def test_any_changed_or_missing_byte_of_a_checkpoint_is_named(tmp_path, capsys):
    path = save_checkpoint(tmp_path, 3, {"step": 3, "modules": {"student": {"weight": torch.arange(64.0)}}})
    for damaged in damages(path.read_bytes(), 400):
        path.write_bytes(damaged)
        assert load_checkpoint(tmp_path) is None and str(path) in capsys.readouterr().err


def test_any_changed_or_missing_byte_of_a_student_is_named(place, trained, tmp_path):
    """The bytes of its header and of its weights."""
    whole = student_file({"weight": torch.rand(50)}, runs.describe(trained[0], place[1]))
    path = tmp_path / "student.safetensors"
    named = f"{re.escape(str(path))}: (damaged|not a whole safetensors file|does not say which detector)"
    path.write_bytes(whole)
    with pytest.raises(WeightsError, match="Missing key"):  # undamaged, but not the detector's weights
        load_student(path)
    for damaged in damages(whole, 1500):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=named):
            load_student(path)


def test_any_changed_or_missing_byte_of_a_working_file_is_named(tmp_path, capsys):
    started = {"identity": {"steps": 3}, "data_hash": "a" * 64, "files_hash": "b" * 64}
    for name, body in (
        ("started.json", started),
        ("validation.json", {"10": {"mAP": 1.5}, "20": {"mAP": 2}}),
    ):
        path = tmp_path / name
        path.write_text(whole := json_with_hash(body))
        assert read_working_file(path) == body
        for damaged in (*damages(whole.encode(), 0), b"{}"):
            path.write_bytes(damaged)
            assert read_working_file(path) is None, damaged
            assert f"{path}: damaged (" in capsys.readouterr().err


def test_a_damaged_teacher_is_named_and_trained_again(place, tmp_path, monkeypatch, capsys):
    """Its report and its weights in the cache."""
    workspace, data = place
    settings = TINY | {"teacher_steps": 1, "teacher_images": 2}
    e = experiment_for(workspace, data, STUDENT, "KDcls", **settings)
    teacher, report = classifier_teacher(e, workspace)
    folder = workspace.runs / "cache" / f"teacher-{report['hash']}"
    shutil.copytree(folder, tmp_path / "whole")

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(classifiers, "fit", stop)
        assert classifier_teacher(e, workspace)[1] == report
        for name in ("report.json", "weights.safetensors"):
            for damaged in damages((tmp_path / "whole" / name).read_bytes(), 4):
                shutil.copytree(tmp_path / "whole", folder, dirs_exist_ok=True)
                (folder / name).write_bytes(damaged)
                with pytest.raises(KeyboardInterrupt):
                    classifier_teacher(e, workspace)
                assert f"{folder}: damaged, not used; training it again" in capsys.readouterr().err
    again = classifier_teacher(e, workspace)[1]
    assert again["weights_sha256"] == report["weights_sha256"]


def test_a_damaged_student_of_a_run_is_refused(place, trained, tmp_path):
    whole = (run_folder(trained[0], place[0]) / "student.safetensors").read_bytes()
    path = tmp_path / "student.safetensors"
    path.write_bytes(whole)
    load_student(path)
    path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    with pytest.raises(WeightsError, match="does not match its hash"):
        load_student(path)


def test_a_student_of_an_earlier_version_is_loaded_with_a_note(place, trained, tmp_path, capsys):
    workspace, data = place
    state = trained_student(trained[0], workspace).state_dict()
    path = tmp_path / "student.safetensors"
    threshold = load_student(run_folder(trained[0], workspace)).threshold
    path.write_bytes(plain := save(state, {"c2dlib": json.dumps(runs.describe(trained[0], data, threshold))}))
    assert evaluate(load_student(path), data, "test", "cpu")[0] == trained[1].metrics
    assert sha256(plain) == trained[1].checkpoint_sha256  # which is the same in records of both versions
    assert f"{path}: has no hash of its own" in capsys.readouterr().err


def test_other_detections_are_refused(place, trained):
    e, record = trained
    path = run_folder(e, place[0]) / "detections.json.gz"
    whole = path.read_bytes()
    assert run_detections(e, place[0])
    others = gzip.compress(json.dumps(json.loads(gzip.decompress(whole))[1:]).encode(), mtime=0)
    record_path = place[0].results / "records" / f"{record.name}.json"
    written = record_path.read_bytes()
    try:
        for damaged in [gzip.compress(b"[]"), others, b"", whole[:-9], b"[]", *damages(whole, 10)]:
            path.write_bytes(damaged)
            with pytest.raises(RecordError, match=re.escape(str(path))):
                run_detections(e, place[0])
        path.write_bytes(whole)  # the record of an earlier version has no hash of them
        earlier = replace(record, detections_sha256="")
        write_record(earlier, record_path.parent)
        assert run_detections(e, place[0])
        for damaged in [b"", whole[:-9], b"[]"]:
            path.write_bytes(damaged)
            with pytest.raises(RecordError, match=f"{re.escape(str(path))}: not a whole file"):
                run_detections(e, place[0])
        path.write_bytes(whole)
        write_record(replace(earlier, metrics=record.metrics | {"mAP": 77.0}), record_path.parent)
        with pytest.raises(RecordError, match="its metrics are not those of its record"):
            run_detections(e, place[0])
    finally:
        path.write_bytes(whole)
        record_path.write_bytes(written)


@pytest.mark.parametrize("file", ["student.safetensors", "detections.json.gz"])
def test_a_damaged_detector_teacher_is_trained_again(place, capsys, file):
    """The retry of a run whose teacher is damaged says so and ends as if nothing had been."""
    workspace, data = place
    e = experiment_for(workspace, data, STUDENT, "FKD", **TINY)
    first = run(e, workspace)
    path = run_folder(detector_teacher(e), workspace) / file
    whole = path.read_bytes()
    path.write_bytes(next(iter(damages(whole, 1))))
    (workspace.results / "records" / f"{first.name}.json").unlink()
    capsys.readouterr()
    again = run(e, workspace)
    assert again.checkpoint_sha256 == first.checkpoint_sha256 and path.read_bytes() == whole
    said = capsys.readouterr().err
    assert str(path) in said and f"{detector_teacher(e).name} is trained again" in said


def test_a_damaged_start_blocks_nothing(place, tmp_path, monkeypatch, capsys):
    workspace, data = place
    e = experiment_for(workspace, data, STUDENT, "baseline", 5, **TINY | {"steps": 2})
    other = run_folder(e, workspace).parent / f"{e.name}.000000000000"
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)

    def stop(what, done, of):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(e, workspace, stop)
    path = run_folder(e, workspace) / "started.json"
    whole, started = path.read_bytes(), read_working_file(path)
    del started["weights"]  # cannot be known again
    shutil.copytree(path.parent, other)
    for damaged in (*damages(whole, 20), b"", b"[]", b"{}", b"\xff"):
        (other / "started.json").write_bytes(damaged)
        path.write_bytes(damaged)
        runs.require_same_data(e, data, path.parent)
        said = capsys.readouterr().err
        assert f"{path}: damaged" in said and f"{other / 'started.json'}: damaged" in said
        assert read_working_file(path) == started
    (path.parent / "validation.json").write_text('{"1": {"mAP"')
    seen = []
    assert run(e, workspace, lambda what, done, of: seen.append((what, done))).status == "done"
    assert (e.name, 1) not in seen and "validation.json: damaged" in capsys.readouterr().err
    shutil.rmtree(other)


def test_the_folder_of_another_run_is_not_gone_on_with(place, monkeypatch):
    """Its files name the run that they are of, whatever the folder is called."""
    workspace, data = place
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    one, other = (
        experiment_for(workspace, data, STUDENT, "baseline", s, **TINY | {"steps": 2}) for s in (7, 8)
    )

    def stop(what, done, of):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(one, workspace, stop)
    copy = shutil.copytree(run_folder(one, workspace), run_folder(other, workspace))
    with pytest.raises(DataError, match=rf"of a run with another seed\. Delete {re.escape(str(copy))} to"):
        run(other, workspace)
    shutil.rmtree(copy)
    assert run(other, workspace).status == "done"


DEEP = "[" * 99999


def test_json_that_is_nested_too_deeply_is_damaged(trained, tmp_path, capsys):
    path = write_record(trained[1], tmp_path)
    path.write_text(DEEP)
    with pytest.raises(RecordError, match=r"not a whole run record \(nested too deeply\)"):
        read_record(path)
    (tmp_path / "started.json").write_text(DEEP)
    assert read_working_file(tmp_path / "started.json") is None
    assert "started.json: damaged (nested too deeply), not used" in capsys.readouterr().err
    header = DEEP.encode()
    with pytest.raises(ValueError, match="not a whole safetensors file of a student"):
        student_hash(len(header).to_bytes(8, "little") + header)


def test_hidden_folders_in_a_runs_folder_stay(place):
    """JupyterLab makes them where a person opens a file."""
    workspace, data = place
    e = experiment_for(workspace, data, STUDENT, "KDcls", **TINY | {"teacher_steps": 1, "teacher_images": 4})
    teacher = workspace.runs / "cache" / f"teacher-{digest(teacher_identity(e, data.annotation_hash))}"
    theirs = [folder / ".ipynb_checkpoints" / "a.json" for folder in (run_folder(e, workspace), teacher)]
    for path in theirs:
        write_whole(path, "{}")
    assert run(e, workspace).status == "done" and all(path.exists() for path in theirs)


def test_a_file_of_weights_that_is_replaced_while_a_run_trains_changes_nothing(place, tmp_path):
    """The record names the weights that the run began with; with the new file it is another run."""
    workspace, data = place
    file = tmp_path / "backbone.safetensors"
    e = experiment_for(workspace, data, STUDENT, **TINY).replace(backbone_weights=str(file))
    one, other = (
        save(build_body("vgg16", e.width, e.depth, e.norm).state_dict(), {"number": number})
        for number in "12"
    )
    file.write_bytes(one)
    before = e.hash()

    def replace_file(what, done, of):
        if what == e.name and done == 1:
            write_whole(file, other)

    record = run(e, workspace, replace_file)
    assert (
        record.hash == before != e.hash()
        and read_record(workspace.results / "records" / f"{e.name}.{before}.json") == record
    )
    assert record.experiment["backbone_weights"] == f"backbone.safetensors@{sha256(one)[:12]}"
    assert record.origin == sha256(one)[:12]


def test_what_kills_left_is_removed_at_the_next_start(place, trained):
    workspace, folder = place[0], run_folder(trained[0], place[0])
    old = [
        folder / "step-00000001.0123456789abcdef.pt",
        folder / "started.json",
        folder / ".student.safetensors.abcdefgh.tmp",
        workspace.results / ".table1.ipynb.abcdefgh.tmp.ipynb",
        workspace.results / ".table1.csv.abcdefgh.tmp",
        workspace.results / "records" / ".x.s0.0.json.abcdefgh.tmp",
        workspace.runs / "cache" / "teacher-0" / ".weights.safetensors.abcdefgh.tmp",
    ]
    kept = [workspace.results / ".gitignore", workspace.results / ".my.notebook.ipynb"]
    unfinished = folder.parent / "SSD300-VGG16.baseline.s9.0123456789ab" / "step-00000001.0123456789abcdef.pt"
    for path in [*old, *kept, unfinished]:
        write_whole(path, "x")
    sweep_leftovers(workspace)
    assert not [path for path in old if path.exists()]
    assert all(path.exists() for path in [*kept, unfinished])
    assert (folder / "student.safetensors").exists()
    shutil.rmtree(unfinished.parent)


@pytest.mark.parametrize("file", ["student.safetensors", "detections.json.gz"])
@pytest.mark.parametrize("change", ["missing", "damaged"])
def test_a_finished_run_that_is_trained_again_keeps_its_checkpoint(place, trained, file, change):
    """Its record is there, its files are not: with_weights trains it again."""
    workspace, path = place[0], run_folder(trained[0], place[0]) / file
    checkpoint = path.with_name("step-00000001.0123456789abcdef.pt")
    content = path.read_bytes()
    if change == "damaged":
        path.write_bytes(content[:-1])
    else:
        path.unlink()
    write_whole(checkpoint, "x")
    sweep_leftovers(workspace)
    trained_again = finished(trained[0], workspace, with_weights=True) is None
    assert checkpoint.exists() == trained_again == ((file, change) != ("detections.json.gz", "missing"))
    path.write_bytes(content)
    sweep_leftovers(workspace)
    assert not checkpoint.exists()


@pytest.mark.parametrize("lr", [1e30, 1e38])
def test_weights_after_the_last_update_are_checked(place, lr):
    """Also where there is but one update."""
    workspace, data = place
    e = experiment_for(workspace, data, "FasterRCNN-QR50", **TINY | {"lr": lr})
    record = run(e, workspace)
    assert record.status == "failed" and record.reason.startswith("step 0: ")
    assert "lower lr" in record.reason and record.metrics == {}
    assert run(e, workspace).status == "failed"  # there is no checkpoint of these weights to go on from
