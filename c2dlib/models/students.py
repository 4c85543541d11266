"""The paper's students by their names, two beyond it, and the stronger detectors that teach them in Table 2."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from c2dlib.models.backbones import build_body, load_initial_weights, with_pyramid
from c2dlib.models.faster_rcnn import FasterRCNNStep, build_faster_rcnn
from c2dlib.models.fcos import FCOSStep, build_fcos
from c2dlib.models.retinanet import RetinaNetStep, build_retinanet
from c2dlib.models.ssd import SSD300, SSD512, SSDStep, build_mobilenet_ssd, build_ssd


class Architecture(NamedTuple):
    family: str  # ssd, faster_rcnn, retinanet, fcos, mask_rcnn
    body: str  # the backbone, see models.backbones
    teacher: str | None  # the detector whose neck and head it may imitate


ARCHITECTURES = {
    "SSD300-VGG16": Architecture("ssd", "vgg16", "SSD300-VGG19"),
    "SSD512-VGG16": Architecture("ssd", "vgg16", "SSD512-VGG19"),
    "FasterRCNN-QR50": Architecture("faster_rcnn", "qr50", "FasterRCNN-R101"),
    "FasterRCNN-MV2": Architecture("faster_rcnn", "mv2", "FasterRCNN-R101"),
    "FasterRCNN-R50": Architecture("faster_rcnn", "r50", "FasterRCNN-R101"),
    "RetinaNet-R50": Architecture("retinanet", "r50", "RetinaNet-R101"),
    "FCOS-R50": Architecture("fcos", "r50", "FCOS-R101"),  # beyond the paper
    "MaskRCNN-R50": Architecture("mask_rcnn", "r50", "FasterRCNN-R101"),  # beyond the paper
    "FasterRCNN-MV1x025": Architecture("faster_rcnn", "mv1x025", "FasterRCNN-MV1"),  # the photographs' students
    "SSD300-MV1x025": Architecture("ssd", "mv1x025", None),
    "RetinaNet-MV1x025": Architecture("retinanet", "mv1x025", None),
    "FasterRCNN-MV1": Architecture("faster_rcnn", "mv1", None),
    "SSD300-VGG19": Architecture("ssd", "vgg19", None),
    "SSD512-VGG19": Architecture("ssd", "vgg19", None),
    "FasterRCNN-R101": Architecture("faster_rcnn", "r101", None),
    "RetinaNet-R101": Architecture("retinanet", "r101", None),
    "FCOS-R101": Architecture("fcos", "r101", None),
}
STUDENTS = [name for name, architecture in ARCHITECTURES.items() if architecture.teacher]
DETECTOR_TEACHERS = [name for name in ARCHITECTURES if name not in STUDENTS]


def build_student(e, num_classes: int, initial: str | dict) -> SSDStep | FasterRCNNStep | RetinaNetStep | FCOSStep:
    """The detector an Experiment ``e`` names, with its initial backbone weights, wrapped for training.

    ``.model`` of what is returned is a plain torchvision detector: images [3, H, W] in 0..1 in, boxes out.

    Args:
        num_classes: C object classes, background not counted.
        initial: the backbone's weights, see ``load_initial_weights``.
    """
    family, kind, _ = ARCHITECTURES[e.student]
    if e.student == "SSD300-MV1x025":
        body = build_body(kind, e.width, e.depth, e.norm)
        load_initial_weights(body, kind, initial)
        return SSDStep(build_mobilenet_ssd(body, num_classes, e.image_size, e.width / 4, e.anchor_scale, e.score_threshold))
    if family == "ssd":
        model = build_ssd(num_classes, e.image_size, SSD300 if e.student.startswith("SSD300") else SSD512,
                          int(kind[3:]), e.width, e.norm == "batch", e.anchor_scale, e.score_threshold)
        body = build_body(kind, e.width, e.depth, e.norm)
        load_initial_weights(body, kind, initial)
        seats = list(model.backbone.features) + list(model.backbone.extra[0][:-1])
        for seat, layer in zip(seats, body, strict=False):  # the body ends with a pool SSD has no use for
            seat.load_state_dict(layer.state_dict())
        return SSDStep(model)
    body = build_body(kind, e.width, e.depth, e.norm)
    load_initial_weights(body, kind, initial)
    backbone = with_pyramid(body, kind, e.fpn_channels, e.frozen_stages,
                            3 if family in ("retinanet", "fcos") else e.first_level, family in ("retinanet", "fcos"))
    if family == "fcos":
        return FCOSStep(build_fcos(backbone, num_classes, e.image_size, e.max_size, e.anchor_scale, e.score_threshold))
    if family == "retinanet":
        return RetinaNetStep(build_retinanet(backbone, num_classes, e.image_size, e.max_size, e.anchor_scale,
                                             e.score_threshold))
    return FasterRCNNStep(build_faster_rcnn(backbone, num_classes, e.image_size, e.max_size, e.box_head_dim,
                                            e.anchor_scale, e.score_threshold, e.rois_per_image, e.rpn_top_n,
                                            family == "mask_rcnn", e.first_level))


def parameter_count(model: nn.Module) -> int:
    """How many numbers a detector learns or keeps as weights (frozen ones counted, statistics not)."""
    return sum(p.numel() for p in model.parameters())
