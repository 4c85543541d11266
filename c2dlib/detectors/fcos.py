"""FCOS (Tian et al. 2019), a detector without anchor boxes, of torchvision's parts, and its training step."""

from __future__ import annotations

from functools import partial
from math import gcd
from types import SimpleNamespace

from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead

from c2dlib.detectors.matching import (
    feature_maps,
    fp32_anchors,
    fp32_outputs,
    gather_positives,
    mean_and_std,
)
from c2dlib.detectors.train_output import TrainOutput


def build_fcos(
    backbone: nn.Module,
    num_classes: int,
    size: int,
    max_size: int,
    anchor_scale: float = 1.0,
    score_threshold: float = 0.2,
) -> FCOS:
    """A plain torchvision FCOS for ``num_classes`` object classes on levels P3 to P7.

    Its "anchors" are one square per cell, as large as the stride times ``anchor_scale``: they only say which
    level sees which sizes, and in what unit distances are. The heads' GroupNorms have groups of eight
    channels, as published.
    """
    anchors = AnchorGenerator(tuple((8 * 2**level * anchor_scale,) for level in range(5)), ((1.0,),) * 5)
    width = backbone.out_channels
    head = FCOSHead(32, 1, num_classes + 1)  # of any width that its norm divides; both parts are replaced
    norm = partial(nn.GroupNorm, gcd(width, max(1, width // 8)))
    head.classification_head = FCOSClassificationHead(width, 1, num_classes + 1, norm_layer=norm)
    head.regression_head = FCOSRegressionHead(width, 1, norm_layer=norm)
    return FCOS(
        backbone,
        num_classes + 1,
        min_size=size,
        max_size=max_size,
        anchor_generator=anchors,
        head=head,
        score_thresh=score_threshold,
        detections_per_img=100,
    )


class FCOSStep(nn.Module):
    """One training step of a torchvision FCOS; its losses equal ``model(images, targets)``.

    The boxes of an untrained FCOS have no area, and loc and KD_loc would leave them without. So these losses
    compare only boxes with an IoU of at least LEAST_IOU with their object.
    """

    LEAST_IOU = 0.5
    one_stage = True

    def __init__(self, model: FCOS):
        super().__init__()
        self.model = model

    def forward(self, images: list[Tensor], targets: list[dict]) -> TrainOutput:
        model = self.model
        batch, targets = model.transform(images, targets)
        features = feature_maps(model.backbone, batch.tensors)
        head = fp32_outputs(model.head, features)
        anchors = fp32_anchors(model.anchor_generator, batch, features)
        matches = self._matches(targets, head, anchors, [m.shape[2] * m.shape[3] for m in features.values()])
        losses = model.head.compute_loss(targets, head, anchors, matches)
        positives = gather_positives(
            matches,
            targets,
            anchors,
            head["cls_logits"],
            head["bbox_regression"],
            model.box_coder.decode,
            softmax=False,
        )
        return TrainOutput(
            batch.tensors,
            *mean_and_std(model.transform, batch.tensors),
            targets,
            features,
            losses,
            positives,
            divisors=dict.fromkeys(losses, len(positives.labels)),
            least_iou=self.LEAST_IOU,
        )

    def _matches(self, targets, head, anchors, counts: list[int]) -> list[Tensor]:
        """Per image [A]: the row of the target that torchvision matches each cell to, -1 if none.

        ``FCOS.compute_loss`` computes the matches and passes them to its head; the head here returns them.
        """
        model = SimpleNamespace(
            center_sampling_radius=self.model.center_sampling_radius,
            head=SimpleNamespace(compute_loss=lambda targets, head, anchors, matches: matches),
        )
        return FCOS.compute_loss(model, targets, head, anchors, counts)
