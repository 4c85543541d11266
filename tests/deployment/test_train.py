"""``train`` and ``runs``: from a folder to a checkpoint, its place, and the next command."""

import shlex
import sys

import pytest
from safetensors.torch import save

from c2dlib.cli import main
from c2dlib.config.experiment import experiment
from c2dlib.deployment import train as deployment
from c2dlib.deployment.runs import list_runs
from c2dlib.deployment.student import load_student
from c2dlib.detectors.backbones import build_body
from c2dlib.records import interpreter
from tests.data.test_layouts import yolo

SETTINGS = (
    "steps=4 keep_best_every=2 pretrain_steps=1 pretrain_batch=2 teacher_steps=2 teacher_images=2 "
    "batch_size=2 image_size=64 width=0.125 teacher_width=0.125"
).split()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder to work in, with YOLO data without a val split; the first test trains there."""
    place = tmp_path_factory.mktemp("work")
    yolo(place / "cats", val=False)
    return place


@pytest.fixture(autouse=True)
def here(trained, monkeypatch):
    monkeypatch.chdir(trained)


def train(*more, settings=()) -> int:
    command = ["train", "--data", "cats", "--device", "cpu", "--jobs", "1", *more]
    return main([*command, "--set", *SETTINGS, *settings])


def test_from_a_folder_to_a_checkpoint_and_the_next_command(trained, capsys):
    assert train("--compare") == 0
    said = capsys.readouterr().out
    assert "train: 5 images" in said and "note: there is no val split: 1 of the 6" in said
    assert "There is no val split" in said.split("gain")[1]  # from the record
    lines = said.splitlines()
    for name in ("baseline", "C2D", "gain"):
        assert any(line.split()[:1] == [name] for line in lines), said
    assert "mAP on val by step 2: " in said and "kept: step " in said
    assert "One seed" in said and "paper" not in said
    checkpoint = next(line.split(": ")[1].strip() for line in lines if line.startswith("checkpoint"))
    assert ".KDcls+loc+KDloc.s0." in checkpoint and load_student(checkpoint).categories[0].name == "cat"
    assert (trained / checkpoint).with_name("curve.png").exists()
    assert not list((trained / "results").glob("*-mini")) and not list(trained.glob("results/*/table*"))
    evaluate, detect, _ = (line.strip() for line in lines[lines.index("next:") + 1 :])
    assert {shlex.split(line)[0] for line in (evaluate, detect)} == {shlex.split(interpreter())[0]}
    assert main(shlex.split(evaluate)[3:]) == 0 and main(shlex.split(detect)[3:]) == 0
    said = capsys.readouterr().out
    assert "cats val, 1 images" in said and "detections.json" in said


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_weights_that_a_run_begins_with_may_be_replaced_meanwhile(tmp_path, monkeypatch, capsys, seeds):
    """The result is that of the run which was made."""
    monkeypatch.chdir(tmp_path)
    yolo(tmp_path / "cats", val=False)
    file, e = tmp_path / "body.safetensors", experiment("quick", "SSD300-VGG16", width=0.125)
    one, other = (
        save(build_body("vgg16", e.width, e.depth, e.norm).state_dict(), {"number": number})
        for number in "12"
    )
    file.write_bytes(one)

    def replaced(function):
        def call(*arguments, **options):
            result = function(*arguments, **options)
            file.write_bytes(other)
            return result

        return call

    for name in ("run", "run_all"):
        monkeypatch.setattr(deployment, name, replaced(getattr(deployment, name)))
    settings = [f"backbone_weights={file}"]
    assert train("--method", "baseline", "--seeds", str(seeds), settings=settings) == 0
    said = capsys.readouterr().out
    assert file.read_bytes() == other and said.count("kept: step ") == seeds


def test_a_preset_has_a_student_of_its_own(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yolo(tmp_path / "cats", val=False)
    small = "max_size=64 teacher_size=32 teacher_width=1 backbone_weights=none teacher_pretrained=false"
    given = [setting for setting in SETTINGS if not setting.startswith("teacher_width")] + small.split()
    assert main(["train", "--data", "cats", "--device", "cpu", "--preset", "laptop", "--set", *given]) == 0
    assert "runs/cats-laptop/FasterRCNN-MV2.KDcls+loc+KDloc.s0." in capsys.readouterr().out


def test_runs_are_listed_by_what_they_are(trained, capsys):
    assert train("--compare") == 0  # at once, where the test before has trained
    frame = list_runs(trained / "results", trained / "runs")
    assert sorted(frame.method) == ["C2D", "baseline"] and set(frame.status) == {"done"}
    assert set(frame.data) == {"cats"} and set(frame.scale) == {"quick"} and set(frame.on) == {"val"}
    assert list_runs(trained / "results", trained / "runs", "dogs").empty
    begun = trained / "runs/cats-quick/SSD300-VGG16.baseline.s1.0123456789ab"
    begun.mkdir()
    (begun / "step-00000007.0123456789abcdef.pt").write_bytes(b"")
    (begun / "validation.json").write_text('{"4": {"mAP": 12.34}}')
    frame = list_runs(trained / "results", trained / "runs")
    assert frame.status[frame.seed == 1].tolist() == ["at step 7, val mAP 12.3 at 4"]
    capsys.readouterr()
    assert main(["runs"]) == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert lines[0].split() == ["data", "scale", "student", "method", "seed", "mAP", "on", "status"]
    assert any(line.split()[:4] == ["cats", "quick", "SSD300-VGG16", "C2D"] for line in lines)
    assert any(line.strip().startswith("runs/cats-quick/SSD300-VGG16.baseline.s1.") for line in lines)


@pytest.mark.parametrize(
    "name, content",
    [
        ("step-foo.pt", ""),
        ("step-.pt", ""),
        ("validation.json", '{"4": 5}'),
        ("validation.json", '{"4": {}}'),
        ("validation.json", '{"4": {"mAP": "high"}}'),
        ("validation.json", '{"²": {"mAP": 1}}'),
        ("validation.json", "[]"),
        ("validation.json", "{"),
    ],
)
def test_a_stray_file_of_a_run_is_named_and_the_runs_are_shown(tmp_path, capsys, name, content):
    first, second = (tmp_path / f"runs/cats-quick/SSD300-VGG16.loc.s{s}.0123456789ab" for s in (0, 1))
    for folder in (first, second):
        folder.mkdir(parents=True)
        (folder / "step-00000007.0123456789abcdef.pt").write_bytes(b"")
    (first / name).write_text(content)
    frame = list_runs(tmp_path / "results", tmp_path / "runs")
    assert sorted(frame.seed) == [0, 1] and set(frame.status) == {"at step 7"}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{first / name}: ")


def test_without_runs_it_says_how_to_make_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    assert main(["runs"]) == 0
    assert "`.venv/bin/python -m c2dlib train --data FOLDER`" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--preset", "qick"], "unknown preset 'qick'. Did you mean quick?"),
        (["--preset", "mini"], "unknown preset 'mini'"),
        (["--method", "baseline", "--compare"], "--compare: the baseline itself"),
        (["--seeds", "0"], "--seeds 0 must be at least 1"),
        (["--student", "SSD30"], "SSD300-VGG16"),
    ],
)
def test_what_is_misspelt_is_named(arguments, words, capsys):
    assert train(*arguments) == 2
    assert words in capsys.readouterr().err
