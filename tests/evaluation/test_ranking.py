"""Score-IoU correlation and oracle-ranked AP, on boxes whose IoUs are known."""

import math

import pytest
import torch

from c2dlib.evaluation.metrics import IOUS
from c2dlib.evaluation.ranking import ORACLE, SCORE_IOU, oracle_scores, own_ious, ranking

OBJECTS = [  # image, xywh, crowd
    (1, [0, 0, 20, 20], 0),
    (1, [50, 50, 20, 20], 0),
    (2, [0, 0, 20, 20], 0),
    (2, [60, 60, 20, 20], 1),
]
ANNOTATIONS = {
    "images": [{"id": 1, "width": 100, "height": 100}, {"id": 2, "width": 100, "height": 100}],
    "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    "annotations": [
        {"id": i, "image_id": image, "category_id": 1, "bbox": box, "area": 400, "iscrowd": crowd}
        for i, (image, box, crowd) in enumerate(OBJECTS, 1)
    ],
}


def detection(image: int, box: list[float], score: float, category: int = 1) -> dict:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def test_the_iou_of_a_detection_is_with_an_object_of_its_class_on_its_image():
    detections = [
        detection(1, [0, 0, 20, 20], 0.1),
        detection(1, [50, 50, 20, 10], 0.2),  # half of the object
        detection(1, [0, 0, 20, 20], 0.3, category=2),
        detection(2, [50, 50, 20, 20], 0.4),  # its object is on the other image
        detection(2, [60, 60, 20, 20], 0.5),  # a crowd
    ]
    assert own_ious(ANNOTATIONS, detections).tolist() == pytest.approx([1, 0.5, 0, 0, 0])


def test_a_perfect_order_mends_the_order_and_nothing_else():
    """Three objects; the three right boxes have the lowest scores, below four boxes on background."""
    right = [detection(1, [0, 0, 20, 20], 0.1), detection(1, [50, 50, 20, 12], 0.2)]
    wrong = [detection(2, [30 + i, 70, 9, 9], 0.5 + i / 10) for i in range(4)]
    found = ranking(ANNOTATIONS, [*wrong, *right])
    # by IoU the right boxes come first: one object of three at every threshold, a second one up to .60
    for iou in IOUS:
        recalls = sum(t <= (200 / 300 if iou <= 60 else 100 / 300) for t in torch.linspace(0, 100, 101) / 100)
        assert found[ORACLE][iou] == pytest.approx(100 * recalls.item() / 101, abs=0.01)
    assert math.isnan(found[SCORE_IOU][50])  # two detections on objects


def two_objects(second: list[float]) -> dict:
    rows = [ANNOTATIONS["annotations"][0], {**ANNOTATIONS["annotations"][1], "bbox": second}]
    return ANNOTATIONS | {"annotations": rows}


def test_a_second_box_of_an_object_comes_after_the_best_box_of_another():
    """By IoU alone the object's second box (.60) came before the only one of the other object (.55)."""
    boxes = [[0, 0, 15, 20], [8, 0, 12, 20], [50, 50, 11, 20]]
    detections = [detection(1, box, score) for box, score in zip(boxes, (0.9, 0.2, 0.8), strict=True)]
    truth = two_objects([50, 50, 20, 20])
    assert own_ious(truth, detections).tolist() == pytest.approx([0.75, 0.6, 0.55])
    assert oracle_scores(truth, detections).tolist() == pytest.approx([0.75, 0, 0.55])
    assert ranking(truth, detections)[ORACLE][50] == pytest.approx(100)


def test_a_box_whose_object_has_a_better_one_is_given_the_next_object():
    detections = [
        detection(1, [80, 80, 9, 9], 0.9),
        detection(1, [0, 0, 20, 20], 0.8),
        detection(1, [1, 0, 20, 20], 0.7),  # 19/21 of the first object, 17/23 of the second
    ]
    truth = two_objects([4, 0, 20, 20])
    assert oracle_scores(truth, detections).tolist() == pytest.approx([0, 1, 17 / 23])
    assert ranking(truth, detections)[ORACLE][50] == pytest.approx(100)


def test_the_correlation_is_one_where_better_boxes_score_higher():
    widths = [20, 18, 16, 14, 12]  # IoU 1 to .6
    up = [detection(1, [0, 0, w, 20], w / 100) for w in widths]
    down = [detection(1, [0, 0, w, 20], 1 - w / 100) for w in widths]
    background = [detection(1, [80, 0, 9, 9], 0.99)]  # below every threshold
    assert ranking(ANNOTATIONS, up + background)[SCORE_IOU][50] == pytest.approx(1)
    found = ranking(ANNOTATIONS, down + background)[SCORE_IOU]
    assert found[50] == pytest.approx(-1) and found[75] == pytest.approx(-1) and math.isnan(found[95])


def test_no_detections():
    found = ranking(ANNOTATIONS, [])
    assert found[SCORE_IOU].isna().all() and (found[ORACLE] == 0).all()
    with pytest.raises(ValueError, match="not in the annotations"):
        ranking(ANNOTATIONS, [detection(7, [0, 0, 1, 1], 0.5)])
