"""From checkpoint to use: a student's file describes its detector, which runs on data, on pictures, as ONNX,
and in plain torchvision."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.models.detection import ssd300_vgg16

from c2dlib.cli import main
from c2dlib.config.weights import WeightsError
from c2dlib.data.validation import DataError
from c2dlib.deployment.student import detect_on, evaluate, load_student, read_picture
from c2dlib.detectors.build import build_student
from c2dlib.training.run import describe, experiment_for, run, run_folder
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
    assert evaluate(student, data, "test", "cpu") == record.metrics
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


@pytest.mark.parametrize("about", ["", "[]", "{}", '{"experiment": {}}', "1", '{"stranger": 1}'])
def test_a_description_without_its_fields_is_told(tmp_path, about):
    save_file({"weight": torch.ones(1)}, tmp_path / "bare.safetensors", {"c2dlib": about})
    with pytest.raises(WeightsError, match="bare.safetensors: damaged, or not a run's student"):
        load_student(tmp_path / "bare.safetensors")


def test_boxes_on_pictures(trained, tmp_path):
    workspace, data, e, _ = trained
    picture = data.splits["test"].image_folder / data.splits["test"].annotations["images"][0]["file_name"]
    student = load_student(run_folder(e, workspace))
    path = detect_on(student, [picture], tmp_path / "out", threshold=0.1)
    (rows,) = json.loads(path.read_text()).values()
    expected = student.model([read_picture(picture)])[0]
    shown = expected["scores"] >= 0.1
    assert len(rows) == int(shown.sum()) > 0 and {r["class"] for r in rows} <= {
        c.name for c in student.categories
    }
    x, y, x2, y2 = expected["boxes"][0].tolist()
    assert rows[0]["bbox"] == pytest.approx([x, y, x2 - x, y2 - y], abs=0.01)
    drawn = read_picture(tmp_path / "out" / f"{picture.stem}.png")
    assert drawn.shape == read_picture(picture).shape
    assert (drawn.permute(1, 2, 0).flatten(0, 1) == torch.tensor([1.0, 0.0, 0.0])).all(
        1
    ).sum() > 20  # the boxes' red


def test_pictures_that_cannot_be_used_leave_nothing(trained, tmp_path):
    workspace, _, e, _ = trained
    student = load_student(run_folder(e, workspace))
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(DataError, match="text.jpg: cannot be read as a picture"):
        detect_on(student, [tmp_path / "text.jpg"], tmp_path / "out")
    for sub in ("a", "b"):
        (tmp_path / sub).mkdir()
        Image.new("RGB", (20, 20)).save(tmp_path / sub / "same.png")
    with pytest.raises(DataError, match="several pictures are called same"):
        detect_on(student, [tmp_path / "a/same.png", tmp_path / "b/same.png"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_commands(trained, tmp_path, capsys, monkeypatch):
    workspace, data, e, record = trained
    checkpoint = str(run_folder(e, workspace))
    assert main(["evaluate", checkpoint, "--data", str(data.root)]) == 0
    said = capsys.readouterr().out
    assert (
        f"{e.name} on {data.name} test, 16 images, percent:" in said
        and f"mAP    {record.metrics['mAP']:>5.1f}" in said
    )
    picture = data.splits["test"].image_folder / data.splits["test"].annotations["images"][0]["file_name"]
    assert main(["export", checkpoint, str(tmp_path / "student.onnx"), "--picture", str(picture)]) == 0
    assert (
        "onnxruntime detects the same boxes as torch" in capsys.readouterr().out
        and (tmp_path / "student.onnx").exists()
    )
    assert main(["detect", checkpoint, str(picture), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "detections.json").exists()
    assert main(["detect", str(tmp_path / "none"), str(picture)]) == 2
    assert "no such checkpoint" in capsys.readouterr().err


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
