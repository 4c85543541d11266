"""TIDE: which kind of error costs how much AP (Bolya et al. 2020; the paper's Figure 3 and its supplement).

Numbers come from hotcoco, much faster than tidecv; what only tidecv has (per class, and the single
errors) from tidecv, without its plots and its global style.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import pandas as pd
import torch
from hotcoco import COCO, COCOeval
from torchvision.ops import batched_nms, box_convert

from c2dlib.config.experiment import Experiment
from c2dlib.evaluation.metrics import IOUS, check_detections, coco_metrics
from c2dlib.files import write_whole
from c2dlib.records import RecordError
from c2dlib.reporting.tables import paired
from c2dlib.training.run import find_record, run_detections
from c2dlib.workspace import Workspace, opened

TYPES = ["Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"]
SPECIAL = ["FalsePos", "FalseNeg"]
BOXES = "AP_boxes"  # of ``box_ap``, beside the types of an error
MEANING = {"Cls": "right place, wrong class", "Loc": "right class, box too far off", "Both": "wrong class and box off",
           "Dupe": "a second box on a found object", "Bkg": "no object there", "Miss": "an object nothing covers"}
BACKGROUND = 0.1  # below this IoU with every object a box is background (TIDE's t_b)


def tide(annotations: dict, detections: list[dict], ious: list[int] = IOUS) -> pd.DataFrame:
    """How many points of AP each type of error costs, at several IoU thresholds.

    Args:
        annotations: a COCO dict; crowds are ignore regions.
        detections: COCO results; may be empty (then nothing can be repaired but FalseNeg: every dAP is 0).
        ious: thresholds in percent.

    Returns:
        Indexed by IoU: ``AP``, then dAP in points per type of ``TYPES`` and ``SPECIAL`` (what repairing these errors
        alone would gain), then ``n_<type>``, how many there are.

    Raises:
        ValueError: if a score or box is not finite, an image is unknown, or a threshold is not in 11..99.
    """
    check_detections(annotations, detections)
    if bad := [iou for iou in ious if not 100 * BACKGROUND < iou < 100]:
        raise ValueError(f"IoU thresholds are percent between {100 * BACKGROUND:.0f} and 100, got {bad}")
    truth = COCO(annotations)
    evaluator = COCOeval(truth, truth.load_res(detections), "bbox")
    evaluator.params.iouThrs = [iou / 100 for iou in ious]  # else the nearest of the default ones is used, silently
    evaluator.evaluate()
    lines = []
    for iou in ious:
        found = evaluator.tide_errors(iou / 100, BACKGROUND)
        costs = {**found["delta_ap"], "FalsePos": found["delta_ap"]["FP"], "FalseNeg": found["delta_ap"]["FN"]}
        lines.append({"IoU": iou, "AP": 100 * found["ap_base"]} | {t: 100 * costs[t] for t in TYPES + SPECIAL}
                     | {f"n_{t}": found["counts"][t] for t in TYPES})
    return pd.DataFrame(lines).set_index("IoU")


def box_ap(annotations: dict, detections: list[dict]) -> pd.Series:
    """How well the boxes alone lie: AP in percent at each IoU of ``IOUS`` with every class counted as one.

    Of detections that overlap by more than half, of whatever class, the surest stays, for an anchor gives one per class.

    Raises:
        ValueError: as ``tide``.
    """
    check_detections(annotations, detections)
    boxes = torch.tensor([row["bbox"] for row in detections], dtype=torch.float64).reshape(-1, 4)
    images, scores = (torch.tensor([row[key] for row in detections]) for key in ("image_id", "score"))
    kept = batched_nms(box_convert(boxes, "xywh", "xyxy"), scores.double(), images, 0.5)
    truth = {**annotations, "categories": [{"id": 1, "name": "object"}],
             "annotations": [{**a, "category_id": 1} for a in annotations["annotations"]]}
    found = coco_metrics(truth, [{**detections[i], "category_id": 1} for i in kept.tolist()])
    return pd.Series({iou: found[f"AP{iou}"] for iou in IOUS}, name=BOXES, dtype=float)


def _tidecv(annotations: dict, detections: list[dict], iou: int):
    """tidecv's run at one threshold, filled by hand: its own readers fail on boxes without masks."""
    from tidecv import Data
    from tidecv.quantify import TIDERun

    check_detections(annotations, detections)
    most = max(100, len(detections))  # its limit of 100 is per image over all classes; COCO's is per class
    truth, found = Data("truth", max_dets=most), Data("found", max_dets=most)
    for image in annotations["images"]:
        truth.add_image(image["id"], image.get("file_name", str(image["id"])))
    for category in annotations["categories"]:
        truth.add_class(category["id"], category["name"])
    for a in annotations["annotations"]:
        (truth.add_ignore_region if a.get("iscrowd") else truth.add_ground_truth)(
            a["image_id"], a["category_id"], a["bbox"])
    for row in detections:
        found.add_detection(row["image_id"], row["category_id"], float(row["score"]), [float(v) for v in row["bbox"]])
    return TIDERun(truth, found, iou / 100, BACKGROUND, "bbox", most, True)


def tide_per_class(annotations: dict, detections: list[dict], iou: int = 50) -> pd.DataFrame:
    """dAP in points of each error type for each class, by tidecv, at one IoU threshold in percent.

    Returns:
        Indexed by class name, in the order of the categories: ``AP``, then the types. Classes without ground truth
        have no AP and are left out.

    Raises:
        ValueError: as ``tide``.
    """
    from tidecv import TIDE

    run = _tidecv(annotations, detections, iou)
    base = {c: data.get_ap() for c, data in run.ap_data.objs.items() if data.num_gt_positives > 0}
    mended = {kind.short_name: run.fix_errors(lambda error, kind=kind: isinstance(error, kind)).objs
              for kind in TIDE._error_types}
    lines = {category["name"]: {"AP": base[category["id"]]} | {
        t: max(mended[t][category["id"]].get_ap() - base[category["id"]], 0.0) for t in TYPES}
        for category in annotations["categories"] if category["id"] in base}
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
    """Every single error per type, by tidecv, surest detection first; missed objects largest first.

    Raises:
        ValueError: as ``tide``.
    """
    run = _tidecv(annotations, detections, iou)
    by_id = {truth["_id"]: truth for truth in run.gt.annotations}
    found: dict[str, list[ErrorExample]] = {t: [] for t in TYPES}
    for kind, errors in run.error_dict.items():
        found[kind.short_name] = [_example(kind.short_name, error, by_id) for error in errors]
    for kind, rows in found.items():
        rows.sort(key=lambda e: (-e.truth_box[2] * e.truth_box[3] if kind == "Miss" else -e.score, e.image_id))
    return found


def _example(kind: str, error, by_id: dict) -> ErrorExample:
    found, truth = getattr(error, "pred", None), getattr(error, "gt", None)
    if kind == "Dupe":  # its object is the one that a surer detection was matched with
        truth = by_id[error.suppressor["matched_with"]]
    where = (truth or found)["image"]
    return ErrorExample(
        kind, where, found and list(found["bbox"]), found and found["class"], found and found["score"],
        truth and list(truth["bbox"]), truth and truth["class"],
        box_iou_xywh(found["bbox"], truth["bbox"]) if found and truth else None)


def box_iou_xywh(a: list[float], b: list[float]) -> float:
    """IoU of two boxes x, y, width, height."""
    wide = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    high = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(wide, 0) * max(high, 0)
    union = a[2] * a[3] + b[2] * b[3] - common
    return common / union if union > 0 else 0.0


def ap50_per_image(annotations: dict, detections: list[dict]) -> pd.Series:
    """AP50 in percent of each image by itself, its classes pooled; by image id, images without objects left out.

    Raises:
        ValueError: as ``tide``.
    """
    check_detections(annotations, detections)
    truth = COCO(annotations)
    evaluator = COCOeval(truth, truth.load_res(detections), "bbox")
    evaluator.evaluate()
    found = evaluator.image_diagnostics(0.5, 0.0)["img_summary"]
    there = sorted({a["image_id"] for a in annotations["annotations"] if not a.get("iscrowd")})
    return pd.Series({i: 100 * max(found.get(i, {}).get("ap", 0.0), 0.0) for i in there}, dtype=float, name="AP50")


def telling_images(baseline: pd.Series, distilled: pd.Series, each: int = 2) -> pd.DataFrame:
    """Which images to show, by rule: those that gained most, those in the middle, those that lost most.

    Args:
        baseline, distilled: ``ap50_per_image`` of two detectors.
        each: how many of each sort.

    Returns:
        Indexed by image id: ``sort`` (gained, middle, lost), ``baseline``, ``distilled``; equal changes are ordered by id.
    """
    both = pd.DataFrame({"baseline": baseline, "distilled": distilled}).sort_index()
    order = both.assign(change=both.distilled - both.baseline).sort_values("change", ascending=False, kind="stable")
    each = min(each, len(order) // 3)
    middle = (len(order) - each) // 2
    sorts = {"gained": order.iloc[:each], "middle": order.iloc[middle : middle + each], "lost": order.iloc[::-1][:each]}
    return pd.concat([rows.assign(sort=name) for name, rows in sorts.items()])[["sort", "baseline", "distilled"]]


@dataclass(frozen=True)
class RunErrors:
    """What TIDE says of one run on its evaluation split."""

    by_iou: pd.DataFrame  # of ``tide``, and ``box_ap`` (NaN in files older than it)
    by_class: pd.DataFrame  # of ``tide_per_class`` at IoU 0.50


def run_errors(e: Experiment, workspace: Workspace) -> RunErrors:
    """The errors of a finished run, from ``errors/`` beside its record, else from its detections (then kept there).

    Raises:
        FileNotFoundError: if neither is there.
        RecordError: if the detections do not give the AP50 of the record.
    """
    record, path = find_record(e, workspace), workspace.results / "errors" / f"{e.name}.{e.hash()}.json"
    if record and (kept := _read(path, record.checkpoint_sha256)):
        return kept
    found, annotations = run_detections(e, workspace), opened(workspace.data).splits[e.eval_split].annotations
    errors = RunErrors(tide(annotations, found).join(box_ap(annotations, found)), tide_per_class(annotations, found))
    if abs(errors.by_iou.AP[50] - (record.metrics["AP50"] or 0)) > 1e-6:
        raise RecordError(f"{e.name}: its detections give AP50 {errors.by_iou.AP[50]:.4f}, its record says "
                          f"{record.metrics['AP50']:.4f}; delete the record to run again")
    tables = {name: json.loads(getattr(errors, name).round(4).to_json(orient="split")) for name in RunErrors.__annotations__}
    write_whole(path, json.dumps({"checkpoint_sha256": record.checkpoint_sha256, **tables}) + "\n")
    return _read(path, record.checkpoint_sha256)


def unknown(rows: list, workspace: Workspace) -> list[Experiment]:
    """The experiments of a table whose errors cannot be told yet: not trained, or trained elsewhere."""
    def told(e: Experiment) -> bool:
        try:
            return run_errors(e, workspace) is not None
        except FileNotFoundError:
            return False

    return [e for row in rows for e in row.experiments if not told(e)]


def gather(rows: list, workspace: Workspace) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The errors of a table's finished runs.

    Args:
        rows: of ``tables.work_list``.

    Returns:
        ``tide`` of every run, and ``tide_per_class``, with the columns student, method, seed and origin, then IoU or
        class, before the numbers. Runs that are not finished, or whose detections are elsewhere, are left out.
    """
    by_iou, by_class = [], []
    for row in rows:
        for e in row.experiments:
            try:
                errors = run_errors(e, workspace)
            except FileNotFoundError:
                continue
            whose = {"student": row.student, "method": row.method, "seed": e.seed, "origin": find_record(e, workspace).origin}
            by_iou.append(errors.by_iou.rename_axis("IoU").reset_index().assign(**whose))
            by_class.append(errors.by_class.rename_axis("class").reset_index().assign(**whose))
    first = ["student", "method", "seed", "origin"]
    return tuple(pd.concat(frames)[[*first, *frames[0].columns.drop(first)]].reset_index(drop=True) if frames
                 else pd.DataFrame(columns=first) for frames in (by_iou, by_class))


def differences(by_iou: pd.DataFrame, types: list[str] = TYPES) -> pd.DataFrame:
    """dAP of each method against its student's baseline: means, and the difference paired by seed and origin.

    Args:
        by_iou: of ``gather``.

    Returns:
        One line per student, method, IoU and type: ``dAP``, and except for the baseline ``change`` with ``change_low``
        and ``change_high``, its 95 % t interval from two seeds on. Below 0: fewer points lost to that error.
    """
    lines, base = [], by_iou[by_iou.method == "baseline"].set_index(["student", "seed", "origin", "IoU"])
    for (student, method, iou), mine in by_iou.groupby(["student", "method", "IoU"], sort=False):
        for kind in types:
            line = {"student": student, "method": method, "IoU": iou, "type": kind, "dAP": mine[kind].mean(),
                    "seeds": len(mine)}
            if method != "baseline":
                pairs = [(value, base[kind].get((student, seed, origin, iou))) for seed, origin, value in
                         zip(mine.seed, mine.origin, mine[kind], strict=True)]
                line |= {key.replace("gain", "change"): value for key, value in paired(pairs).items()}
            lines.append(line)
    return pd.DataFrame(lines)


def markdown(lines: pd.DataFrame, ious: tuple[int, ...] = (50, 65, 75, 90), types: tuple[str, ...] = ("Cls", "Loc")) -> str:
    """``differences`` as Markdown: per student and method the cost at some IoUs, and its change with interval."""
    head = ["student", "method", "seeds", *(f"{kind} at {iou / 100:.2f}" for kind in types for iou in ious)]
    rows = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 2)]
    for (student, method), mine in lines.groupby(["student", "method"], sort=False):
        at = mine.set_index(["type", "IoU"])
        cells = [_cell(at.loc[kind, iou]) for kind in types for iou in ious]
        rows.append(f"| {student} | {method} | {mine.seeds.max()} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _cell(line: pd.Series) -> str:
    """``12.3 (-1.2 [-2.0, -0.4])``: the cost, and its change against the baseline."""
    if pd.isna(line.get("change")):
        return f"{line.dAP:.1f}"
    interval = "" if pd.isna(line.get("change_low")) else f" [{line.change_low:+.1f}, {line.change_high:+.1f}]"
    return f"{line.dAP:.1f} ({line.change:+.1f}{interval})"


def write_figure3(by_iou: pd.DataFrame, workspace: Workspace) -> str:
    """Write ``figure3.csv`` (all ``differences``, every type and IoU) and ``figure3.md``; return the latter's text."""
    measured = by_iou[BOXES].notna().any()
    lines = differences(by_iou, [*TYPES, BOXES] if measured else TYPES)
    write_whole(workspace.results / "figure3.csv", lines.to_csv(index=False, float_format="%.4f"))
    text = "\n".join([
        "# Figure 3: classification and localisation errors over IoU", "", markdown(lines),
        ("dAP in AP points (TIDE): what repairing only these errors would gain; in brackets the change against the "
        "student's baseline, paired by seed, with its 95 % interval. All types and thresholds: `figure3.csv`; per run: "
        "`errors/`."), "",
        *(["## The boxes alone", "", markdown(lines, (50, 75, 80, 90), (BOXES,)), "AP with every class counted as one.", ""]
          if measured else [])])
    write_whole(workspace.results / "figure3.md", text)
    return text


def _read(path, checkpoint: str) -> RunErrors | None:
    """Errors that were written down for this very checkpoint."""
    try:
        body = json.loads(path.read_text())
        if body["checkpoint_sha256"] != checkpoint:
            return None
        by_iou, by_class = (pd.DataFrame(**body[name]) for name in RunErrors.__annotations__)
        return RunErrors(by_iou if BOXES in by_iou else by_iou.assign(**{BOXES: float("nan")}), by_class)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
