"""The paper's students by their names, some beyond it, and the stronger detectors that teach them in Table 2."""

from __future__ import annotations

from typing import NamedTuple


class Architecture(NamedTuple):
    family: str  # ssd, faster_rcnn, retinanet, fcos, mask_rcnn
    body: str  # the backbone, see detectors.backbones
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
