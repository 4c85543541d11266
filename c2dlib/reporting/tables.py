"""Run records + the paper's CSV -> tables, *paper against ours*. Nothing in a table is typed by hand."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from scipy import stats
from tqdm import tqdm

from c2dlib.config.experiment import Experiment, experiment, known
from c2dlib.config.methods import CLASS_CONTROLS, IMITATIONS, canonical
from c2dlib.config.students import ARCHITECTURES
from c2dlib.data.coco import CocoFolder
from c2dlib.files import write_whole
from c2dlib.records import ROOT, RunRecord
from c2dlib.training.run import experiment_for, find_record
from c2dlib.workspace import Workspace

PAPER = ROOT / "results" / "paper"
ABLATED = "SSD300-VGG16"  # the student of tables that name none (section 4.3)
SHORT = {"lambda_kc": "λ_kc ", "T": "T ", "sampling_size": "s ", "pooling_size": "p ", "train_share": "share ",
         "schedule": "schedule x "}  # names within a label
REGIMES = ("train_share", "schedule")  # what a table varies that needs a baseline of its own
CONTROL = "KDcls-labels"  # the same loss with labels in the teacher's place: below the paper's rows of each student
METRICS = ["mAP", "AP50", "AP75", "APs", "APm", "APl", "mAR", "ARs", "ARm", "ARl"]
TOP1 = "teacher_top1"  # of the classification teacher, in percent
IOUS = [f"AP{iou}" for iou in range(50, 100, 5)]


@dataclass(frozen=True)
class Table:
    """How a table of the paper becomes experiments."""

    title: str
    varies: tuple[str, ...] = ()  # its columns besides student and method
    ask: Callable[[dict, Experiment], tuple[str, dict]] = lambda line, e: (line["method"], {})
    # a line of the CSV, the student's baseline at this scale -> method, settings to change
    own: Callable[[], list[dict]] | None = None  # lines of a table that the paper does not have


def _weight_and_temperature(line: dict, e: Experiment) -> tuple[str, dict]:
    if line["lambda_kc"] == 0:
        return "baseline", {}
    return "KDcls", {"lambda_kc": line["lambda_kc"], "temperature": line["T"]}


def _teacher(line: dict, e: Experiment) -> tuple[str, dict]:
    return "KDcls", {"teacher": line["teacher"].lower().replace("-", "_"),  # timm's names
                     "teacher_size": round(line["input_size"] * e.teacher_size / 112)}


def _crops_and_layers(line: dict, e: Experiment) -> tuple[str, dict]:
    terms = line["layers"].split("+")  # obj: the crops themselves; l0, l1: the teacher's maps of them
    method = "+".join(["loc"] * ("obj" in terms) + ["KDloc"] * ("l0" in terms))
    return method, {"sampling_size": round(line["sampling_size"] * e.sampling_size / 112),
                    "pool_obj": line["pooling_size"], "pool_maps": line["pooling_size"],
                    "kd_loc_layers": 2 if "l1" in terms else 1}


def _train_share(line: dict, e: Experiment) -> tuple[str, dict]:
    return line["method"], {"train_share": line["train_share"]} if line["train_share"] < 1 else {}


def _schedule(line: dict, e: Experiment) -> tuple[str, dict]:
    longer = {"steps": round(e.steps * line["schedule"])} if e.steps else {"epochs": e.epochs * line["schedule"]}
    return line["method"], longer if line["schedule"] != 1 else {}


def _every_rival() -> list[dict]:
    """Each detector-to-detector method alone and under ours, with the paper's number where Table 2 has one."""
    paper = pd.read_csv(PAPER / "table2.csv").set_index(["student", "method"]).to_dict("index")
    lines = []
    for student in ("FasterRCNN-R50", "RetinaNet-R50", "SSD512-VGG16"):
        names = [n for n in IMITATIONS if n not in ARCHITECTURES[student].family.undefined]
        lines += [(student, m) for m in ("baseline", "ours", *names, *(f"ours+{n}" for n in names))]
    lines += [(student, m) for student in ("FCOS-R50", "MaskRCNN-R50") for m in ("baseline", "KDcls", "ours")]
    return [{"student": s, "method": m} | paper.get((s, m), {}) for s, m in lines]


def _chosen(line: dict, e: Experiment) -> tuple[str, dict]:
    return line["method"], {"eval_split": "val"} | ({line["setting"]: line["value"]} if line["setting"] else {})


def _choices() -> list[dict]:
    """What scale ``mini`` chose some settings from, in the order of the students."""
    every = [(student, method, setting, value) for student, tried in CHOICES.items()
             for method, setting, values in (("baseline", "", [0]), *tried) for value in values]
    return [{"student": s, "method": m, "setting": name, "value": float(v), "changed": f"{name} {v:g}" if name else math.nan}
            for s, m, name, v in every]


CHOICES = {
    "FasterRCNN-QR50": [("KDcls", "lambda_kc", [0.1, 0.4]), ("ours", "lambda_l", [0.02, 0.05]), (CONTROL, "", [0])],
    "RetinaNet-R50": [("KDcls", "lambda_kc", [0.1, 0.4]), ("FKD", "lambda_fkd", [0.02, 0.1]), ("PKD", "lambda_pkd", [0.1, 1]),
                      ("CWD", "lambda_cwd", [0.1, 1]), ("FitNets", "lambda_fitnets", [0.01, 0.1]),
                      ("KD", "lambda_kd", [0.01]), ("DeFeat", "lambda_defeat", [0.01]), (CONTROL, "", [0])],
    "FasterRCNN-R50": [(name, f"lambda_{name.lower()}", [0.1, 1]) for name in ("FitNets", "AT", "PKD", "CWD")],
    "SSD512-VGG16": [("FKD", "lambda_fkd", [0.02, 0.1]),
                     *((name, f"lambda_{name.lower()}", [0.1, 1]) for name in ("FitNets", "AT", "PKD", "CWD"))],
}  # student -> method, setting, values
CONTROLS = ["baseline", "KDcls", *CLASS_CONTROLS, "loc", "loc-L1", "loc+KDloc", "loc-L1+KDloc-L1"]
SHARES = [0.125, 0.25, 0.5, 1.0]  # of the training images
SCHEDULES = [1, 3]  # times a scale's own steps

TABLES = {
    "table1": Table("Table 1: five loss settings on compact students"),
    "table2": Table("Table 2: against and on top of detector-to-detector distillation"),
    "table2x": Table("Table 2, extended: every detector-to-detector method, ours on top of each, two more students", own=_every_rival),
    "table3a": Table("Table 3a: weight and temperature of KD_cls", ("lambda_kc", "T"), _weight_and_temperature),
    "table3b": Table("Table 3b: architecture and input size of the teacher", ("teacher", "input_size"), _teacher),
    "table4": Table("Table 4: sampling size, pooling size and layers of loc and KD_loc",
                    ("ablation", "sampling_size", "pooling_size", "layers"), _crops_and_layers),
    "table5": Table("Table 5: AP at each IoU"),
    "controls": Table("Controls: what of the teacher's word, and of the image, is needed?", own=lambda: [
        {"student": ABLATED, "method": method} for method in CONTROLS]),
    "sizes": Table("Training images: what does distillation buy?", ("train_share",), _train_share, lambda: [
        {"student": ABLATED, "method": method, "train_share": share}
        for share in SHARES for method in ("baseline", "KDcls", "KDcls+loc+KDloc", CONTROL)]),
    "schedules": Table("Longer schedule: what is left of the gains?", ("schedule",), _schedule, lambda: [
        {"student": ABLATED, "method": method, "schedule": times}
        for times in SCHEDULES for method in ("baseline", "KDcls", "loc+KDloc", "KDcls+loc+KDloc", CONTROL)]),
    "choices": Table("Choices: loss weights tried on val", ("changed",), _chosen, _choices),
}


@dataclass(frozen=True)
class Row:
    """One row of a table: what the paper says, and the experiments (one per seed) that answer it."""

    student: str
    method: str  # as the paper writes it
    paper: dict  # metric -> the paper's number; {} for rows the paper does not have
    experiments: tuple[Experiment, ...]
    settings: dict = field(default_factory=dict)  # what its table varies, in the paper's units


@dataclass(frozen=True)
class Line:
    """What one row of a table asks for, at a scale."""

    student: str
    method: str
    settings: dict
    changes: dict  # of the student's Experiment
    paper: dict


def _lines(table: str, scale: str, data: str) -> list[Line]:
    """The paper's rows in its order; where it has none, each student's baseline before and control after them."""
    kind = TABLES[table]
    frame = pd.DataFrame(kind.own()) if kind.own else pd.read_csv(PAPER / f"{table}.csv")
    frame["student"] = frame.get("student", ABLATED)
    lines = []
    for student, group in frame.groupby("student", sort=False):
        e, mine = experiment(scale, student, data=data), []
        for line in group.to_dict("records"):
            method, changes = kind.ask(line, e)
            settings = {name: line[name] for name in kind.varies if pd.notna(line[name])}
            paper = {k: v for k, v in line.items() if k in (*METRICS, *IOUS, TOP1) and pd.notna(v)}
            mine.append(Line(student, method, settings, changes, paper))
        methods = [line.method for line in mine]
        if "baseline" not in methods:
            best = pd.read_csv(PAPER / "table1.csv").set_index(["student", "method"]).loc[student, "baseline"]
            mine.insert(0, Line(student, "baseline", {}, {}, {m: best[m] for m in ("mAP", "AP50", "AP75")}))
        if CONTROL not in methods and any("KDcls" in m or m.startswith("ours") for m in methods):
            mine.append(Line(student, CONTROL, {}, {}, {}))
        lines += mine
    return lines


def check(table: str, scale: str, seeds: int = 1, students: list[str] | None = None,
          methods: list[str] | None = None, overrides: dict | None = None, data: str = "badges") -> list[Line]:
    """The rows that are asked for, if that makes sense; see ``work_list`` for what it raises."""
    lines = _lines(known(table, TABLES, "table"), scale, data)
    for student in students or []:
        known(student, list(dict.fromkeys(line.student for line in lines)), f"student of {table}")
    lines = [line for line in lines if line.student in (students or [line.student])]
    wanted, there = [canonical(method) for method in methods or []], sorted({canonical(line.method) for line in lines})
    for method, meant in zip(methods or [], wanted, strict=True):
        if meant not in there:
            raise ValueError(f"{table} has no row {method!r} for these students; it has {', '.join(there)}")
    if seeds < 1:
        raise ValueError(f"SEEDS={seeds} must be at least 1")
    if fixed := {"student", "method", "seed", "data", "data_hash", "eval_split"} & set(overrides or {}):
        raise ValueError(f"SET cannot change {', '.join(sorted(fixed))}: use STUDENTS, METHODS, SEEDS and DATA")
    if varied := {key for line in lines for key in line.changes} & set(overrides or {}):
        raise ValueError(f"SET cannot change {', '.join(sorted(varied))}: {table} varies it from row to row")
    experiment(scale, lines[0].student, **(overrides or {}))
    return [line for line in lines if not wanted or canonical(line.method) in wanted]


def work_list(table: str, workspace: Workspace, folder: CocoFolder, seeds: int = 1, students: list[str] | None = None,
              methods: list[str] | None = None, overrides: dict | None = None) -> list[Row]:
    """The paper's rows of a table, in its order, with each student's baseline and control.

    Args:
        seeds: how many, from 0 on.
        students, methods: only these; None: all.
        overrides: settings of Experiment to change in every row.

    Raises:
        ValueError: for an unknown table, student, method or setting, naming the valid ones.
    """
    rows = []
    for line in check(table, workspace.scale, seeds, students, methods, overrides, workspace.data_name):
        runs = tuple(experiment_for(workspace, folder, line.student, line.method, seed, **line.changes, **(overrides or {}))
                     for seed in range(seeds))
        rows.append(Row(line.student, line.method, line.paper, runs, line.settings))
    return rows


def experiments(rows: list[Row]) -> list[Experiment]:
    """The runs of a table in the order to do them: seed by seed, the paper's last and most compact students first."""
    compact = list(dict.fromkeys(row.student for row in reversed(rows)))
    ordered = sorted(rows, key=lambda row: compact.index(row.student))
    return sorted((e for row in ordered for e in row.experiments), key=lambda e: e.seed)


def collect(rows: list[Row], workspace: Workspace) -> dict[str, RunRecord]:
    """The records there are, by experiment hash."""
    found = {e.hash(): find_record(e, workspace) for row in rows for e in row.experiments}
    return {key: record for key, record in found.items() if record}


def table(rows: list[Row], records: dict[str, RunRecord]) -> pd.DataFrame:
    """A row per row of the paper: its number, ours (mean and sd over seeds), the paired difference, the cost."""
    baseline: dict[tuple, float] = {}  # (student, regime, seed, origin) -> mAP
    wanted = list(dict.fromkeys([*METRICS[1:], *(m for row in rows for m in row.paper if m != "mAP")]))
    lines = []
    for row in rows:
        done = {e.seed: records[e.hash()] for e in row.experiments
                if e.hash() in records and records[e.hash()].status == "done"}
        line = {"student": row.student, "method": row.method, **row.settings,
                "paper_mAP": row.paper.get("mAP", math.nan), "mAP": _mean(done, "mAP"),
                "mAP_sd": _sd([r.metrics["mAP"] for r in done.values()]),
                "seeds": len(done), "status": _status(row, records, len(done))}
        twin = row.student, *map(row.settings.get, REGIMES)
        if row.method == "baseline":
            baseline |= {(*twin, seed, record.origin): record.metrics["mAP"] for seed, record in done.items()}
        else:
            line |= paired([(r.metrics["mAP"], baseline[*twin, seed, r.origin]) for seed, r in done.items()
                            if (*twin, seed, r.origin) in baseline])
        line |= {m: _mean(done, m) for m in wanted}
        line |= {f"paper_{m}": v for m, v in row.paper.items() if m != "mAP"}
        line |= {"parameters": max((r.parameters for r in done.values()), default=None),
                 "seconds_per_step": _median([r.seconds_per_step for r in done.values()]),
                 "relative_seconds": _median([r.relative_seconds for r in done.values() if r.relative_seconds]),
                 "memory_mb": _median([r.memory_mb for r in done.values() if r.memory_mb]),
                 "wall_seconds": _median([r.wall_seconds for r in done.values()]),
                 "records": " ".join(r.name for r in done.values())}
        lines.append(line)
    settings = list(dict.fromkeys(name for row in rows for name in row.settings))
    first = ["student", "method", *settings, "paper_mAP", "mAP", "mAP_sd", "seeds", "status", "gain", "gain_low",
             "gain_high"]
    frame = pd.DataFrame(lines)
    frame = frame.reindex(columns=[*first, *[c for c in frame.columns if c not in first]])
    return frame.astype({"parameters": "Int64"})


def paired(pairs: list[tuple[float, float]]) -> dict:
    """Mean difference ours - baseline over seeds, with its 95 % t interval from two seeds on."""
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    if not differences:
        return {}
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return {"gain": mean}
    half = stats.t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / len(differences) ** 0.5
    return {"gain": mean, "gain_low": mean - half, "gain_high": mean + half}


def _status(row: Row, records: dict[str, RunRecord], done: int) -> str:
    bad = [records[e.hash()] for e in row.experiments if e.hash() in records and records[e.hash()].status != "done"]
    if bad:
        return f"{bad[0].status}: {bad[0].reason}"
    if done < len(row.experiments):
        return f"{done} of {len(row.experiments)} seeds" if done else "not run"
    return "done"


def _mean(done: dict, metric: str) -> float | None:
    values = [r.teacher.get("top1") if metric == TOP1 else r.metrics[metric] for r in done.values()]
    values = [v for v in values if v is not None]
    return statistics.fmean(values) if values else None


def _sd(values: list[float]) -> float | None:
    values = [v for v in values if v is not None]
    return statistics.stdev(values) if len(values) > 1 else None


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


class Printer:
    """Called with each record as it comes: prints the table's row, so that the table fills while it runs."""

    def __init__(self, rows: list[Row], workspace: Workspace):
        self.rows, self.records, self.printed = rows, {}, False

    def __call__(self, record: RunRecord) -> None:
        self.records[record.hash] = record
        if not self.printed:
            tqdm.write(f"{'student':<16} {'method':<16} {'paper':>6} {'ours':>13}  gain over our baseline")
            self.printed = True
        frame = table(self.rows, self.records)
        for row, what, (_, now) in zip(self.rows, labels(frame), frame.iterrows(), strict=True):
            if record.hash in {e.hash() for e in row.experiments}:
                tqdm.write(f"{row.student:<16} {what:<16} {_show(now.paper_mAP):>6} {_with_sd(now):>13}  "
                           f"{_gain(now):<22} {now.status}")


def _show(value, digits: int = 1) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:.{digits}f}"


def _with_sd(row: pd.Series) -> str:
    return row.status if pd.isna(row.mAP) else _show(row.mAP) + ("" if pd.isna(row.mAP_sd) else f" ± {row.mAP_sd:.1f}")


def _gain(row: pd.Series) -> str:
    if pd.isna(row.gain):
        return ""
    interval = "" if pd.isna(row.gain_low) else f" [{row.gain_low:+.1f}, {row.gain_high:+.1f}]"
    return f"{row.gain:+.1f}{interval}"


def comparison(frame: pd.DataFrame) -> list[str]:
    """Table 2 in sentences, one per student: which detector's method gains most and at what cost, and where ours stands.

    Only of rows that have a gain: those of the same initial weights as their baseline.
    """
    said = []
    for student, mine in frame[frame.gain.notna()].groupby("student", sort=False):
        row = mine.set_index(mine.method.map(canonical))
        told = lambda name, row=row: f"{row.gain[name]:+.1f}" + (
            "" if pd.isna(row.relative_seconds[name]) else f", {row.relative_seconds[name]:.1f}x the time")
        rivals = row.gain[[n for n in IMITATIONS if n in row.index]].sort_values(ascending=False)
        best, least = (rivals.index[0], rivals.index[-1]) if len(rivals) else ("", "")
        parts = [f"of {len(rivals)} methods that imitate a detector {best} gains most ({told(best)}) and {least} least ({told(least)})"
                 if best != least else f"{best} gains {told(best)}"] if best else []
        if (ours := canonical("ours")) in row.index:
            beaten = (rivals < row.gain[ours]).sum()
            parts.append(f"ours gains {told(ours)}" + (f", above {beaten} of them" if best != least else ""))
        added = {n: row.mAP[canonical(f"ours+{n}")] - row.mAP[n] for n in rivals.index if canonical(f"ours+{n}") in row.index}
        if len(added) == 1:
            parts += [f"on top of {n} ours adds {a:+.1f}" for n, a in added.items()]
        elif added:
            parts.append(f"on top of {len(added)} of them ours adds {statistics.fmean(added.values()):+.1f} on average, "
                         f"{sum(a > 0 for a in added.values())} of {len(added)} times something")
        said.append(f"**{student}**: {'; '.join(parts)}.")
    return said


def varied(frame: pd.DataFrame) -> list[str]:
    """The columns of a frame that say what its table varies, besides student and method."""
    return list(frame.columns[2 : frame.columns.get_loc("paper_mAP")])


def label(method: str, settings: dict) -> str:
    """What a row tried, in words: its method, and what its table varies."""
    if method in ("baseline", CONTROL) and not set(REGIMES) & set(settings):
        return method
    return ", ".join([method, *(SHORT.get(name, "") + (v if isinstance(v, str) else f"{v:g}")
                                for name, v in settings.items() if pd.notna(v))])


def labels(frame: pd.DataFrame) -> list[str]:
    """A ``label`` per row of a ``table``."""
    return [label(row["method"], {name: row[name] for name in varied(frame)}) for row in frame.to_dict("records")]


def names(rows: list[Row]) -> dict[str, str]:
    """Experiment hash -> the ``label`` of its row, with one name per method."""
    named = {}
    for row in rows:
        named |= {e.hash(): label(canonical(row.method), row.settings) for e in row.experiments}
    return named


def markdown(frame: pd.DataFrame, title: str, notes: list[str]) -> str:
    """The table as Markdown; a row without a number says why in words."""
    by_iou = [m for m in IOUS if f"paper_{m}" in frame] if "paper_AP55" in frame else []
    top1 = [TOP1] if TOP1 in frame else []
    memory = ["memory, MB"] if frame.memory_mb.notna().any() else []
    head = ["student", "method", *varied(frame), "paper mAP", "our mAP", "gain over our baseline [95 % CI]",
            *(f"{m} paper / ours" for m in by_iou or top1), *([] if by_iou else ["AP50", "AP75"]), "seeds",
            "parameters", "s / step (x plain)", *memory, "wall s"]
    words = 2 + len(varied(frame))
    lines = [f"# {title}", "", "| " + " | ".join(head) + " |", "|" + "---|" * words + "---:|" * (len(head) - words)]
    for _, row in frame.iterrows():
        method = f"*{row.method}* (control)" if row.method == CONTROL else row.method
        count = "–" if pd.isna(row.parameters) else f"{row.parameters / 1e6:.2f} M"
        tried = ["" if pd.isna(v) else f"{v:g}" if isinstance(v, float) else str(v) for v in row[varied(frame)]]
        lines.append("| " + " | ".join([
            row.student, method, *tried, _show(row.paper_mAP), _with_sd(row), _gain(row),
            *(f"{_show(row[f'paper_{m}'])} / {_show(row[m])}" for m in by_iou or top1),
            *([] if by_iou else [_show(row.AP50), _show(row.AP75)]),
            str(row.seeds) if row.status in ("done", "not run") else row.status, count,
            _show(row.seconds_per_step, 3) + ("" if pd.isna(row.relative_seconds) else f" ({row.relative_seconds:.2f}x)"),
            *(_show(row.memory_mb, 0) for _ in memory), _show(row.wall_seconds, 0)]) + " |")
    return "\n".join([*lines, "", *[f"- {note}" for note in notes], ""])


def notes(workspace: Workspace, folder: CocoFolder, records: dict[str, RunRecord]) -> list[str]:
    """What a reader must know before believing the numbers."""
    counts, some = folder.image_counts, next(iter(records.values()), None)
    split = some.eval_split if some else folder.eval_split
    said = [f"Data: {workspace.data_name}, {len(folder.categories)} classes, "
            + ", ".join(f"{n} {name}" for name, n in counts.items())
            + f" images; metrics on `{split}`; annotation hash `{folder.annotation_hash[:12]}`."]
    if workspace.scale == "smoke":
        said.append("**Smoke scale only shows that everything runs: a few training steps. "
                    "These numbers mean nothing.**")
    elif workspace.scale != "coco":
        said.append(f"Scale `{workspace.scale}`: slim students, small images, short schedules. The rows test the direction "
                    "of an effect, not the paper's number.")
    if counts["train"] < 200 or counts[folder.eval_split] < 200:
        said.append(f"**{counts['train']} training and {counts[folder.eval_split]} evaluation images are far too few "
                    "to compare methods: these numbers mean nothing.**")
    if any(r.method == CONTROL for r in records.values()):
        said.append("`KDcls-labels` is KD_cls with one-hot labels in the teacher's place: what of a gain is the teacher's "
                    "knowledge is the difference to this row.")
    for r in {r.teacher["hash"]: r for r in records.values() if "top1" in r.teacher}.values():
        share = f" on {r.experiment['train_share']:.3g} of the images" if "train_share" in r.experiment else ""
        said.append(f"{r.teacher['title']}{share}: top-1 {r.teacher['top1']:.1f} %, calibration error {r.teacher['ECE']:.1f} % on "
                    f"the crops of `{r.teacher['split']}` (paper: 80.3 % top-1).")
    for report in {r.teacher["detector_hash"]: r.teacher for r in records.values()
                   if "detector" in r.teacher}.values():
        taught = [r.metrics["mAP"] for r in records.values() if r.status == "done" and r.method == "baseline"
                  and ARCHITECTURES[r.student].detector_teacher == report["detector"]]
        weak = taught and report["detector_mAP"] <= max(taught)
        said.append(f"The detector that is imitated, {report['detector']}: {report['detector_mAP']:.1f} mAP."
                    + (" **It is no stronger than a student it teaches: those rows test nothing.**" if weak else ""))
    done = [r for r in records.values() if r.status == "done"]
    if any(ARCHITECTURES[r.student].family.masks and "loss_mask" not in r.curve for r in done):
        said.append("The data have no masks: of Mask R-CNN the box branch alone was trained, as a Faster R-CNN is.")
    bases = {(r.student, r.origin) for r in done if r.method == "baseline"}
    for student in dict.fromkeys(r.student for r in done):
        alone = dict.fromkeys(r.method for r in done if r.student == student and (student, r.origin) not in bases)
        if alone and any(whose == student for whose, _ in bases):
            said.append(f"**{student}, {', '.join(alone)}: from another pre-training than the baseline here, of another machine. No "
                        "gain is told; do not compare their mAP with the other rows'.**")
    if any(r.relative_seconds for r in done):
        said.append("x plain: forward and backward of a step in time of the plain student's, timed turn by turn in one process. s / step and "
                    "wall s are of whatever else the machine did. Memory: the peak, of tensors on a GPU, else of the whole process.")
    if some:
        said.append(f"Device: {some.device}; commits: "
                    + ", ".join(sorted({r.commit[:10] + (' (dirty)' if r.dirty else '') for r in records.values()}))
                    + ". Every number leads to a file in `records/`.")
    return said


def write_table(name: str, rows: list[Row], workspace: Workspace, folder: CocoFolder) -> pd.DataFrame:
    """Write ``<table>.csv`` and ``<table>.md`` from whatever is finished; return the frame."""
    records = collect(rows, workspace)
    frame = table(rows, records)
    write_whole(workspace.results / f"{name}.csv", frame.to_csv(index=False, float_format="%.4f"))
    write_whole(workspace.results / f"{name}.md", markdown(frame, TABLES[name].title, notes(workspace, folder, records)))
    return frame


README_TABLE = re.compile(r"(<!-- (results/\S+\.csv): written by `make readme` -->\n).*?(<!-- end -->)", re.DOTALL)


def update_readme(readme: Path = ROOT / "README.md") -> None:
    """Write each table of the README anew from the committed CSV that the comment above it names.

    Raises:
        FileNotFoundError: for a CSV that is not there.
    """
    write_whole(readme, README_TABLE.sub(lambda m: m[1] + _short(ROOT / m[2]) + m[3], readme.read_text()))


def _short(csv: Path) -> str:
    """A table without costs, for the README."""
    frame = pd.read_csv(csv)
    lines = ["| student | method | paper mAP | our mAP | gain over our baseline [95 % CI] |", "|---|---|---:|---:|---:|"]
    for _, row in frame.iterrows():
        method = f"*{row.method}* (control)" if row.method == CONTROL else row.method
        lines.append(f"| {row.student} | {method} | {_show(row.paper_mAP)} | {_with_sd(row)} | {_gain(row)} |")
    seeds = frame.seeds.max()
    said = f"mean ± sd over {seeds} seeds" if seeds > 1 else "one seed: no row says more than a coin may"
    if (frame.mAP.notna() & frame.gain.isna() & (frame.method != "baseline")).any():
        said += "; where no gain stands, a row is of another machine's pre-training than its baseline, and not to be compared with it"
    return "\n".join([*lines, "", said, ""])
