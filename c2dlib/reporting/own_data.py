"""The result of students on data of one's own: baseline, distilled, gain and cost; no number of the paper."""

from __future__ import annotations

import pandas as pd

from c2dlib.config.experiment import Experiment
from c2dlib.records import RunRecord
from c2dlib.reporting.labels import method_label
from c2dlib.reporting.markdown import MISSING, as_text, number
from c2dlib.reporting.notes import by_classifier, taught
from c2dlib.reporting.statistics import difference_text, mean_of, paired_difference

METRICS = ("mAP", "AP50", "AP75")
Pair = dict[str, Experiment]  # method -> its experiment, of one seed


def result(pairs: list[Pair], records: dict[str, RunRecord]) -> pd.DataFrame:
    """A line per method with its mean metrics and cost, and, of two methods, their paired difference.

    Columns: ``student``, the ``METRICS`` in percent, ``time of a step`` (in that of the plain student's),
    ``minutes`` (of training and evaluation, without teacher and pre-training), all as text.

    Args:
        pairs: one per seed; the first method is the baseline.
        records: by experiment hash; a run that did not finish leaves a dash.
    """
    lines = []
    for method in pairs[0]:
        done = [r for pair in pairs if (r := _done(pair[method], records))]
        line = {"student": method_label(method)}
        line |= {m: number(mean_of([r.metrics[m] for r in done])) for m in METRICS}
        times = mean_of([r.relative_seconds or None for r in done])
        line["time of a step"] = f"x {times:.2f}" if times else MISSING
        line["minutes"] = number(mean_of([r.wall_seconds / 60 for r in done]))
        lines.append(line)
    if len(pairs[0]) == 2:
        lines.append({"student": "gain"} | {m: gain_text(pairs, records, m) for m in METRICS})
    return pd.DataFrame(lines).fillna("")


def gain_text(pairs: list[Pair], records: dict[str, RunRecord], metric: str = "mAP") -> str:
    """The mean difference of a metric over the seeds, from two on with its 95 % interval; or a dash.

    A seed counts if both runs have the same initial weights and kind of device.
    """
    both = [[_done(e, records) for e in pair.values()] for pair in pairs]
    values = [(b.metrics[metric], a.metrics[metric]) for a, b in both if a and b and a.pairing == b.pairing]
    known = [(one, other) for one, other in values if one is not None and other is not None]
    return (difference_text(*paired_difference(known)) if known else "") or MISSING


def _done(e: Experiment, records: dict[str, RunRecord]) -> RunRecord | None:
    record = records.get(e.hash())
    return record if record and record.status == "done" else None


def caveats(pairs: list[Pair], records: dict[str, RunRecord], images: dict[str, int]) -> list[str]:
    """What to know before believing the numbers, in sentences.

    Args:
        images: split -> number of its images.
    """
    done = [r for pair in pairs for e in pair.values() if (r := _done(e, records))]
    sentences = []
    if len(pairs) == 1 and len(pairs[0]) == 2:
        sentences.append("One seed: the difference may be chance. Use three seeds or more to know.")
    for e in {e.eval_split: e for pair in pairs for e in pair.values()}.values():
        sentences.append(f"Metrics are computed on `{e.eval_split}`, {images[e.eval_split]} images.")
        if e.eval_split == "val" and e.keep_best_every:
            sentences.append(
                "The same val split chose the weights, so these metrics are a little too high for new "
                "images; a test split is not touched by any choice."
            )
        if images[e.eval_split] < 100:
            sentences.append("**So few images do not separate two detectors.**")
    groups = by_classifier(done)
    for group in groups:
        teacher = group[0].teacher
        sentences.append(
            f"{teacher['title']}: {teacher['top1']:.1f} % of the crops of `{teacher['split']}` are "
            f"classified correctly.{taught(group, groups, 'hash', {})}"
        )
    if len({r.origin for r in done}) > 1:
        sentences.append(
            "**These runs started from different initial weights (made on different machines): their "
            "difference means nothing.**"
        )
    if len({r.device_kind for r in done}) > 1:
        sentences.append("**Some of these runs are from a CPU, others from a GPU; a gain needs one kind.**")
    if rule := next((r.data["val_split"] for r in done if "val_split" in r.data), ""):
        sentences.append(as_text(f"{rule[0].upper()}{rule[1:]}."))
    for pair in pairs:
        for e in pair.values():
            record = records.get(e.hash())
            if record is None or record.status != "done":
                why = f"{record.status}: {record.reason}" if record else "ended by an error, see above"
                sentences.append(f"**{e.name}: {why}**")
    return sentences
