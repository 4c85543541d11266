"""Halves of the test images: the same for every detector, each as COCO evaluates it alone."""

import copy
import random

import pandas as pd
import pytest

from c2dlib.evaluation.halves import METRICS, halves
from c2dlib.evaluation.metrics import coco_metrics


def scenes(count: int) -> tuple[dict, list[dict]]:
    """One object per image, with a detection that is right on every image but each third one."""
    boxes = [[5.0 + i, 5.0, 20.0, 30.0] for i in range(count)]
    truth = {
        "images": [{"id": 7 * i, "width": 100, "height": 100} for i in range(count)],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": i + 1, "image_id": 7 * i, "category_id": 1 + i % 2, "bbox": box, "area": 600, "iscrowd": 0}
            for i, box in enumerate(boxes)
        ],
    }
    found = [
        {"image_id": 7 * i, "category_id": 1 + (i + (i % 3 == 0)) % 2, "bbox": box, "score": 0.9 - i / 100}
        for i, box in enumerate(boxes)
    ]
    return truth, found


def test_a_division_is_one_half_minus_the_other_each_evaluated_alone():
    truth, found = scenes(11)
    frame = halves(truth, found, divisions=3)
    assert len(frame) == 3 and list(frame) == list(METRICS)
    ids = random.Random(1).sample([7 * i for i in range(11)], 11)
    alone = []
    for kept in (ids[:5], ids[5:]):
        part = copy.deepcopy(truth)
        part["images"] = [image for image in truth["images"] if image["id"] in kept]
        part["annotations"] = [a for a in truth["annotations"] if a["image_id"] in kept]
        alone.append(coco_metrics(part, [row for row in found if row["image_id"] in kept]))
    for metric in METRICS:
        assert frame[metric][1] == pytest.approx(alone[0][metric] - alone[1][metric]), metric


def test_the_halves_do_not_depend_on_the_detections_or_the_order_of_images():
    truth, found = scenes(12)
    first = halves(truth, found)
    pd.testing.assert_frame_equal(first, halves({**truth, "images": truth["images"][::-1]}, found[::-1]))
    nothing = halves(truth, [])
    assert len(nothing) == len(first) and (nothing == 0).all(axis=None)


def test_the_variance_of_a_share_of_images():
    """The recall of a detector whose boxes are right on a share of the images: that of a binomial share."""
    truth, found = scenes(600)
    truth["categories"] = truth["categories"][:1]
    for a in truth["annotations"]:
        a["category_id"] = 1
    right = [{**row, "category_id": 1, "score": 0.5} for i, row in enumerate(found) if i % 4]
    error = (halves(truth, right).mAR.pow(2).mean() / 4) ** 0.5
    assert error == pytest.approx(100 * (0.75 * 0.25 / 600) ** 0.5, rel=0.12)


def test_a_half_without_objects_has_no_difference():
    truth, found = scenes(4)
    truth["annotations"] = truth["annotations"][:1]
    frame = halves(truth, found)
    assert frame.isna().all(axis=None) and len(frame) > 0


def test_one_image_has_no_halves_and_bad_detections_are_refused():
    truth, found = scenes(1)
    assert halves(truth, found).empty
    with pytest.raises(ValueError, match="not in the annotations"):
        halves(truth, [{**found[0], "image_id": 5}])
