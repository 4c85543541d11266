"""RetinaNet (Lin et al. 2017) out of torchvision's parts, and its training step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator

from c2dlib.detectors.matching import (
    feature_maps,
    fp32_anchors,
    fp32_outputs,
    gather_positives,
    match_anchors,
    mean_and_std,
    on_demand,
)
from c2dlib.detectors.train_output import Head, TrainOutput


def build_retinanet(
    backbone: nn.Module,
    num_classes: int,
    size: int,
    max_size: int,
    anchor_scale: float = 1.0,
    score_threshold: float = 0.05,
) -> RetinaNet:
    """A plain torchvision RetinaNet for ``num_classes`` object classes on levels P3 to P7."""
    sides = [32 * 2**level * anchor_scale for level in range(5)]
    anchors = AnchorGenerator(
        tuple((s, s * 2 ** (1 / 3), s * 2 ** (2 / 3)) for s in sides), ((0.5, 1.0, 2.0),) * 5
    )
    model = RetinaNet(
        backbone,
        num_classes + 1,
        min_size=size,
        max_size=max_size,
        anchor_generator=anchors,
        score_thresh=score_threshold,
        detections_per_img=100,
    )
    with (
        torch.no_grad()
    ):  # the published std of 0.01 is for 256 channels; keep its gain per layer in a slim head
        for layer in [*model.head.classification_head.conv, *model.head.regression_head.conv]:
            layer[0].weight *= (256 / backbone.out_channels) ** 0.5
    return model


class RetinaNetStep(nn.Module):
    """One training step of a torchvision RetinaNet; its losses equal ``model(images, targets)``."""

    one_stage = True

    def __init__(self, model: RetinaNet):
        super().__init__()
        self.model = model

    def forward(self, images: list[Tensor], targets: list[dict]) -> TrainOutput:
        model = self.model
        batch, targets = model.transform(images, targets)
        features = feature_maps(model.backbone, batch.tensors)
        head = fp32_outputs(model.head, features)
        anchors = fp32_anchors(model.anchor_generator, batch, features)
        matches = match_anchors(model.proposal_matcher, anchors, targets)
        losses = model.head.compute_loss(targets, head, anchors, matches)
        positives = gather_positives(
            matches,
            targets,
            anchors,
            head["cls_logits"],
            head["bbox_regression"],
            model.box_coder.decode_single,
            softmax=False,
        )
        return TrainOutput(
            batch.tensors,
            *mean_and_std(model.transform, batch.tensors),
            targets,
            features,
            losses,
            positives,
            on_demand(lambda: {"dense": self._head(head, anchors, matches, targets)}),
        )

    def _head(self, head: dict, anchors: list[Tensor], matches: list[Tensor], targets: list[dict]) -> Head:
        labels, truth = [], []
        for anchor, match, target in zip(anchors, matches, targets, strict=True):
            rows = match.clamp(min=0)
            none = len(target["boxes"]) == 0
            truth.append(anchor if none else target["boxes"][rows])
            label = torch.zeros_like(match) if none else target["labels"][rows]
            label = torch.where(match >= 0, label, 0)
            labels.append(torch.where(match == self.model.proposal_matcher.BETWEEN_THRESHOLDS, -1, label))
        coder = self.model.box_coder
        return Head(
            anchors,
            head["cls_logits"].flatten(0, 1),
            head["bbox_regression"].flatten(0, 1),
            torch.cat(labels),
            torch.cat(coder.encode(truth, anchors)),
            coder,
            self.model.proposal_matcher,
        )
