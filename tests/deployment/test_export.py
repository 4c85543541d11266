"""Export: the ONNX file finds what the detector finds, at any size, and a wrong one is told."""

import errno
import json

import pytest
import torch

from c2dlib.config.experiment import experiment
from c2dlib.deployment.export import ExportError, check_onnx, export_onnx, latency, run_onnx
from c2dlib.detectors.build import build_student
from c2dlib.evaluation.scores import Threshold


def student(name, seed=0):
    torch.manual_seed(seed)
    width = 1.0 if "MV1" in name else 0.125  # narrower, a quarter of its channels would be one or two
    model = build_student(
        experiment("smoke", name, backbone_weights="none", width=width), 3, "none"
    ).model.eval()
    if "MV1" in name:  # its maps shrink to nothing unless the norms know their statistics
        with torch.no_grad():
            for _ in range(20):
                model.backbone.train()(torch.rand(4, 3, 64, 64))
        model.eval()
    with torch.no_grad():  # unequal scores: a net without training gives ties, which any order resolves
        names = (
            model.head.classification_head
            if hasattr(model, "head")
            else model.roi_heads.box_predictor.cls_score
        )
        for parameter in names.parameters():
            parameter.add_(0.04 * torch.randn_like(parameter))
        if name.startswith(("RetinaNet", "FCOS")):  # they begin at a probability of 0.01
            names.cls_logits.bias += 3
    return model


@pytest.fixture
def images():
    torch.manual_seed(1)
    return [torch.rand(3, 64, 64), torch.rand(3, 50, 90)]


@pytest.mark.parametrize(
    "name",
    [
        "SSD300-VGG16",
        "FasterRCNN-QR50",
        "RetinaNet-R50",
        "FasterRCNN-MV2",
        "FCOS-R50",
        "MaskRCNN-R50",
        "SSD300-MV1x025",
        "FasterRCNN-MV1x025",
        "RetinaNet-MV1x025",
    ],
)
def test_the_exported_student_finds_the_same(name, images, tmp_path):
    model, path = student(name), tmp_path / "student.onnx"
    assert export_onnx(model, path, images[0]) == path
    assert [o.name for o in run_onnx(path).get_outputs()] == ["boxes", "scores", "labels"]
    assert check_onnx(path, model, images, above=0.02) > 20
    times = latency(path, model, images[0], repeats=2)
    assert set(times) == {"onnx", "torch"} and min(times.values()) > 0


def test_another_student_is_not_mistaken_for_it(images, tmp_path):
    path = export_onnx(student("SSD300-VGG16"), tmp_path / "student.onnx", images[0])
    with pytest.raises(ExportError, match=r"^image 0: only the detector finds class [123] at \["):
        check_onnx(path, student("SSD300-VGG16", seed=3), images)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch.onnx, "export", full)
    with pytest.raises(OSError, match=f"cannot write {tmp_path}/student.onnx: no space left"):
        export_onnx(student("SSD300-VGG16"), tmp_path / "student.onnx", torch.rand(3, 64, 64))
    assert not list(tmp_path.iterdir())


def test_names_and_threshold_are_in_the_file(images, tmp_path):
    threshold = Threshold(0.25, 60.0, 50.0, 75.0, "val")
    path = export_onnx(
        student("SSD300-VGG16"), tmp_path / "s.onnx", images[0], ["cat", "dog", "Ähre"], threshold
    )
    metadata = run_onnx(path).get_modelmeta().custom_metadata_map
    assert json.loads(metadata["names"]) == {"1": "cat", "2": "dog", "3": "Ähre"}
    assert float(metadata["threshold"]) == 0.25 and metadata["threshold_rule"].endswith("on val")
    plain = run_onnx(export_onnx(student("SSD300-VGG16"), tmp_path / "p.onnx", images[0])).get_modelmeta()
    assert set(plain.custom_metadata_map) == {"input"}
