"""How well a detector's scores order its boxes: two measures that separate ranking from localisation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from c2dlib.evaluation.metrics import IOUS, check_detections, coco_metrics

SCORE_IOU = "score_IoU"  # columns of ``ranking``
ORACLE = "AP_oracle"


def ranking(annotations: dict, detections: list[dict]) -> pd.DataFrame:
    """Score-IoU correlation and oracle-ranked AP.

    The IoU of a detection is its largest one with an object of its class on its image; crowds do not count.

    Args:
        annotations: a COCO dict.
        detections: COCO results; may be empty.

    Returns:
        Indexed by the IoU thresholds of ``IOUS``:

        - ``score_IoU``: Spearman's rank correlation of score and IoU, -1..1, over the detections whose IoU is
          at least the threshold; NaN for fewer than three of them, or where all scores or IoUs are equal;
        - ``AP_oracle``: AP in percent at the threshold if each object's best box had its IoU as score and
          every other box, such as a second one of an object, came after them all (see ``oracle_scores``). The
          boxes and classes are as they are, so AP_oracle - AP is what the order costs (it can be less than
          that, or even negative, only where boxes fit several objects).

    Raises:
        ValueError: if a score or box is not finite, or an image is unknown.
    """
    check_detections(annotations, detections)
    ious, oracle = own_ious(annotations, detections), oracle_scores(annotations, detections)
    scores = torch.tensor([row["score"] for row in detections], dtype=torch.float64)
    ranked = [{**row, "score": score} for row, score in zip(detections, oracle.tolist(), strict=True)]
    metrics = coco_metrics(annotations, ranked)
    return pd.DataFrame(
        {
            SCORE_IOU: [_correlation(scores, ious, iou / 100) for iou in IOUS],
            ORACLE: [metrics[f"AP{iou}"] for iou in IOUS],
        },
        index=pd.Index(IOUS, name="IoU"),
        dtype=float,
    )


def own_ious(annotations: dict, detections: list[dict]) -> Tensor:
    """Each detection's largest IoU with an object of its class on its image: [D] in 0..1; 0 without one."""
    ious = torch.zeros(len(detections), dtype=torch.float64)
    for rows, table in _iou_tables(annotations, detections):
        ious[rows] = table.amax(1)
    return ious


def oracle_scores(annotations: dict, detections: list[dict]) -> Tensor:
    """The IoU of each detection with the object that it is given: [D] in 0..1; 0 for one without an object.

    Of all pairs of an object and a detection of its class on its image, the one of the largest IoU is formed
    first, then the next one of those that are left. So an object has one detection at most.
    """
    scores = torch.zeros(len(detections), dtype=torch.float64)
    for rows, table in _iou_tables(annotations, detections):
        for _ in range(min(table.shape)):
            row, column = divmod(int(table.argmax()), table.shape[1])
            scores[rows[row]] = table[row, column]
            table[row], table[:, column] = -1, -1
    return scores


def _iou_tables(annotations: dict, detections: list[dict]) -> Iterator[tuple[list[int], Tensor]]:
    """Per image and class with objects: the rows of its detections, their IoUs with its objects [d, g]."""
    truth, rows = defaultdict(list), defaultdict(list)
    for a in annotations["annotations"]:
        if not a.get("iscrowd"):
            truth[a["image_id"], a["category_id"]].append(a["bbox"])
    for i, row in enumerate(detections):
        rows[row["image_id"], row["category_id"]].append(i)
    for key, indices in rows.items():
        if key in truth:
            boxes = _corners([detections[i]["bbox"] for i in indices])
            yield indices, box_iou(boxes, _corners(truth[key]))


def _corners(boxes: list[list[float]]) -> Tensor:
    return box_convert(torch.tensor(boxes, dtype=torch.float64), "xywh", "xyxy")


def _correlation(scores: Tensor, ious: Tensor, least: float) -> float:
    kept = ious >= least
    if kept.sum() < 3 or len(scores[kept].unique()) == 1 or len(ious[kept].unique()) == 1:
        return float("nan")
    return float(spearmanr(scores[kept].numpy(), ious[kept].numpy()).statistic)
