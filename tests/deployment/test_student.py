"""From checkpoint to use: a student's file describes its detector, which runs on data, as ONNX, and in plain
torchvision."""

import json
import shutil

import onnx
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models.detection import ssd300_vgg16

from c2dlib.cli import main
from c2dlib.config.weights import WeightsError
from c2dlib.data.validation import DataError
from c2dlib.deployment import export as exporting
from c2dlib.deployment import pictures, report
from c2dlib.deployment.student import evaluate, load_student, read_picture
from c2dlib.detectors.build import build_student
from c2dlib.evaluation.metrics import detect
from c2dlib.evaluation.scores import best_threshold
from c2dlib.training.checkpoints import student_file
from c2dlib.training.finished import run_folder
from c2dlib.training.run import describe, experiment_for, run
from c2dlib.workspace import open_workspace

STUDENT = "SSD300-VGG16"
TINY = {"steps": 3, "image_size": 64, "batch_size": 2, "backbone_weights": "none", "score_threshold": 0.0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workspace")
    workspace, data = open_workspace("smoke", results=folder / "results", runs=folder / "runs", device="cpu")
    e = experiment_for(workspace, data, STUDENT, **TINY)
    return workspace, data, e, run(e, workspace)


def test_a_run_and_its_checkpoint_have_the_same_metrics(trained):
    workspace, data, e, record = trained
    student = load_student(run_folder(e, workspace))
    assert (
        student.experiment.hash() == e.hash()
        and [c.name for c in student.categories] == data.splits["train"].class_names
    )
    assert evaluate(student, data, "test", "cpu")[0] == record.metrics
    with pytest.raises(DataError, match="no split 'dev'; it has train, val, test"):
        evaluate(student, data, "dev", "cpu")


def test_a_folder_with_other_classes_is_refused(trained, tmp_path):
    workspace, data, e, _ = trained
    student = load_student(run_folder(e, workspace))
    student.categories[0], student.categories[1] = student.categories[1], student.categories[0]
    with pytest.raises(
        DataError,
        match="12 classes, the student has 12; they must be the same in the same order. Student / folder:",
    ):
        evaluate(student, data, "test", "cpu")


def test_files_that_are_no_student_are_told(trained, tmp_path):
    workspace, _, e, _ = trained
    weights = load_file(run_folder(e, workspace) / "student.safetensors")
    with pytest.raises(FileNotFoundError, match="nothing.safetensors: no such checkpoint"):
        load_student(tmp_path / "nothing.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(
        (run_folder(e, workspace) / "student.safetensors").read_bytes()[:1000]
    )
    with pytest.raises(WeightsError, match="cut.safetensors: not a whole safetensors file"):
        load_student(tmp_path / "cut.safetensors")
    save_file(weights, tmp_path / "plain.safetensors")
    with pytest.raises(WeightsError, match="does not say which detector"):
        load_student(tmp_path / "plain.safetensors")
    key = next(k for k in weights if k.endswith("weight"))
    save_file(
        {k: v for k, v in weights.items() if k != key} | {"stranger": torch.ones(1)},
        tmp_path / "other.safetensors",
        {"c2dlib": json.dumps(describe(e, trained[1]))},
    )
    with pytest.raises(
        WeightsError, match=rf"(?s)other.safetensors: .*Missing key.*{key}.*Unexpected key.*stranger"
    ):
        load_student(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    "about", ["", "[]", "[" * 100_000, "{}", '{"experiment": {}}', "1", '{"stranger": 1}']
)
def test_a_description_without_its_fields_is_told(tmp_path, about):
    save_file({"weight": torch.ones(1)}, tmp_path / "bare.safetensors", {"c2dlib": about})
    with pytest.raises(WeightsError, match="bare.safetensors: damaged, or not a run's student"):
        load_student(tmp_path / "bare.safetensors")


def test_the_threshold_of_highest_f1_on_val_is_in_the_checkpoint(trained):
    workspace, data, e, _ = trained
    student, val = load_student(run_folder(e, workspace)), data.splits["val"]
    assert student.threshold == best_threshold(val.annotations, detect(student.model, val, "cpu"), "val")


def test_ones_own_data_need_no_test_split_whatever_the_scale_of_the_student(trained, tmp_path, capsys):
    workspace, data, e, _ = trained
    run = shutil.copytree(
        run_folder(e, workspace), tmp_path / "shelves-photos" / "run"
    )  # its tables report test
    own = shutil.copytree(data.root, tmp_path / "own")
    (own / "annotations" / "instances_test2017.json").unlink()
    shutil.rmtree(own / "test2017")
    assert main(["evaluate", str(run), "--data", str(own), "--device", "cpu"]) == 0
    assert f"{e.name} on own val, " in capsys.readouterr().out


def test_the_commands(trained, tmp_path, capsys):
    workspace, data, e, record = trained
    checkpoint, out = str(run_folder(e, workspace)), tmp_path / "report"
    given = ["--data", str(data.root), "--out", str(out), "--device", "cpu"]  # as the record
    assert main(["evaluate", checkpoint, *given]) == 0
    said = capsys.readouterr().out
    assert (
        f"{e.name} on {data.name} test, 16 images, percent:" in said
        and f"mAP    {record.metrics['mAP']:>5.1f}" in said
    )
    classes = pd.read_csv(out / "classes.csv")
    assert list(classes["class"]) == [c.name for c in data.categories] and all(
        n in said for n in classes["class"]
    )
    assert classes.AP.mean() == pytest.approx(record.metrics["mAP"], abs=1e-3)
    assert json.loads((out / "metrics.json").read_text()) == record.metrics
    assert read_picture(out / "precision_recall.png").shape[0] == 3
    picture = data.splits["test"].image_folder / data.splits["test"].annotations["images"][0]["file_name"]
    assert main(["export", checkpoint, str(tmp_path / "student.onnx"), "--picture", str(picture)]) == 0
    assert (
        "onnxruntime detects the same boxes as torch" in capsys.readouterr().out
        and (tmp_path / "student.onnx").exists()
    )
    assert main(["detect", checkpoint, str(picture), "--out", str(tmp_path / "out"), "--threshold", "1"]) == 0
    assert "threshold 1.00 (as given)" in (said := capsys.readouterr().out)
    assert f"{picture}: 0 boxes above 1.00, the highest is 0." in said
    assert json.loads((tmp_path / "out" / "detections.json").read_text()) == {str(picture): []}
    assert main(["detect", str(tmp_path / "none"), str(picture)]) == 2
    assert "no such checkpoint" in capsys.readouterr().err
    written = (out / "metrics.json").read_bytes()
    (out / "metrics.json").write_text(json.dumps(record.metrics | {"mAP": 1.0}, indent=1))
    (out / ".metrics.json.abcdefgh.tmp").write_text("of a killed process")
    assert main(["evaluate", checkpoint, *given]) == 0  # replaces what evaluate wrote, and nothing else:
    assert (out / "metrics.json").read_bytes() == written and not list(out.glob(".*"))
    capsys.readouterr()
    for name, content in (
        ("metrics.json", b'{"accuracy": 1}'),
        ("classes.csv", b"class,objects\ncat,3\n"),
        ("precision_recall.png", picture.read_bytes()),
    ):
        own = tmp_path / f"own {name}"
        own.mkdir()
        (own / name).write_bytes(content)
        assert main(["evaluate", checkpoint, *given[:2], "--out", str(own), "--device", "cpu"]) == 2
        assert f"{own / name}: is there already, and evaluate did not" in capsys.readouterr().err
        assert [path.read_bytes() for path in own.iterdir()] == [content]


def test_an_export_replaces_no_checkpoint_and_no_picture(trained, tmp_path, capsys):
    place = run_folder(trained[2], trained[0])
    (tmp_path / "photo.png").write_bytes(b"a photo")
    for path in (place / "student.safetensors", tmp_path / "photo.png", tmp_path / "student"):
        before = path.read_bytes() if path.exists() else None
        assert main(["export", str(place), str(path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line == f"error: {path}: the name of the file to write must end in .onnx"
        assert (path.read_bytes() if path.exists() else None) == before


def test_an_export_says_what_its_check_found(trained, tmp_path, capsys, monkeypatch):
    checkpoint, path = str(run_folder(trained[2], trained[0])), tmp_path / "student.onnx"
    monkeypatch.setattr(exporting, "check_onnx", lambda *_: 0)
    assert main(["export", checkpoint, str(path)]) == 0 and path.exists()
    said = capsys.readouterr().out
    assert "not checked: in noise there is no detection with a score above 0.05" in said
    assert "--picture FILE" in said and "the same boxes" not in said

    def differs(*_):
        raise exporting.ExportError("image 0: only the detector finds class 1")

    monkeypatch.setattr(exporting, "check_onnx", differs)
    before, new = path.read_bytes(), tmp_path / "new.onnx"
    for target in (path, new):
        assert main(["export", checkpoint, str(target)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {target}: image 0: only the detector finds class 1; nothing was wr")
    assert path.read_bytes() == before and not new.exists()


def test_an_export_replaces_only_an_export(trained, tmp_path, capsys, monkeypatch):
    checkpoint, path = str(run_folder(trained[2], trained[0])), tmp_path / "own.onnx"
    monkeypatch.setattr(exporting, "check_onnx", lambda *_: 1)
    foreign = onnx.helper.make_model(onnx.helper.make_graph([], "of another program", [], []))
    for content in (foreign.SerializeToString(), b"", b"no model"):
        path.write_bytes(content)
        assert main(["export", checkpoint, str(path)]) == 2 and path.read_bytes() == content
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {path}: is there already, and export did not write it.")
    path.unlink()
    for _ in range(2):
        assert main(["export", checkpoint, str(path)]) == 0


@pytest.mark.parametrize("threshold", ["nan", "5", "-1", "inf"])
def test_a_threshold_that_is_no_score_is_refused(capsys, threshold):
    assert main(["detect", "run", "photo.jpg", "--threshold", threshold]) == 2
    assert capsys.readouterr().err == f"error: --threshold {threshold}: a score is between 0 and 1\n"


@pytest.mark.parametrize("given, device", [([], "cuda"), (["--device", "mps"], "mps")])
def test_the_device_is_a_gpu_if_there_is_one(trained, tmp_path, monkeypatch, given, device):
    workspace, data, e, record = trained
    checkpoint, devices = str(run_folder(e, workspace)), []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(
        report, "evaluate_student", lambda *a: (devices.append(a[3]), (record.metrics, []))[1]
    )
    monkeypatch.setattr(pictures, "detect_on", lambda *a: (devices.append(a[4]), [])[1])
    assert main(["evaluate", checkpoint, "--data", str(data.root), "--out", str(tmp_path), *given]) == 0
    assert main(["detect", checkpoint, "any.png", *given]) == 0
    assert devices == [device] * 2


def test_a_device_that_is_not_there_is_refused(trained, capsys, monkeypatch):
    workspace, data, e, _ = trained
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    checkpoint = str(run_folder(e, workspace))
    picture = data.splits["test"].image_folder / data.splits["test"].annotations["images"][0]["file_name"]
    for command in (
        ["detect", checkpoint, str(picture), "--device", "cuda"],
        ["evaluate", checkpoint, "--data", str(data.root), "--device", "mps"],
        ["bench", "--device", "cuda"],
    ):
        assert main(command) == 2
        device = command[-1]
        assert capsys.readouterr().err == (
            f"error: DEVICE={device}: not available here; choose cpu or auto\n"
        )


def test_data_must_be_named_unless_they_are_badges(trained, tmp_path, capsys):
    workspace, data, e, _ = trained
    student = load_student(run_folder(e, workspace))
    state = {k: v.contiguous() for k, v in student.model.state_dict().items()}
    about = describe(e.replace(data="photos"), data)
    (tmp_path / "student.safetensors").write_bytes(student_file(state, about))
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "on which data? The student was trained on photos" in capsys.readouterr().err


def test_a_student_of_full_width_loads_in_plain_torchvision(trained, tmp_path):
    """A student saved as a run saves it, and loaded without c2dlib, gives the same detections."""
    e = trained[2].replace(image_size=300, width=1.0, norm="frozen", anchor_scale=1.0)
    torch.manual_seed(0)
    ours = build_student(e, 12, "none").model.eval()
    save_file(
        {k: v.contiguous() for k, v in ours.state_dict().items()},
        tmp_path / "student.safetensors",
        {"c2dlib": json.dumps(describe(e, trained[1]))},
    )
    theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=13, score_thresh=0.0)
    theirs.load_state_dict(load_file(tmp_path / "student.safetensors"))
    image = torch.rand(3, 200, 300)
    found, expected = (
        theirs.eval()([image])[0],
        load_student(tmp_path / "student.safetensors").model([image])[0],
    )
    assert len(expected["boxes"]) > 50 and torch.allclose(found["scores"], expected["scores"], atol=1e-5)
    assert torch.allclose(found["boxes"], expected["boxes"], atol=1e-2)
