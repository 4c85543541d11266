"""Precision and recall over the score: per class, as curves, and the threshold of highest F1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from hotcoco import COCO, COCOeval

from c2dlib.evaluation.metrics import check_detections

RULE = "highest F1 at IoU 0.5, all classes together"


@dataclass(frozen=True)
class Threshold:
    """The score from which on detections are shown, and what is true of those."""

    score: float  # 0..1
    f1: float  # percent, as the next two
    precision: float
    recall: float
    split: str  # that it was chosen on
    rule: str = RULE


def best_threshold(annotations: dict, detections: list[dict], split: str) -> Threshold | None:
    """The score whose detections have the highest F1, with the objects and detections of all classes pooled.

    A detection is right if COCO's matching at IoU 0.5 gives it an object of its class; those that lie in a
    crowd count neither way. The threshold is the lowest score that is still shown.

    Args:
        annotations: a COCO dict. detections: COCO results.
        split: the name of the split, for the result.

    Returns:
        None where there is no right detection.
    """
    matches, objects = _matches(annotations, detections)
    ordered = matches.sort_values("score", ascending=False, kind="stable")
    right, shown = ordered.right.cumsum().to_numpy(), np.arange(1, len(ordered) + 1)
    last_of_score = np.append(np.diff(ordered.score) != 0, True) if len(ordered) else np.zeros(0, bool)
    f1 = np.where(last_of_score, 2 * right / np.maximum(shown + objects.sum(), 1), 0)
    if not len(f1) or f1.max() == 0:
        return None
    at = int(f1.argmax())
    return Threshold(
        float(ordered.score.iloc[at]),
        100 * float(f1[at]),
        100 * float(right[at] / shown[at]),
        100 * float(right[at] / objects.sum()),
        split,
    )


def per_class(annotations: dict, detections: list[dict], score: float) -> pd.DataFrame:
    """A line per class: ``class``, ``objects``, ``AP`` (COCO's mean over IoU), ``AP50``, and at ``score`` the
    number of detections ``shown``, their ``precision`` and ``recall`` at IoU 0.5.

    All but the numbers of objects and detections are percent; NaN where they are not defined.
    """
    evaluator = _evaluated(annotations, detections)
    precision = np.asarray(evaluator.eval["precision"])[:, :, :, 0, -1]  # [IoU, recall, class]
    matches, objects = _matches(annotations, detections)
    shown = matches[matches.score >= score].groupby("category_id").right.agg(["size", "sum"])
    lines = []
    for k, category in enumerate(_categories(annotations)):
        count = int(objects.get(category["id"], 0))
        found, right = shown.loc[category["id"]] if category["id"] in shown.index else (0, 0)
        lines.append(
            {
                "class": category["name"],
                "objects": count,
                "AP": 100 * _mean(precision[:, :, k]),
                "AP50": 100 * _mean(precision[0, :, k]),
                "shown": int(found),
                "precision": 100 * right / found if found else np.nan,
                "recall": 100 * right / count if count else np.nan,
            }
        )
    return pd.DataFrame(lines)


def precision_recall(annotations: dict, detections: list[dict]) -> dict[str, np.ndarray]:
    """Class name -> COCO's precision at IoU 0.5 for the recalls 0, 0.01, ... 1, as shares.

    Classes without objects are left out.
    """
    precision = np.asarray(_evaluated(annotations, detections).eval["precision"])[0, :, :, 0, -1]
    curves = {c["name"]: precision[:, k] for k, c in enumerate(_categories(annotations))}
    return {name: curve for name, curve in curves.items() if curve.max() > -1}


def _categories(annotations: dict) -> list[dict]:
    """In the order of the evaluator."""
    return sorted(annotations["categories"], key=lambda category: category["id"])


def _mean(precision: np.ndarray) -> float:
    """The mean of what is defined; NaN where nothing is."""
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else np.nan


def _evaluated(annotations: dict, detections: list[dict]) -> COCOeval:
    check_detections(annotations, detections)
    truth = COCO(annotations)
    evaluator = COCOeval(truth, truth.load_res(detections), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator


def _matches(annotations: dict, detections: list[dict]) -> tuple[pd.DataFrame, pd.Series]:
    """The detections that count at IoU 0.5 (``category_id``, ``score``, ``right``); objects per category."""
    check_detections(annotations, detections)
    truth = COCO(annotations)
    evaluator = COCOeval(truth, truth.load_res(detections), "bbox")
    evaluator.params.iouThrs = [0.5]
    evaluator.params.areaRng = [[0, 1e10]]
    evaluator.params.areaRngLbl = ["all"]
    evaluator.evaluate()
    rows = [
        (entry["category_id"], score, matched)
        for entry in evaluator.evalImgs
        if entry
        for score, matched, ignored in zip(
            entry["dtScores"], entry["dtMatched"][0], entry["dtIgnore"][0], strict=True
        )
        if not ignored
    ]
    objects = pd.Series([a["category_id"] for a in annotations["annotations"] if not a.get("iscrowd")])
    return pd.DataFrame(rows, columns=["category_id", "score", "right"]), objects.value_counts()
