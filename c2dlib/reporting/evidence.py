"""What the run records say about the primary claims: estimates, intervals, tests and verdicts.

Every run of the claims' rows counts whose settings are the scale's own. A student's residual variance is
pooled over all methods that the claims name; students are independent of one another, and their variances may
differ.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pandas as pd

from c2dlib.config.experiment import Experiment, experiment, scale_tables
from c2dlib.config.methods import canonical
from c2dlib.data.coco import CocoFolder
from c2dlib.evaluation import halves
from c2dlib.evaluation.ranking import ORACLE, SCORE_IOU
from c2dlib.evaluation.tide import BOXES
from c2dlib.records import RecordError, RunRecord, read_record
from c2dlib.reporting.errors import RunErrors, known_errors
from c2dlib.reporting.labels import method_label
from c2dlib.reporting.markdown import as_text
from c2dlib.reporting.primary_claims import (
    BOXES_ALONE,
    ORDER,
    Part,
    PrimaryClaim,
    Regime,
    Term,
    metric_label,
    papers_student,
    read_claims,
    regime_of,
)
from c2dlib.reporting.statistics import Estimate, holm, mixed_estimate, pooled_variance, welch_sum
from c2dlib.reporting.work_list import CONTROL, PAPER
from c2dlib.workspace import Workspace

LEVEL = 0.05  # of each family of claims
FEWEST_SEEDS = 3  # a row with fewer gets no verdict
NO_FIT = "the mixed model has no valid fit"
REPRODUCED, CONTRADICTED, EQUIVALENT, UNDECIDED = "reproduced", "contradicted", "equivalent", "undecided"
NOT_RUN, INCOMPLETE = "not run", "incomplete"  # none of a claim's rows were run; some lack runs or the metric
EXPLORED = {
    REPRODUCED: "in the paper's direction",
    CONTRADICTED: "against the paper",
    EQUIVALENT: "within the margin",
    UNDECIDED: "undecided",
}  # words for records that are older than the claims
# Method, over, metric: differences that are no claim, shown with the same statistics on the compact students.
ALSO_POOLED = [
    ("ours", "baseline", "mAP"),
    ("loc+KDloc", "baseline", "mAP"),
    (CONTROL, "baseline", "mAP"),
    (CONTROL, "baseline", "AP50"),
    (CONTROL, "baseline", "mAR"),
    ("KDcls", "baseline", "AP80"),
    (CONTROL, "baseline", "AP80"),
    ("KDcls", CONTROL, "AP50"),
    ("ours", CONTROL, "mAP"),
    *(
        (method, "baseline", metric)
        for metric in ("boxes50", "boxes80", *ORDER)
        for method in ("KDcls", CONTROL, "loc", "loc+KDloc", "ours")
    ),
]
ALSO_COLUMNS = ["sum", "student", "paper", "value", "low", "high", "seeds", "se", "se_images"]


@dataclass(frozen=True)
class Runs:
    """The runs that count, and what was left out."""

    frame: pd.DataFrame  # student, method, seed, draw, device, teacher, and a column per metric
    left_out: list[str] = field(default_factory=list)  # sentences
    # (student, method, seed) -> ``evaluation.halves`` of a run, where it is known
    halves: dict[tuple[str, str, int], pd.DataFrame] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """What is known about one part of a claim, over its groups or on a single student."""

    estimate: Estimate | None = None  # None without enough runs for a variance, or where no model fits
    value: float | None = None  # of the sum, also where there is only one seed
    fewest: int = 0  # runs of a row: the row with the fewest
    most: int = 0
    draws: int = 1
    missing: tuple[tuple[str, str, str], ...] = ()  # what is missing, method, student
    begun: bool = True  # some of its rows have runs
    planned: Estimate | None = None  # where rows are missing: the error with FEWEST_SEEDS runs of each


@dataclass(frozen=True)
class Evidence:
    """The primary claims on one results folder."""

    regime: Regime
    parts: pd.DataFrame  # a line per part, see ``judge``
    students: pd.DataFrame  # a line per part and student: id, part, student, value, low, high, se, se_images
    also: pd.DataFrame  # ALSO_COLUMNS: a line per difference of ALSO_POOLED and student (empty: all)
    left_out: list[str]  # sentences: runs that do not count, rows that had other teachers
    teachers: dict[str, int] = field(
        default_factory=dict
    )  # student -> trainings of a row's teacher, if several
    runs: Runs | None = None  # those that count


def evidence(workspace: Workspace, folder: CocoFolder) -> Evidence | None:
    """The primary claims by the records of a results folder; None for a folder that no regime names."""
    regime, claims = regime_of(workspace), read_claims()
    if regime is None:
        return None
    runs = collect_runs(workspace, folder, regime, claims)
    return Evidence(
        regime,
        judge(claims, regime, runs, paper_numbers(), workspace.scale),
        by_student(claims, regime, runs),
        also_pooled(regime, runs, paper_numbers(), workspace.scale),
        [*runs.left_out, *other_teachers(claims, regime, runs.frame)],
        several_teachers(runs.frame),
        runs,
    )


def several_teachers(runs: pd.DataFrame) -> dict[str, int]:
    """Student -> how many trainings of a teacher the runs of one of its rows name on one draw, if several."""
    named = runs[runs.teacher != ""]
    counts = named.groupby(["student", "method", "draw"]).teacher.nunique().groupby("student").max()
    return {str(student): int(count) for student, count in counts.items() if count > 1}


def other_teachers(claims: list[PrimaryClaim], regime: Regime, runs: pd.DataFrame) -> list[str]:
    """A sentence for each student and pair of rows that a claim compares and that share no teacher."""
    pairs: dict[tuple[str, str, str], None] = {}
    for part in (part for claim in claims for part in claim.parts):
        for student in dict.fromkeys(student for group in part.groups for student in regime.groups[group]):
            own = runs[(runs.student == student) & (runs.teacher != "")]
            teachers = {method: set(rows.teacher) for method, rows in own.groupby("method")}
            methods = [m for m in dict.fromkeys(term.method for term in part.terms) if m in teachers]
            pairs |= dict.fromkeys(
                (student, first, second)
                for first, second in itertools.combinations(methods, 2)
                if teachers[first].isdisjoint(teachers[second])
            )
    return [
        f"{student}: {method_label(first)} and {method_label(second)} had teachers from different trainings, "
        "so their difference contains what these teachers differ by, and its interval does not"
        for student, first, second in pairs
    ]


def by_device(claims: list[PrimaryClaim], regime: Regime, runs: Runs) -> pd.DataFrame:
    """Sums on the runs of one kind of device alone, where their rows have runs from CPUs and from a GPU.

    They are the parts of the claims, and what ALSO_POOLED has of AP80 of the boxes. What cannot be computed
    on CPUs alone is left out.

    Returns:
        ``sum`` (in words), ``student`` (empty: all of the sum), ``device`` (CPU or GPU) and ``value``,
        ``low``, ``high`` (95 %; from three seeds on).
    """
    parts = {f"{claim.id}. {part.text}": part for claim in claims for part in claim.parts}
    parts |= {
        part.text: part for part in (_difference(*names) for names in ALSO_POOLED if "boxes80" in names)
    }
    lines, on_cpu = [], runs.frame.device == "CPU"
    for name, part in parts.items():
        students = regime.groups[part.groups[0]] if len(part.groups) == 1 else []
        for student in ["", *(students if len(students) > 1 else [])]:
            groups = {part.groups[0]: [student]} if student else regime.groups
            cells = cell_weights(part, groups)
            kinds = on_cpu[
                [cell in cells for cell in zip(runs.frame.student, runs.frame.method, strict=True)]
            ]
            if kinds.nunique() < 2 or find(part, groups, runs.frame[on_cpu]).missing:
                continue
            for device, chosen in (("CPU", on_cpu), ("GPU", ~on_cpu)):
                found = _line(part, groups, Runs(runs.frame[chosen]))
                line = {"sum": name, "student": student, "device": device}
                lines.append(line | {name: found.get(name) for name in ("value", "low", "high")})
    return pd.DataFrame(lines, columns=["sum", "student", "device", "value", "low", "high"])


def collect_runs(
    workspace: Workspace, folder: CocoFolder, regime: Regime, claims: list[PrimaryClaim]
) -> Runs:
    """The finished runs of the claims' rows, on the test split, with the scale's own settings.

    A seed that chose a setting does not count, nor does a seed whose rows are from different kinds of device.
    """
    lines, divided = [], {}
    found, left_out = own_runs(workspace, regime.students, methods_of(claims), folder.annotation_hash)
    for e, record in found:
        line, errors = run_line(record), known_errors(e, workspace)
        lines.append(line | _from_errors(errors))
        if errors and len(errors.halves):
            divided[line["student"], line["method"], line["seed"]] = errors.halves
    frame = pd.DataFrame(
        lines, columns=None if lines else ["student", "method", "seed", "draw", "device", "teacher"]
    )
    counted = one_device_per_seed(frame)
    return replace(counted, left_out=[*left_out, *counted.left_out], halves=divided)


def own_runs(
    workspace: Workspace, students: list[str] | None, methods: list[str], annotation_hash: str = ""
) -> tuple[list[tuple[Experiment, RunRecord]], list[str]]:
    """The finished runs of a results folder on the test split, with the scale's own settings.

    A seed that chose a setting is left out.

    Returns:
        The runs; and a sentence for each that did not finish, such as one that stopped on a numerical error,
        and for each record that cannot be read.

    Args:
        students: None: all.
        annotation_hash: that of the data; runs on other annotations are left out. Empty: the annotations of
            most runs.
    """
    chose = scale_tables(workspace.scale).get("first_seed", {}).get("choices")
    runs, left_out = [], []
    for path in sorted((workspace.results / "records").glob("*.json")):
        student, method = path.name.split(".")[:2]
        if method not in methods or (students is not None and student not in students):
            continue
        try:
            record = read_record(path)
        except RecordError as error:
            left_out.append(f"left out: {as_text(str(error).replace(str(path), path.name))}")
            continue
        if record.eval_split != "test" or record.seed >= (chose or record.seed + 1):
            continue
        e = experiment(
            workspace.scale,
            student,
            method,
            record.seed,
            data=workspace.data_name,
            data_hash=record.experiment.get("data_hash", annotation_hash),
            eval_split="test",
        )
        if e.hash() == record.hash and record.status == "done":
            runs.append((e, record))
        elif e.hash() == record.hash and annotation_hash in ("", e.data_hash):
            name, why = f"{student} {method_label(method)}, seed {record.seed}", as_text(record.reason)
            left_out.append(f"{name}: left out, because it did not finish ({record.status}: {why})")
    hashes = [record.data["annotation_hash"] for _, record in runs]
    present = annotation_hash or max(hashes, key=hashes.count, default="")
    return [run for run, own in zip(runs, hashes, strict=True) if own == present], left_out


def methods_of(claims: list[PrimaryClaim]) -> list[str]:
    """The methods that the claims name; the residual variance is pooled over them."""
    return sorted({term.method for claim in claims for part in claim.parts for term in part.terms})


def run_line(record: RunRecord) -> dict:
    """A run as a line of ``Runs.frame``."""
    return {
        "student": record.student,
        "method": canonical(record.method),
        "seed": record.seed,
        "draw": f"{record.data['annotation_hash'][:12]}-{record.experiment.get('draw', 0)} {record.origin}",
        "device": record.device_kind,
        "teacher": _training(record.teacher),
        **record.metrics,
    }


def _training(teacher: Mapping) -> str:
    """Which training of its teacher a run had; empty without one. Older records do not name its weights."""
    return f"{teacher['hash']} {teacher['top1']:.3f} {teacher['ECE']:.3f}" if "top1" in teacher else ""


def _from_errors(errors: RunErrors | None) -> dict[str, float | None]:
    """The metrics that a run's record does not have, from its kept errors; None where they are not known."""
    values: dict[str, float | None] = dict.fromkeys([*BOXES_ALONE, *ORDER])
    if errors is None:
        return values
    by_iou = errors.by_iou
    values |= {
        name: float(by_iou.loc[iou, BOXES]) for name, iou in BOXES_ALONE.items() if iou in by_iou.index
    }
    if ORACLE in by_iou:
        best, correlation = by_iou[ORACLE], 100 * by_iou[SCORE_IOU]
        values |= {"oracle_mAP": best.mean(), "oracle50": best.loc[50], "oracle80": best.loc[80]}
        values |= {"score_IoU": correlation.loc[50], "score_IoU80": correlation.loc[80]}
    return values


def one_device_per_seed(frame: pd.DataFrame) -> Runs:
    """Without the seeds of a student whose rows are from a GPU and from CPUs; and one name per draw.

    A draw is a training set with its backbone. Where every student has one backbone per training set, the
    students of one training set share the draw.
    """
    if frame.empty:
        return Runs(frame)
    kinds = frame.groupby(["student", "seed"]).device.transform("nunique")
    mixed = frame[kinds > 1][["student", "seed"]].drop_duplicates()
    left_out = [
        f"{student}, seed {seed}: left out, because its rows are from CPUs and from a GPU"
        for student, seed in mixed.itertuples(index=False)
    ]
    frame = frame[kinds == 1].reset_index(drop=True)
    data = frame.draw.str.split().str[0]
    backbones = frame.draw.groupby([frame.student, data]).transform("nunique")
    return Runs(frame.assign(draw=data.where(backbones == 1, frame.draw)), left_out)


def find(part: Part, groups: Mapping[str, list[str]], runs: pd.DataFrame) -> Finding:
    """Estimate a part from the runs.

    With one draw: a mean per student and method, a residual variance per student over all its methods, and
    Welch's degrees of freedom over the students. With several draws: a mixed model, see ``mixed_estimate``;
    where it has no valid fit there is a value without an estimate.
    Of a student with runs on both kinds of device, only seeds that all rows of the part with runs have
    count: so a difference is of runs on the same devices. Rows of a student without a common draw count as
    missing; of other rows, those on the part's draws count for the variance.

    Args:
        groups: the students of each group.
        runs: of ``collect_runs``.
    """
    weights = cell_weights(part, groups)
    measured = _values(runs, part.direction)
    values = _same_devices(measured, list(weights))
    cells = {cell: values[(values.student == cell[0]) & (values.method == cell[1])] for cell in weights}
    if missing := _missing(cells, runs, measured, part) or _without_common_draw(cells):
        planned = _one_draw(weights, values, FEWEST_SEEDS) if values.draw.nunique() == 1 else None
        return Finding(missing=missing, begun=any(_has(runs, *cell) for cell in cells), planned=planned)
    counts = [len(rows) for rows in cells.values()]
    value = sum(weight * cells[cell].value.mean() for cell, weight in weights.items())
    used = pd.concat(cells.values())[["student", "draw"]].drop_duplicates()
    values = values.merge(used)  # other rows count on the same draws
    draws = int(used.student.value_counts().max())
    known = {"fewest": min(counts), "most": max(counts), "draws": draws}
    estimate = _one_draw(weights, values) if draws == 1 else _several_draws(weights, values)
    return Finding(estimate, estimate.value if estimate else value, **known)


def image_error(part: Part, groups: Mapping[str, list[str]], runs: Runs) -> float | None:
    """The standard error of a part from the choice of test images alone, see ``evaluation.halves``.

    It is made of products of different runs: what a single run happens to do on single images is noise of
    the seed, which the estimate's own error contains. All students are tested on the same images. It is about
    the runs that ``find`` takes, as far as their halves are known.

    Returns:
        0 where the estimated variance is below 0. None if the part has another metric than
        ``halves.METRICS``, a row has fewer than two runs with halves, or no division has objects in both.
    """
    if not part.direction.keys() <= halves.METRICS.keys():
        return None
    weights, total, of_single_runs = cell_weights(part, groups), 0.0, 0.0
    values = _same_devices(_values(runs.frame, part.direction), list(weights))
    for (student, method), weight in weights.items():
        seeds = values[(values.student == student) & (values.method == method)].seed
        known = [runs.halves[key] for seed in seeds if (key := (student, method, seed)) in runs.halves]
        if len(known) < 2:
            return None
        own = [sum(sign * frame[metric] for metric, sign in part.direction.items()) for frame in known]
        mean = sum(own) / len(own)
        variance = sum((differences - mean) ** 2 for differences in own) / (len(own) - 1)
        total = total + weight * mean
        of_single_runs = of_single_runs + weight**2 * variance / len(own)
    variance = float((total**2 - of_single_runs).mean()) / 4
    return None if math.isnan(variance) else max(0.0, variance) ** 0.5


def cell_weights(part: Part, groups: Mapping[str, list[str]]) -> dict[tuple[str, str], float]:
    """(student, method) -> the weight of its mean in a part."""
    weights: dict[tuple[str, str], float] = {}
    for (group, method), weight in part.row_weights.items():
        for student in groups[group]:
            cell = student, method
            weights[cell] = weights.get(cell, 0.0) + weight / len(groups[group])
    return weights


def _values(runs: pd.DataFrame, direction: dict[str, float]) -> pd.DataFrame:
    """The runs that have all metrics of a direction, with the value of that sum."""
    columns = runs.reindex(columns=list(direction)).astype(float)
    values = sum(weight * columns[metric] for metric, weight in direction.items())
    kept = runs[["student", "method", "seed", "draw", "device"]]
    return kept.assign(value=values).dropna(subset="value")


def _same_devices(values: pd.DataFrame, cells: list[tuple[str, str]]) -> pd.DataFrame:
    """Without the runs of ``cells`` whose seed another cell of a student with two kinds of device lacks.

    A cell without any run takes no part in that.
    """
    for student in dict.fromkeys(student for student, _ in cells):
        own = values[values.student == student]
        if own.device.nunique() > 1:
            methods = [method for name, method in cells if name == student]
            seeds = [set(own[own.method == method].seed) for method in methods]
            common = set(own.seed).intersection(*(of_row for of_row in seeds if of_row))
            lacking = own.method.isin(methods) & ~own.seed.isin(common)
            values = values.drop(index=own.index[lacking])
    return values


def _missing(
    cells: dict, runs: pd.DataFrame, measured: pd.DataFrame, part: Part
) -> tuple[tuple[str, str, str], ...]:
    """What is missing, method and student of each row that has no run, none with the metric, or, of a student
    on two kinds of device, none whose seed the other rows have.
    """
    lacking = []
    for (student, method), rows in cells.items():
        if rows.empty:
            if not _has(runs, student, method):
                what = NOT_RUN
            elif not _has(measured, student, method):
                what = ", ".join(map(metric_label, part.direction)) + " not measured"
            else:
                what = "no seed in common with the other rows (runs on CPUs and on a GPU)"
            lacking.append((what, method_label(method), student))
    return tuple(lacking)


def _without_common_draw(cells: dict[tuple[str, str], pd.DataFrame]) -> tuple[tuple[str, str, str], ...]:
    """As ``_missing``, the rows of each student that have no draw in common.

    A draw is a training set with its initial weights: their difference would be one of these too.
    """
    draws: dict[str, set[str]] = {}
    for (student, _), rows in cells.items():
        draws[student] = draws.get(student, set(rows.draw)) & set(rows.draw)
    what = "no draw in common (other initial weights or training images)"
    return tuple((what, method_label(method), student) for student, method in cells if not draws[student])


def _has(runs: pd.DataFrame, student: str, method: str) -> bool:
    return bool(((runs.student == student) & (runs.method == method)).any())


def _missing_text(missing: list[tuple[str, str, str]]) -> str:
    """``not run: loc, KDcls-mean (SSD512-VGG16, FasterRCNN-MV2)``."""
    students: dict[tuple[str, str], list[str]] = {}
    for what, method, student in dict.fromkeys(missing):
        students.setdefault((what, method), []).append(student)
    methods: dict[str, dict[str, list[str]]] = {}
    for (what, method), names in students.items():
        methods.setdefault(what, {}).setdefault(", ".join(names), []).append(method)
    return "; ".join(
        f"{what}: " + ", ".join(f"{', '.join(of)} ({names})" for names, of in rows.items())
        for what, rows in methods.items()
    )


def _one_draw(
    weights: dict[tuple[str, str], float], values: pd.DataFrame, of_missing: int = 0
) -> Estimate | None:
    """The estimate of a sum; None where a student has no residual variance.

    Args:
        of_missing: runs that a row without any is taken to have; only the error then means something. Of a
            student on two kinds of device no row then counts more runs, as ``_same_devices`` would have it.
    """
    estimates = []
    for student in dict.fromkeys(student for student, _ in weights):
        rows = {m: g.value.tolist() for m, g in values[values.student == student].groupby("method")}
        try:
            variance, df = pooled_variance(list(rows.values()))
        except ValueError:
            return None
        own = {method: weight for (name, method), weight in weights.items() if name == student}
        rows |= {m: [0.0] * of_missing for m in own if m not in rows}
        if of_missing and values[values.student == student].device.nunique() > 1:
            rows = {m: of_row[:of_missing] for m, of_row in rows.items()}
        value = sum(weight * sum(rows[m]) / len(rows[m]) for m, weight in own.items())
        se = (variance * sum(weight**2 / len(rows[m]) for m, weight in own.items())) ** 0.5
        estimates.append((1.0, Estimate(value, se, df)))
    return welch_sum(estimates)


def _several_draws(weights: dict[tuple[str, str], float], values: pd.DataFrame) -> Estimate | None:
    runs = values[values.student.isin({student for student, _ in weights})]
    runs = runs.assign(cell=runs.student + " " + runs.method)
    return mixed_estimate(runs, {f"{student} {method}": w for (student, method), w in weights.items()})


def judge(
    claims: list[PrimaryClaim],
    regime: Regime,
    runs: Runs,
    paper: Mapping[tuple[str, str, str], float],
    scale: str,
) -> pd.DataFrame:
    """Every part of every claim with its estimate, and every claim with its verdict.

    Returns:
        A line per part: ``id``, ``family``, ``claim``, ``part`` (from 1), ``sum`` (in words), ``above``,
        ``within``, ``paper`` (the same sum of its numbers), ``paper_students`` (if not all of them have
        numbers), ``value``, ``low``, ``high`` at ``level``, ``df``, ``draws``, ``seeds``, ``mde`` (and
        ``mde_within`` of a claim with ``otherwise_within``; where rows are missing, with three runs of each),
        ``se`` and ``se_images``, the standard errors from seed and draw and from the choice of test images;
        ``p_at_best``, the p of TOST if the difference were exactly 0; of the whole claim the same after
        Holm's correction (``p_at_best_holm``), if all others of its family held; ``p``, ``p_holm`` and, of
        the opposite, ``p_against``, ``p_against_holm``, then ``verdict`` and ``why`` (rows that are missing).
    """
    findings = {c.id: [find(part, regime.groups, runs.frame) for part in c.parts] for c in claims}
    sizes = pd.Series([c.family for c in claims]).value_counts()
    verdicts = {
        claim_id: entry
        for family in sizes.index
        for claim_id, entry in _family([c for c in claims if c.family == family], findings).items()
    }
    lines = []
    for claim in claims:
        for number, (part, finding) in enumerate(zip(claim.parts, findings[claim.id], strict=True), 1):
            number_of_paper, students = papers_sum(part, regime, paper, scale)
            lines.append(
                {
                    "id": claim.id,
                    "family": claim.family,
                    "claim": claim.text,
                    "part": number,
                    "sum": part.text,
                    "above": part.above,
                    "within": part.within,
                    "otherwise_within": claim.otherwise_within,
                    "smallest_effect": claim.smallest_effect,
                    "paper": number_of_paper,
                    "paper_students": students,
                    **_numbers(part, finding, int(sizes[claim.family]), claim.otherwise_within),
                    "se_images": image_error(part, regime.groups, runs),
                    **verdicts[claim.id],
                }
            )
    frame = pd.DataFrame(lines)
    best = {}
    for _, of_family in frame.groupby("family"):
        highest = of_family.p_at_best.astype(float).groupby(of_family.id).max().fillna(0.0)
        best |= dict(zip(highest.index, holm(highest.tolist()), strict=True))
    frame = frame.assign(p_at_best_holm=frame.id.map(best))
    if regime.exploratory:
        frame = frame.assign(verdict=frame.verdict.replace(EXPLORED))
    return frame


def _numbers(part: Part, finding: Finding, family_size: int, otherwise_within: float | None) -> dict:
    """The estimate of a part; intervals are for rows of three seeds or more.

    Args:
        family_size: the number of claims that Holm's correction is made for.
        otherwise_within: the margin of a claim that also asks whether the difference is negligible.
    """
    tost_alpha = LEVEL / family_size  # at the strictest step
    alpha = min(LEVEL / 2, tost_alpha)  # a difference must also be outside its two-sided interval
    level = 0.95 if part.within is None else 0.9
    line: dict[str, float | str | None] = {
        "value": finding.value,
        "low": None,
        "high": None,
        "level": level,
        "df": None,
        "draws": finding.draws,
        "seeds": _seeds(finding),
        "mde": None,
        "mde_within": None,
        "se": None,
        "p_at_best": None,
    }
    measured = finding.estimate if finding.fewest >= FEWEST_SEEDS else None
    if measured:
        line["low"], line["high"] = measured.interval(level)
        line["df"], line["se"] = measured.df, measured.se
    if error := measured or finding.planned:
        margin = error.detectable_margin(tost_alpha)
        line["mde"] = error.detectable(alpha) if part.within is None else margin
        line["mde_within"] = margin if otherwise_within is not None else None
        bound = part.within if otherwise_within is None else otherwise_within
        line["p_at_best"] = None if bound is None else Estimate(0.0, error.se, error.df).p_within(bound)
    return line


def _seeds(finding: Finding) -> str:
    """``5``, or ``3-5`` where the rows have different numbers of runs."""
    return f"{finding.fewest}" + (f"-{finding.most}" if finding.most > finding.fewest else "")


def _family(claims: list[PrimaryClaim], findings: dict[int, list[Finding]]) -> dict[int, dict]:
    """p, Holm's p, verdict and missing rows of the claims of one family.

    A claim whose rows are missing counts in the correction, with p = 1. So a later run changes no other
    claim's verdict to the worse.
    """
    testable = {c.id: all(f.estimate and f.fewest >= FEWEST_SEEDS for f in findings[c.id]) for c in claims}
    p_for, p_against, p_equal = {}, {}, {}
    for c in claims:
        estimates = [f.estimate for f in findings[c.id] if f.estimate] if testable[c.id] else []
        pairs = list(zip(c.parts, estimates, strict=True)) if estimates else []
        p_for[c.id] = max((_p_for(*pair) for pair in pairs), default=1.0)
        p_against[c.id] = min(1.0, len(pairs) * min((_p_against(*pair) for pair in pairs), default=1.0))
        p_equal[c.id] = p_for[c.id]
        if c.otherwise_within is not None and pairs:
            p_equal[c.id] = pairs[0][1].p_within(c.otherwise_within)
    adjusted = {
        name: dict(zip(ps, holm(list(ps.values())), strict=True))
        for name, ps in (("for", p_for), ("against", p_against), ("equal", p_equal))
    }
    result = {}
    for c in claims:
        missing = [row for f in findings[c.id] for row in f.missing]
        if missing:
            verdict = INCOMPLETE if any(f.begun for f in findings[c.id]) else NOT_RUN
        elif not testable[c.id]:
            fewest = min(f.fewest for f in findings[c.id])
            why = "one seed" if fewest == 1 else f"{fewest} seeds"
            verdict = f"no verdict: {why if fewest < FEWEST_SEEDS else NO_FIT}"
        else:
            estimates = [f.estimate for f in findings[c.id] if f.estimate]
            verdict = _verdict(c, estimates, {name: ps[c.id] for name, ps in adjusted.items()})
        run = not missing and testable[c.id]
        result[c.id] = {
            "p": p_for[c.id] if run else None,
            "p_holm": adjusted["for"][c.id] if run else None,
            "p_against": p_against[c.id] if run else None,
            "p_against_holm": adjusted["against"][c.id] if run else None,
            "verdict": verdict,
            "why": _missing_text(missing),
        }
    return result


def _p_for(part: Part, estimate: Estimate) -> float:
    return estimate.p_above(part.above or 0.0) if part.within is None else estimate.p_within(part.within)


def _p_against(part: Part, estimate: Estimate) -> float:
    if part.within is None:
        return estimate.p_below(part.above or 0.0)
    return min(estimate.p_above(part.within), estimate.p_below(-part.within))


def _verdict(claim: PrimaryClaim, estimates: list[Estimate], p: dict[str, float]) -> str:
    """One word; a claim is reproduced or contradicted only if the two-sided 95 % interval says so as well."""
    above = [
        (part.above, estimate.interval())
        for part, estimate in zip(claim.parts, estimates, strict=True)
        if part.above is not None
    ]
    if p["for"] < LEVEL and all(low > bound for bound, (low, _) in above):
        return REPRODUCED if above else EQUIVALENT
    other_side = [high < bound for bound, (_, high) in above] + [
        min(abs(low), abs(high)) > part.within and low * high > 0
        for part, (low, high) in zip(claim.parts, (e.interval() for e in estimates), strict=True)
        if part.within is not None
    ]
    if p["against"] < LEVEL and any(other_side):
        return CONTRADICTED
    if claim.otherwise_within is not None and p["equal"] < LEVEL:
        return EQUIVALENT
    return UNDECIDED


def by_student(claims: list[PrimaryClaim], regime: Regime, runs: Runs) -> pd.DataFrame:
    """The parts that are about one group, on each of its students.

    Returns:
        ``value``, ``low``, ``high`` (95 %), ``se`` and ``se_images``, the standard errors from seed and
        draw and from the choice of test images.
    """
    lines = []
    for claim in claims:
        for number, part in enumerate(claim.parts, 1):
            students = regime.groups[part.groups[0]] if len(part.groups) == 1 else []
            for student in students if len(students) > 1 else []:
                line = _line(part, {part.groups[0]: [student]}, runs)
                lines.append({"id": claim.id, "part": number, "student": student} | line)
    columns = ["id", "part", "student", "value", "low", "high", "se", "se_images"]
    return pd.DataFrame(lines, columns=columns)


def _line(part: Part, groups: Mapping[str, list[str]], runs: Runs) -> dict:
    """``value`` of a part; from three seeds on also its 95 % interval and standard errors."""
    finding = find(part, groups, runs.frame)
    line: dict[str, float | str | None] = {"value": finding.value, "seeds": _seeds(finding)}
    if finding.estimate and finding.fewest >= FEWEST_SEEDS:
        line["low"], line["high"] = finding.estimate.interval()
        line |= {"se": finding.estimate.se, "se_images": image_error(part, groups, runs)}
    return line


def also_pooled(
    regime: Regime, runs: Runs, paper: Mapping[tuple[str, str, str], float], scale: str
) -> pd.DataFrame:
    """The differences of ALSO_POOLED that have an interval, pooled (``student`` empty) and on each student;
    they have no verdict.
    """
    lines, students = [], regime.groups["compact"]
    for names in ALSO_POOLED:
        part = _difference(*names)
        pooled = _line(part, regime.groups, runs)
        if "low" in pooled:
            number, _ = papers_sum(part, regime, paper, scale)
            lines.append({"sum": part.text, "student": "", "paper": number} | pooled)
            for student in students if len(students) > 1 else []:
                lines.append(
                    {"sum": part.text, "student": student} | _line(part, {"compact": [student]}, runs)
                )
    return pd.DataFrame(lines, columns=ALSO_COLUMNS)


def _difference(method: str, over: str, metric: str) -> Part:
    """A line of ALSO_POOLED as a part."""
    terms = (Term(weight, "compact", canonical(m), metric) for weight, m in ((1, method), (-1, over)))
    return Part(tuple(terms), above=0.0)


def paper_numbers() -> dict[tuple[str, str, str], float]:
    """(student, method, metric) -> the paper's number, from its Tables 1, 2 and 5."""
    numbers: dict[tuple[str, str, str], float] = {}
    for table in ("table1", "table2", "table5"):
        for line in pd.read_csv(PAPER / f"{table}.csv").to_dict("records"):
            row = line.pop("student"), canonical(line.pop("method"))
            for metric, number in line.items():
                if pd.notna(number):
                    numbers.setdefault((*row, metric), number)
    return numbers


def papers_sum(
    part: Part, regime: Regime, paper: Mapping[tuple[str, str, str], float], scale: str
) -> tuple[float | None, str]:
    """The same sum of the paper's numbers, on its students that have all of them.

    Returns:
        None if a group has no such student; and the names of the students where some of a group are left out.
    """
    groups, all_there = {}, True
    for group in part.groups:
        terms = [term for term in part.terms if term.group == group]
        students = [papers_student(student, scale) for student in regime.groups[group]]
        groups[group] = [s for s in students if all((s, t.method, t.metric) in paper for t in terms)]
        all_there &= groups[group] == students
        if not groups[group]:
            return None, ""
    total = sum(
        term.weight
        * sum(paper[s, term.method, term.metric] for s in groups[term.group])
        / len(groups[term.group])
        for term in part.terms
    )
    return total, "" if all_there else ", ".join(dict.fromkeys(s for group in groups.values() for s in group))
