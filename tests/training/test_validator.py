"""The weights of the best evaluation on val are kept; training stops when none was better for long."""

import json
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from c2dlib.config.experiment import experiment
from c2dlib.config.weights import WeightsError
from c2dlib.deployment.student import load_student
from c2dlib.training import loop, validator
from c2dlib.training.finished import run_folder
from c2dlib.training.run import experiment_for, run
from c2dlib.training.validator import Validator, read_history
from c2dlib.workspace import open_workspace


@pytest.fixture
def script(monkeypatch) -> dict:
    """mAP after so many steps, as ``val`` gives it; ``asked`` are the steps that were evaluated."""
    values = {"asked": []}

    def metrics(annotations, detections, area_cuts):
        values["asked"].append(detections)
        return {"mAP": values[detections], "AP50": 1.0}

    monkeypatch.setattr(validator, "coco_metrics", metrics)
    monkeypatch.setattr(validator, "detect", lambda model, split, device: int(model.weight))
    return values


class Counting(nn.Module):
    """Its only weight is the number of steps done."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))


def make(folder, **settings):
    e = experiment("smoke", "SSD300-VGG16", **settings)
    data = SimpleNamespace(splits={"val": SimpleNamespace(annotations={})}, area_cuts=(32, 96))
    return Validator(e, data, folder, "cpu", 12)


def steps_until_stop(check: Validator, model: nn.Module, first: int = 1) -> int:
    for done in range(first, 13):
        nn.init.constant_(model.weight, done)
        if check(model, done):
            return done
    return 12


def test_the_first_best_is_kept_and_patience_ends_training(script, tmp_path):
    script |= {2: 5.0, 4: 9.0, 6: 9.0, 8: 3.0, 10: 8.0}
    check = make(tmp_path, keep_best_every=2, patience=3)
    assert steps_until_stop(check, Counting()) == 10
    assert script["asked"] == [2, 4, 6, 8, 10] and check.best() == 4
    assert check.best_weights()["weight"] == 4
    assert [p.name for p in tmp_path.glob("best-*")] == ["best-00000004.safetensors"]
    assert read_history(tmp_path) == {s: {"mAP": script[s], "AP50": 1.0} for s in (2, 4, 6, 8, 10)}
    assert check.text() == ", val mAP 8.0 at step 10, best 9.0 at 4"


def test_without_patience_the_last_step_is_evaluated_too(script, tmp_path):
    script |= {5: None, 10: 2.0, 12: 4.0}
    check = make(tmp_path, keep_best_every=5)
    assert steps_until_stop(check, Counting()) == 12
    assert script["asked"] == [5, 10, 12] and check.best_weights()["weight"] == 12
    assert check.text() == ", val mAP 4.0 at step 12"


def test_a_curve_alone_keeps_no_weights(script, tmp_path):
    script |= {4: 2.0, 8: 1.0}
    steps_until_stop(make(tmp_path, validate_every=4), Counting())
    assert script["asked"] == [4, 8] and not list(tmp_path.glob("best-*"))


def test_an_interruption_repeats_no_evaluation_and_changes_no_decision(script, tmp_path):
    """Killed after step 8, the run goes on from its checkpoint of step 3."""
    script |= {2: 5.0, 4: 9.0, 6: 8.0, 8: 7.0, 10: 6.0}
    check, model = make(tmp_path, keep_best_every=2, patience=3), Counting()
    for done in range(1, 9):
        nn.init.constant_(model.weight, done)
        assert not check(model, done)
    again = make(tmp_path, keep_best_every=2, patience=3)
    assert steps_until_stop(again, Counting(), first=3) == 10
    assert script["asked"] == [2, 4, 6, 8, 10] and again.best_weights()["weight"] == 4
    assert make(tmp_path, keep_best_every=2, patience=3)(model, 10)  # stopped before it was recorded


def test_damaged_best_weights_are_named(script, tmp_path):
    script |= {2: 5.0}
    check, model = make(tmp_path, keep_best_every=2), Counting()
    nn.init.constant_(model.weight, 2)
    check(model, 2)
    path = tmp_path / "best-00000002.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="best-00000002.safetensors: the best weights are damaged"):
        check.best_weights()
    path.unlink()
    with pytest.raises(WeightsError, match="damaged"):
        check.best_weights()


def test_patience_needs_evaluations():
    with pytest.raises(ValueError, match="patience=3 needs keep_best_every"):
        experiment("smoke", "SSD300-VGG16", patience=3)


TINY = {"steps": 8, "image_size": 64, "batch_size": 2, "backbone_weights": "none", "keep_best_every": 2}


def test_a_run_keeps_its_best_weights_also_after_an_interruption(tmp_path, monkeypatch):
    """The run itself, once whole and once interrupted after step 5: the weights of step 4 are its student."""
    values, seen = {2: 1.0, 4: 8.0, 6: 2.0, 8: 1.0}, {}
    real = validator.detect
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)

    def detect(model, split, device):
        seen[len(seen)] = {k: v.clone() for k, v in model.state_dict().items()}
        return real(model, split, device)

    monkeypatch.setattr(validator, "detect", detect)
    records = []
    for part, stop_at in (("whole", 0), ("parts", 5)):
        folder = tmp_path / part
        workspace, data = open_workspace(
            "smoke", results=folder / "results", runs=folder / "runs", device="cpu"
        )
        e = experiment_for(workspace, data, "SSD300-VGG16", patience=2, **TINY)
        seen.clear()
        done_before = []

        def metrics(*_, done=done_before):
            done.append(2 * len(done) + 2)
            return {"mAP": values[done[-1]], "AP50": 0.0}

        def stop(what, done, of, at=stop_at, name=e.name):
            if what.startswith(name) and done == at:
                raise KeyboardInterrupt

        monkeypatch.setattr(validator, "coco_metrics", metrics)
        if stop_at:
            with pytest.raises(KeyboardInterrupt):
                run(e, workspace, stop)
            assert json.loads((run_folder(e, workspace) / "validation.json").read_text())["4"]["mAP"] == 8.0
        records.append(run(e, workspace))
        assert done_before == [2, 4, 6, 8] and len(seen) == 4
        assert sorted(p.name for p in run_folder(e, workspace).iterdir()) == [
            "detections.json.gz",
            "student.safetensors",
        ]
    assert list(records[0].validation) == ["2", "4", "6", "8"]
    assert records[0].checkpoint_sha256 == records[1].checkpoint_sha256
    assert records[0].metrics == records[1].metrics
    student = load_student(run_folder(e, workspace)).model.state_dict()
    assert all(torch.equal(student[k], seen[1][k]) for k in student)
    assert not all(torch.equal(student[k], seen[3][k]) for k in student)


@pytest.mark.parametrize("checkpoint", ["none", "damaged"])
def test_without_a_checkpoint_evaluations_are_made_again(checkpoint, tmp_path, monkeypatch):
    """Nothing says that they, and the best weights, are of the same images and teachers."""
    evaluated = []

    def metrics(*_):
        evaluated.append(len(evaluated))
        return {"mAP": 9.0 - len(evaluated), "AP50": 0.0}

    def stop(what, done, of):
        if done == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(validator, "coco_metrics", metrics)
    workspace, data = open_workspace(
        "smoke", results=tmp_path / "results", runs=tmp_path / "runs", device="cpu"
    )
    e = experiment_for(workspace, data, "SSD300-VGG16", **TINY)
    with pytest.raises(KeyboardInterrupt):
        run(e, workspace, stop)
    assert len(evaluated) == 2 and sorted(read_history(run_folder(e, workspace))) == [2, 4]
    if checkpoint == "damaged":
        (run_folder(e, workspace) / "step-00000005.0123456789abcdef.pt").write_bytes(b"cut")
    record = run(e, workspace)
    assert len(evaluated) == 6 and [entry["mAP"] for entry in record.validation.values()] == [6, 5, 4, 3]


@pytest.mark.parametrize("file", ["validation.json", "best-00000004.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_run_whose_evaluations_are_damaged_begins_anew(file, damage, tmp_path, monkeypatch, capsys):
    """Otherwise it would keep the best of the evaluations that follow, and none would see it."""
    values, calls = {2: 1.0, 4: 8.0, 6: 2.0, 8: 1.0}, count()
    clock = SimpleNamespace(
        monotonic=lambda: 30.0 ** next(calls)
    )  # each step takes longer than the last save
    monkeypatch.setattr(loop, "time", clock)
    workspace, data = open_workspace(
        "smoke", results=tmp_path / "results", runs=tmp_path / "runs", device="cpu"
    )
    e = experiment_for(workspace, data, "SSD300-VGG16", **TINY)
    evaluated = []

    def metrics(*_):
        evaluated.append(2 * (len(evaluated) % 4) + 2)
        return {"mAP": values[evaluated[-1]], "AP50": 0.0}

    def stop(what, done, of):
        if what.startswith(e.name) and done == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(validator, "coco_metrics", metrics)
    with pytest.raises(KeyboardInterrupt):
        run(e, workspace, stop)
    assert evaluated == [2, 4] and list(run_folder(e, workspace).glob("step-00000005.*.pt"))
    path = run_folder(e, workspace) / file
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[:-9])
    evaluated.clear()
    record = run(e, workspace)
    assert evaluated == [2, 4, 6, 8] and list(record.validation) == ["2", "4", "6", "8"]
    said = capsys.readouterr().err
    assert str(path) in said and f"{e.name} begins anew" in said
