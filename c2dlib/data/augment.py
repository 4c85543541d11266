"""Augmentation per detector family, out of torchvision.transforms.v2."""

from __future__ import annotations

import torch
from torchvision.transforms import v2

from c2dlib.config.experiment import Experiment

# The mean of torchvision's VGG16_Weights.IMAGENET1K_FEATURES, which SSD subtracts; its std is one grey level.
VGG_MEAN, VGG_STD = [0.48235, 0.45882, 0.40784], [1 / 255, 1 / 255, 1 / 255]


def train_transform(e: Experiment) -> v2.Transform:
    """The augmentation of a student's training images: uint8 images in, float 0..1 out.

    It comes before the student's own resizing.

    SSD (section 2.2 of its paper): photometric distortion, expand, minimum-IoU crop, flip. Faster R-CNN and
    RetinaNet: flip.

    Args:
        e: an Experiment; its settings ``photometric``, ``zoom_out``, ``iou_crop``, ``flip`` and
            ``vertical_flip`` decide.
    """
    steps = [v2.ToDtype(torch.float32, scale=True)]
    if e.photometric:
        steps.append(v2.RandomPhotometricDistort(p=0.5))
    if e.zoom_out > 1:
        steps.append(v2.RandomZoomOut(fill=tuple(VGG_MEAN), side_range=(1.0, e.zoom_out), p=0.5))
    if e.iou_crop:
        steps.append(v2.RandomIoUCrop())
    if e.flip:
        steps.append(v2.RandomHorizontalFlip())
    if e.vertical_flip:
        steps.append(v2.RandomVerticalFlip())
    return v2.Compose(
        [*steps, v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=1), v2.ToPureTensor()]
    )


def plain_transform() -> v2.Transform:
    """No augmentation, for evaluation: uint8 images in, float 0..1 out."""
    return v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()])
