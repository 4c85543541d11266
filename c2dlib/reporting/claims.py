"""Each claim of the paper as a test on the run records: holds, does not hold, or not enough evidence.

One list for the verdict at the end of every notebook and for ``claims.md``; no sentence outlives its numbers.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from c2dlib.config.methods import IMITATIONS, canonical
from c2dlib.data.coco import CocoFolder
from c2dlib.evaluation.tide import BOXES, run_errors
from c2dlib.files import write_whole
from c2dlib.records import RunRecord
from c2dlib.reporting.tables import (
    ABLATED,
    CONTROL,
    SCHEDULES,
    SHARES,
    TABLES,
    Row,
    collect,
    label,
    paired,
    work_list,
)
from c2dlib.workspace import Workspace

MOST_SEEDS = 20  # records of seeds beyond are not looked for
COMPACT = ["SSD300-VGG16", "SSD512-VGG16", "FasterRCNN-MV2", "FasterRCNN-QR50"]
OURS = "KDcls+loc+KDloc"
SOURCES = {**{name: table.title.split(":")[0] for name, table in TABLES.items() if name != "choices"}, "figure3": "Figure 3"}
WORDS = ("holds", "does not hold", "not enough evidence", "not run")
Seeds = dict[int, float]  # seed -> a number
See = Callable[..., dict[tuple[int, str], float]]  # (student, label of a row, metric = mAP) -> that number per seed and origin


@dataclass(frozen=True)
class Claim:
    """A sentence on the rows of one table, and the number, per seed, that is above 0 where it is true."""

    source: str  # a key of SOURCES
    students: tuple[str, ...]
    sentence: str
    effect: Callable[[See], Seeds]
    ours: bool = False  # a control that the paper does not have

    @property
    def text(self) -> str:
        return self.sentence if len(self.students) > 1 else f"{self.students[0]}: {self.sentence}"


class Evidence:
    """What the records of one table say of a row: a number per seed."""

    def __init__(self, rows: list[Row], records: dict[str, RunRecord], workspace: Workspace):
        self.rows = {(row.student, _same(label(row.method, row.settings))): row for row in rows}
        self.records, self.workspace = records, workspace

    def __call__(self, student: str, row: str, metric: str = "mAP") -> dict[tuple[int, str], float]:
        """A metric of a row, by its label, in the runs that are done; ``Cls at 50`` and the like ask their errors."""
        found, there = {}, self.rows.get((student, _same(row)))
        for e in there.experiments if there else ():
            record = self.records.get(e.hash())
            if record is None or record.status != "done":
                continue
            if " at " not in metric:
                found[e.seed, record.origin] = record.metrics[metric]
                continue
            kind, iou = metric.split(" at ")
            try:
                found[e.seed, record.origin] = float(run_errors(e, self.workspace).by_iou.loc[int(iou), kind])
            except FileNotFoundError:  # trained elsewhere, and its errors were not written down
                continue
        return {run: value for run, value in found.items() if not pd.isna(value)}

    def paper(self, student: str, row: str, metric: str = "mAP") -> dict[tuple[int, str], float]:
        """The paper's number in the place of a seed's, so that the same difference can be taken of it."""
        there = self.rows.get((student, _same(row)))
        return {(0, ""): there.paper[metric]} if there and metric in there.paper else {}


def _same(name: str) -> str:
    """A label with one name per method: Table 1's KDcls+loc+KDloc is Table 2's ours."""
    method, *settings = name.split(", ")
    try:
        return ", ".join([canonical(method), *settings])
    except ValueError:  # no row of any table
        return name


def _minus(a: dict, b: dict) -> dict:
    return {key: a[key] - b[key] for key in a if key in b}


def _mean(*rows: Seeds) -> Seeds:
    """Of the rows' numbers, in the seeds that all of them have."""
    return {seed: statistics.fmean(row[seed] for row in rows) for seed in rows[0] if all(seed in row for row in rows)}


def _gain(student: str, row: str, metric: str = "mAP", over: str = "baseline") -> Callable[[See], Seeds]:
    """The difference of two rows, in the seeds that both have from the same origin."""
    return lambda see: {seed: value for (seed, _), value in _minus(see(student, row, metric), see(student, over, metric)).items()}


def _more(one: Callable, other: Callable) -> Callable[[See], Seeds]:
    return lambda see: _minus(one(see), other(see))


def claims() -> list[Claim]:
    """All of them, in the paper's order, with the controls it does not have."""
    return [*_of_losses(), *_of_rivals(), *_of_ablations(), *_of_overlap(), *_of_controls(), *_of_sizes(), *_of_schedules(),
            *_of_errors()]


def _of_losses() -> list[Claim]:
    every = []
    for s in COMPACT:
        every += [Claim("table1", (s,), sentence, effect, ours) for sentence, effect, ours in (
            ("KD_cls lifts mAP", _gain(s, "KDcls"), False),
            ("KD_cls lifts mAP more than labels in the teacher's place", _gain(s, "KDcls", over=CONTROL), True),
            ("KD_cls lifts AP50 more than AP75", _more(_gain(s, "KDcls", "AP50"), _gain(s, "KDcls", "AP75")), False),
            ("loc lifts mAP", _gain(s, "loc"), False),
            ("loc + KD_loc lift mAP", _gain(s, "loc+KDloc"), False),
            ("loc + KD_loc lift AP75 more than AP50", _more(_gain(s, "loc+KDloc", "AP75"), _gain(s, "loc+KDloc", "AP50")), False),
            ("all three lift mAP", _gain(s, OURS), False),
            ("all three are better than KD_cls alone", _gain(s, OURS, over="KDcls"), False),
            ("all three are better than loc + KD_loc alone", _gain(s, OURS, over="loc+KDloc"), False))]
    gains = lambda see, pair: _mean(*(_gain(s, "loc")(see) for s in pair))
    return [*every,
            Claim("table1", ("FasterRCNN-QR50", "FasterRCNN-MV2"), "The weaker backbone gains more: QR50 against MobileNetV2, all three",
                  _more(_gain("FasterRCNN-QR50", OURS), _gain("FasterRCNN-MV2", OURS))),
            Claim("table1", tuple(COMPACT), "The SSDs gain more from loc than the Faster R-CNNs",
                  lambda see: _minus(gains(see, COMPACT[:2]), gains(see, COMPACT[2:])))]


def _of_rivals() -> list[Claim]:
    others = {"FasterRCNN-R50": ["KD", "FGFI", "GID"], "RetinaNet-R50": ["FGFI", "GID"]}
    every = []
    for s in ("FasterRCNN-R50", "RetinaNet-R50", "FasterRCNN-MV2", "FasterRCNN-QR50", "SSD512-VGG16"):
        for method in (*others.get(s, []), "FKD"):
            ours_wins = method == "KD" or s in ("FasterRCNN-QR50", "SSD512-VGG16")
            better, worse = ("ours", method) if ours_wins else (method, "ours")
            every += [Claim("table2", (s,), f"{method} lifts mAP", _gain(s, method)),
                      Claim("table2", (s,), f"{better} is better than {worse}", _gain(s, better, over=worse))]
        every += [
            Claim("table2", (s,), "ours lifts mAP", _gain(s, "ours")),
            Claim("table2", (s,), "ours lifts mAP more than labels in the teacher's place", _gain(s, "ours", over=CONTROL), True),
            Claim("table2", (s,), "ours + FKD are better than FKD", _gain(s, "ours+FKD", over="FKD")),
            Claim("table2", (s,), "ours + FKD are better than ours", _gain(s, "ours+FKD", over="ours"))]
    for row in TABLES["table2x"].own():
        s, method = row["student"], row["method"]
        if method in IMITATIONS and method != "FKD":  # that is Table 2's
            every.append(Claim("table2x", (s,), f"ours + {method} are better than {method}", _gain(s, f"ours+{method}", over=method), True))
        elif s in ("FCOS-R50", "MaskRCNN-R50") and method != "baseline":
            every += [Claim("table2x", (s,), f"{method} lifts mAP", _gain(s, method), True),
                      Claim("table2x", (s,), f"{method} lifts mAP more than labels in the teacher's place",
                            _gain(s, method, over=CONTROL), True)]
    return every


def _of_ablations() -> list[Claim]:
    best = {"table3a": "KDcls, λ_kc 0.4, T 2", "table3b": "KDcls, ResNet50, 112"}
    return [Claim(table, (ABLATED,), sentence, _gain(ABLATED, row or best[table], over=over), over == CONTROL)
            for table, sentence, row, over in (
        ("table3a", "λ_kc = 0.4 with T = 2 lifts mAP", "", "baseline"),
        ("table3a", "λ_kc = 0.4 with T = 2 lifts mAP more than labels in the teacher's place", "", CONTROL),
        ("table3a", "λ_kc = 0.4 is better than 0.1", "", "KDcls, λ_kc 0.1, T 2"),
        ("table3a", "T = 2 is better than 1", "", "KDcls, λ_kc 0.4, T 1"),
        ("table3a", "T = 2 is better than 3", "", "KDcls, λ_kc 0.4, T 3"),
        ("table3b", "ResNet50 as teacher lifts mAP", "", "baseline"),
        ("table3b", "ResNet50 as teacher lifts mAP more than labels in its place", "", CONTROL),
        ("table3b", "ResNet50 teaches better than ResNet18", "", "KDcls, ResNet18, 112"),
        ("table3b", "ResNet50 teaches better than ResNeXt101, which is more accurate in the paper", "", "KDcls, ResNeXt101-32x8d, 112"),
        ("table3b", "ResNet50 teaches better from 112 px than from 56", "", "KDcls, ResNet50, 56"),
        ("table3b", "ResNet50 teaches better from 112 px than from 224", "", "KDcls, ResNet50, 224"),
        ("table4", "loc lifts mAP (s 112, p 4)", "loc, a, s 112, p 4, obj", "baseline"),
        ("table4", "loc: crops of 112 px are better than of 14", "loc, a, s 112, p 4, obj", "loc, a, s 14, p 4, obj"),
        ("table4", "loc: 8 x 8 cells are better than 2 x 2", "loc, b, s 112, p 8, obj", "loc, b, s 112, p 2, obj"),
        ("table4", "loc: 8 x 8 cells are better than 16 x 16", "loc, b, s 112, p 8, obj", "loc, b, s 112, p 16, obj"),
        ("table4", "adding l0 to the crops helps", "loc+KDloc, c, s 112, p 8, obj+l0", "loc, c, s 112, p 8, obj"),
        ("table4", "crops and l0 are better than l0 alone", "loc+KDloc, c, s 112, p 8, obj+l0", "KDloc, c, s 112, p 8, l0"),
        ("table4", "adding l1 as well hurts", "loc+KDloc, c, s 112, p 8, obj+l0", "loc+KDloc, c, s 112, p 8, obj+l0+l1"))]


def _of_overlap() -> list[Claim]:
    at = lambda row, metric: _gain(ABLATED, row, metric)
    return [Claim("table5", (ABLATED,), sentence, effect) for sentence, effect in (
        ("KD_cls lifts AP50", at("KDcls", "AP50")),
        ("KD_cls gains more at IoU 0.50 than at 0.90", _more(at("KDcls", "AP50"), at("KDcls", "AP90"))),
        ("loc + KD_loc lift AP75", at("loc+KDloc", "AP75")),
        ("loc + KD_loc lift AP90", at("loc+KDloc", "AP90")),
        ("loc + KD_loc gain more at IoU 0.90 than at 0.50", _more(at("loc+KDloc", "AP90"), at("loc+KDloc", "AP50"))))]


def _of_controls() -> list[Claim]:
    return [Claim("controls", (ABLATED,), sentence, _gain(ABLATED, row, metric, over), True) for sentence, row, over, metric in (
        ("KD_cls lifts mAP", "KDcls", "baseline", "mAP"),
        ("KD_cls lifts mAP more than labels", "KDcls", CONTROL, "mAP"),
        ("KD_cls lifts mAP more than evenly smoothed labels", "KDcls", "KDcls-smooth", "mAP"),
        ("KD_cls lifts mAP more than the teacher's class means: the instance matters", "KDcls", "KDcls-mean", "mAP"),
        ("class means lift mAP more than evenly smoothed labels: alike classes matter", "KDcls-mean", "KDcls-smooth", "mAP"),
        ("evenly smoothed labels lift mAP more than labels: softness matters", "KDcls-smooth", CONTROL, "mAP"),
        ("loc lifts mAP more than an L1 box loss of the same gradient: the image matters", "loc", "loc-L1", "mAP"),
        ("loc lifts AP75 more than an L1 box loss of the same gradient", "loc", "loc-L1", "AP75"),
        ("loc + KD_loc lift mAP more than L1 box losses of the same gradient", "loc+KDloc", "loc-L1+KDloc-L1", "mAP"),
        ("loc + KD_loc lift AP75 more than L1 box losses of the same gradient", "loc+KDloc", "loc-L1+KDloc-L1", "AP75"),
        ("an L1 box loss lifts AP75 of the boxes alone", "loc-L1", "baseline", f"{BOXES} at 75"),
        ("loc lifts AP75 of the boxes alone more than it", "loc", "loc-L1", f"{BOXES} at 75"),
        ("loc + KD_loc lift AP75 of the boxes alone more than L1 box losses", "loc+KDloc", "loc-L1+KDloc-L1", f"{BOXES} at 75"))]


def _of_sizes() -> list[Claim]:
    gain = lambda row, share, over="baseline": _gain(ABLATED, f"{row}, share {share:g}", over=f"{over}, share {share:g}")
    every = []
    for share in SHARES:
        of = f"with {share:.3g} of the images" if share < 1 else "with all images"
        every += [Claim("sizes", (ABLATED,), f"{what} {of}", gain(row, share, over), True) for what, row, over in (
            ("KD_cls lifts mAP", "KDcls", "baseline"), ("KD_cls lifts mAP more than labels", "KDcls", CONTROL),
            ("all three lift mAP", OURS, "baseline"))]
    return [*every, Claim("sizes", (ABLATED,), f"KD_cls gains more with {SHARES[0]:.3g} of the images than with all",
                          _more(gain("KDcls", SHARES[0]), gain("KDcls", 1.0)), True)]


def _of_schedules() -> list[Claim]:
    every = []
    for times in SCHEDULES[1:]:
        gain = lambda row, over="baseline", metric="mAP", times=times: _gain(
            ABLATED, f"{row}, schedule x {times}", metric, f"{over}, schedule x {times}")
        every += [Claim("schedules", (ABLATED,), f"{what} after {times} times the steps", effect, True) for what, effect in (
            ("KD_cls lifts mAP", gain("KDcls")), ("KD_cls lifts mAP more than labels", gain("KDcls", CONTROL)),
            ("loc + KD_loc lift mAP", gain("loc+KDloc")), ("loc + KD_loc lift AP75", gain("loc+KDloc", metric="AP75")),
            ("loc + KD_loc lift AP75 of the boxes alone", gain("loc+KDloc", metric=f"{BOXES} at 75")),
            ("all three lift mAP", gain(OURS)), ("all three are better than KD_cls alone", gain(OURS, "KDcls")))]
    return every


def _of_errors() -> list[Claim]:
    """On Table 1's runs. What is cut is the baseline's cost, so the difference is taken the other way round."""
    every = []
    for s in COMPACT:
        less = lambda row, metric, s=s: _gain(s, "baseline", metric, over=row)
        every += [Claim("figure3", (s,), sentence, effect) for sentence, effect in (
            ("KD_cls cuts classification error at IoU 0.50", less("KDcls", "Cls at 50")),
            ("KD_cls cuts classification error more at IoU 0.50 than at 0.75", _more(less("KDcls", "Cls at 50"), less("KDcls", "Cls at 75"))),
            ("loc + KD_loc cut localisation error at IoU 0.75", less("loc+KDloc", "Loc at 75")),
            ("loc + KD_loc cut localisation error at IoU 0.90", less("loc+KDloc", "Loc at 90")),
            ("loc + KD_loc cut localisation error more at IoU 0.90 than at 0.60", _more(less("loc+KDloc", "Loc at 90"), less("loc+KDloc", "Loc at 60"))))]
        every += [Claim("figure3", (s,), f"{words} AP{iou} of the boxes alone", _gain(s, row, f"{BOXES} at {iou}"), True)
                  for words, row in (("loc lifts", "loc"), ("loc + KD_loc lift", "loc+KDloc"), ("KD_cls lifts", "KDcls")) for iou in (75, 90)]
        every.append(Claim("figure3", (s,), "all three lift AP75 of the boxes alone more than KD_cls",
                           _gain(s, OURS, f"{BOXES} at 75", over="KDcls"), True))
    return every


def judge(effect: Seeds) -> dict:
    """A verdict on numbers that are above 0 where a claim is true: mean, 95 % t interval over seeds, and a word.

    ``holds``: the whole interval is above 0. ``does not hold``: it is below 0. Else ``not enough evidence``.
    """
    found = paired([(value, 0.0) for value in effect.values()])
    low, high = found.get("gain_low"), found.get("gain_high")
    word = "not run" if not effect else "not enough evidence"
    if low is not None and (low > 0 or high < 0):
        word = "holds" if low > 0 else "does not hold"
    return {"effect": found.get("gain"), "low": low, "high": high, "seeds": len(effect), "verdict": word}


def verdict(source: str, rows: list[Row], records: dict[str, RunRecord], workspace: Workspace) -> pd.DataFrame:
    """The claims on one table or figure that its rows can answer.

    Args:
        source: a key of SOURCES; Figure 3 speaks of Table 1's rows.

    Returns:
        A line per claim: ``claim``, ``ours`` (a control of ours), ``paper`` (the same difference of its numbers), ``effect`` in
        points with its interval ``low``, ``high``, ``seeds``, ``verdict``.
    """
    see, students = Evidence(rows, records, workspace), {row.student for row in rows}
    lines = []
    for claim in claims():
        if claim.source == source and students.issuperset(claim.students):
            paper = None if claim.ours else claim.effect(see.paper).get(0)
            lines.append({"claim": claim.text, "ours": claim.ours, "paper": paper} | judge(claim.effect(see)))
    return pd.DataFrame(lines, columns=["claim", "ours", "paper", "effect", "low", "high", "seeds", "verdict"])


def summary(frame: pd.DataFrame) -> str:
    """A ``verdict`` in a sentence or two."""
    if frame.empty:
        return "No claim is judged by these rows."
    counts, single = frame.verdict.value_counts(), int((frame.seeds == 1).sum())
    said = f"Of {len(frame)} claims " + ", ".join(f"{counts.get(word, 0)} {word}" for word in WORDS[:2])
    alone = f", {single} of them for want of a second seed" if single else ""
    said += f"; {counts.get(WORDS[2], 0)} without enough evidence{alone}; {counts.get(WORDS[3], 0)} not run."
    unlike = int((frame.paper.astype(float) * frame.effect.astype(float) < 0).sum())
    return said + (f" {unlike} point against the paper, surely or not." if unlike else "")


def not_tested(workspace: Workspace, seeds: int) -> list[str]:
    """What these runs cannot say."""
    small = "The paper's numbers: a small scale shows a direction at best, smoke shows nothing but chance."
    said = {small: workspace.scale != "coco",
            f"Chance: SEEDS={seeds} gives no interval or a very wide one.": seeds < 3,
            "All at once: of many 95 % intervals about one in twenty excludes 0 by chance alone.": True}
    return [sentence for sentence, holds in said.items() if holds]


def verdicts(workspace: Workspace, folder: CocoFolder) -> pd.DataFrame:
    """``verdict`` of every table and figure, by the records there are, with its ``source`` in front."""
    frames = []
    for source, name in SOURCES.items():
        rows = work_list("table1" if source == "figure3" else source, workspace, folder, MOST_SEEDS)
        frames.append(verdict(source, rows, collect(rows, workspace), workspace).assign(source=name))
    frame = pd.concat(frames, ignore_index=True)
    return frame[["source", *frame.columns.drop("source")]]


def markdown(frame: pd.DataFrame) -> str:
    """A ``verdict`` as Markdown."""
    lines = ["| claim | paper | ours, points [95 % CI] | seeds | verdict |", "|---|---:|---:|---:|---|"]
    for row in frame.itertuples():
        interval = "" if pd.isna(row.low) else f" [{row.low:+.1f}, {row.high:+.1f}]"
        effect = "–" if pd.isna(row.effect) else f"{row.effect:+.1f}{interval}"
        paper = "–" if pd.isna(row.paper) else f"{row.paper:+.1f}"
        bold = f"**{row.verdict}**" if row.verdict in WORDS[:2] else row.verdict
        lines.append(f"| {f'*{row.claim}*' if row.ours else row.claim} | {paper} | {effect} | {row.seeds} | {bold} |")
    return "\n".join(lines)


def write_claims(workspace: Workspace, folder: CocoFolder) -> str:
    """Write ``claims.md`` and ``claims.csv`` beside the tables; return the former's text.

    What a person has to say of them stands in ``reading.md`` beside them, where there is one, and is linked.
    """
    frame = verdicts(workspace, folder)
    write_whole(workspace.results / "claims.csv", frame.to_csv(index=False, float_format="%.4f"))
    count = lambda some: ", ".join(f"**{(some.verdict == word).sum()}** {word}" for word in WORDS) + f", of {len(some)}"
    lines = [f"# The paper's claims on {workspace.data_name}, scale {workspace.scale}", "",
             f"- The paper's: {count(frame[~frame.ours])}.", f"- *Controls of ours*: {count(frame[frame.ours])}.", ""]
    if (workspace.results / "reading.md").exists():
        lines += ["What was tried where a claim does not hold, and what was seen: [reading.md](reading.md).", ""]
    lines += [("An effect is a difference of AP points, above 0 where the claim is true: mean over the seeds that all its rows "
               "have from the same initial weights, paired by seed, with a 95 % t interval. *holds*: all of the interval is above 0; *does not hold*: all of it "
               "is below; else there is *not enough evidence*. *paper*: the same difference of the paper's numbers. The intervals "
               f"are not corrected for their number: of {len(frame)} about {len(frame) / 20:.0f} would exclude 0 by chance alone. "
               "A small scale tests the direction of an effect, never the paper's number."), ""]
    for name, mine in frame.groupby("source", sort=False):
        lines += [f"## {name}", "", markdown(mine), ""]
    text = "\n".join(lines)
    write_whole(workspace.results / "claims.md", text)
    return text
