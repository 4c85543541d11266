"""Augmentation per detector family, out of torchvision.transforms.v2."""

from __future__ import annotations

import torch
from torchvision.transforms import v2

from c2dlib.config.experiment import Experiment
from c2dlib.detectors.ssd import VGG_MEAN


def train_transform(e: Experiment) -> v2.Transform:
    """What a student's images go through before its own resizing: uint8 in, float 0..1 out.

    SSD (section 2.2 of its paper): photometric distortion, expand, minimum-IoU crop, flip. Faster R-CNN and
    RetinaNet: flip. An Experiment's settings switch the steps on and off.
    """
    steps = [v2.ToDtype(torch.float32, scale=True)]
    if e.photometric:
        steps.append(v2.RandomPhotometricDistort(p=0.5))
    if e.zoom_out > 1:
        fill = tuple(VGG_MEAN)
        steps.append(v2.RandomZoomOut(fill=fill, side_range=(1.0, e.zoom_out), p=0.5))
    if e.iou_crop:
        steps.append(v2.RandomIoUCrop())
    if e.flip:
        steps.append(v2.RandomHorizontalFlip())
    if e.vertical_flip:
        steps.append(v2.RandomVerticalFlip())
    return v2.Compose([*steps, v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=1), v2.ToPureTensor()])


def plain_transform() -> v2.Transform:
    """What images go through at evaluation: uint8 in, float 0..1 out."""
    return v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()])
