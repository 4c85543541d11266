"""loc and KD_loc: the image, or the teacher's early maps, in predicted and true box (section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from c2dlib.detectors.train_output import GroundTruth, TrainOutput
from c2dlib.distillation.distiller import Distiller
from c2dlib.distillation.losses import average_pool, gradients_of, paired_iou, pooled_l1, with_gradient
from c2dlib.teacher.classifier import Teacher
from c2dlib.teacher.crops import crop_regions


@dataclass(frozen=True)
class ComparedBoxes:
    """The terms of a step, and the boxes that they compare. R may be 0."""

    terms: dict[str, Tensor]  # loc, KDloc -> weighted term, differentiable in ``boxes``
    boxes: Tensor  # [R, 4] predicted
    true_boxes: Tensor  # [R, 4] of the objects they are matched to


class LocalisationDistiller(Distiller):
    """``{"loc": weighted term, "KDloc": weighted term}`` (eq. 10-12).

    Each ground-truth box is cropped once per step, and the teacher's early maps of it are computed once. The
    predicted crops pass only the teacher's first layers, ``chunk`` at a time (0: 256 on a GPU; on a CPU as
    many as have the pixels of 8 crops of 112 px, which stay in its caches), so that the memory of one chunk
    is enough for any number of positives.

    Args:
        teacher: may be None for loc alone, which compares the images themselves.
        terms: ``loc``, ``KDloc`` or both.
        lambda_l, lambda_kl: weights of loc and KD_loc for images in 0..255 units (section 4).
        sampling_size: side s of the crops.
        pool_obj, pool_maps: cells per side after pooling, of the crops (loc) and of the maps (KD_loc).
        kd_loc_layers: how many of the teacher's early maps KD_loc compares (1: l0, 2: l0 and l1).
        max_positives: at most this many of a step's positives are compared, drawn at random; 0: all.
        loc_min_iou: only positives whose predicted box has this IoU with its object are compared. None: that
            of the detector, 0.5 for FCOS, whose untrained boxes would lose all area, and 0 for all others.

    Raises:
        ValueError: for KDloc without a teacher.
    """

    def __init__(
        self,
        teacher: Teacher | None,
        terms: list[str],
        *,
        lambda_l: float = 0.15,
        lambda_kl: float = 0.15,
        sampling_size: int = 112,
        pool_obj: int = 4,
        pool_maps: int = 8,
        kd_loc_layers: int = 1,
        max_positives: int = 0,
        loc_min_iou: float | None = None,
        chunk: int = 0,
    ):
        if "KDloc" in terms and teacher is None:
            raise ValueError("KDloc compares the teacher's early maps: it needs a teacher")
        self.teacher, self.terms = teacher, terms
        self.weights = {"loc": lambda_l, "KDloc": lambda_kl}
        self.cells = {"loc": pool_obj, "KDloc": pool_maps}
        self.sampling_size, self.kd_loc_layers = sampling_size, kd_loc_layers
        self.max_positives, self.loc_min_iou, self.chunk = max_positives, loc_min_iou, chunk

    def __call__(self, out: TrainOutput) -> dict[str, Tensor]:
        return self.compare(out).terms

    def compare(self, out: TrainOutput) -> ComparedBoxes:
        """Both terms are means over the compared boxes, KD_loc also over the layers."""
        truth = GroundTruth.of(out)
        rows = self._drawn(self._near(out, truth))
        boxes, image_index = out.positives.pred_boxes.float()[rows], out.positives.image_index[rows]
        gt_rows = truth.of_positive[rows]
        true_boxes = truth.boxes[gt_rows].float()
        if len(rows) == 0:
            zero = out.positives.pred_boxes.sum() * 0.0
            return ComparedBoxes(dict.fromkeys(self.terms, zero), boxes, true_boxes)
        pixels, values, gradients = out.pixels(), [], []
        fitting = max(1, 8 * 112**2 // self.sampling_size**2) if pixels.device.type == "cpu" else 256
        chunk = self.chunk or fitting
        with torch.autocast(pixels.device.type, enabled=False), torch.enable_grad():
            true_views = self._true_views(pixels, truth)
            for part in torch.arange(len(rows), device=rows.device).split(chunk):
                chunk_boxes = boxes[part].detach().requires_grad_()
                crops = crop_regions(pixels, chunk_boxes, image_index[part], self.sampling_size)
                losses = []  # [K]
                for name in self.terms:
                    layers = []
                    for view, true_view in zip(self._views(name, crops), true_views[name], strict=True):
                        layers.append(pooled_l1(view, true_view[gt_rows[part]], self.cells[name]))
                    mean = torch.stack(layers).mean()
                    losses.append(self.weights[name] * mean * len(part) / len(rows))
                values.append(torch.stack(losses).detach())  # [K]
                gradients.append(gradients_of(losses, chunk_boxes))  # [K, r, 4]
            total = reduce(torch.add, values)
            terms = with_gradient(total, torch.cat(gradients, dim=1), boxes)
        return ComparedBoxes(dict(zip(self.terms, terms, strict=True)), boxes, true_boxes)

    def _true_views(self, pixels: Tensor, truth: GroundTruth) -> dict[str, list[Tensor]]:
        """Term -> pooled views of the ground-truth boxes, computed once however many positives a box has."""
        with torch.no_grad():
            crops = crop_regions(pixels, truth.boxes, truth.image_index, self.sampling_size)
            return {
                name: [average_pool(view, self.cells[name]) for view in self._views(name, crops)]
                for name in self.terms
            }

    def divisors(self, out: TrainOutput) -> dict[str, int]:
        near = len(self._near(out, GroundTruth.of(out)))
        return dict.fromkeys(self.terms, min(near, self.max_positives or near))

    def _near(self, out: TrainOutput, truth: GroundTruth) -> Tensor:
        """The rows of the positives whose box is near enough to its object."""
        boxes = out.positives.pred_boxes.detach().float()
        least = out.least_iou if self.loc_min_iou is None else self.loc_min_iou
        if not least:
            return torch.arange(len(boxes), device=boxes.device)
        true_boxes = truth.boxes[truth.of_positive].float()
        return (paired_iou(boxes, true_boxes) >= least).nonzero()[:, 0]

    def _drawn(self, rows: Tensor) -> Tensor:
        """At most ``max_positives`` of the rows, the same on every kind of device."""
        if not 0 < self.max_positives < len(rows):
            return rows
        return rows[torch.randperm(len(rows))[: self.max_positives].to(rows.device)]

    def _views(self, name: str, crops: Tensor) -> list[Tensor]:
        """What a term compares: the crops themselves (loc), or the teacher's early maps of them (KD_loc)."""
        if name == "loc":
            return [crops]
        assert self.teacher is not None
        return self.teacher.early(crops, self.kd_loc_layers)
