"""Faster R-CNN with FPN (Ren et al. 2015, Lin et al. 2017) out of torchvision's parts, and its step."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import fastrcnn_loss, keypointrcnn_loss, maskrcnn_loss
from torchvision.models.detection.rpn import concat_box_prediction_layers

from c2dlib.detectors.matching import feature_maps, fp32_anchors, mean_and_std, on_demand, true_class
from c2dlib.detectors.roi_align import pool_regions
from c2dlib.detectors.train_output import Head, MatchedPositives, TrainOutput


def build_faster_rcnn(
    backbone: nn.Module,
    num_classes: int,
    size: int,
    max_size: int,
    box_head_dim: int = 1024,
    anchor_scale: float = 1.0,
    score_threshold: float = 0.05,
    rois_per_image: int = 512,
    rpn_top_n: int = 2000,
    masks: bool = False,
    first_level: int = 2,
) -> FasterRCNN:
    """A plain torchvision Faster R-CNN for ``num_classes`` object classes.

    Its levels are P2 (or ``first_level``) to P6. With ``masks`` it is a Mask R-CNN (He et al. 2017), whose
    mask branch is as wide as the pyramid.
    """
    levels = range(first_level, 7)
    anchors = AnchorGenerator(
        tuple((8 * 2**level * anchor_scale,) for level in levels), ((0.5, 1.0, 2.0),) * len(levels)
    )
    width = backbone.out_channels
    branch = (
        {
            "mask_head": MaskRCNNHeads(width, (width,) * 4, 1),
            "mask_predictor": MaskRCNNPredictor(width, width, num_classes + 1),
        }
        if masks
        else {}
    )
    return (MaskRCNN if masks else FasterRCNN)(
        backbone,
        min_size=size,
        max_size=max_size,
        rpn_anchor_generator=anchors,
        box_head=TwoMLPHead(width * 7**2, box_head_dim),
        box_predictor=FastRCNNPredictor(box_head_dim, num_classes + 1),
        box_score_thresh=score_threshold,
        box_batch_size_per_image=rois_per_image,
        rpn_pre_nms_top_n_train=rpn_top_n,
        rpn_pre_nms_top_n_test=min(rpn_top_n, 1000),
        **branch,
    )


class FasterRCNNStep(nn.Module):
    """One training step of a torchvision Faster R-CNN; its losses equal ``model(images, targets)``.

    Of a Mask R-CNN or Keypoint R-CNN it is the box branch; the other branch trains with it where the targets
    have masks or keypoints.

    Args:
        weighted_sum: on a CPU RoIAlign is ``roi_align.pool_regions``, see the setting ``roi_align``.
    """

    one_stage = False

    def __init__(self, model: FasterRCNN, weighted_sum: bool = False):
        super().__init__()
        self.model, self.weighted_sum = model, weighted_sum

    def forward(self, images: list[Tensor], targets: list[dict]) -> TrainOutput:
        model, heads = self.model, self.model.roi_heads
        batch, targets = model.transform(images, targets)
        features = feature_maps(model.backbone, batch.tensors)
        proposals, rpn_losses, rpn = self._rpn(batch, features, targets)
        # sampling reads the boxes alone, but that of a Mask R-CNN requires the key "masks"
        with_key = [{"masks": None, **t} for t in targets]
        proposals, matches, labels, regression = heads.select_training_samples(proposals, with_key)
        pool = partial(pool_regions, heads.box_roi_pool) if self.weighted_sum else heads.box_roi_pool
        pooled = pool(features, proposals, batch.image_sizes)
        logits, deltas = heads.box_predictor(heads.box_head(pooled))
        logits, deltas = logits.float(), deltas.float()  # [R, C + 1], [R, 4 (C + 1)]
        loss_classifier, loss_box_reg = fastrcnn_loss(logits, deltas, labels, regression)
        losses = {"loss_classifier": loss_classifier, "loss_box_reg": loss_box_reg, **rpn_losses}
        third = features, batch.image_sizes, proposals, matches, labels, targets
        if heads.has_mask() and all("masks" in t for t in targets):
            losses["loss_mask"] = self._mask_loss(*third)
        if heads.has_keypoint() and all("keypoints" in t for t in targets):
            losses["loss_keypoint"] = self._keypoint_loss(*third)
        positives = self._positives(proposals, matches, labels, logits, deltas)
        divisors = {
            "loss_classifier": len(logits),
            "loss_box_reg": len(logits),
            "loss_mask": len(positives.labels),
            "loss_keypoint": len(positives.labels),
            **dict.fromkeys(rpn_losses, self._sampled(rpn.labels.view(len(batch.tensors), -1))),
        }

        def both_heads() -> dict[str, Head]:
            rcnn = Head(
                proposals,
                logits,
                true_class(deltas, torch.cat(labels)),
                torch.cat(labels),
                torch.cat(regression),
                heads.box_coder,
                heads.proposal_matcher,
            )
            return {"rpn": rpn, "rcnn": rcnn}

        return TrainOutput(
            batch.tensors,
            *mean_and_std(model.transform, batch.tensors),
            targets,
            features,
            losses,
            positives,
            on_demand(both_heads),
            divisors,
        )

    def _rpn(self, batch, features, targets) -> tuple[list[Tensor], dict[str, Tensor], Head]:
        """torchvision's RPN step: proposals per image, its two losses, and the outputs of its head."""
        rpn = self.model.rpn
        logits, deltas = rpn.head(list(features.values()))
        counts = [m[0].numel() for m in logits]  # anchors per level of an image
        anchors = fp32_anchors(rpn.anchor_generator, batch, features)
        logits, deltas = concat_box_prediction_layers(logits, deltas)
        logits, deltas = logits.float(), deltas.float()  # [B A, 1], [B A, 4]
        boxes = rpn.box_coder.decode(deltas.detach(), anchors).view(len(anchors), -1, 4)
        proposals, _ = rpn.filter_proposals(boxes, logits, batch.image_sizes, counts)
        labels, matched = rpn.assign_targets_to_anchors(anchors, targets)
        regression = rpn.box_coder.encode(matched, anchors)
        loss_objectness, loss_box_reg = rpn.compute_loss(logits, deltas, labels, regression)
        head = Head(
            anchors,
            logits,
            deltas,
            torch.cat(labels).long(),
            torch.cat(regression),
            rpn.box_coder,
            rpn.proposal_matcher,
        )
        return proposals, {"loss_objectness": loss_objectness, "loss_rpn_box_reg": loss_box_reg}, head

    def _sampled(self, labels: Tensor) -> Tensor:
        """The number of anchors that the RPN's losses are computed on.

        Up to half of the sampler's batch size are anchors of objects, the rest are background.

        Args:
            labels: [B, A].
        """
        sampler = self.model.rpn.fg_bg_sampler
        objects = (labels > 0).sum(1).clamp(max=int(sampler.batch_size_per_image * sampler.positive_fraction))
        return (objects + (labels == 0).sum(1).minimum(sampler.batch_size_per_image - objects)).sum()

    def _mask_loss(self, features, sizes, proposals, matches, labels, targets) -> Tensor:
        """Mask R-CNN's third loss, on the proposals with an object's label."""
        heads, (proposals, matches) = self.model.roi_heads, _of_objects(labels, proposals, matches)
        logits = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, proposals, sizes)))
        return maskrcnn_loss(
            logits, proposals, [t["masks"] for t in targets], [t["labels"] for t in targets], matches
        )

    def _keypoint_loss(self, features, sizes, proposals, matches, labels, targets) -> Tensor:
        """Keypoint R-CNN's third loss, on the proposals with an object's label."""
        heads, (proposals, matches) = self.model.roi_heads, _of_objects(labels, proposals, matches)
        logits = heads.keypoint_predictor(
            heads.keypoint_head(heads.keypoint_roi_pool(features, proposals, sizes))
        )
        return keypointrcnn_loss(logits, proposals, [t["keypoints"] for t in targets], matches)

    def _positives(self, proposals, matches, labels, logits, deltas) -> MatchedPositives:
        """The sampled proposals with an object's label (background is clamped to row 0: labels tell)."""
        counts = [len(p) for p in proposals]
        image_index = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(
            logits.device
        )
        labels = torch.cat(labels)
        positive = (labels > 0).nonzero()[:, 0]
        deltas = true_class(deltas[positive], labels[positive])
        boxes = self.model.roi_heads.box_coder.decode(deltas, [torch.cat(proposals)[positive]])
        return MatchedPositives(
            image_index=image_index[positive],
            gt_index=torch.cat(matches)[positive],
            labels=labels[positive] - 1,
            class_logits=logits[positive, 1:],
            background_logits=logits[positive, 0],
            pred_boxes=boxes.reshape(-1, 4),
        )


def _of_objects(labels: list[Tensor], *of_all: list[Tensor]) -> list[list[Tensor]]:
    """Of lists with a row per sampled proposal of each image, the rows with an object's label."""
    positive = [(row > 0).nonzero()[:, 0] for row in labels]
    return [[row[p] for row, p in zip(rows, positive, strict=True)] for rows in of_all]
