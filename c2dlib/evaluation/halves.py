"""Halves of the test images: how much a difference of detectors depends on which images were taken."""

from __future__ import annotations

import random

import pandas as pd
from hotcoco import COCO, COCOeval

from c2dlib.evaluation.metrics import check_detections

DIVISIONS = 200
METRICS = {"mAP": "AP", "AP50": "AP50", "AP75": "AP75", "mAR": "AR100"}  # name here -> hotcoco's


def halves(annotations: dict, detections: list[dict], divisions: int = DIVISIONS) -> pd.DataFrame:
    """COCO metrics on one half of the images minus those on the other, for random divisions.

    The divisions depend on the image ids alone, so all detectors of a data set have the same ones. Of a mean
    over independent images such a difference D has, over the divisions, four times the variance of the mean
    on all images, and the D of two detectors four times the covariance of their means. COCO's metrics are
    means over images only approximately.

    Args:
        annotations: a COCO dict; crowds are ignore regions.
        detections: COCO results; may be empty.

    Returns:
        A line per division, a column per name in METRICS, in percent; NaN where a half has no object. Empty
        for fewer than two images.

    Raises:
        ValueError: if a score or box is not finite, or an image is unknown.
    """
    check_detections(annotations, detections)
    ids = sorted(image["id"] for image in annotations["images"])
    if len(ids) < 2:
        return pd.DataFrame(columns=list(METRICS), dtype=float)
    slices = {}
    for number in range(divisions):
        order = random.Random(number).sample(ids, len(ids))
        slices[f"{number}_a"], slices[f"{number}_b"] = order[: len(ids) // 2], order[len(ids) // 2 :]
    truth = COCO(annotations)
    evaluator = COCOeval(truth, truth.load_res(detections), "bbox")
    evaluator.evaluate()
    found = pd.DataFrame(evaluator.slice_by(slices)).T[list(METRICS.values())].astype(float)
    found = 100 * found.where(found > -1)  # COCO's -1: no object
    first, second = (found.loc[[f"{number}_{half}" for number in range(divisions)]] for half in "ab")
    return pd.DataFrame(first.to_numpy() - second.to_numpy(), columns=list(METRICS))
