"""Threshold, per-class scores and precision over recall, against values counted by hand."""

import math

import numpy as np
import pytest

from c2dlib.evaluation.metrics import coco_metrics
from c2dlib.evaluation.scores import best_threshold, per_class, precision_recall

RIGHT, WRONG = [0, 0, 10, 10], [60, 60, 10, 10]


def truth(*labels: int, crowds: tuple[int, ...] = ()) -> dict:
    """An image per label, with an object of that class at ``RIGHT``."""
    rows = [
        {
            "id": i,
            "image_id": i,
            "category_id": label,
            "bbox": RIGHT,
            "area": 100,
            "iscrowd": int(i in crowds),
        }
        for i, label in enumerate(labels, start=1)
    ]
    images = [{"id": i, "width": 100, "height": 100, "file_name": f"{i}"} for i in range(1, len(labels) + 1)]
    names = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}, {"id": 9, "name": "eel"}]
    return {"images": images, "annotations": rows, "categories": names}


def detection(image: int, label: int, score: float, box: list[int]) -> dict:
    return {"image_id": image, "category_id": label, "score": score, "bbox": box}


DETECTIONS = [
    detection(4, 7, 0.5, WRONG),
    detection(1, 3, 0.9, RIGHT),
    detection(1, 3, 0.8, WRONG),
    detection(2, 3, 0.7, RIGHT),
    detection(3, 7, 0.6, RIGHT),
]


def test_the_threshold_of_highest_f1_by_hand():
    """Of 4 objects: 1 right of 1 (F1 2/5), 1 of 2, 2 of 3 (4/7), 3 of 4 (6/8), 3 of 5 (6/9)."""
    found = best_threshold(truth(3, 3, 7, 7), DETECTIONS, "val")
    assert (found.score, found.f1, found.precision, found.recall) == (0.6, 75, 75, 75)
    assert found.split == "val" and "F1" in found.rule


def test_equal_scores_are_shown_together():
    """At 0.7 two of three are right, whatever their order: F1 is 2 * 2 / (3 + 2), below which nothing is."""
    tied = [detection(1, 3, 0.7, WRONG), detection(1, 3, 0.7, RIGHT), detection(2, 3, 0.7, RIGHT)]
    found = best_threshold(truth(3, 3), tied, "val")
    assert found.score == 0.7 and found.f1 == pytest.approx(80) and found.precision == pytest.approx(200 / 3)


def test_a_box_in_a_crowd_counts_neither_way():
    crowd = truth(3, 3, crowds=(2,))
    found = best_threshold(crowd, [detection(1, 3, 0.9, RIGHT), detection(2, 3, 0.8, RIGHT)], "val")
    assert (found.score, found.f1) == (0.9, 100)


@pytest.mark.parametrize("detections", [[], [detection(1, 3, 0.9, WRONG)]])
def test_without_a_right_box_there_is_no_threshold(detections):
    assert best_threshold(truth(3), detections, "val") is None
    frame = per_class(truth(3), detections, 0.5)
    assert frame.AP[0] == 0 and math.isnan(frame.AP[1]) and frame.shown[0] == len(detections)


def test_scores_per_class_by_hand():
    frame = per_class(truth(3, 3, 7, 7), DETECTIONS, 0.55).set_index("class")
    assert frame.objects.tolist() == [2, 2, 0] and frame.shown.tolist() == [3, 1, 0]
    assert frame.precision.tolist()[:2] == pytest.approx([200 / 3, 100])
    assert frame.recall.tolist()[:2] == [100, 50]
    assert frame.loc["eel", ["AP", "AP50", "precision", "recall"]].isna().all()
    # cat: precision 1 up to recall 0.5, then 2/3: (51 * 1 + 50 * 2/3) / 101
    assert frame.AP50["cat"] == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)


def test_the_mean_over_the_classes_is_mAP():
    annotations = truth(3, 3, 7, 7)
    frame, metrics = per_class(annotations, DETECTIONS, 0.5), coco_metrics(annotations, DETECTIONS)
    assert frame.AP.mean() == pytest.approx(metrics["mAP"])
    assert frame.AP50.mean() == pytest.approx(metrics["AP50"])
    curves = precision_recall(annotations, DETECTIONS)
    assert list(curves) == ["cat", "dog"] and curves["cat"].shape == (101,)
    assert np.allclose(curves["dog"], [1.0] * 51 + [0.0] * 50)
