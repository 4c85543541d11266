"""Run records and the paper's numbers -> result tables: a frame, a CSV file and a Markdown file each.

The published tables have *paper* and *reproduced*; this machine's have *paper*, *published*, *this machine*.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from c2dlib.config.experiment import scale_tables
from c2dlib.config.methods import canonical
from c2dlib.data.coco import CocoFolder
from c2dlib.evaluation import ranking, tide
from c2dlib.evaluation.metrics import IOUS as IOUS_PERCENT
from c2dlib.files import write_whole
from c2dlib.records import RunRecord
from c2dlib.reporting import errors
from c2dlib.reporting.console import read_own_lines
from c2dlib.reporting.labels import frame_labels, method_label, varied_settings, without_masks
from c2dlib.reporting.markdown import MISSING, difference_text, markdown_table, number
from c2dlib.reporting.notes import notes, swamped, whose_numbers
from c2dlib.reporting.published import agreement, more_seeds, with_published
from c2dlib.reporting.statistics import mean_of, median_of, paired_difference, sd_of
from c2dlib.reporting.work_list import CONTROL, IOUS, METRICS, OWN_BASELINE, TABLES, TOP1, Row, work_list
from c2dlib.training.finished import find_record
from c2dlib.workspace import Workspace

GAIN_HEAD = "gain over the reproduced baseline [95 % CI]"
MEMORY = "memory, MB"
COSTS = ("parameters", "s / step (x plain)", MEMORY, "wall s")


def write_table(name: str, rows: list[Row], workspace: Workspace, folder: CocoFolder) -> pd.DataFrame:
    """Write ``<table>.csv`` and ``<table>.md`` from the runs that are finished; return the frame.

    A table on disk keeps the rows that it has besides these. One with more seeds than are recorded now is not
    replaced; a line on stderr says so.
    """
    path = workspace.results / f"{name}.csv"
    if path.exists():
        seeds = max(len(row.experiments) for row in rows)
        rows = with_rows_of(path, rows, work_list(name, workspace, folder, seeds, with_recorded=True))
    records = collect(rows, workspace)
    frame = with_errors(table(rows, records), rows, workspace, TABLES[name].from_errors)
    frame = with_published(frame, name, rows, workspace)
    if more := more_seeds(path, frame, varied_settings(frame)):
        print(f"{path}: kept as it is, {more}; move it away to write this one", file=sys.stderr)
        return frame
    write_whole(path, frame.to_csv(index=False, float_format="%.4f"))
    write_whole(
        workspace.results / f"{name}.md",
        markdown(
            frame.replace({"student": without_masks(list(records.values()))}),
            TABLES[name].title,
            [*whose_numbers(name, workspace, rows), *notes(workspace, folder, records, rows)],
            [_reason(row, records) for row in rows],
            scale_tables(workspace.scale).get("draws", 1),
        ),
    )
    return frame


def _reason(row: Row, records: dict[str, RunRecord]) -> str:
    """Why a row says little about its method; empty for most rows."""
    times = max(map(swamped, _done(row, records).values()), default=0.0)
    return f"its loss begins {times:,.0f} times as large as the detector's own" if times else ""


def with_rows_of(path: Path, rows: list[Row], every: list[Row]) -> list[Row]:
    """The rows and those that the table at ``path`` has besides them, in the order of ``every``.

    Args:
        rows: returned as they are where one is not among ``every``, as with changed settings.
        every: all rows of the table.
    """

    def key(row: Row) -> tuple:
        return row.student, canonical(row.method), row.experiments[0].hash(), str(row.settings)

    given = {key(row): row for row in rows}
    if not given.keys() <= {key(row) for row in every}:
        return rows
    written = {(line["student"], canonical(line["method"])) for line in read_own_lines(path) if line["seeds"]}
    kept = [row for row in every if key(row) in given or (row.student, canonical(row.method)) in written]
    return [given.get(key(row), row) for row in kept]


def collect(rows: list[Row], workspace: Workspace) -> dict[str, RunRecord]:
    """The verified records of these rows' experiments, by experiment hash."""
    records = {e.hash(): find_record(e, workspace) for row in rows for e in row.experiments}
    return {key: record for key, record in records.items() if record}


def table(rows: list[Row], records: dict[str, RunRecord]) -> pd.DataFrame:
    """A line per row: the paper's mAP, the reproduced one (mean and sd over seeds), its gain and its cost.

    The gain over the baseline is paired by seed with a baseline of the same initial weights and kind of
    device; over several draws of the training set, as in ``paired_difference``. Metrics are percent.
    """
    baselines = {}  # (student, values of OWN_BASELINE, seed, pairing) -> mAP
    for row in rows:
        if row.method == "baseline" and not {"changed", "own_losses"} & row.settings.keys():
            baselines |= {key: record.metrics["mAP"] for key, record in _by_pair(row, records).items()}
    metrics = list(dict.fromkeys([*METRICS[1:], *(m for row in rows for m in row.paper if m != "mAP")]))
    if any("teacher" in row.settings for row in rows) and TOP1 not in metrics:
        metrics.append(TOP1)
    frame = pd.DataFrame([_line(row, records, baselines, metrics) for row in rows])
    settings = list(dict.fromkeys(name for row in rows for name in row.settings))
    first = [
        "student",
        "method",
        *settings,
        "paper_mAP",
        "mAP",
        "mAP_sd",
        "seeds",
        "status",
        "gain",
        "gain_low",
        "gain_high",
    ]
    frame = frame.reindex(columns=[*first, *[c for c in frame.columns if c not in first]])
    return frame.astype({"parameters": "Int64"})


def with_errors(
    frame: pd.DataFrame, rows: list[Row], workspace: Workspace, columns: tuple[str, ...]
) -> pd.DataFrame:
    """A ``table`` with columns from the runs' detections, mean over seeds.

    Args:
        columns: of ``boxes75`` (AP75 of the boxes alone, percent), ``score_IoU`` (rank correlation of score
            and IoU over detections with an IoU of at least .50) and ``oracle_mAP`` (mAP of a perfect order,
            percent), see ``evaluation.ranking``. A column without any number is left out.
    """
    values = {}
    for index, row in zip(frame.index, rows, strict=True):
        by_iou, _ = errors.gather([row], workspace) if columns else (pd.DataFrame(), None)
        values[index] = {
            "boxes75": _mean_at(by_iou, tide.BOXES, [75]),
            "score_IoU": _mean_at(by_iou, ranking.SCORE_IOU, [50]),
            "oracle_mAP": _mean_at(by_iou, ranking.ORACLE, IOUS_PERCENT),
        }
    more = pd.DataFrame.from_dict(values, orient="index", columns=list(columns)).dropna(axis=1, how="all")
    return frame.join(more.astype(float))


def _mean_at(by_iou: pd.DataFrame, column: str, ious: list[int]) -> float:
    """The mean of a column of ``errors.gather`` at some IoUs; NaN where it has no such column."""
    return by_iou[by_iou.IoU.isin(ious)][column].mean() if column in by_iou else math.nan


def _line(row: Row, records: dict[str, RunRecord], baselines: dict[tuple, float], metrics: list[str]) -> dict:
    """One row's line of a ``table``."""
    done = list(_done(row, records).values())
    line = {
        "student": row.student,
        "method": row.method,
        **row.settings,
        "paper_mAP": row.paper.get("mAP", math.nan),
        "mAP": _mean_metric(done, "mAP"),
        "mAP_sd": sd_of([r.metrics["mAP"] for r in done]),
        "seeds": len(done),
        "status": _status(row, records, len(done)),
    }
    if row.method != "baseline" or "own_losses" in row.settings:
        paired = {key: record for key, record in _by_pair(row, records).items() if key in baselines}
        pairs = [(record.metrics["mAP"], baselines[key]) for key, record in paired.items()]
        draw_of_seed = {e.seed: e.draw for e in row.experiments}
        draws = [draw_of_seed[record.seed] for record in paired.values()]
        line |= zip(("gain", "gain_low", "gain_high"), paired_difference(pairs, draws), strict=True)
    line |= {metric: _mean_metric(done, metric) for metric in metrics}
    line |= {f"paper_{metric}": value for metric, value in row.paper.items() if metric != "mAP"}
    return line | {
        "parameters": max((r.parameters for r in done), default=None),
        "seconds_per_step": median_of([r.seconds_per_step for r in done]),
        "relative_seconds": median_of([r.relative_seconds for r in done if r.relative_seconds]),
        "memory_mb": median_of([r.memory_mb for r in done if r.memory_mb]),
        "wall_seconds": median_of([r.wall_seconds for r in done]),
        "records": " ".join(r.name for r in done),
    }


def _done(row: Row, records: dict[str, RunRecord]) -> dict[int, RunRecord]:
    """Seed -> record of the row's finished runs."""
    by_seed = {e.seed: records.get(e.hash()) for e in row.experiments}
    return {seed: record for seed, record in by_seed.items() if record and record.status == "done"}


def _by_pair(row: Row, records: dict[str, RunRecord]) -> dict[tuple, RunRecord]:
    """The row's finished runs by what they share with the baseline run that they are compared with."""
    regime = [row.settings.get(name) for name in OWN_BASELINE]
    return {
        (row.student, *regime, seed, record.pairing): record for seed, record in _done(row, records).items()
    }


def _mean_metric(done: list[RunRecord], metric: str) -> float | None:
    return mean_of([r.teacher.get("top1") if metric == TOP1 else r.metrics[metric] for r in done])


def _status(row: Row, records: dict[str, RunRecord], done: int) -> str:
    """``done``, ``not run``, ``2 of 3 seeds``, or why a run failed."""
    stopped = [
        records[e.hash()]
        for e in row.experiments
        if e.hash() in records and records[e.hash()].status != "done"
    ]
    if stopped:
        return f"{stopped[0].status}: {stopped[0].reason}"
    if done < len(row.experiments):
        return f"{done} of {len(row.experiments)} seeds" if done else "not run"
    return "done"


def markdown(
    frame: pd.DataFrame, title: str, notes: list[str], reasons: Sequence[str] | None = None, draws: int = 1
) -> str:
    """A ``table`` as Markdown with its title and notes; a row without a number says why in words.

    Args:
        reasons: per row, what is shown in brackets behind the method; empty: nothing.
        draws: of the training set, see ``agreement``.
    """
    if "published_mAP" in frame:
        columns, rows = _beside_published(frame)
        notes = [*notes, agreement(frame, draws)]
    else:
        columns, rows = _with_costs(frame, reasons or [""] * len(frame))
    text = markdown_table(columns, rows, text_columns=range(2 + len(varied_settings(frame))))
    head = [f"# {title}", ""] + ([seeds, ""] if (seeds := _few_seeds(frame)) else [])
    return "\n".join([*head, text, "", *[f"- {note}" for note in notes], ""])


def _beside_published(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Head and cells of a table of this machine beside the published one; the CSV file has the rest."""
    varied = varied_settings(frame)
    columns = ["student", "method", *varied, "paper", "published", "this machine", "gain published [95 % CI]"]
    rows = [
        [
            line.student,
            method_cell(line.method),
            *map(_setting_cell, line[varied]),
            number(line.paper_mAP),
            _mean_and_spread(line.published_mAP, line.published_mAP_sd),
            _reproduced(line),
            difference_text(line.published_gain, line.published_gain_low, line.published_gain_high),
            difference_text(line.gain, line.gain_low, line.gain_high),
            MISSING if pd.isna(line.published_seeds) else f"{line.published_seeds:.0f}",
            str(line.seeds),
        ]
        for _, line in frame.iterrows()
    ]
    return [*columns, "gain here [95 % CI]", "seeds published", "seeds here"], rows


def _with_costs(frame: pd.DataFrame, reasons: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Head and cells of a table that is not compared with a published one, with what its runs cost."""
    varied, compared = varied_settings(frame), _compared_metrics(frame)
    plain = [] if len(compared) > 1 else ["AP50", "AP75"]
    memory = bool(frame.memory_mb.notna().any())
    columns = [
        "student",
        "method",
        *varied,
        "paper mAP",
        "reproduced mAP",
        GAIN_HEAD,
        *(f"{metric} paper / reproduced" for metric in compared),
        *plain,
        "seeds",
        *(cost for cost in COSTS if cost != MEMORY or memory),
    ]
    rows = [
        [
            line.student,
            method_cell(line.method) + (f" ({reason})" if reason else ""),
            *map(_setting_cell, line[varied]),
            *result_cells(line),
            *(
                f"{number(line.get(f'paper_{metric}', math.nan))} / {number(line[metric])}"
                for metric in compared
            ),
            *(number(line[metric]) for metric in plain),
            *_cost_cells(line, with_memory=memory),
        ]
        for (_, line), reason in zip(frame.iterrows(), reasons, strict=True)
    ]
    return columns, rows


def costs(frame: pd.DataFrame) -> str:
    """What a run of each finished row cost, as Markdown."""
    varied, run = varied_settings(frame), frame[frame.seeds > 0]
    with_memory = bool(run.memory_mb.notna().any())
    rows = [
        [
            line.student,
            method_cell(line.method),
            *map(_setting_cell, line[varied]),
            *_cost_cells(line, with_memory)[1:],
        ]
        for _, line in run.iterrows()
    ]
    head = ["student", "method", *varied, *(cost for cost in COSTS if cost != MEMORY or with_memory)]
    return markdown_table(head, rows, text_columns=range(2 + len(varied)))


def _few_seeds(frame: pd.DataFrame) -> str:
    """A warning for rows with one seed; empty without such a row."""
    single, run = int((frame.seeds == 1).sum()), int((frame.seeds > 0).sum())
    if not single:
        return ""
    rows = "**One seed per row" if single == run else f"**One seed in {single} of {run} rows"
    return f"{rows}: their differences have no interval and may be chance; no verdict rests on them.**"


def _compared_metrics(frame: pd.DataFrame) -> list[str]:
    """The metrics besides mAP that are shown beside the paper's.

    They are AP at each IoU in Table 5, and the teacher's top-1 in Table 3b.
    """
    if "paper_AP55" in frame:
        return [metric for metric in IOUS if f"paper_{metric}" in frame]
    return [TOP1] if TOP1 in frame else []


def method_cell(method: str) -> str:
    """A method in a Markdown table; the label control, which the paper does not have, in italics."""
    return f"*{method}* (control)" if method == CONTROL else method_label(method)


def _setting_cell(value) -> str:
    if pd.isna(value):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def result_cells(line: pd.Series) -> list[str]:
    """The paper's mAP, the reproduced one with its sd over seeds, and the gain with its interval.

    Where there is no reproduced number, the cell says why.
    """
    return [
        number(line.paper_mAP),
        _reproduced(line),
        difference_text(line.gain, line.gain_low, line.gain_high),
    ]


def _reproduced(line: pd.Series) -> str:
    if pd.isna(line.mAP):
        return line.status
    return _mean_and_spread(line.mAP, line.mAP_sd)


def _mean_and_spread(mean: float, spread: float) -> str:
    """``23.0 ± 1.7``; without the spread of a single seed."""
    return number(mean) if pd.isna(spread) else f"{mean:.1f} ± {spread:.1f}"


def _cost_cells(line: pd.Series, with_memory: bool) -> list[str]:
    """Seeds, parameters, time of a step, memory and time of a run."""
    seeds = str(line.seeds) if line.status in ("done", "not run") else line.status
    parameters = MISSING if pd.isna(line.parameters) else f"{line.parameters / 1e6:.2f} M"
    relative = "" if pd.isna(line.relative_seconds) else f" ({line.relative_seconds:.2f}x)"
    memory = [number(line.memory_mb, 0)] if with_memory else []
    return [
        seeds,
        parameters,
        number(line.seconds_per_step, 3) + relative,
        *memory,
        number(line.wall_seconds, 0),
    ]


class Printer:
    """Called with the record of each run that ends: prints the run's line of the table.

    Args:
        records: of the runs that were finished before, by experiment hash; they are not printed.
    """

    def __init__(self, rows: list[Row], records: dict[str, RunRecord] | None = None):
        self.rows, self.records, self.printed = rows, dict(records or {}), False

    def __call__(self, record: RunRecord) -> None:
        if record.hash in self.records and self.records[record.hash].status == "done":
            return
        if not self.printed:
            tqdm.write(f"{'student':<16} {'method':<16} {'paper':>6} {'this machine':>13}  gain [95 % CI]")
            self.printed = True
        self.records[record.hash] = record
        frame = table(self.rows, self.records)
        for row, label, (_, line) in zip(self.rows, frame_labels(frame), frame.iterrows(), strict=True):
            if record.hash in {e.hash() for e in row.experiments}:
                paper, reproduced, gain = result_cells(line)
                tqdm.write(
                    f"{row.student:<16} {label:<16} {paper:>6} {reproduced:>13}  {gain:<22} {line.status}"
                )
