"""Detections -> COCO metrics, by hotcoco, which is fast; pycocotools verifies those that a table prints."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable

import numpy as np
import torch
from hotcoco import COCO, COCOeval
from torch import nn

from c2dlib import distributed
from c2dlib.data.augment import plain_transform

STATS = ["mAP", "AP50", "AP75", "APs", "APm", "APl", None, None, "mAR", "ARs", "ARm", "ARl"]
IOUS = [50 + 5 * i for i in range(10)]


@torch.inference_mode()
def detect(
    model: nn.Module,
    split,
    device: str,
    batch_size: int = 16,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[dict]:
    """The detections of a model on a split, as COCO results: image_id, category_id, bbox (xywh in px), score.

    If several processes share a run, each evaluates a part of the images; every process returns the
    detections on all images, in the order of the split.

    Args:
        model: a plain torchvision detector; it stays on ``device`` in evaluation mode.
        progress: called after each batch with the images done and their number, of this process.
    """
    model.to(device, memory_format=torch.channels_last).eval()
    plain, by_image = plain_transform(), {}
    own_images = range(distributed.rank(), len(split), distributed.world())
    for first in range(0, len(own_images), batch_size):
        indices = own_images[first : first + batch_size]
        outputs = model([plain(split[i][0]).to(device) for i in indices])
        by_image |= {i: _coco_results(split, i, output) for i, output in zip(indices, outputs, strict=True)}
        progress(first + len(indices), len(own_images))
    all_images = {i: results for part in distributed.gathered(by_image) for i, results in part.items()}
    return [result for i in sorted(all_images) for result in all_images[i]]


def _coco_results(split, index: int, output: dict) -> list[dict]:
    """One image's torchvision detections (boxes xyxy, labels from 1, scores) as COCO results.

    Label 0 is left out: it is no class, but torchvision's RetinaNet and FCOS also score their unused column.
    """
    boxes = output["boxes"].double()
    boxes[:, 2:] -= boxes[:, :2]
    return [
        {
            "image_id": split.image_ids[index],
            "category_id": split.categories[label - 1].id,
            "bbox": box,
            "score": score,
        }
        for box, label, score in zip(
            boxes.tolist(), output["labels"].tolist(), output["scores"].tolist(), strict=True
        )
        if label > 0
    ]


def coco_metrics(
    annotations: dict, detections: list[dict], area_cuts: tuple[float, float] = (32, 96), verify: bool = False
) -> dict[str, float | None]:
    """The ten COCO metrics of Table 1 and the AP at each IoU of Table 5, in percent.

    Args:
        annotations: a COCO dict; crowds are ignore regions.
        detections: COCO results; may be empty.
        area_cuts: the side lengths in pixels that separate small, medium and large objects.
        verify: also compute the metrics with pycocotools and require that they are equal.

    Returns:
        name -> percent; None where no object is of that size (COCO's -1).

    Raises:
        ValueError: if a score or box is not finite, an image is unknown, or the two evaluators differ.
    """
    check_detections(annotations, detections)
    ranges = [
        [0, 1e10],
        [0, area_cuts[0] ** 2],
        [area_cuts[0] ** 2, area_cuts[1] ** 2],
        [area_cuts[1] ** 2, 1e10],
    ]
    metrics = _evaluate(COCO, COCOeval, annotations, detections, ranges)
    if verify and detections:  # pycocotools cannot load an empty list
        from pycocotools.coco import COCO as ReferenceCOCO
        from pycocotools.cocoeval import COCOeval as ReferenceEval

        reference = _evaluate(ReferenceCOCO, ReferenceEval, annotations, detections, ranges)
        if metrics != reference:
            raise ValueError(f"hotcoco and pycocotools disagree: {metrics} against {reference}")
    return metrics


def check_detections(annotations: dict, detections: list[dict]) -> None:
    """Check COCO results for what the evaluators would misread silently.

    Raises:
        ValueError: if a score or box is not finite, or an image is not in the annotations.
    """
    for row in detections:
        if not np.isfinite([row["score"], *row["bbox"]]).all():
            raise ValueError(
                f"detection on image {row['image_id']} has a score or box that is not finite: {row}"
            )
    images = {image["id"] for image in annotations["images"]}
    if unknown := {row["image_id"] for row in detections} - images:
        raise ValueError(f"detections on images that are not in the annotations: {sorted(unknown)[:5]}")


def _evaluate(coco_class, eval_class, annotations: dict, detections: list[dict], ranges: list) -> dict:
    """The metrics by one evaluator.

    Args:
        ranges: [smallest, largest] area in pixels of all, small, medium and large objects.
    """
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hotcoco warns of size ranges other than COCO's
        if coco_class is COCO:
            truth = COCO(annotations)
            results = truth.load_res(detections)
        else:
            truth = coco_class()
            truth.dataset = annotations
            truth.createIndex()
            results = truth.loadRes([dict(row) for row in detections])
        evaluator = eval_class(truth, results, "bbox")
        evaluator.params.areaRng = ranges
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    values = {name: float(v) for name, v in zip(STATS, evaluator.stats, strict=True) if name}
    precision = np.asarray(evaluator.eval["precision"])[:, :, :, 0, -1]  # [IoU, recall, class]
    for row, iou in zip(precision, IOUS, strict=True):
        valid = row[row > -1]
        values[f"AP{iou}"] = float(valid.mean()) if valid.size else -1.0
    return {name: None if v == -1 else 100 * v for name, v in values.items()}
