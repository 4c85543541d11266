"""The TIDE errors of finished runs, kept beside their records, and Figure 3 as CSV and Markdown."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from c2dlib.config.experiment import Experiment
from c2dlib.evaluation.halves import halves
from c2dlib.evaluation.ranking import ranking
from c2dlib.evaluation.tide import BOXES, TYPES, box_ap, tide, tide_per_class
from c2dlib.files import json_with_hash, read_json_with_hash, write_whole
from c2dlib.reporting.labels import method_label
from c2dlib.reporting.markdown import markdown_table
from c2dlib.reporting.published import more_seeds
from c2dlib.reporting.statistics import difference_text, paired_difference
from c2dlib.reporting.work_list import Row
from c2dlib.training.finished import find_record, run_detections
from c2dlib.workspace import Workspace, opened

FIELDS = {"checkpoint_sha256", "by_iou", "by_class"}  # of a file in errors/ that has no hash of its own
RUN_COLUMNS = ["student", "method", "seed", "draw", "pairing"]


@dataclass(frozen=True)
class RunErrors:
    """The TIDE errors of one run on its evaluation split."""

    # of ``tide``, joined with ``box_ap`` (NaN where the file was written without it) and ``ranking`` (no
    # columns where the file was written without them)
    by_iou: pd.DataFrame
    by_class: pd.DataFrame  # of ``tide_per_class`` at IoU 0.50
    halves: pd.DataFrame = field(default_factory=pd.DataFrame)  # empty where the file was written without it


def run_errors(e: Experiment, workspace: Workspace) -> RunErrors:
    """The errors of a finished run.

    They are read from ``errors/`` beside the run's record, else computed from its detections and written
    there.

    Raises:
        FileNotFoundError: if there are neither kept errors of the record's checkpoint nor detections.
        RecordError: if the detections are damaged, or those of another run.
    """
    record, path = find_record(e, workspace), workspace.results / "errors" / f"{e.name}.{e.hash()}.json"
    if record and (kept := _read(path, record.checkpoint_sha256)):
        return kept
    detections, annotations = (
        run_detections(e, workspace),
        opened(workspace.data).splits[e.eval_split].annotations,
    )
    errors = RunErrors(
        tide(annotations, detections)
        .join(box_ap(annotations, detections))
        .join(ranking(annotations, detections)),
        tide_per_class(annotations, detections),
        halves(annotations, detections),
    )
    frames = {
        name: json.loads(getattr(errors, name).round(4).to_json(orient="split"))
        for name in RunErrors.__annotations__
    }
    body = {"checkpoint_sha256": record.checkpoint_sha256, **frames}
    write_whole(path, json_with_hash(body, indent=None))
    return _read(path, record.checkpoint_sha256)


def _read(path: Path, checkpoint_sha256: str) -> RunErrors | None:
    """Kept errors, if the file is whole and belongs to this checkpoint; a damaged one is named on stderr.

    The files of earlier versions have no hash of their own: of those only what cannot be read is noticed.
    """
    try:
        text = path.read_bytes().decode()
        body = json.loads(text)
        if not isinstance(body, dict) or set(body) != FIELDS:
            body = read_json_with_hash(text, indent=None)
        if body["checkpoint_sha256"] != checkpoint_sha256:
            return None
        frames = [pd.DataFrame(**body[name]) for name in RunErrors.__annotations__ if name in body]
        by_iou, *others = frames
        return RunErrors(by_iou if BOXES in by_iou else by_iou.assign(**{BOXES: float("nan")}), *others)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        print(
            f"{path}: damaged ({error}), not used; computed again where the detections are", file=sys.stderr
        )
        return None


def known_errors(e: Experiment, workspace: Workspace) -> RunErrors | None:
    """``run_errors``; None for a run that is not finished, or whose detections are not on this machine."""
    try:
        return run_errors(e, workspace)
    except FileNotFoundError:
        return None


def unknown(rows: list[Row], workspace: Workspace) -> list[Experiment]:
    """The experiments of these rows whose errors can be neither read nor computed on this machine."""
    return [e for row in rows for e in row.experiments if known_errors(e, workspace) is None]


def gather(rows: list[Row], workspace: Workspace) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The errors of the finished runs of these rows; runs whose errors are ``unknown`` are left out.

    Returns:
        ``tide`` of every run, and ``tide_per_class``, with the columns student, method, seed, draw and
        pairing, then IoU or class, before the numbers.
    """
    by_iou, by_class = [], []
    for row in rows:
        for e in row.experiments:
            if errors := known_errors(e, workspace):
                run = {
                    "student": row.student,
                    "method": row.method,
                    "seed": e.seed,
                    "draw": e.draw,
                    "pairing": find_record(e, workspace).pairing,
                }
                by_iou.append(errors.by_iou.rename_axis("IoU").reset_index().assign(**run))
                by_class.append(errors.by_class.rename_axis("class").reset_index().assign(**run))
    return _stacked(by_iou), _stacked(by_class)


def _stacked(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """The frames of several runs as one, with the columns that name the run first."""
    if not frames:
        return pd.DataFrame(columns=RUN_COLUMNS)
    return pd.concat(frames)[[*RUN_COLUMNS, *frames[0].columns.drop(RUN_COLUMNS)]].reset_index(drop=True)


def differences(by_iou: pd.DataFrame, types: list[str] = TYPES) -> pd.DataFrame:
    """dAP of each method against its student's baseline: means, and the difference of paired runs.

    A pair has the same seed, initial weights and kind of device. Where there are several draws, the pairs of
    a draw count as one.

    Args:
        by_iou: of ``gather``.

    Returns:
        One line per student, method, IoU and type: ``dAP`` and ``seeds``; except for the baseline ``change``
        with ``change_low`` and ``change_high``, its 95 % t interval from two seeds on. Below 0: fewer points
        lost to that error.
    """
    lines, baseline = [], by_iou[by_iou.method == "baseline"].set_index(["student", "seed", "pairing", "IoU"])
    for (student, method, iou), runs in by_iou.groupby(["student", "method", "IoU"], sort=False):
        for kind in types:
            line = {
                "student": student,
                "method": method,
                "IoU": iou,
                "type": kind,
                "dAP": runs[kind].mean(),
                "seeds": int(runs[kind].count()),
            }
            if method != "baseline":
                pairs = [
                    (value, baseline[kind].get((student, seed, pairing, iou)))
                    for seed, pairing, value in zip(runs.seed, runs.pairing, runs[kind], strict=True)
                ]
                difference = paired_difference(pairs, list(runs.draw))
                change = zip(("change", "change_low", "change_high"), difference, strict=True)
                line |= {name: value for name, value in change if value is not None}
            lines.append(line)
    return pd.DataFrame(lines)


def markdown(
    lines: pd.DataFrame, ious: tuple[int, ...] = (50, 65, 75, 90), types: tuple[str, ...] = ("Cls", "Loc")
) -> str:
    """``differences`` as a Markdown table.

    It has, per student and method, the cost at some IoUs and its change with interval.
    """
    rows = []
    for (student, method), of_method in lines.groupby(["student", "method"], sort=False):
        by_type = of_method.set_index(["type", "IoU"])
        cells = [_cell(by_type.loc[kind, iou]) for kind in types for iou in ious]
        rows.append([student, method_label(method), str(of_method.seeds.max()), *cells])
    head = ["student", "method", "seeds", *(f"{kind} at {iou / 100:.2f}" for kind in types for iou in ious)]
    return markdown_table(head, rows, text_columns=(0, 1)) + "\n"


def _cell(line: pd.Series) -> str:
    """``12.3 (-1.2 [-2.0, -0.4])``: the cost, and its change against the baseline."""
    change = difference_text(line.get("change"), line.get("change_low"), line.get("change_high"))
    return f"{line.dAP:.1f} ({change})" if change else f"{line.dAP:.1f}"


def write_figure3(by_iou: pd.DataFrame, workspace: Workspace) -> str:
    """Write ``figure3.csv`` (all ``differences``, every type and IoU) and ``figure3.md``; return its text.

    Files with more seeds are not replaced; a line on stderr says so.

    Raises:
        ValueError: if there is no run of these data.
    """
    path = workspace.results / "figure3.csv"
    lines = _all_differences(by_iou)
    if more := more_seeds(path, lines, []):
        print(f"{path}: kept as it is, {more}; move it away to write this one", file=sys.stderr)
        return figure3_markdown(lines)
    write_whole(path, lines.to_csv(index=False, float_format="%.4f"))
    write_whole(workspace.results / "figure3.md", text := figure3_markdown(lines))
    return text


def figure3_text(by_iou: pd.DataFrame) -> str:
    """The text of ``figure3.md``, from the errors of ``gather``."""
    return figure3_markdown(_all_differences(by_iou))


def _all_differences(by_iou: pd.DataFrame) -> pd.DataFrame:
    if by_iou.empty:
        raise ValueError(
            "Figure 3 has no run: no record of table1 is of these data and settings "
            "(records name the annotation hash of their data)"
        )
    return differences(by_iou, [*TYPES, BOXES] if by_iou[BOXES].notna().any() else TYPES)


def figure3_markdown(lines: pd.DataFrame) -> str:
    """``differences`` as the text of ``figure3.md``.

    It has the classification and localisation errors, and AP of the boxes alone where it is measured.
    """
    paragraphs = [
        "# Figure 3: classification and localisation errors over IoU",
        "",
        markdown(lines),
        (
            "dAP in AP points (TIDE): the AP that would be gained if only the errors of this type were "
            "corrected. In brackets: the change against the student's baseline, paired by seed, with its "
            "95 % interval. All types and thresholds are in `figure3.csv`, single runs in `errors/`."
        ),
        "",
    ]
    if (lines.type == BOXES).any():
        paragraphs += [
            "## The boxes alone",
            "",
            markdown(lines, (50, 75, 80, 90), (BOXES,)),
            "AP with every class counted as one.",
            "",
        ]
    return "\n".join(paragraphs)
