"""Faster R-CNN with FPN (Ren et al. 2015, Lin et al. 2017) out of torchvision's parts, and its step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import fastrcnn_loss

from c2dlib.models.common import mean_and_std
from c2dlib.types import MatchedPositives, TrainOutput


def build_faster_rcnn(backbone: nn.Module, num_classes: int, size: int, max_size: int, box_head_dim: int = 1024,
                      anchor_scale: float = 1.0, score_threshold: float = 0.05,
                      rois_per_image: int = 512, rpn_top_n: int = 2000) -> FasterRCNN:
    """A plain torchvision Faster R-CNN for ``num_classes`` object classes on levels P2 to P6."""
    anchors = AnchorGenerator(tuple((32 * 2**level * anchor_scale,) for level in range(5)),
                              ((0.5, 1.0, 2.0),) * 5)
    return FasterRCNN(
        backbone, min_size=size, max_size=max_size, rpn_anchor_generator=anchors,
        box_head=TwoMLPHead(backbone.out_channels * 7**2, box_head_dim),
        box_predictor=FastRCNNPredictor(box_head_dim, num_classes + 1),
        box_score_thresh=score_threshold, box_batch_size_per_image=rois_per_image,
        rpn_pre_nms_top_n_train=rpn_top_n, rpn_pre_nms_top_n_test=min(rpn_top_n, 1000),
    )


class FasterRCNNStep(nn.Module):
    """One training step of a torchvision Faster R-CNN; its losses equal ``model(images, targets)``."""

    one_stage = False

    def __init__(self, model: FasterRCNN):
        super().__init__()
        self.model = model

    def forward(self, images: list[Tensor], targets: list[dict]) -> TrainOutput:
        model, heads = self.model, self.model.roi_heads
        batch, targets = model.transform(images, targets)
        features = model.backbone(batch.tensors)
        proposals, rpn_losses = model.rpn(batch, features, targets)
        proposals, matches, labels, regression = heads.select_training_samples(proposals, targets)
        pooled = heads.box_roi_pool(features, proposals, batch.image_sizes)
        logits, deltas = heads.box_predictor(heads.box_head(pooled))  # [R, C + 1], [R, 4 (C + 1)]
        loss_classifier, loss_box_reg = fastrcnn_loss(logits, deltas, labels, regression)
        losses = {"loss_classifier": loss_classifier, "loss_box_reg": loss_box_reg, **rpn_losses}
        positives = self._positives(proposals, matches, labels, logits, deltas)
        return TrainOutput(batch.tensors, *mean_and_std(model.transform, batch.tensors), targets, features,
                           losses, positives)

    def _positives(self, proposals, matches, labels, logits, deltas) -> MatchedPositives:
        """The sampled proposals with an object's label (background is clamped to row 0: labels tell)."""
        counts = [len(p) for p in proposals]
        image_index = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(logits.device)
        labels = torch.cat(labels)
        positive = (labels > 0).nonzero()[:, 0]
        deltas = deltas.unflatten(1, (-1, 4))[positive, labels[positive]]  # four numbers per class
        boxes = self.model.roi_heads.box_coder.decode(deltas, [torch.cat(proposals)[positive]])
        return MatchedPositives(
            image_index=image_index[positive],
            gt_index=torch.cat(matches)[positive],
            labels=labels[positive] - 1,
            class_logits=logits[positive, 1:],
            background_logits=logits[positive, 0],
            pred_boxes=boxes.reshape(-1, 4),
        )
