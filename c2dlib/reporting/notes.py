"""What a reader must know about a table beside its numbers, in sentences made from the run records."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from c2dlib.config.experiment import experiment
from c2dlib.config.methods import IMITATIONS, canonical, imitation_in, parts
from c2dlib.config.students import ARCHITECTURES
from c2dlib.data.coco import CocoFolder
from c2dlib.records import RunRecord
from c2dlib.reporting.labels import method_label, run_labels, without_masks
from c2dlib.reporting.markdown import as_text
from c2dlib.reporting.primary_claims import regime_of
from c2dlib.reporting.statistics import mean_of
from c2dlib.reporting.work_list import CONTROL, Row, numbers_beside
from c2dlib.workspace import Workspace

SWAMPED = 100  # times the detector's own losses
OWN_LOSSES = {
    "bbox_regression",
    "bbox_ctrness",
    "classification",
    "loss_box_reg",
    "loss_classifier",
    "loss_mask",
    "loss_objectness",
    "loss_rpn_box_reg",
}  # torchvision's names
FEW_IMAGES = 200  # below this, metrics of a split do not separate methods


def notes(
    workspace: Workspace, folder: CocoFolder, records: dict[str, RunRecord], rows: Sequence[Row] = ()
) -> list[str]:
    """The notes under a table: data, scale, controls, teachers, comparability, cost, origin of the numbers.

    Args:
        records: those of the table's runs, by experiment hash.
        rows: of the table; what varies between them is said where a note names runs.
    """
    every, labels = list(records.values()), run_labels(list(rows))
    done = [record for record in every if record.status == "done"]
    return [
        *_data(workspace, folder, every),
        *_scale(workspace, folder),
        *_control(every),
        *_classifiers(every, labels),
        *_detector_teachers(every, labels),
        *_masks(done),
        *_swamped(done),
        *_without_pair(done),
        *_intervals(workspace, rows, records),
        *_draws(rows, records),
        *_cost(done, workspace.scale),
        *_origin(every),
    ]


def whose_numbers(table: str, workspace: Workspace, rows: list[Row]) -> list[str]:
    """A sentence per student that has the rows, and beside them the numbers, of another one in the paper."""
    others = {
        student: numbers_beside(student, table, workspace.scale)
        for student in dict.fromkeys(row.student for row in rows if row.paper)
    }
    return [
        f"The paper's numbers beside {student} are those of {other}, in whose place it stands at this scale: "
        "compare gains, not mAP."
        for student, other in others.items()
        if other != student
    ]


def _data(workspace: Workspace, folder: CocoFolder, records: list[RunRecord]) -> list[str]:
    split = records[0].eval_split if records else folder.eval_split
    counts = ", ".join(f"{count} {name}" for name, count in folder.image_counts.items())
    return [
        (
            f"Data: {as_text(workspace.data_name)}, {len(folder.categories)} classes, {counts} images; "
            f"metrics on `{split}`; annotation hash `{folder.annotation_hash[:12]}`."
        )
    ]


def _scale(workspace: Workspace, folder: CocoFolder) -> list[str]:
    """What the scale and the number of images allow to conclude."""
    sentences, train, evaluated = [], folder.image_counts["train"], folder.image_counts[folder.eval_split]
    if workspace.scale == "smoke":
        sentences.append(
            "**Scale `smoke` only shows that everything runs, with a few training steps. "
            "These numbers mean nothing.**"
        )
    elif workspace.scale != "coco":
        sentences.append(
            f"Scale `{workspace.scale}`: slim students, small images, short schedules. "
            "The rows test the direction of an effect, not the paper's number."
        )
    if min(train, evaluated) < FEW_IMAGES:
        sentences.append(
            f"**{train} training and {evaluated} evaluation images are far too few to compare methods: "
            "these numbers mean nothing.**"
        )
    return sentences


def _control(records: list[RunRecord]) -> list[str]:
    if not any(record.method == CONTROL for record in records):
        return []
    return [
        (
            f"`{CONTROL}` (label control) is KD_cls with one-hot labels in place of the teacher's "
            "probabilities. At most the difference to this row, at the same weight, comes from the teacher."
        )
    ]


def _intervals(workspace: Workspace, rows: Sequence[Row], records: dict[str, RunRecord]) -> list[str]:
    """Where verdicts are given, why ``claims.md`` has other intervals of the same differences."""
    seeds = max((sum(e.hash() in records for e in row.experiments) for row in rows), default=0)
    if regime_of(workspace) is None or seeds < 2:
        return []
    return [
        "The intervals of this table are paired by seed. Those of the primary claims in `claims.md` have a "
        "variance that is pooled over all methods of a student, with more degrees of freedom, so they differ."
    ]


def _classifiers(records: list[RunRecord], labels: dict[str, str]) -> list[str]:
    """A sentence per classification teacher: how accurate and how well calibrated it is."""
    sentences, groups = [], by_classifier(records)
    several = len({_kind(group[0]) for group in groups}) > 1
    for group in groups:
        teacher, share = group[0].teacher, group[0].experiment.get("train_share")
        title = teacher["title"] + (_kind(group[0]) if several else "")
        title += f" on {share:.3g} of the images" if share is not None else ""
        sentences.append(
            f"{title}: top-1 {teacher['top1']:.1f} %, calibration error {teacher['ECE']:.1f} % "
            f"on the crops of `{teacher['split']}` (paper: 80.3 % top-1)."
            + taught(group, groups, "hash", labels)
        )
    return sentences


def _kind(record: RunRecord) -> str:
    """The width and the beginning of a run's classification teacher, where they are not the usual ones."""
    e = record.experiment
    width = "" if e.get("teacher_width", 1.0) == 1.0 else f", x {e['teacher_width']:g}"
    trained_before = e.get("teacher_pretrained") or e.get("teacher_weights")
    return width + ("" if trained_before else ", from random weights")


def _detector_teachers(records: list[RunRecord], labels: dict[str, str]) -> list[str]:
    """A sentence per imitated detector: its mAP, and a warning if it is not better than its students."""
    sentences = []
    imitating = [record for record in records if "detector" in record.teacher]
    groups = _by_weights(imitating, "detector_hash", "detector_weights_sha256", ("detector_mAP",))
    for group in groups:
        teacher = group[0].teacher
        students = [
            r.metrics["mAP"]
            for r in records
            if r.status == "done"
            and r.method == "baseline"
            and ARCHITECTURES[r.student].detector_teacher == teacher["detector"]
            and r.eval_split == teacher.get("detector_split", r.eval_split)
        ]
        warning = ""
        if students and teacher["detector_mAP"] <= max(students):
            warning = " **It is not better than a student that imitates it: those rows test nothing.**"
        sentences.append(
            f"Detector teacher {teacher['detector']}: {teacher['detector_mAP']:.1f} mAP"
            f"{f' on `{split}`' if (split := teacher.get('detector_split')) else ''}.{warning}"
            f"{taught(group, groups, 'detector_hash', labels)}"
        )
    return sentences


def by_classifier(records: list[RunRecord]) -> list[list[RunRecord]]:
    """The records of runs with a classification teacher, a list per teacher."""
    return _by_weights([r for r in records if "top1" in r.teacher], "hash", "weights_sha256", ("top1", "ECE"))


def _by_weights(
    records: list[RunRecord], settings: str, weights: str, numbers: tuple[str, ...]
) -> list[list[RunRecord]]:
    """The records, a list per settings and weights of their teacher.

    Where a record of an earlier version lacks the weights' hash, the teacher's numbers say which weights it
    had.

    Args:
        settings, weights, numbers: entries of ``teacher``: two hashes, and what was measured.
    """

    def measured(record: RunRecord) -> tuple:
        return tuple(record.teacher[name] for name in (settings, *numbers))

    known = {measured(r): r.teacher[weights] for r in records if weights in r.teacher}
    groups: dict[tuple, list[RunRecord]] = {}
    for record in records:
        own = record.teacher.get(weights) or known.get(measured(record), measured(record))
        groups.setdefault((record.teacher[settings], own), []).append(record)
    return list(groups.values())


def taught(
    group: list[RunRecord], groups: list[list[RunRecord]], settings: str, labels: dict[str, str]
) -> str:
    """A warning that names a teacher's runs, if other runs had a teacher of its settings with other weights.

    Args:
        group, groups: a teacher's records, and those of every teacher.
        settings: the entry of ``teacher`` with the hash of its settings.
        labels: experiment hash -> what its row is called; of others the method is said.
    """

    def row(record: RunRecord) -> str:
        return f"{record.student} {labels.get(record.hash) or method_label(record.method)}"

    key = group[0].teacher[settings]
    others = {row(r) for g in groups for r in g if g is not group and r.teacher[settings] == key}
    if not others:
        return ""
    seeds: dict[str, list[int]] = {}
    for record in group:
        seeds.setdefault(row(record), []).append(record.seed)
    runs = [
        name + (f" (seed {', '.join(map(str, sorted(numbers)))})" if name in others else "")
        for name, numbers in seeds.items()
    ]
    return (
        f" **It taught {'; '.join(runs)}. Another training with the same settings gave the teacher of other "
        "rows other weights, so differences between them are partly those of the teachers.**"
    )


def _masks(done: list[RunRecord]) -> list[str]:
    return [
        f"The data have no masks: {name} is a Mask R-CNN whose box branch alone was trained, which is a "
        "Faster R-CNN."
        for name in without_masks(done).values()
    ]


def swamped(record: RunRecord) -> float:
    """How many times as large as the detector's own losses the imitation's terms are at the run's start.

    Returns:
        0 for a run without such terms, and for fewer than ``SWAMPED`` times.
    """
    prefix = imitation_in(record.method).lower()
    first = {name: values[0] for name, values in record.curve.items() if values and name != "step"}
    terms = [v for name, v in first.items() if prefix and (name == prefix or name.startswith(f"{prefix}_"))]
    own = [v for name, v in first.items() if name in OWN_LOSSES]
    ratio = sum(terms) / sum(own) if own else 0.0
    return ratio if ratio >= SWAMPED else 0.0


def _swamped(done: list[RunRecord]) -> list[str]:
    if not any(map(swamped, done)):
        return []
    return [
        f"Where a loss begins {SWAMPED} times or more as large as the detector's own losses, the detector "
        "hardly learns: such rows show an effect of the loss's scale, not what the student could learn from "
        "the teacher."
    ]


def _without_pair(done: list[RunRecord]) -> list[str]:
    """A warning per student and reason why some of its runs cannot be compared with their baseline."""
    baselines: dict[tuple[str, int], list[RunRecord]] = {}
    for record in done:
        if record.method == "baseline":
            baselines.setdefault((record.student, record.seed), []).append(record)
    found: dict[tuple[str, str], dict[str, None]] = {}
    for record in done:
        others = baselines.get((record.student, record.seed), [])
        if others and record.pairing not in {other.pairing for other in others}:
            same_weights = record.origin in {other.origin for other in others}
            reason = (
                "run on another kind of device (CPU, GPU) than the baseline of that seed"
                if same_weights
                else "pre-trained on another machine than the baseline, so the initial weights differ"
            )
            found.setdefault((record.student, reason), {})[record.method] = None
    return [
        f"**{student}, {', '.join(map(method_label, methods))}: {reason}. No gain is computed; do not "
        "compare their mAP with the other rows.**"
        for (student, reason), methods in found.items()
    ]


def _draws(rows: Sequence[Row], records: dict[str, RunRecord]) -> list[str]:
    """What a gain is where a row has several draws and several seeds of a draw."""
    by_row = [[e.draw for e in row.experiments if e.hash() in records] for row in rows]
    if not any(1 < len(set(draws)) < len(draws) for draws in by_row):
        return []
    return [
        "Seeds share draws of training set, backbone and teacher: a gain is the mean over draws of the mean "
        "over the seeds of a draw, and its interval is over draws."
    ]


def _cost(done: list[RunRecord], scale: str) -> list[str]:
    if not any(record.relative_seconds for record in done):
        return []
    sentences = [
        "x plain: the time of a step (forward and backward) divided by that of the plain student, both "
        "measured alternately in one process. s / step and wall s depend on what else ran on the "
        "machine. Memory: the peak, of tensors on a GPU, otherwise of the whole process."
    ]
    taught = {r.student for r in done if "KDcls" in parts(r.method)}
    if any(experiment(scale, student).remembered_crops for student in taught):
        sentences.append(
            "With KD_cls, s / step and wall s may be of a teacher that read each crop once and kept its "
            "logits (setting `remembered_crops`); x plain never is."
        )
    imitating = {r.student for r in done if imitation_in(r.method)}
    if any(experiment(scale, student).remembered_images for student in imitating):
        sentences.append(
            "Where a detector is imitated, s / step, wall s and memory may be of one that read each image "
            "once and kept its maps (setting `remembered_images`); x plain never is."
        )
    return [" ".join(sentences)]


def _origin(records: list[RunRecord]) -> list[str]:
    if not records:
        return []
    codes = [code for record in records for code in record.every_code]
    commits = sorted({code["commit"][:10] + (" (dirty)" if code["dirty"] else "") for code in codes})
    devices = list(dict.fromkeys(record.device_names for record in records))
    named = f"Device{'s' if len(devices) > 1 else ''}: {'; '.join(devices)}"
    return [f"{named}; commits: {', '.join(commits)}. Each number can be traced to files in `records/`."]


def comparison(frame: pd.DataFrame) -> list[str]:
    """A table such as Table 2 in sentences, one per student.

    A sentence names the imitation methods that gain most and least and their cost, the gain of C2D, and what
    C2D adds to the imitation methods. Rows without a gain are left out, and those of fewer seeds than others
    of their student.

    Args:
        frame: of ``tables.table``.
    """
    compared = frame[frame.gain.notna()]
    return [
        f"**{student}**: {'; '.join(_student_comparison(rows))}."
        for student, rows in compared.groupby("student", sort=False)
    ]


def _student_comparison(rows: pd.DataFrame) -> list[str]:
    rows, c2d = rows[rows.seeds == rows.seeds.max()], canonical("ours")
    rows = rows.set_index(rows.method.map(canonical))
    gains = rows.gain[[name for name in IMITATIONS if name in rows.index]].sort_values(ascending=False)
    clauses = []
    if len(gains) == 1:
        clauses.append(f"{gains.index[0]} gains {_gain_and_time(rows.loc[gains.index[0]])}")
    elif len(gains):
        best, least = rows.loc[gains.index[0]], rows.loc[gains.index[-1]]
        clauses.append(
            f"of {len(gains)} methods that imitate a detector, {gains.index[0]} gains most "
            f"({_gain_and_time(best)}) and {gains.index[-1]} least ({_gain_and_time(least)})"
        )
    if c2d in rows.index:
        rank = f", more than {(gains < rows.gain[c2d]).sum()} of them" if len(gains) > 1 else ""
        clauses.append(f"C2D gains {_gain_and_time(rows.loc[c2d])}{rank}")
    sums = {name: canonical(f"ours+{name}") for name in gains.index}
    added = {name: rows.mAP[both] - rows.mAP[name] for name, both in sums.items() if both in rows.index}
    if len(added) == 1:
        clauses += [f"C2D + {name} has {gain:+.1f} mAP over {name} alone" for name, gain in added.items()]
    elif added:
        clauses.append(
            f"C2D combined with {len(added)} of them has {mean_of(list(added.values())):+.1f} mAP on average "
            "over the method alone, and more mAP in "
            f"{sum(gain > 0 for gain in added.values())} of {len(added)} cases"
        )
    return clauses


def _gain_and_time(row: pd.Series) -> str:
    time = "" if pd.isna(row.relative_seconds) else f", {row.relative_seconds:.1f}x the time"
    return f"{row.gain:+.1f}{time}"
