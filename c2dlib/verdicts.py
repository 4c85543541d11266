"""What the run records say of the paper's claims: computed, so that no sentence outlives its numbers."""

from __future__ import annotations

import pandas as pd

from c2dlib.methods import canonical
from c2dlib.records import RunRecord
from c2dlib.site import Site
from c2dlib.tables import CONTROL, SHARES, Row, label, paired

NAMING = "AP50 - AP75"  # gains more at AP50 (above 0: naming) or at AP75 (below 0: placing the box)
ONE, INSIDE = "one seed: no interval", "no: 0 inside"
CLAIMS = {  # (a row's label, against which, metric)
    "table1": [(method, "baseline", "mAP") for method in ("KDcls", "loc", "loc+KDloc", "KDcls+loc+KDloc")]
    + [("KDcls", "baseline", NAMING), ("loc+KDloc", "baseline", NAMING), ("KDcls", CONTROL, "mAP")],
    "table2": [("ours", it, "mAP") for it in ("baseline", "FKD", CONTROL)] + [("ours+FKD", "FKD", "mAP")],
    "table3a": [("KDcls, λ_kc 0.4, T 2", it, "mAP")
                for it in ("baseline", CONTROL, "KDcls, λ_kc 0.1, T 2", "KDcls, λ_kc 0.4, T 1", "KDcls, λ_kc 0.4, T 3")],
    "table3b": [("KDcls, ResNet50, 112", it, "mAP") for it in (
        "baseline", CONTROL, "KDcls, ResNet18, 112", "KDcls, ResNeXt101-32x8d, 112", "KDcls, ResNet50, 56",
        "KDcls, ResNet50, 224")],
    "table4": [("loc, a, s 112, p 4, obj", it, "mAP")
               for it in ("baseline", "loc, a, s 14, p 4, obj", "loc, a, s 224, p 4, obj")]
    + [("loc, b, s 112, p 8, obj", it, "mAP") for it in ("loc, b, s 112, p 2, obj", "loc, b, s 112, p 16, obj")]
    + [("loc+KDloc, c, s 112, p 8, obj+l0", it, "mAP")
       for it in ("loc, c, s 112, p 8, obj", "KDloc, c, s 112, p 8, l0", "loc+KDloc, c, s 112, p 8, obj+l0+l1")],
    "controls": [(a, b, "mAP") for a, b in (
        ("KDcls", "baseline"), ("KDcls", CONTROL), ("KDcls", "KDcls-smooth"), ("KDcls", "KDcls-mean"),
        ("KDcls-mean", "KDcls-smooth"), ("KDcls-smooth", CONTROL))]
    + [(a, b, metric) for a, b in (("loc", "loc-L1"), ("loc+KDloc", "loc-L1+KDloc-L1")) for metric in ("mAP", "AP75")],
    "sizes": [(f"{method}, share {share:g}", f"{other}, share {share:g}", "mAP") for share in SHARES
              for method, other in (("KDcls", "baseline"), ("KDcls", CONTROL), ("KDcls+loc+KDloc", "baseline"))],
    "table5": [(method, "baseline", ap) for method in ("KDcls", "loc+KDloc") for ap in ("AP50", "AP75", "AP90")]}


def verdict(table: str, rows: list[Row], records: dict[str, RunRecord]) -> pd.DataFrame:
    """Each claim of a table, per student: the paper's difference; ours, paired by seed, with its interval."""
    value = lambda m, metric: m["AP50"] - m["AP75"] if metric == NAMING else m[metric]
    lines = []
    for student in dict.fromkeys(row.student for row in rows):
        mine = {_key(label(r.method, r.settings)): r for r in rows if r.student == student and r.experiments}
        for method, other, metric in CLAIMS[table]:
            line = {"student": student, "comparison": f"{method} against {other}", "metric": metric,
                    "paper": None, "gain": None, "gain_low": None, "gain_high": None, "seeds": 0}
            if (a := mine.get(_key(method))) and (b := mine.get(_key(other))):
                x, y = ({e.seed: value(records[e.hash()].metrics, metric) for e in row.experiments
                         if e.hash() in records and records[e.hash()].status == "done"} for row in (a, b))
                line |= {"seeds": len(x.keys() & y.keys())} | paired([(x[s], y[s]) for s in x if s in y])
                if a.paper and b.paper:
                    line["paper"] = value(a.paper, metric) - value(b.paper, metric)
            lines.append(line | _reading(*(line[key] for key in ("paper", "gain", "gain_low", "gain_high"))))
    return pd.DataFrame(lines)


def _key(name: str) -> str:
    """A label with one name per method: Table 1's KDcls+loc+KDloc is Table 2's ours."""
    method, *settings = name.split(", ")
    return ", ".join([canonical(method), *settings])


def _reading(paper: float | None, gain: float | None, low: float | None, high: float | None) -> dict:
    if gain is None:
        return {"direction": "not run", "sure": "–"}
    agrees = "" if not (paper and gain) else ", as in the paper" if gain * paper > 0 else ", unlike the paper"
    sure = ONE if low is None else INSIDE if low <= 0 <= high else "yes"
    return {"direction": ("up" if gain > 0 else "down" if gain < 0 else "none") + agrees, "sure": sure}


def summary(frame: pd.DataFrame) -> str:
    """A ``verdict`` in two sentences."""
    sure, count = frame[frame.sure == "yes"].direction, frame.sure.value_counts().get
    agree, differ = (int(sure.str.contains(words).sum()) for words in ("as in", "unlike"))
    rest = len(sure) - agree - differ
    return (f"Of {len(frame)} comparisons {len(sure)} have an interval without 0: {agree} as in the paper, "
            f"{differ} unlike it, {rest} not in the paper. Of the others {count(INSIDE, 0)} have 0 inside, "
            f"{count(ONE, 0)} have one seed only, {count('–', 0)} were not run.")


def not_tested(rows: list[Row], site: Site, seeds: int) -> list[str]:
    """What these runs cannot say."""
    missing = ", ".join(sorted({f"{row.method} ({row.student})" for row in rows if not row.experiments}))
    small = "The paper's numbers: a small scale shows a direction at best, smoke shows nothing but chance."
    said = {f"No code yet, so not run: {missing}.": missing, small: site.scale != "coco",
            f"Chance: SEEDS={seeds} gives no interval or a very wide one.": seeds < 3,
            "All at once: of many 95 % intervals about one in twenty excludes 0 by chance alone.": True}
    return [sentence for sentence, holds in said.items() if holds]
