"""Every detector of torchvision, as its builder returns it, is a student: losses, gradients, COCO's head."""

import pytest
import torch
from torch import nn
from torchvision.models import detection

import c2dlib
from c2dlib.detectors.build import step_for
from c2dlib.teacher.classifier import build_classifier

BUILDERS = {
    "fasterrcnn_resnet50_fpn": "FasterRCNNStep",
    "fasterrcnn_resnet50_fpn_v2": "FasterRCNNStep",
    "fasterrcnn_mobilenet_v3_large_fpn": "FasterRCNNStep",
    "fasterrcnn_mobilenet_v3_large_320_fpn": "FasterRCNNStep",
    "maskrcnn_resnet50_fpn": "FasterRCNNStep",
    "maskrcnn_resnet50_fpn_v2": "FasterRCNNStep",
    "keypointrcnn_resnet50_fpn": "FasterRCNNStep",
    "retinanet_resnet50_fpn": "RetinaNetStep",
    "retinanet_resnet50_fpn_v2": "RetinaNetStep",
    "fcos_resnet50_fpn": "FCOSStep",
    "ssd300_vgg16": "SSDStep",
    "ssdlite320_mobilenet_v3_large": "SSDStep",
}
CLASSES = 90  # of the published COCO weights: COCO's category ids, with gaps


def built(name: str) -> nn.Module:
    """A builder's detector with random weights; it reads small images and few proposals (SSDs: 300 px)."""
    torch.manual_seed(0)
    size = {} if name.startswith("ssd") else {"min_size": 64, "max_size": 64}
    few = {"box_batch_size_per_image": 8, "rpn_post_nms_top_n_train": 20} if "rcnn" in name else {}
    classes = {"num_classes": CLASSES + 1} if name.startswith("keypoint") else {}  # its default is 2
    return getattr(detection, name)(weights=None, weights_backbone=None, **size, **few, **classes)


def scene() -> tuple[list, list]:
    """Two images, the second without a box; with masks and keypoints."""
    torch.manual_seed(1)
    images = [torch.rand(3, 80, 96), torch.rand(3, 96, 80)]
    boxes = [torch.tensor([[5.0, 8, 60, 70], [40, 4, 90, 50]]), torch.zeros(0, 4)]
    targets = []
    for image, box in zip(images, boxes, strict=True):
        points = torch.cat([box[:, None, :2] + 5, torch.ones(len(box), 1, 1)], 2).repeat(1, 17, 1)
        masks = torch.randint(0, 2, (len(box), *image.shape[1:]), dtype=torch.uint8)
        labels = torch.tensor([1, 90])[: len(box)]
        targets.append({"boxes": box, "labels": labels, "masks": masks, "keypoints": points})
    return images, targets


def test_no_builder_of_torchvision_is_left_out():
    builders = {name for name in dir(detection) if name.endswith(("fpn", "_v2", "vgg16", "large"))}
    assert builders == set(BUILDERS)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_builders_detector_is_a_student(name):
    """Its own losses; of C2D and its losses a gradient in every part, none in the teacher; 91-class heads."""
    detector, (images, targets) = built(name), scene()
    if name == "ssd300_vgg16":
        images, targets = images[:1], targets[:1]  # the slowest by far
    teacher = c2dlib.Teacher(build_classifier("resnet18", CLASSES, 32, width=0.25), CLASSES, 32)
    distillers = c2dlib.C2D(teacher, sampling_size=16, max_positives=8)
    step = c2dlib.training_step(detector, distillers)
    assert type(step.student).__name__ == BUILDERS[name] and step.student.model is detector
    state = {key: value.clone() for key, value in detector.state_dict().items()}
    torch.manual_seed(7)
    with torch.no_grad():
        expected = detector(images, targets)
    detector.load_state_dict(state)  # batch statistics moved
    torch.manual_seed(7)
    terms = step(images, targets)
    assert list(terms)[-3:] == ["KDcls", "loc", "KDloc"] and set(expected) == set(terms) - {*list(terms)[-3:]}
    for key, value in expected.items():
        torch.testing.assert_close(terms[key], value, rtol=0, atol=0)
    untrained = (
        {"loc", "KDloc"} if name.startswith("fcos") else set()
    )  # no box is near enough to its object yet
    for key in ("KDcls", "loc", "KDloc"):
        assert terms[key].isfinite() and (terms[key] > 0) == (key not in untrained)
    sum(terms.values()).backward()
    assert {id(p) for p in step.parameters()} == {id(p) for p in detector.parameters()}
    assert all(p.grad is not None for p in detector.parameters() if p.requires_grad)
    assert all(p.grad is None for p in teacher.parameters())
    assert detector.state_dict().keys() == state.keys()  # it is exported as it was built


def test_a_backbone_of_one_map_is_a_student():
    """A custom backbone may return a tensor, as in torchvision's tutorial."""
    backbone = nn.Sequential(nn.Conv2d(3, 16, 3, stride=8), nn.ReLU())
    backbone.out_channels = 16
    anchors = detection.anchor_utils.AnchorGenerator(((32,),), ((1.0,),))
    pool = detection.faster_rcnn.MultiScaleRoIAlign(["0"], 7, 2)
    torch.manual_seed(0)
    model = detection.FasterRCNN(
        backbone, 3, min_size=96, max_size=128, rpn_anchor_generator=anchors, box_roi_pool=pool
    )
    images, targets = scene()
    targets = [{**t, "labels": t["labels"].clamp(max=2)} for t in targets]
    torch.manual_seed(7)
    expected = model(images, targets)
    torch.manual_seed(7)
    out = step_for(model)(images, targets)
    assert all(torch.equal(out.task_losses[key], value) for key, value in expected.items())
    assert list(out.features) == ["0"]


def test_another_model_is_refused_with_what_to_do():
    with pytest.raises(TypeError, match=r"no training step for Linear.*RetinaNet.*DFine.*MatchedPositives"):
        c2dlib.training_step(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="lambda_l=-1"):
        c2dlib.C2D(None, lambda_l=-1)
