"""The rows of each table and the experiments of each row; the paper's tables are in results/paper/*.csv.

The command line takes the tables' names from here, so torch and pandas are imported only when rows are built.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from c2dlib.config.experiment import (
    Experiment,
    check_overrides,
    experiment,
    known,
    preset_names,
    preset_student,
    scale_tables,
)
from c2dlib.config.methods import CLASS_CONTROLS, IMITATIONS, canonical, imitation_in
from c2dlib.config.students import ARCHITECTURES
from c2dlib.files import read_csv
from c2dlib.records import ROOT, recorded_seeds

if TYPE_CHECKING:
    from c2dlib.data.coco import CocoFolder
    from c2dlib.workspace import Workspace

PAPER = ROOT / "results" / "paper"
ABLATED = "SSD300-VGG16"  # the student of tables that name none (section 4.3)
CONTROL = (
    "KDcls-labels"  # the label control: KD_cls with one-hot labels in place of the teacher's probabilities
)
METRICS = ["mAP", "AP50", "AP75", "APs", "APm", "APl", "mAR", "ARs", "ARm", "ARl"]
IOUS = [f"AP{iou}" for iou in range(50, 100, 5)]
TOP1 = "teacher_top1"  # accuracy of the classification teacher, in percent
OWN_BASELINE = ("train_share", "schedule")  # settings that the baseline must share for a gain over it

CONTROLS = [
    "baseline",
    "KDcls",
    *CLASS_CONTROLS,
    "loc",
    "loc-L1",
    "loc-other",
    "loc+KDloc",
    "loc-L1+KDloc-L1",
    "ours",
    "C2D-free",
]
REWEIGHTED = {
    "boxes x 2": ("baseline", {"box_loss_weight": 2.0}),
    "boxes x 4": ("baseline", {"box_loss_weight": 4.0}),
    "classes x 0.5": ("baseline", {"class_loss_weight": 0.5}),
    # half a cross-entropy more on the positives: KDcls-labels at T = 1 is just that
    "foreground x 1.5": (CONTROL, {"lambda_kc": 0.5, "temperature": 1.0}),
    "steps x 1.2": ("baseline", {"steps": 1.2}),
    "steps x 1.9": ("baseline", {"steps": 1.9}),
}  # what a row is called -> its method, changed settings (of the steps: times as many)
SHARES = [0.125, 0.25, 0.5, 1.0]  # of the training images
SCHEDULES = [1, 3]  # times the steps of a scale
CHOICES = {  # student -> method, setting, values compared on val
    "FasterRCNN-QR50": [
        ("KDcls", "lambda_kc", [0.1, 0.4]),
        ("ours", "lambda_l", [0.02, 0.05]),
        (CONTROL, "", [0]),
    ],
    "RetinaNet-R50": [
        ("KDcls", "lambda_kc", [0.1, 0.4]),
        ("FKD", "lambda_fkd", [0.02, 0.1]),
        ("PKD", "lambda_pkd", [0.1, 1]),
        ("CWD", "lambda_cwd", [0.1, 1]),
        ("FitNets", "lambda_fitnets", [0.01, 0.1]),
        ("KD", "lambda_kd", [0.01]),
        ("DeFeat", "lambda_defeat", [0.01]),
        (CONTROL, "", [0]),
    ],
    "FasterRCNN-R50": [
        (name, f"lambda_{name.lower()}", [0.1, 1]) for name in ("FitNets", "AT", "PKD", "CWD")
    ],
    "SSD512-VGG16": [
        ("FKD", "lambda_fkd", [0.02, 0.1]),
        *((name, f"lambda_{name.lower()}", [0.1, 1]) for name in ("FitNets", "AT", "PKD", "CWD")),
    ],
}

# How a line of a table becomes an experiment: (the line, the student's baseline at this scale) -> method,
# changed settings.


def _method_only(line: dict, e: Experiment) -> tuple[str, dict]:
    return line["method"], {}


def _weight_and_temperature(line: dict, e: Experiment) -> tuple[str, dict]:
    if line["lambda_kc"] == 0:
        return "baseline", {}
    return "KDcls", {"lambda_kc": line["lambda_kc"], "temperature": line["T"]}


def _teacher_and_size(line: dict, e: Experiment) -> tuple[str, dict]:
    if "with" in line:
        return "KDcls", {"teacher_size": line["input_size"], **line["with"]}
    return "KDcls", {
        "teacher": line["teacher"].lower().replace("-", "_"),  # timm's names
        "teacher_size": round(line["input_size"] * e.teacher_size / 112),
    }


def _crops_and_layers(line: dict, e: Experiment) -> tuple[str, dict]:
    terms = line["layers"].split("+")  # obj: the crops themselves; l0, l1: the teacher's feature maps of them
    method = "+".join(["loc"] * ("obj" in terms) + ["KDloc"] * ("l0" in terms))
    return method, {
        "sampling_size": round(line["sampling_size"] * e.sampling_size / 112),
        "pool_obj": line["pooling_size"],
        "pool_maps": line["pooling_size"],
        "kd_loc_layers": 2 if "l1" in terms else 1,
    }


def _train_share(line: dict, e: Experiment) -> tuple[str, dict]:
    share = e.train_share * line["train_share"]
    return line["method"], {"train_share": share} if line["train_share"] < 1 else {}


def _longer(e: Experiment, times: float) -> dict:
    return {"steps": round(e.steps * times)} if e.steps else {"epochs": round(e.epochs * times)}


def _schedule(line: dict, e: Experiment) -> tuple[str, dict]:
    return line["method"], _longer(e, line["schedule"]) if line["schedule"] != 1 else {}


def _tuned(line: dict, e: Experiment) -> tuple[str, dict]:
    return line["method"], line.get("values", {})


def _reweighted(line: dict, e: Experiment) -> tuple[str, dict]:
    _, changes = REWEIGHTED.get(line.get("own_losses", ""), ("", {}))
    return line["method"], _longer(e, changes["steps"]) if "steps" in changes else changes


def _choice(line: dict, e: Experiment) -> tuple[str, dict]:
    names = line["setting"].split(" = ") if line["setting"] else []
    changed = {name: type(getattr(e, name))(line["value"]) for name in names}  # 1 is not 1.0 in a record
    return line["method"], {"eval_split": "val"} | line["with"] | changed


# The lines of tables that the paper does not have.


def _every_imitation(scale: str) -> list[dict]:
    """Each detector-to-detector method alone and with C2D, with the paper's number where Table 2 has one."""
    paper = {(line["student"], line["method"]): line for line in _paper_lines("table2")}
    lines = []
    for student in ("FasterRCNN-R50", "RetinaNet-R50", "SSD512-VGG16"):
        names = [n for n in IMITATIONS if n not in ARCHITECTURES[student].family.undefined]
        lines += [(student, m) for m in ("baseline", "ours", *names, *(f"ours+{n}" for n in names))]
    lines += [(student, m) for student in ("FCOS-R50", "MaskRCNN-R50") for m in ("baseline", "KDcls", "ours")]
    return [{"student": s, "method": m} | paper.get((s, m), {}) for s, m in lines]


def _controlled(scale: str) -> list[str]:
    """The students of the tables of controls."""
    tables = scale_tables(scale)
    return tables.get("controls", [ablated(scale)])


def _controls(scale: str) -> list[dict]:
    """Every control, and ``tuned_rows``."""
    tuned, lines = tuned_rows(scale), []
    for student in _controlled(scale):
        lines += [{"student": student, "method": method} for method in CONTROLS]
        lines += [line for line in tuned if line["student"] == student]
    return lines


def tuned_rows(scale: str) -> list[dict]:
    """The rows of the table ``controls`` with settings of their own that a scale has (``tuned``)."""
    every = scale_tables(scale).get("tuned", {})
    return [
        {
            "student": student,
            "method": method,
            "changed": ", ".join(f"{name} {value:g}" for name, value in values.items()),
            "values": values,
        }
        for student in _controlled(scale)
        for method, values in every.get(student, {}).items()
    ]


def _own_losses(scale: str) -> list[dict]:
    return [
        {"student": student, "method": method} | ({"own_losses": text} if text else {})
        for student in _controlled(scale)
        for text, method in (
            ("", "baseline"),
            *((text, method) for text, (method, _) in REWEIGHTED.items()),
            *(("", method) for method in (CONTROL, "KDcls", "loc", "loc+KDloc", "ours")),
        )
    ]


def _teachers(scale: str) -> list[dict]:
    """The paper's teachers, or those that a scale has in their place."""
    if "teachers" not in scale_tables(scale):
        return _paper_lines("table3b")
    return [
        {"teacher": name, "input_size": size, "with": settings}
        for name, size, settings in scale_tables(scale)["teachers"]
    ]


def _sizes(scale: str) -> list[dict]:
    return [
        {"method": method, "train_share": share}
        for share in SHARES
        for method in ("baseline", "KDcls", "KDcls+loc+KDloc", CONTROL)
    ]


def _schedules(scale: str) -> list[dict]:
    return [
        {"method": method, "schedule": times}
        for times in SCHEDULES
        for method in ("baseline", "KDcls", "loc+KDloc", "KDcls+loc+KDloc", CONTROL)
    ]


def _choices(scale: str) -> list[dict]:
    """A student's baseline, then a line per value of each setting that is compared."""
    tables, lines = scale_tables(scale), []
    for student, compared in tables.get("choices", CHOICES).items():
        for method, setting, values, *seed in (("baseline", "", [0]), *compared):
            for value in values:
                line = {"student": student, "method": method, "setting": setting, "value": value}
                line["with"] = tables.get("choices_with", {})
                line["changed"] = f"{setting} {value:g}" if setting else math.nan
                if seed:
                    line |= {"seed": seed[0], "changed": f"{line['changed']}, seed {seed[0]}"}
                lines.append(line)
    return lines


@dataclass(frozen=True)
class Table:
    """How a table becomes experiments."""

    title: str
    settings: tuple[str, ...] = ()  # what differs between its rows besides student and method
    experiment_of: Callable[[dict, Experiment], tuple[str, dict]] = _method_only
    # of a scale; None: the lines are those of results/paper/<table>.csv
    own_lines: Callable[[str], list[dict]] | None = None
    from_errors: tuple[str, ...] = ()  # columns of the CSV from the runs' detections, see ``tables``
    on_val: bool = False  # rows that choose a setting, with one seed: no control is added, no further seeds


TABLES = {
    "table1": Table("Table 1: five loss settings on compact students"),
    "table2": Table("Table 2: C2D compared and combined with detector-to-detector distillation"),
    "table2x": Table(
        "Table 2, extended: nine detector-to-detector methods alone and combined with C2D, two more students",
        own_lines=_every_imitation,
    ),
    "table3a": Table(
        "Table 3a: weight and temperature of KD_cls", ("lambda_kc", "T"), _weight_and_temperature
    ),
    "table3b": Table(
        "Table 3b: architecture and input size of the teacher",
        ("teacher", "input_size"),
        _teacher_and_size,
        _teachers,
    ),
    "table4": Table(
        "Table 4: sampling size, pooling size and layers of loc and KD_loc",
        ("ablation", "sampling_size", "pooling_size", "layers"),
        _crops_and_layers,
    ),
    "table5": Table("Table 5: AP at each IoU threshold"),
    "controls": Table(
        "Controls: do the gains need the teacher's probabilities, and the image?",
        ("changed",),
        _tuned,
        _controls,
        ("score_IoU", "oracle_mAP"),
    ),
    "reweighted": Table(
        "Reweighted: do the losses gain more than other weights of the detector's own losses, or more steps?",
        ("own_losses",),
        _reweighted,
        _own_losses,
        ("boxes75", "score_IoU", "oracle_mAP"),
    ),
    "sizes": Table(
        "Training images: how does the gain depend on their number?", ("train_share",), _train_share, _sizes
    ),
    "schedules": Table("Longer schedule: do the gains remain?", ("schedule",), _schedule, _schedules),
    "choices": Table("Choices: loss weights compared on val", ("changed",), _choice, _choices, on_val=True),
}


@dataclass(frozen=True)
class RowPlan:
    """One row of a table at a scale, before seeds and data are known."""

    student: str
    method: str  # as the table writes it
    settings: dict  # what its table varies, in the paper's units
    changes: dict  # fields of the student's Experiment
    paper: dict  # metric -> the paper's number; {} for rows that the paper does not have
    first_seed: int


@dataclass(frozen=True)
class Row:
    """One row of a table: the paper's numbers, and the experiments (one per seed) that reproduce them."""

    student: str
    method: str  # as the table writes it
    paper: dict  # metric -> the paper's number; {} for rows that the paper does not have
    experiments: tuple[Experiment, ...]
    settings: dict = field(default_factory=dict)  # what its table varies, in the paper's units


def work_list(
    table: str,
    workspace: Workspace,
    folder: CocoFolder,
    seeds: int = 1,
    students: list[str] | None = None,
    methods: list[str] | None = None,
    overrides: dict | None = None,
    with_recorded: bool = False,
) -> list[Row]:
    """The rows of a table in the paper's order, with each student's baseline and label control.

    Args:
        seeds: how many, from 0 on (or from the scale's ``first_seed`` of the table).
        students, methods: only these; None: all.
        overrides: settings of Experiment to change in every row.
        with_recorded: also the further seeds of each row whose finished runs are recorded in the workspace,
            if the table reports on test.

    Raises:
        ValueError: for an unknown table, student, method or setting, naming the valid ones.
    """
    from c2dlib.training.finished import finished
    from c2dlib.training.run import experiment_for

    plans = plan_rows(table, workspace.scale, seeds, students, methods, overrides, workspace.data_name)
    recorded = recorded_seeds(workspace.results) if with_recorded and not TABLES[table].on_val else {}
    rows = []
    for plan in plans:

        def of_seed(seed: int, plan: RowPlan = plan) -> Experiment:
            changes = plan.changes | (overrides or {})
            return experiment_for(workspace, folder, plan.student, plan.method, seed, **changes)

        runs = [of_seed(seed) for seed in range(plan.first_seed, plan.first_seed + seeds)]
        further = (s for s in recorded.get((plan.student, runs[0].method), []) if s > runs[-1].seed)
        runs += [e for e in map(of_seed, further) if finished(e, workspace)]
        rows.append(Row(plan.student, plan.method, plan.paper, tuple(runs), plan.settings))
    return rows


def ablated(scale: str) -> str:
    """The student of the tables and notebooks that name none, at a scale; of a preset its own."""
    return preset_student(scale) if scale in preset_names() else scale_tables(scale).get("ablated", ABLATED)


def first_seed(table: str, scale: str) -> int:
    """The first seed of a table's rows: 0, or what the scale says."""
    return scale_tables(scale).get("first_seed", {}).get(table, 0)


def experiments(rows: list[Row]) -> list[Experiment]:
    """The runs of a table in the order to train them.

    They go seed by seed; within a seed the students of the last rows come first, which are the most compact
    ones in the paper's tables.
    """
    compact_first = list(dict.fromkeys(row.student for row in reversed(rows)))
    ordered = sorted(rows, key=lambda row: compact_first.index(row.student))
    return sorted((e for row in ordered for e in row.experiments), key=lambda e: e.seed)


def plan_rows(
    table: str,
    scale: str,
    seeds: int = 1,
    students: list[str] | None = None,
    methods: list[str] | None = None,
    overrides: dict | None = None,
    data: str = "badges",
) -> list[RowPlan]:
    """The requested rows of a table, without reading data; arguments and errors as for ``work_list``."""
    every = _all_plans(known(table, TABLES, "table"), scale, data)
    for student in students or []:
        known(student, list(dict.fromkeys(plan.student for plan in every)), f"student of {table}")
    plans = [plan for plan in every if plan.student in (students or [plan.student])]
    wanted, available = (
        [canonical(method) for method in methods or []],
        sorted({canonical(plan.method) for plan in plans}),
    )
    for method, name in zip(methods or [], wanted, strict=True):
        if name not in available:
            raise ValueError(
                f"{table} has no row {method!r} for these students; it has {', '.join(available)}"
            )
    if seeds < 1:
        raise ValueError(f"SEEDS={seeds} must be at least 1")
    check_overrides(overrides or {}, "eval_split")
    if varied := {key for plan in plans for key in plan.changes} & set(overrides or {}):
        raise ValueError(f"SET cannot change {', '.join(sorted(varied))}: {table} varies it from row to row")
    experiment(scale, plans[0].student, **(overrides or {}))  # raises for an unknown setting
    return [plan for plan in plans if not wanted or canonical(plan.method) in wanted]


def _all_plans(table: str, scale: str, data: str) -> list[RowPlan]:
    """The lines of a table by student.

    A missing baseline is put before a student's lines, the label control after them.
    """
    kind, first, plans = TABLES[table], first_seed(table, scale), []
    for student, lines in _lines_by_student(table, scale).items():
        baseline = experiment(scale, student, data=data)
        rows = [_plan(kind, student, line, baseline, first) for line in lines]
        methods = [row.method for row in rows]
        if "baseline" not in methods:
            paper = _papers_baseline(numbers_beside(student, table, scale))
            rows.insert(0, RowPlan(student, "baseline", {}, {}, paper, first))
        distilled = any("KDcls" in method or method.startswith("ours") for method in methods)
        if distilled and CONTROL not in methods and not kind.on_val:
            rows.append(RowPlan(student, CONTROL, {}, {}, {}, first))
        plans += rows
    return plans


def _lines_by_student(table: str, scale: str) -> dict[str, list[dict]]:
    """A table's lines at a scale, where other students may take the places of the paper's."""
    changes = scale_tables(scale)
    by_student: dict[str, list[dict]] = {}
    for line in _lines(table, scale):
        by_student.setdefault(line.get("student", ablated(scale)), []).append(line)
    if "in_place_of" not in changes:
        return by_student
    here = {}
    for student, of_paper in changes["in_place_of"].items():
        more = [{"method": method} for method in changes["more_rows"].get(table, {}).get(student, [])]
        lines = [*by_student.get(student, []), *by_student.get(of_paper, []), *more]
        if not ARCHITECTURES[student].detector_teacher:
            lines = [line for line in lines if not imitation_in(line.get("method", "baseline"))]
        if lines:
            here[student] = lines
    return here


def numbers_beside(student: str, table: str, scale: str) -> str:
    """The paper's student whose numbers stand beside a student in a table at a scale."""
    if student == ablated(scale) and not any("student" in line for line in _lines(table, scale)):
        return ABLATED
    return scale_tables(scale).get("in_place_of", {}).get(student, student)


def student_here(of_paper: str, table: str, scale: str) -> str | None:
    """The student that has a paper's student's rows of a table at a scale; None if none takes its place."""
    changes = scale_tables(scale)
    if "in_place_of" not in changes:
        return of_paper
    lines = _lines(table, scale)
    if {line.get("student", changes["ablated"]) for line in lines} == {changes["ablated"]}:
        return changes["ablated"] if of_paper == ABLATED else None
    return {there: here for here, there in changes["in_place_of"].items()}.get(of_paper)


def _lines(table: str, scale: str) -> list[dict]:
    """A table's lines as the paper has them, or as the scale has its own."""
    own_lines = TABLES[table].own_lines
    return own_lines(scale) if own_lines else _paper_lines(table)


def _plan(kind: Table, student: str, line: dict, baseline: Experiment, first: int) -> RowPlan:
    method, changes = kind.experiment_of(line, baseline)
    present = {
        name: value for name, value in line.items() if not (isinstance(value, float) and math.isnan(value))
    }
    settings = {name: present[name] for name in kind.settings if name in present}
    paper = {name: value for name, value in present.items() if name in (*METRICS, *IOUS, TOP1)}
    return RowPlan(student, method, settings, changes, paper, line.get("seed", first))


def _papers_baseline(student: str) -> dict:
    """A student's baseline in Table 1, for tables that have none; {} for a student that it does not have."""
    return {
        metric: line[metric]
        for line in _paper_lines("table1")
        if (line["student"], line["method"]) == (student, "baseline")
        for metric in ("mAP", "AP50", "AP75")
    }


def _paper_lines(table: str) -> list[dict]:
    """The lines of results/paper/<table>.csv; an empty cell is NaN."""
    return read_csv(PAPER / f"{table}.csv")
