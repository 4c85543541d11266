"""A training step for RT-DETR, RT-DETRv2 and D-FINE of the package transformers (extra ``detr``).

These detectors predict a fixed set of boxes, each from a query. A Hungarian matching gives every object one
query; these queries are the positives.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert
from torchvision.transforms.v2 import functional as F

from c2dlib.detectors.train_output import MatchedPositives, TrainOutput

# Classes of transformers, by name, so that the package is imported only by those who use it. Their
# classes have a sigmoid each, and they share one matcher.
DETR_MODELS = ("RTDetrForObjectDetection", "RTDetrV2ForObjectDetection", "DFineForObjectDetection")


def is_detr(model: nn.Module) -> bool:
    """Whether a model is one of transformers' detectors that ``DETRStep`` trains, or a subclass of one."""
    return any(
        kind.__name__ in DETR_MODELS and kind.__module__.startswith("transformers.")
        for kind in type(model).__mro__
    )


class DETRStep(nn.Module):
    """One training step of RT-DETR, RT-DETRv2 or D-FINE; its task losses sum to the model's own loss.

    The positives are those of the last decoder layer, one per object. The denoising queries, which the model
    makes from the true boxes in training, are not among them.

    Args:
        model: of transformers, with ``num_labels`` = C.
        image_size: height and width that images are resized to, in pixels; 640 x 640 is what the published
            models and their image processors read.
    """

    one_stage = True
    model: Any  # of transformers

    def __init__(self, model: nn.Module, image_size: tuple[int, int] = (640, 640)):
        super().__init__()
        from transformers.loss.loss_rt_detr import RTDetrHungarianMatcher

        self.model, self.image_size = model, image_size
        self.matcher = RTDetrHungarianMatcher(model.config)  # has no weights

    def forward(self, images: list[Tensor], targets: list[dict]) -> TrainOutput:
        batch, targets = self._resize(images, targets)
        true_boxes = [self._normalised(t["boxes"]) for t in targets]
        labels = [
            {"class_labels": t["labels"] - 1, "boxes": b} for t, b in zip(targets, true_boxes, strict=True)
        ]
        out = self.model(pixel_values=batch, labels=labels)
        last = slice(-self.model.config.num_queries, None)
        logits, boxes = (v[:, last].float() for v in (out.logits, out.pred_boxes))
        matches = self.matcher({"logits": logits, "pred_boxes": boxes.clamp(0, 1)}, labels)
        neck = out.encoder_last_hidden_state
        return TrainOutput(
            batch,
            image_mean=batch.new_zeros(3),
            image_std=batch.new_ones(3),
            targets=targets,
            features={str(level): feature_map for level, feature_map in enumerate(neck)},
            task_losses=out.loss_dict,
            positives=self._positives(matches, targets, logits, boxes),
            divisors=self._divisors(out, sum(len(b) for b in true_boxes)),
        )

    def _resize(self, images: list[Tensor], targets: list[dict]) -> tuple[Tensor, list[dict]]:
        """Images [3, H, W] in 0..1 as one batch [B, 3, H', W'], and the targets in its pixels."""
        height, width = self.image_size
        batch = torch.stack([F.resize(image, [height, width], antialias=True) for image in images])
        scaled = []
        for image, target in zip(images, targets, strict=True):
            scale = target["boxes"].new_tensor([width / image.shape[2], height / image.shape[1]]).repeat(2)
            scaled.append({**target, "boxes": target["boxes"] * scale})
        return batch, scaled

    def _normalised(self, boxes: Tensor) -> Tensor:
        """xyxy pixels -> centre and size as a share of the image, [N, 4]."""
        height, width = self.image_size
        return box_convert(boxes, "xyxy", "cxcywh") / boxes.new_tensor([width, height]).repeat(2)

    def _positives(
        self, matches: list[tuple[Tensor, Tensor]], targets: list[dict], logits: Tensor, boxes: Tensor
    ) -> MatchedPositives:
        """The matched queries.

        Args:
            matches: per image the rows of queries and of objects that belong together.
            logits: [B, Q, C].
            boxes: [B, Q, 4] centre and size as a share of the image.
        """
        device = logits.device
        image_index = torch.cat([torch.full_like(query, i) for i, (query, _) in enumerate(matches)])
        image_index = image_index.to(device)
        query = torch.cat([query for query, _ in matches]).to(device)
        gt_rows = [gt.to(device) for _, gt in matches]
        labels = torch.cat([t["labels"][gt] - 1 for t, gt in zip(targets, gt_rows, strict=True)])
        height, width = self.image_size
        pred_boxes = boxes[image_index, query] * boxes.new_tensor([width, height]).repeat(2)
        return MatchedPositives(
            image_index=image_index,
            gt_index=torch.cat(gt_rows),
            labels=labels,
            class_logits=logits[image_index, query],
            background_logits=None,
            pred_boxes=box_convert(pred_boxes, "cxcywh", "xyxy"),
        )

    def _divisors(self, out, objects: int) -> dict[str, int]:
        """The objects that each loss is a mean over; those of denoising see each of them once per group."""
        groups = (out.denoising_meta_values or {}).get("dn_num_group", 1)
        return {
            name: objects * (groups if "_dn_" in name else 1) for name in out.loss_dict if "ddf" not in name
        }
