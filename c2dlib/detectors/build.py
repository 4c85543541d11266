"""From an Experiment to its detector."""

from __future__ import annotations

from torch import nn

from c2dlib.config.students import ARCHITECTURES
from c2dlib.detectors.backbones import build_body, load_initial_weights, with_pyramid
from c2dlib.detectors.faster_rcnn import FasterRCNNStep, build_faster_rcnn
from c2dlib.detectors.fcos import FCOSStep, build_fcos
from c2dlib.detectors.retinanet import RetinaNetStep, build_retinanet
from c2dlib.detectors.ssd import SSD300, SSD512, SSDStep, build_mobilenet_ssd, build_ssd


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
