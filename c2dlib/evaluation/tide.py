"""TIDE: how much AP each type of error costs (Bolya et al. 2020; the paper's Figure 3 and its supplement).

hotcoco computes the costs of a whole data set, as it is much faster than tidecv. tidecv, without its plots,
gives what hotcoco lacks: the costs per class and the list of single errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from hotcoco import COCO, COCOeval
from torchvision.ops import batched_nms, box_convert

from c2dlib.evaluation.metrics import IOUS, check_detections, coco_metrics

TYPES = ["Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"]
SPECIAL = ["FalsePos", "FalseNeg"]
BOXES = "AP_boxes"  # the column of ``box_ap`` beside those of the error types
MEANING = {
    "Cls": "right place, wrong class",
    "Loc": "right class, IoU too low",
    "Both": "wrong class and IoU too low",
    "Dupe": "a second box on a detected object",
    "Bkg": "a box on background",
    "Miss": "an object without any box",
}
BACKGROUND = 0.1  # a box with a lower IoU with every object is background (TIDE's t_b)


def tide(annotations: dict, detections: list[dict], ious: list[int] = IOUS) -> pd.DataFrame:
    """How many points of AP each type of error costs, at several IoU thresholds.

    Args:
        annotations: a COCO dict; crowds are ignore regions.
        detections: COCO results; may be empty (then every dAP is 0).
        ious: thresholds in percent.

    Returns:
        Indexed by IoU: ``AP``, then dAP in points per type of ``TYPES`` and ``SPECIAL`` (the gain if only
        these errors were corrected), then ``n_<type>``, the number of errors.

    Raises:
        ValueError: if a score or box is not finite, an image is unknown, or a threshold is not in 11..99.
    """
    check_detections(annotations, detections)
    if bad := [iou for iou in ious if not 100 * BACKGROUND < iou < 100]:
        raise ValueError(f"IoU thresholds are percent between {100 * BACKGROUND:.0f} and 100, got {bad}")
    truth = COCO(annotations)
    evaluator = COCOeval(truth, truth.load_res(detections), "bbox")
    evaluator.params.iouThrs = [
        iou / 100 for iou in ious
    ]  # otherwise hotcoco silently uses the nearest default threshold
    evaluator.evaluate()
    lines = []
    for iou in ious:
        errors = evaluator.tide_errors(iou / 100, BACKGROUND)
        costs = {
            **errors["delta_ap"],
            "FalsePos": errors["delta_ap"]["FP"],
            "FalseNeg": errors["delta_ap"]["FN"],
        }
        lines.append(
            {"IoU": iou, "AP": 100 * errors["ap_base"]}
            | {t: 100 * costs[t] for t in TYPES + SPECIAL}
            | {f"n_{t}": errors["counts"][t] for t in TYPES}
        )
    return pd.DataFrame(lines).set_index("IoU")


def box_ap(annotations: dict, detections: list[dict]) -> pd.Series:
    """AP of the boxes alone: in percent at each IoU of ``IOUS``, with every class counted as one.

    An anchor gives one detection per class, so non-maximum suppression over all classes (IoU 0.5) is applied
    first.

    Raises:
        ValueError: as ``tide``.
    """
    check_detections(annotations, detections)
    boxes = torch.tensor([row["bbox"] for row in detections], dtype=torch.float64).reshape(-1, 4)
    images, scores = (torch.tensor([row[key] for row in detections]) for key in ("image_id", "score"))
    kept = batched_nms(box_convert(boxes, "xywh", "xyxy"), scores.double(), images, 0.5)
    truth = {
        **annotations,
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [{**a, "category_id": 1} for a in annotations["annotations"]],
    }
    metrics = coco_metrics(truth, [{**detections[i], "category_id": 1} for i in kept.tolist()])
    return pd.Series({iou: metrics[f"AP{iou}"] for iou in IOUS}, name=BOXES, dtype=float)


def _tidecv(annotations: dict, detections: list[dict], iou: int):
    """tidecv's run at one IoU threshold in percent.

    tidecv's own readers fail on annotations without masks, so its data are filled here.
    """
    from tidecv import Data
    from tidecv.quantify import TIDERun

    check_detections(annotations, detections)
    # tidecv's default of 100 is per image over all classes; COCO's is per class
    limit = max(100, len(detections))
    truth, predictions = Data("truth", max_dets=limit), Data("predictions", max_dets=limit)
    for image in annotations["images"]:
        truth.add_image(image["id"], image.get("file_name", str(image["id"])))
    for category in annotations["categories"]:
        truth.add_class(category["id"], category["name"])
    for a in annotations["annotations"]:
        (truth.add_ignore_region if a.get("iscrowd") else truth.add_ground_truth)(
            a["image_id"], a["category_id"], a["bbox"]
        )
    for row in detections:
        predictions.add_detection(
            row["image_id"], row["category_id"], float(row["score"]), [float(v) for v in row["bbox"]]
        )
    return TIDERun(truth, predictions, iou / 100, BACKGROUND, "bbox", limit, True)


def tide_per_class(annotations: dict, detections: list[dict], iou: int = 50) -> pd.DataFrame:
    """dAP in points of each error type for each class, by tidecv, at one IoU threshold in percent.

    Returns:
        Indexed by class name, in the order of the categories: ``AP``, then the types. Classes without ground
        truth have no AP and are left out.

    Raises:
        ValueError: as ``tide``.
    """
    from tidecv import TIDE

    run = _tidecv(annotations, detections, iou)
    ap = {c: data.get_ap() for c, data in run.ap_data.objs.items() if data.num_gt_positives > 0}
    corrected = {
        kind.short_name: run.fix_errors(lambda error, kind=kind: isinstance(error, kind)).objs
        for kind in TIDE._error_types
    }
    lines = {
        category["name"]: {"AP": ap[c]} | {t: max(corrected[t][c].get_ap() - ap[c], 0.0) for t in TYPES}
        for category in annotations["categories"]
        if (c := category["id"]) in ap
    }
    return pd.DataFrame.from_dict(lines, orient="index", columns=["AP", *TYPES])


@dataclass(frozen=True)
class ErrorExample:
    """One error: a detection, an object, or both. Boxes are xywh in pixels of the image."""

    type: str
    image_id: int
    box: list[float] | None  # of the detection; None for Miss
    category_id: int | None
    score: float | None
    truth_box: list[float] | None  # of the object it concerns: Cls, Loc, Dupe and Miss
    truth_category_id: int | None
    iou: float | None  # of the two boxes


def examples(annotations: dict, detections: list[dict], iou: int = 50) -> dict[str, list[ErrorExample]]:
    """Every single error per type, by tidecv, in the order of falling score.

    Missed objects, which have no score, are in the order of falling area.

    Raises:
        ValueError: as ``tide``.
    """
    run = _tidecv(annotations, detections, iou)
    by_id = {truth["_id"]: truth for truth in run.gt.annotations}
    by_type: dict[str, list[ErrorExample]] = {t: [] for t in TYPES}
    for kind, errors in run.error_dict.items():
        by_type[kind.short_name] = [_example(kind.short_name, error, by_id) for error in errors]
    for kind, rows in by_type.items():
        rows.sort(
            key=lambda row: (
                -row.truth_box[2] * row.truth_box[3] if kind == "Miss" else -row.score,
                row.image_id,
            )
        )
    return by_type


def _example(kind: str, error, truth_by_id: dict) -> ErrorExample:
    """A tidecv error as an ``ErrorExample``."""
    detection, truth = getattr(error, "pred", None), getattr(error, "gt", None)
    if kind == "Dupe":  # its object is matched with a detection of higher score
        truth = truth_by_id[error.suppressor["matched_with"]]
    iou = box_iou_xywh(detection["bbox"], truth["bbox"]) if detection and truth else None
    return ErrorExample(
        kind,
        (truth or detection)["image"],
        detection and list(detection["bbox"]),
        detection and detection["class"],
        detection and detection["score"],
        truth and list(truth["bbox"]),
        truth and truth["class"],
        iou,
    )


def box_iou_xywh(a: list[float], b: list[float]) -> float:
    """IoU of two boxes x, y, width, height."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    intersection = max(width, 0) * max(height, 0)
    union = a[2] * a[3] + b[2] * b[3] - intersection
    return intersection / union if union > 0 else 0.0


def ap50_per_image(annotations: dict, detections: list[dict]) -> pd.Series:
    """AP50 in percent of each single image over its classes, indexed by image id.

    Images without objects are left out.

    Raises:
        ValueError: as ``tide``.
    """
    check_detections(annotations, detections)
    truth = COCO(annotations)
    evaluator = COCOeval(truth, truth.load_res(detections), "bbox")
    evaluator.evaluate()
    per_image = evaluator.image_diagnostics(0.5, 0.0)["img_summary"]
    with_objects = sorted({a["image_id"] for a in annotations["annotations"] if not a.get("iscrowd")})
    return pd.Series(
        {i: 100 * max(per_image.get(i, {}).get("ap", 0.0), 0.0) for i in with_objects},
        dtype=float,
        name="AP50",
    )


def telling_images(baseline: pd.Series, distilled: pd.Series, each: int = 2) -> pd.DataFrame:
    """The images to show, chosen by rule: those with the largest gain, the median gain and the largest loss.

    Args:
        baseline, distilled: ``ap50_per_image`` of two detectors.
        each: number of images of each sort.

    Returns:
        Indexed by image id: ``sort`` (gained, middle, lost), ``baseline``, ``distilled``. Equal changes are
        ordered by id.
    """
    both = pd.DataFrame({"baseline": baseline, "distilled": distilled}).sort_index()
    order = both.assign(change=both.distilled - both.baseline).sort_values(
        "change", ascending=False, kind="stable"
    )
    each = min(each, len(order) // 3)
    middle = (len(order) - each) // 2
    sorts = {
        "gained": order.iloc[:each],
        "middle": order.iloc[middle : middle + each],
        "lost": order.iloc[::-1][:each],
    }
    return pd.concat([rows.assign(sort=name) for name, rows in sorts.items()])[
        ["sort", "baseline", "distilled"]
    ]
