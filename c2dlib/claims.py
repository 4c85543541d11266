"""Each claim of the paper as a test on the run records: holds, does not hold, or not enough evidence."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from c2dlib.data.coco import CocoFolder
from c2dlib.errors import run_errors
from c2dlib.files import write_whole
from c2dlib.methods import canonical
from c2dlib.site import Site
from c2dlib.tables import ABLATED, CONTROL, TABLES, collect, label, paired, work_list

MOST_SEEDS = 20  # records of seeds beyond are not looked for
COMPACT = ["SSD300-VGG16", "SSD512-VGG16", "FasterRCNN-MV2", "FasterRCNN-QR50"]
OURS = "KDcls+loc+KDloc"
Seeds = dict[int, float]  # seed -> a number


class Evidence:
    """What the records of a site say of a row: a number per seed."""

    def __init__(self, site: Site, folder: CocoFolder):
        self.site, self.rows, self.records = site, {}, {}
        for table in TABLES:
            rows = work_list(table, site, folder, MOST_SEEDS)
            self.records |= collect(rows, site)
            self.rows |= {(table, row.student, _same(label(row.method, row.settings))): row for row in rows}

    def __call__(self, table: str, student: str, row: str, metric: str = "mAP") -> Seeds:
        """A metric of a row, by its label, in the seeds that are done; ``Cls at 50`` and the like ask TIDE."""
        found = {}
        for e in self.rows[table, student, _same(row)].experiments:
            record = self.records.get(e.hash())
            if record is None or record.status != "done":
                continue
            if " at " not in metric:
                found[e.seed] = record.metrics[metric]
                continue
            kind, iou = metric.split(" at ")
            try:
                found[e.seed] = float(run_errors(e, self.site).by_iou.loc[int(iou), kind])
            except FileNotFoundError:  # trained elsewhere, and its errors were not written down
                continue
        return {seed: value for seed, value in found.items() if value is not None}


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, and the number, per seed, that is above 0 where it is true."""

    source: str
    sentence: str
    effect: Callable[[Evidence], Seeds]


def _same(name: str) -> str:
    """A label with one name per method."""
    method, *settings = name.split(", ")
    try:
        return ", ".join([canonical(method), *settings])
    except ValueError:  # a method without code
        return name


def _minus(a: Seeds, b: Seeds) -> Seeds:
    return {seed: a[seed] - b[seed] for seed in a if seed in b}


def _best(*rows: Seeds) -> Seeds:
    return {seed: max(row[seed] for row in rows) for seed in rows[0] if all(seed in row for row in rows)}


def _mean(*rows: Seeds) -> Seeds:
    return {seed: statistics.fmean(row[seed] for row in rows) for seed in rows[0] if all(seed in row for row in rows)}


def _gain(table: str, student: str, row: str, metric: str = "mAP", other: str = "baseline") -> Callable[[Evidence], Seeds]:
    return lambda see: _minus(see(table, student, row, metric), see(table, student, other, metric))


def _more(one: Callable, other: Callable) -> Callable[[Evidence], Seeds]:
    return lambda see: _minus(one(see), other(see))


def claims() -> list[Claim]:
    """All of them, in the paper's order; those marked *ours* are the controls it does not have."""
    every = []
    for s in COMPACT:
        gain = lambda row, metric="mAP", other="baseline", s=s: _gain("table1", s, row, metric, other)
        every += [
            Claim("Table 1", f"{s}: KD_cls lifts mAP", gain("KDcls")),
            Claim("ours", f"{s}: KD_cls lifts mAP more than labels in the teacher's place", gain("KDcls", other=CONTROL)),
            Claim("Table 1", f"{s}: KD_cls lifts AP50 more than AP75", _more(gain("KDcls", "AP50"), gain("KDcls", "AP75"))),
            Claim("Table 1", f"{s}: loc lifts mAP", gain("loc")),
            Claim("Table 1", f"{s}: loc + KD_loc lift mAP", gain("loc+KDloc")),
            Claim("Table 1", f"{s}: loc + KD_loc lift AP75 more than AP50",
                  _more(gain("loc+KDloc", "AP75"), gain("loc+KDloc", "AP50"))),
            Claim("Table 1", f"{s}: all three lift mAP", gain(OURS)),
            Claim("Table 1", f"{s}: all three are better than KD_cls and than loc + KD_loc alone", lambda see, s=s: _minus(
                see("table1", s, OURS), _best(see("table1", s, "KDcls"), see("table1", s, "loc+KDloc"))))]
    every += [
        Claim("Table 1", "The weaker backbone gains more: QR50 against MobileNetV2, all three",
              _more(_gain("table1", "FasterRCNN-QR50", OURS), _gain("table1", "FasterRCNN-MV2", OURS))),
        Claim("Table 1", "The SSDs gain more from loc than the Faster R-CNNs", lambda see: _minus(*(
            _mean(*(_gain("table1", s, "loc")(see) for s in pair)) for pair in (COMPACT[:2], COMPACT[2:])))),
    ]
    for s in ("FasterRCNN-QR50", "SSD512-VGG16"):
        every.append(Claim("Table 2", f"{s}: ours is better than FKD", _gain("table2", s, "ours", other="FKD")))
    r50 = "FasterRCNN-R50"
    every += [
        Claim("Table 2", f"{r50}: FKD is better than ours", _gain("table2", r50, "FKD", other="ours")),
        Claim("Table 2", f"{r50}: ours + FKD are better than FKD", _gain("table2", r50, "ours+FKD", other="FKD")),
        Claim("Table 2", "RetinaNet-R50: ours + FKD are better than FKD", _gain("table2", "RetinaNet-R50", "ours+FKD", other="FKD")),
    ]
    for s in ("FasterRCNN-R50", "RetinaNet-R50"):
        every += [Claim("Table 2", f"{s}: ours is better than the baseline", _gain("table2", s, "ours")),
                  Claim("ours", f"{s}: ours is better than labels in the teacher's place", _gain("table2", s, "ours", other=CONTROL))]
    for table, one, other, sentence in (
            ("table3a", "KDcls, λ_kc 0.4, T 2", "KDcls, λ_kc 0.1, T 2", "λ_kc = 0.4 is better than 0.1"),
            ("table3a", "KDcls, λ_kc 0.4, T 2", "KDcls, λ_kc 0.4, T 1", "T = 2 is better than 1"),
            ("table3b", "KDcls, ResNet50, 112", "KDcls, ResNet18, 112", "ResNet50 teaches better than ResNet18"),
            ("table3b", "KDcls, ResNet50, 112", "KDcls, ResNeXt101-32x8d, 112",
             "ResNeXt101, the more accurate, teaches worse than ResNet50"),
            ("table4", "loc, a, s 112, p 4, obj", "loc, a, s 14, p 4, obj", "loc: crops of 112 are better than of 14"),
            ("table4", "loc, b, s 112, p 8, obj", "loc, b, s 112, p 2, obj", "loc: 8 x 8 cells are better than 2 x 2"),
            ("table4", "loc+KDloc, c, s 112, p 8, obj+l0", "loc, c, s 112, p 8, obj", "adding l0 to the crops helps"),
            ("table4", "loc+KDloc, c, s 112, p 8, obj+l0", "loc+KDloc, c, s 112, p 8, obj+l0+l1", "adding l1 as well hurts")):
        every.append(Claim(f"Table {table[5:]}", f"{ABLATED}: {sentence}", _gain(table, ABLATED, one, other=other)))
    at = lambda row, metric: _gain("table5", ABLATED, row, metric)
    every += [
        Claim("Table 5", f"{ABLATED}: KD_cls gains more at IoU 0.50 than at 0.90", _more(at("KDcls", "AP50"), at("KDcls", "AP90"))),
        Claim("Table 5", f"{ABLATED}: loc + KD_loc gain more at IoU 0.90 than at 0.50",
              _more(at("loc+KDloc", "AP90"), at("loc+KDloc", "AP50")))]
    for s in COMPACT:
        less = lambda row, metric, s=s: _gain("table1", s, "baseline", metric, other=row)
        every += [
            Claim("Figure 3", f"{s}: KD_cls cuts classification error at IoU 0.50", less("KDcls", "Cls at 50")),
            Claim("Figure 3", f"{s}: loc + KD_loc cut localisation error at IoU 0.75", less("loc+KDloc", "Loc at 75")),
            Claim("Figure 3", f"{s}: loc + KD_loc cut localisation error more at IoU 0.90 than at 0.60",
                  _more(less("loc+KDloc", "Loc at 90"), less("loc+KDloc", "Loc at 60")))]
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
    return {"verdict": word, "effect": found.get("gain"), "low": low, "high": high, "seeds": len(effect)}


def verdicts(site: Site, folder: CocoFolder) -> pd.DataFrame:
    """A line per claim: source, claim, verdict, effect in points with its interval, seeds."""
    evidence = Evidence(site, folder)
    return pd.DataFrame([{"source": c.source, "claim": c.sentence} | judge(c.effect(evidence)) for c in claims()])


def write_claims(site: Site, folder: CocoFolder) -> str:
    """Write ``claims.md`` and ``claims.csv`` beside the tables; return the former's text."""
    frame = verdicts(site, folder)
    write_whole(site.results / "claims.csv", frame.to_csv(index=False, float_format="%.4f"))
    counts = frame.verdict.value_counts()
    lines = [f"# The paper's claims on {site.data_name}, scale {site.scale}", "",
             ", ".join(f"**{counts.get(word, 0)}** {word}" for word in ("holds", "does not hold", "not enough evidence",
                                                                      "not run")) + f", of {len(frame)}.", "",
             "| source | claim | verdict | effect, points [95 % CI] | seeds |", "|---|---|---|---:|---:|"]
    for row in frame.itertuples():
        interval = "" if pd.isna(row.low) else f" [{row.low:+.1f}, {row.high:+.1f}]"
        effect = "–" if pd.isna(row.effect) else f"{row.effect:+.1f}{interval}"
        lines.append(f"| {row.source} | {row.claim} | {row.verdict} | {effect} | {row.seeds} |")
    lines += ["", ("The effect is a difference of AP points, above 0 where the claim is true: mean over seeds that all its rows "
              "have, paired by seed, with a 95 % t interval. *holds*: all of the interval is above 0; *does not hold*: all of it "
              "is below; else there is *not enough evidence*. The intervals are not corrected for their number: of "
              f"{len(frame)} about {len(frame) / 20:.0f} would exclude 0 by chance alone. *ours*: a control the paper does not "
              "have. A small scale tests the direction of an effect, never the paper's number."), ""]
    text = "\n".join(lines)
    write_whole(site.results / "claims.md", text)
    return text
