"""COCO metrics by hand and against pycocotools; labels to category ids."""

import contextlib
import io
import math
import random

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from c2dlib.data.coco import Category
from c2dlib.evaluation.metrics import coco_metrics, detect


def annotations(boxes, categories=(1,), crowds=()):
    """``boxes``: (image, category, x, y, w, h); two images of 200 x 200, or as many as the boxes need."""
    rows = [
        {
            "id": i + 1,
            "image_id": b[0],
            "category_id": b[1],
            "bbox": list(b[2:]),
            "area": b[4] * b[5],
            "iscrowd": int(i in crowds),
        }
        for i, b in enumerate(boxes)
    ]
    images = [
        {"id": i, "width": 200, "height": 200, "file_name": f"{i}.png"}
        for i in range(1, max([2, *(b[0] for b in boxes)]) + 1)
    ]
    return {
        "images": images,
        "categories": [{"id": c, "name": str(c)} for c in categories],
        "annotations": rows,
    }


def found(image, box, score=0.9, category=1):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


TRUTH = annotations([(1, 1, 10, 20, 40, 40), (2, 1, 100, 100, 40, 40)])  # both of area 1600: medium
FIRST, SECOND = found(1, [10, 20, 40, 40]), found(2, [100, 100, 40, 40], 0.8)


@pytest.mark.parametrize(
    "detections, expected",
    [
        (
            [FIRST, SECOND],
            {
                "mAP": 100,
                "AP50": 100,
                "AP75": 100,
                "APm": 100,
                "APs": None,
                "APl": None,
                "mAR": 100,
                "ARm": 100,
                "ARl": None,
                "AP95": 100,
            },
        ),
        ([FIRST], {"mAP": 100 * 51 / 101, "mAR": 50}),  # precision 1 at the recalls 0, .01 .. .50
        (
            [FIRST, found(2, [100, 100, 40, 30])],  # IoU .75: both up to .75, then half
            {
                "AP50": 100,
                "AP75": 100,
                "AP80": 100 * 51 / 101,
                "mAP": 60 + 40 * 51 / 101,
                "mAR": 60 + 40 * 0.5,
            },
        ),
        (
            [
                FIRST,
                SECOND,
                found(1, [150, 150, 40, 40], 0.95),
            ],  # the best score is wrong: precision 2/3 throughout
            {"mAP": 200 / 3, "mAR": 100},
        ),
        (
            [found(1, [10, 20, 40, 40], 0.9, 1)] * 2 + [SECOND],
            {"mAP": 100 * (51 + 50 * 2 / 3) / 101},
        ),  # found twice
        ([], {"mAP": 0, "AP50": 0, "AP95": 0, "APm": 0, "APs": None, "APl": None, "mAR": 0}),
    ],
)
def test_by_hand(detections, expected):
    metrics = coco_metrics(TRUTH, detections, verify=True)
    assert {k: metrics[k] for k in expected} == pytest.approx(expected, abs=1e-9)
    names = {"mAP", "APs", "APm", "APl", "mAR", "ARs", "ARm", "ARl"}
    assert set(metrics) == names | {f"AP{iou}" for iou in range(50, 100, 5)}


def test_area_cuts_move_an_object_to_another_size():
    for cuts, size in (((50, 96), "APs"), ((32, 96), "APm"), ((20, 30), "APl")):
        metrics = coco_metrics(TRUTH, [FIRST, SECOND], cuts, verify=True)
        assert {k: metrics[k] for k in ("APs", "APm", "APl")} == {
            k: 100.0 if k == size else None for k in ("APs", "APm", "APl")
        }


def test_crowds_are_regions_to_ignore_and_no_objects_are_no_number():
    crowd = annotations([(1, 1, 10, 20, 40, 40), (1, 1, 100, 100, 80, 80)], crowds=[1])
    inside, outside = found(1, [110, 110, 20, 20], 0.99), found(1, [60, 20, 20, 20], 0.99)
    assert coco_metrics(crowd, [FIRST, inside], verify=True)["mAP"] == pytest.approx(100)
    assert coco_metrics(crowd, [FIRST, outside], verify=True)["mAP"] == pytest.approx(50)
    assert set(coco_metrics(annotations([]), [FIRST], verify=True).values()) == {None}


@pytest.mark.parametrize("seed", [0, 1])
def test_equals_pycocotools_on_random_data(seed):
    rng = random.Random(seed)
    ids, cuts = [3, 7, 90], (24, 60)

    def box():
        return [rng.uniform(0, 100), rng.uniform(0, 100), rng.uniform(5, 100), rng.uniform(5, 100)]

    truth = annotations(
        [(rng.randint(1, 12), rng.choice(ids), *box()) for _ in range(60)], ids, crowds=range(0, 60, 9)
    )
    near = [
        found(
            r["image_id"],
            [v + rng.uniform(-4, 4) for v in r["bbox"][:2]]
            + [v * rng.uniform(0.8, 1.2) for v in r["bbox"][2:]],
            rng.random(),
            r["category_id"],
        )
        for r in truth["annotations"]
        for _ in range(2)
    ]
    detections = near + [
        found(rng.choice(truth["images"])["id"], box(), rng.random(), rng.choice(ids)) for _ in range(200)
    ]
    metrics = coco_metrics(truth, detections, cuts, verify=True)
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {"info": {}, **truth}
        reference.createIndex()
        e = COCOeval(reference, reference.loadRes([dict(d) for d in detections]), "bbox")
        e.params.areaRng = [[0, 1e10], [0, 24**2], [24**2, 60**2], [60**2, 1e10]]
        e.evaluate()
        e.accumulate()
        e.summarize()
    names = ["mAP", "AP50", "AP75", "APs", "APm", "APl", None, None, "mAR", "ARs", "ARm", "ARl"]
    for name, value in zip(names, e.stats, strict=True):
        assert name is None or metrics[name] == pytest.approx(100 * value, abs=1e-9)
    by_iou = [metrics[f"AP{iou}"] for iou in range(50, 100, 5)]
    assert 5 < metrics["mAP"] < 95 and sum(by_iou) / 10 == pytest.approx(metrics["mAP"], abs=1e-9)
    assert by_iou == sorted(by_iou, reverse=True)


@pytest.mark.parametrize(
    "wrong, words",
    [
        (found(2, [1, 1, 5, 5], math.nan), "image 2 .*not finite"),
        (found(1, [1, 1, math.inf, 5]), "image 1 .*not finite"),
        (found(77, [1, 1, 5, 5]), "not in the annotations.*77"),
    ],
)
def test_detections_that_cannot_be(wrong, words):
    with pytest.raises(ValueError, match=words):
        coco_metrics(TRUTH, [FIRST, wrong])


def test_two_evaluators_that_differ_are_reported(monkeypatch):
    monkeypatch.setattr(
        COCOeval,
        "accumulate",
        lambda self, p=None, true=COCOeval.accumulate: (true(self, p), self.eval["precision"].fill(0.5))[0],
    )
    with pytest.raises(ValueError, match="disagree"):
        coco_metrics(TRUTH, [FIRST, SECOND], verify=True)


class Fake(torch.nn.Module):
    """Finds in an image of value v a box of each of the labels 1, 2 and 0; nothing in a black one."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, images):
        assert not self.training and all(i.dtype == torch.float32 and i.max() <= 1 for i in images)
        self.batches.append(len(images))
        boxes = torch.tensor([[1.0, 2, 11, 22], [5, 5, 6, 9], [0, 0, 8, 8]])
        return [
            {
                "boxes": boxes[:n].clone(),
                "labels": torch.tensor([1, 2, 0])[:n],  # 0: RetinaNet's and FCOS's unused column
                "scores": image.max().expand(3)[:n],
            }
            for image in images
            for n in [3 if image.max() > 0 else 0]
        ]


class Split:
    image_ids = (4, 8, 15)
    categories = (Category(3, "three"), Category(90, "ninety"))

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return torch.full((3, 8, 8), (51, 0, 255)[i], dtype=torch.uint8), {}


def test_detect_gives_coco_results():
    model, seen = Fake(), []
    results = detect(model, Split(), "cpu", batch_size=2, progress=lambda done, of: seen.append((done, of)))
    assert model.batches == [2, 1] and seen == [(2, 3), (3, 3)]
    assert [(r["image_id"], r["category_id"], r["bbox"], round(r["score"], 6)) for r in results] == [
        (4, 3, [1, 2, 10, 20], 0.2),
        (4, 90, [5, 5, 1, 4], 0.2),
        (15, 3, [1, 2, 10, 20], 1.0),
        (15, 90, [5, 5, 1, 4], 1.0),
    ]
