"""Metrics on halves of the test images: how much a result depends on which images were taken."""

from __future__ import annotations

import random

import pandas as pd
from hotcoco import COCO, COCOeval

from c2dlib.evaluation.metrics import check_detections

DIVISIONS = 40
METRICS = {"mAP": "AP", "AP50": "AP50", "AP75": "AP75", "mAR": "AR100"}  # name here -> hotcoco's


def halves(annotations: dict, detections: list[dict], divisions: int = DIVISIONS) -> pd.DataFrame:
    """COCO metrics on both halves of random divisions of the images.

    The divisions depend on the image ids alone, so all detectors of a data set have the same ones. For a
    difference between detectors let D be its value on one half minus that on the other. Its standard error
    from the choice of images is then the root of the mean of D squared over the divisions, divided by two:
    for a mean over images, D has four times the variance of the difference on all images.

    Args:
        annotations: a COCO dict; crowds are ignore regions.
        detections: COCO results; may be empty.

    Returns:
        A line per division; the columns are ``<metric>_a`` and ``<metric>_b`` for each of METRICS, in
        percent. Empty for fewer than two images.

    Raises:
        ValueError: if a score or box is not finite, or an image is unknown.
    """
    check_detections(annotations, detections)
    columns = [f"{metric}_{half}" for metric in METRICS for half in "ab"]
    ids = sorted(image["id"] for image in annotations["images"])
    if len(ids) < 2:
        return pd.DataFrame(columns=columns, dtype=float)
    slices = {}
    for number in range(divisions):
        order = random.Random(number).sample(ids, len(ids))
        slices[f"{number}_a"], slices[f"{number}_b"] = order[: len(ids) // 2], order[len(ids) // 2 :]
    truth = COCO(annotations)
    evaluator = COCOeval(truth, truth.load_res(detections), "bbox")
    evaluator.evaluate()
    found = evaluator.slice_by(slices)
    return pd.DataFrame(
        [
            [100 * found[f"{number}_{half}"][name] for name in METRICS.values() for half in "ab"]
            for number in range(divisions)
        ],
        columns=columns,
    )
