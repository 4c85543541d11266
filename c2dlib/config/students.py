"""The paper's students by their names, some students beyond the paper, and the stronger detectors that teach
them in Table 2.

A new student is a line of ``ARCHITECTURES``. Code elsewhere asks for the traits below and never for a name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """What all detectors of one family have in common."""

    name: str  # its key under `families` in scales/*.yaml
    softmax: bool  # classes and background share a softmax; False: each class has its own sigmoid
    one_stage: bool  # it classifies anchors or points directly, without proposals
    teacher_group: str  # the families of one group share a classification teacher (section 4)
    masks: bool = False  # it also learns masks, so it trains on images whose objects have masks
    undefined: tuple[str, ...] = ()  # imitation methods that need a pyramid or anchors, which it lacks

    @property
    def sigmoid_teacher(self) -> bool:
        """Whether the classification teacher is trained with sigmoids too.

        It is if a family of its teacher group classifies with sigmoids.
        """
        return any(not family.softmax for family in FAMILIES if family.teacher_group == self.teacher_group)


@dataclass(frozen=True)
class Architecture:
    """One detector."""

    family: Family
    body: str  # the backbone's name, see detectors.backbones.build_body
    detector_teacher: str | None = None  # the detector it may imitate; None: it is a teacher, or has none
    # 300, 512: the extra layers and anchors of the published SSD; 0: those of torchvision's SSDLite
    ssd_layout: int = 0


WITH_PYRAMID = "Faster R-CNN, RetinaNet"
SSD = Family(
    "ssd", softmax=True, one_stage=True, teacher_group="SSD", undefined=("KD", "FGFI", "GID", "DeFeat")
)
FASTER_RCNN = Family("faster_rcnn", softmax=True, one_stage=False, teacher_group=WITH_PYRAMID)
MASK_RCNN = Family("mask_rcnn", softmax=True, one_stage=False, teacher_group=WITH_PYRAMID, masks=True)
RETINANET = Family("retinanet", softmax=False, one_stage=True, teacher_group=WITH_PYRAMID)
FCOS = Family(
    "fcos", softmax=False, one_stage=True, teacher_group=WITH_PYRAMID, undefined=("KD", "FGFI", "GID")
)
FAMILIES = (SSD, FASTER_RCNN, MASK_RCNN, RETINANET, FCOS)

ARCHITECTURES = {
    "SSD300-VGG16": Architecture(SSD, "vgg16", "SSD300-VGG19", ssd_layout=300),
    "SSD512-VGG16": Architecture(SSD, "vgg16", "SSD512-VGG19", ssd_layout=512),
    "FasterRCNN-QR50": Architecture(FASTER_RCNN, "qr50", "FasterRCNN-R101"),
    "FasterRCNN-MV2": Architecture(FASTER_RCNN, "mv2", "FasterRCNN-R101"),
    "FasterRCNN-R50": Architecture(FASTER_RCNN, "r50", "FasterRCNN-R101"),
    "RetinaNet-R50": Architecture(RETINANET, "r50", "RetinaNet-R101"),
    "FCOS-R50": Architecture(FCOS, "r50", "FCOS-R101"),  # beyond the paper
    "MaskRCNN-R50": Architecture(MASK_RCNN, "r50", "FasterRCNN-R101"),  # beyond the paper
    "FasterRCNN-MV1x025": Architecture(FASTER_RCNN, "mv1x025", "FasterRCNN-MV1"),  # students of scale photos
    "SSD300-MV1x025": Architecture(SSD, "mv1x025"),
    "RetinaNet-MV1x025": Architecture(RETINANET, "mv1x025"),
    "FasterRCNN-MV1": Architecture(FASTER_RCNN, "mv1"),
    "SSD300-VGG19": Architecture(SSD, "vgg19", ssd_layout=300),
    "SSD512-VGG19": Architecture(SSD, "vgg19", ssd_layout=512),
    "FasterRCNN-R101": Architecture(FASTER_RCNN, "r101"),
    "RetinaNet-R101": Architecture(RETINANET, "r101"),
    "FCOS-R101": Architecture(FCOS, "r101"),
}
STUDENTS = [name for name, architecture in ARCHITECTURES.items() if architecture.detector_teacher]
