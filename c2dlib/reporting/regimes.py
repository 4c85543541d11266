"""When does distillation help? What each baseline loses to classes and to boxes, against the gains.

Everything is read from the run records of several results folders and from the errors beside them: no data
are needed, nothing is trained. What was not run is said in words.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from c2dlib.config.methods import canonical
from c2dlib.files import write_whole
from c2dlib.reporting.errors import run_errors
from c2dlib.reporting.evidence import (
    FEWEST_SEEDS,
    Finding,
    find,
    methods_of,
    one_device_per_seed,
    own_runs,
    run_line,
)
from c2dlib.reporting.labels import method_label
from c2dlib.reporting.markdown import MISSING, markdown_table, number
from c2dlib.reporting.paper_claims import COMPACT
from c2dlib.reporting.primary_claims import Part, Term, read_claims
from c2dlib.reporting.statistics import difference_text, welch_sum
from c2dlib.reporting.work_list import ABLATED
from c2dlib.workspace import Workspace


@dataclass(frozen=True)
class Place:
    """A results folder: data and schedule whose baselines have errors of their own."""

    folder: str
    name: str
    command: str  # that runs it, or the first student of its plan
    seeds: int  # planned: published runs are shown when each compared row has them
    exploratory: str = ""  # why its runs test nothing
    students: tuple[str, ...] = ()  # only these; (): all
    # student, method (empty: all), seeds, where the plan has fewer
    fewer: tuple[tuple[str, str, int], ...] = ()

    def complete(self, student: str, runs: pd.DataFrame) -> bool:
        """Whether the baseline and each compared method of a student have all planned seeds."""
        fewer = {method: seeds for name, method, seeds in self.fewer if name == student}
        usual = fewer.get("", self.seeds)
        seeds = runs.groupby("method").seed.nunique()
        return all(seeds.get(m, 0) >= fewer.get(m, usual) for m in map(canonical, ("baseline", *COMPARED)))


FOUR = tuple((student, "", 4) for student in COMPACT if student != ABLATED)
PLANNED = "make reproduce-controls SCALE=regimes SEEDS=8 STUDENTS=SSD300-VGG16"
OLDER = "older than the plan, and chosen partly on test"
PLACES = [
    Place("badges-mini", "Badges, 800 steps", "make reproduce-table1 SEEDS=3", 3, OLDER, tuple(COMPACT)),
    *(
        Place(
            f"{data}-regimes", name, f'{PLANNED} DATA={data} METHODS="{methods} loc+KDloc C2D"', 8, fewer=FOUR
        )
        for data, name, methods in (
            ("badges", "Badges", "baseline KDcls KDcls-labels KDcls-mean loc loc-L1"),
            ("badges-4", "Badges-4", "baseline KDcls loc loc-L1 loc-other"),
            ("badges-crowded", "Badges-crowded", "baseline KDcls loc loc-L1 loc-other"),
        )
    ),
    Place(
        "groceries-photos",
        "photographs",
        "make reproduce-table1 SCALE=photos DATA=groceries SEEDS=5",
        5,
        fewer=(("SSD300-MV1x025", "loc", 3), ("SSD300-MV1x025", "loc+KDloc", 3)),
    ),
]
# A method, and the control that tells what the teacher or the image adds to it.
COMPARED = {"KDcls": "KDcls-labels", "loc": "loc-L1", "loc+KDloc": "loc-L1+KDloc-L1", "ours": "C2D-free"}
METHODS = [
    "baseline",
    *dict.fromkeys(
        canonical(m)
        for m in (*COMPARED, *COMPARED.values(), "KDcls-mean", "KDcls-permuted", "KDcls-smooth", "loc-other")
    ),
]
GAINS = ("mAP", "AP50", "AP75", "mAR")
PROFILE = ("Cls", "Loc")  # TIDE's errors
PROFILE_IOUS = (50, 75)


class Expectation(NamedTuple):
    """A difference in mAP that the plan expects to be above 0, on one data set or between two."""

    number: int  # in the plan
    method: str
    over: str
    place: str
    than: str = ""  # the data set whose same difference is subtracted

    @property
    def text(self) -> str:
        difference = f"{method_label(self.method)} - {method_label(self.over)}"
        return f"{difference}, {self.place}" + (f" minus {self.than}" if self.than else "")


EXPECTED_OF = ABLATED  # the student of the expectations
EXPECTED = [
    Expectation(1, "loc+KDloc", "baseline", "Badges-4"),
    Expectation(2, "loc+KDloc", "baseline", "Badges-4", "Badges"),
    Expectation(2, "loc+KDloc", "baseline", "Badges-crowded", "Badges"),
    Expectation(3, "KDcls", "baseline", "Badges", "Badges-4"),
    *(
        Expectation(4, "loc", over, place)
        for over in ("loc-L1", "loc-other")
        for place in ("Badges", "Badges-4", "Badges-crowded")
    ),
]


@cache
def claimed_methods() -> list[str]:
    """The methods over which the residual variance is pooled, as for the claims."""
    return methods_of(read_claims())


def place_folder(place: Place, results: Path) -> Path:
    """Where a place's records are: a user's own in ``results/``, else those in ``results/published/``."""
    own, published = results / place.folder, results / "published" / place.folder
    return published if not (own / "records").exists() and (published / "records").exists() else own


def regimes(results: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The baselines and the gains of every place that has runs, and the plan's expectations.

    Args:
        results: the folder of the results folders.

    Returns:
        Baselines, a line per place and student: ``place``, ``student``, ``seeds``, ``draws``, ``mAP``,
        ``with_errors``, how many seeds have kept errors, and ``Cls50`` ... ``Loc75``, TIDE's cost in AP
        points at an IoU over these (NaN without).
        Published runs of a student are left out until all its planned seeds are there.
        Gains over the baseline, a line per place, student, method and metric: ``gain`` in points, ``low``,
        ``high`` (95 %; NaN with fewer than three seeds) and ``seeds``.
        Of ``expectations``.
    """
    baselines, gains, expected = [], [], {}
    for place in PLACES:
        folder = place_folder(place, results)
        planned = folder.parent.name == "published" and not place.exploratory
        scale = place.folder.rpartition("-")[2]
        workspace = Workspace(scale, Path("nowhere"), folder, Path("nowhere"), "cpu")
        methods = sorted({*METHODS, *claimed_methods()})
        runs, left_out = own_runs(workspace, list(place.students) or None, methods)
        counted = one_device_per_seed(pd.DataFrame([run_line(record) for _, record in runs]))
        frame = counted.frame
        for sentence in [*left_out, *counted.left_out]:
            print(f"{place.name}: {sentence}", file=sys.stderr)
        if frame.empty:
            continue
        for student, of_student in frame.groupby("student", sort=False):
            if "baseline" not in set(of_student.method):
                continue
            if planned and not place.complete(str(student), of_student):
                print(
                    f"{place.name}: {student} is left out until all its planned seeds are there",
                    file=sys.stderr,
                )
                continue  # a test split is looked at once
            baseline = of_student[of_student.method == "baseline"]
            costs = [
                _costs(e, workspace)
                for e, _ in runs
                if (e.student, e.method) == (student, "baseline") and e.seed in set(baseline.seed)
            ]
            baselines.append(
                {
                    "place": place.name,
                    "student": student,
                    "seeds": len(baseline),
                    "draws": baseline.draw.nunique(),
                    "mAP": baseline.mAP.mean(),
                    "with_errors": sum(map(bool, costs)),
                    **pd.DataFrame(costs).mean().to_dict(),
                }
            )
            gains += _gains(place, str(student), of_student)
            if student == EXPECTED_OF:
                expected[place.name] = of_student
    columns = [f"{kind}{iou}" for kind in PROFILE for iou in PROFILE_IOUS]
    return (
        pd.DataFrame(
            baselines, columns=["place", "student", "seeds", "draws", "mAP", "with_errors", *columns]
        ),
        pd.DataFrame(gains, columns=["place", "student", "method", "metric", "gain", "low", "high", "seeds"]),
        expectations(expected),
    )


def _costs(e, workspace: Workspace) -> Mapping[str, float]:
    """``Cls50`` ... of a run; NaN where its errors are not kept."""
    try:
        by_iou = run_errors(e, workspace).by_iou
    except FileNotFoundError:
        return {}
    return {f"{kind}{iou}": float(by_iou.loc[iou, kind]) for kind in PROFILE for iou in PROFILE_IOUS}


def _gains(place: Place, student: str, runs: pd.DataFrame) -> list[dict]:
    """The gain of each method over the baseline."""
    lines = []
    for method in (m for m in METHODS[1:] if m in set(runs.method)):
        for metric in GAINS:
            found = _difference(student, method, "baseline", metric, runs)
            line = {"place": place.name, "student": student, "method": method, "metric": metric}
            line |= {"gain": found.value, "low": None, "high": None, "seeds": found.fewest}
            if found.estimate and found.fewest >= FEWEST_SEEDS:
                line["low"], line["high"] = found.estimate.interval()
            lines.append(line)
    return lines


def _difference(student: str, method: str, over: str, metric: str, runs: pd.DataFrame) -> Finding:
    """The residual variance is pooled over the methods of the claims and those that are compared."""
    terms = tuple(Term(weight, "one", canonical(m), metric) for weight, m in ((1, method), (-1, over)))
    pool = runs[runs.method.isin({*claimed_methods(), *(term.method for term in terms)})]
    return find(Part(terms, above=0.0), {"one": [student]}, pool)


def expectations(runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The plan's expectations.

    The differences of two data sets are taken as independent.

    Args:
        runs: of EXPECTED_OF, by the name of the place; a place without runs is left out.

    Returns:
        A line each: ``number``, ``difference``, ``value`` in points of mAP (NaN where a row was not run),
        ``low``, ``high`` (95 %; NaN with fewer than three seeds, or without a valid fit) and ``seeds``.
    """
    lines = []
    for e in EXPECTED:
        places = [e.place, e.than] if e.than else [e.place]
        line: dict[str, float | str | None] = {"number": e.number, "difference": e.text}
        found = [_difference(EXPECTED_OF, e.method, e.over, "mAP", runs[p]) for p in places if p in runs]
        values = [f.value for f in found if f.value is not None]
        estimates = [f.estimate for f in found if f.estimate and f.fewest >= FEWEST_SEEDS]
        if len(values) == len(places):
            line["value"] = values[0] - sum(values[1:])
            line["seeds"] = " and ".join(str(f.fewest) for f in found)
        if len(estimates) == len(places):
            signed = list(zip((1.0, -1.0), estimates, strict=False))
            line["low"], line["high"] = welch_sum(signed).interval()
        lines.append(line)
    return pd.DataFrame(lines, columns=["number", "difference", "value", "low", "high", "seeds"])


def missing(baselines: pd.DataFrame, gains: pd.DataFrame) -> list[str]:
    """A sentence per place without runs, per student without some of the methods that are compared, and per
    student with baselines whose errors are not kept.
    """
    sentences = []
    for place in PLACES:
        if place.name not in set(baselines.place):
            sentences.append(f"{place.name}: not run with all of its {place.seeds} seeds. `{place.command}`")
            continue
        for line in baselines[baselines.place == place.name].itertuples():
            run = set(gains[(gains.place == place.name) & (gains.student == line.student)].method)
            if lacking := [m for m in map(canonical, COMPARED) if m not in run]:
                sentences.append(f"{place.name}, {line.student}: no {', '.join(map(method_label, lacking))}.")
            if 0 < line.with_errors < line.seeds:
                sentences.append(
                    f"{place.name}, {line.student}: Cls and Loc are those of {line.with_errors} of its "
                    f"{line.seeds} baselines; the errors of the others are not kept."
                )
    return sentences


def regimes_markdown(baselines: pd.DataFrame, gains: pd.DataFrame, expected: pd.DataFrame) -> str:
    """The text of ``regimes.md``: the table, how to read it, what is missing, the plan's expectations."""
    shown = gains[gains.metric == "mAP"].set_index(["place", "student", "method"])
    rows = []
    for line in baselines.itertuples():
        cells = []
        for method, control in COMPARED.items():
            own, other = (_gain(shown, line, m) for m in (method, control))
            cells.append(f"{own} ({other})" if other != MISSING else own)
        rows.append(
            [
                line.place,
                line.student,
                f"{number(line.Cls50)} / {number(line.Loc50)}",
                f"{number(line.Cls75)} / {number(line.Loc75)}",
                number(line.mAP),
                _seeds(gains, line),
                *cells,
            ]
        )
    head = ["data", "student", "Cls / Loc at .50", "at .75", "baseline mAP", "seeds"]
    head += [f"{method_label(m)} ({method_label(c)})" for m, c in COMPARED.items()]
    explored = [f"{p.name}: {p.exploratory}." for p in PLACES if p.exploratory]
    return "\n".join(
        [
            "# When does distillation help?",
            "",
            f"![{ALT}](regimes.png)",
            "",
            markdown_table(head, rows, text_columns=(0, 1)) if rows else "No run was found.",
            "",
            "Cls and Loc: the AP points that the baseline would gain if only its wrong classes, or only its "
            "inexact boxes, were corrected (TIDE, on the test split). Then the gain of each method in mAP "
            "over that baseline, and in brackets the gain of its control: labels in the teacher's place, an "
            "L1 loss without image, class means with that L1 loss.",
            "",
            f"Intervals (95 %, from {FEWEST_SEEDS} seeds on) contain the noise of the seed and, where there "
            "are several draws of training set, backbone and teacher, that of the draw, not that of the test "
            "images; no correction is made for their number. Verdicts are given on the primary claims only, "
            "in `claims.md`.",
            "",
            *(f"- {sentence}" for sentence in [*explored, *missing(baselines, gains)]),
            "",
            "## The plan's expectations",
            "",
            _expectations_table(expected),
            "",
            f"Each difference is expected to be above 0 for {EXPECTED_OF} (`results/regimes_plan.md`). "
            "There is no verdict. Between two data sets, the differences of both are taken as independent, "
            "but Badges and Badges-4 share their draws: that interval is rather too wide.",
            "",
        ]
    )


def _expectations_table(expected: pd.DataFrame) -> str:
    rows = [
        [
            str(line.number),
            line.difference,
            "not run" if pd.isna(line.value) else difference_text(line.value, line.low, line.high),
            MISSING if pd.isna(line.value) else line.seeds,
        ]
        for line in expected.itertuples()
    ]
    head = ["expectation", "difference", "mAP [95 % CI]", "seeds"]
    return markdown_table(head, rows, text_columns=(1,))


ALT = (
    "For each data set and student: what the baseline loses to wrong classes and to inexact boxes, and "
    "beside it the gains of KD_cls, of loc, of both box losses and of C2D, each with its control"
)


def _seeds(gains: pd.DataFrame, line) -> str:
    """The seeds of a student's baseline and of its gains: one number, or the fewest and the most."""
    own = gains[(gains.place == line.place) & (gains.student == line.student)].seeds
    fewest, most = min([line.seeds, *own]), max([line.seeds, *own])
    return str(most) if fewest == most else f"{fewest} to {most}"


def _gain(shown: pd.DataFrame, line, method: str) -> str:
    key = line.place, line.student, canonical(method)
    if key not in shown.index:
        return MISSING
    return difference_text(*shown.loc[key, ["gain", "low", "high"]]) or MISSING


def write_regimes(results: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write ``regimes.csv`` (gains, with the baselines' errors) and ``regimes.md`` into ``results``.

    Returns:
        Baselines and gains, as of ``regimes``.
    """
    baselines, gains, expected = regimes(results)
    frame = gains.merge(baselines.drop(columns="seeds"), on=["place", "student"], how="left")
    write_whole(results / "regimes.csv", frame.to_csv(index=False, float_format="%.4f"))
    write_whole(results / "regimes.md", regimes_markdown(baselines, gains, expected))
    return baselines, gains
