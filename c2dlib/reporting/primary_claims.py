"""The primary claims of ``results/primary_claims.yaml``, and which of its regimes a results folder is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import yaml

from c2dlib.config.experiment import known, scale_tables
from c2dlib.config.methods import canonical
from c2dlib.records import ROOT
from c2dlib.reporting.labels import method_label
from c2dlib.reporting.work_list import IOUS, METRICS
from c2dlib.workspace import Workspace

FILE = ROOT / "results" / "primary_claims.yaml"
BOXES_ALONE = {f"boxes{iou}": iou for iou in range(50, 100, 5)}  # metric -> IoU in percent
ORDER = {  # metrics of ``evaluation.ranking`` -> what they are called
    "oracle_mAP": "mAP in the best order",
    "oracle50": "AP50 in the best order",
    "oracle80": "AP80 in the best order",
    "score_IoU": "rank correlation x 100 of score and IoU, from IoU .50 on",
    "score_IoU80": "rank correlation x 100 of score and IoU, from IoU .80 on",
}
# Results folder -> the regime whose groups of students it has, where their names differ.
REGIMES = {"badges-mini": "badges", "badges-regimes": "badges"}
# Folders whose records are older than the file of the claims, so that they are explored and test no claim.
EXPLORATORY = ["badges-mini"]


class Term(NamedTuple):
    """A weighted mean: of a metric of a method, over seeds and over the students of a group."""

    weight: float
    group: str
    method: str  # as in ``methods.canonical``
    metric: str


@dataclass(frozen=True)
class Part:
    """A weighted sum of means that a claim says to lie above a bound, or between -margin and margin."""

    terms: tuple[Term, ...]
    above: float | None = None
    within: float | None = None

    @property
    def groups(self) -> list[str]:
        return list(dict.fromkeys(term.group for term in self.terms))

    @property
    def direction(self) -> dict[str, float]:
        """The sum of metrics that the part compares between rows, such as AP50 minus AP75.

        Raises:
            ValueError: if its rows are compared by different sums.
        """
        by_row: dict[tuple[str, str], dict[str, float]] = {}
        for term in self.terms:
            metrics = by_row.setdefault((term.group, term.method), {})
            metrics[term.metric] = metrics.get(term.metric, 0.0) + term.weight
        first = next(iter(by_row.values()))
        scale = next(iter(first.values()))
        direction = {metric: weight / scale for metric, weight in first.items()}
        for metrics in by_row.values():
            metric, weight = next(iter(metrics.items()))
            ratio = weight / direction.get(metric, float("nan"))
            if metrics != {metric: ratio * weight for metric, weight in direction.items()}:
                raise ValueError(f"the rows of a part are compared by different metrics: {self.text}")
        return direction

    @property
    def row_weights(self) -> dict[tuple[str, str], float]:
        """(group, method) -> the weight of its ``direction``."""
        metric, one = next(iter(self.direction.items()))
        return {(t.group, t.method): t.weight / one for t in self.terms if t.metric == metric}

    @property
    def text(self) -> str:
        """``KDcls - baseline, AP50``; several such differences in brackets, with what they are joined by."""
        blocks: dict[tuple[str, str], list[Term]] = {}
        for term in self.terms:
            blocks.setdefault((term.group, term.metric), []).append(term)
        texts = []
        for (group, metric), terms in blocks.items():
            sign = 1 if terms[0].weight > 0 else -1
            methods = "".join(
                f" {'+' if sign * t.weight > 0 else '-'} {method_label(t.method)}" for t in terms
            )
            where = f", {group}" if len(self.groups) > 1 else ""
            texts.append((sign, f"{methods.removeprefix(' + ')}, {metric_label(metric)}{where}"))
        if len(texts) == 1:
            return texts[0][1]
        joined = "".join(f" {'+' if sign > 0 else '-'} ({text})" for sign, text in texts)
        return joined.removeprefix(" + ")


@dataclass(frozen=True)
class PrimaryClaim:
    """A claim that was written down before the runs that test it; it holds if all of its parts do."""

    id: int
    family: str  # Holm's correction is made within it
    text: str
    smallest_effect: float  # that matters, in points
    parts: tuple[Part, ...]
    otherwise_within: float | None = None  # margin of a difference that is negligible if it is not above 0


@dataclass(frozen=True)
class Regime:
    """Data and students on which the claims are judged."""

    name: str
    what: str
    groups: dict[str, list[str]]
    exploratory: bool  # its records are older than the claims

    @property
    def students(self) -> list[str]:
        return list(dict.fromkeys(student for group in self.groups.values() for student in group))


def metric_label(metric: str) -> str:
    """``boxes80`` -> ``AP80 of the boxes``, and the names of ORDER; other metrics as they are."""
    return f"AP{BOXES_ALONE[metric]} of the boxes" if metric in BOXES_ALONE else ORDER.get(metric, metric)


def read_claims(path: Path = FILE) -> list[PrimaryClaim]:
    """The primary claims, in the order of the file.

    Raises:
        ValueError: for a group that a regime lacks, an unknown metric, or a part that cannot be estimated.
    """
    body, claims = yaml.safe_load(path.read_text(encoding="utf-8")), []
    for entry in body["claims"]:
        parts = []
        for part in entry["parts"]:
            terms = tuple(Term(w, group, canonical(m), metric) for w, group, m, metric in part["sum"])
            parts.append(Part(terms, part.get("above"), part.get("within")))
            if (parts[-1].above is None) == (parts[-1].within is None):
                raise ValueError(f"claim {entry['id']}: a part needs either `above` or `within`")
            for term in terms:
                known(term.metric, [*METRICS, *IOUS, *BOXES_ALONE], "metric")
                for regime in body["regimes"].values():
                    known(term.group, regime["groups"], "group of students")
            _ = parts[-1].direction
        # The file's texts are not in quotation marks, so YAML takes what follows a comma in one for a key.
        rest = [key for key, value in entry.items() if value is None]
        fields = {key: value for key, value in entry.items() if value is not None}
        text = ", ".join([entry["text"], *rest])
        claims.append(PrimaryClaim(**fields | {"text": text, "parts": tuple(parts)}))
    return claims


def regime_of(workspace: Workspace, path: Path = FILE) -> Regime | None:
    """The regime of a results folder, found by the folder's name; None where no claim is tested."""
    name, regimes = workspace.results.name, yaml.safe_load(path.read_text(encoding="utf-8"))["regimes"]
    regime = regimes.get(REGIMES.get(name, name))
    return Regime(name, regime["what"], regime["groups"], name in EXPLORATORY) if regime else None


def papers_student(student: str, scale: str) -> str:
    """The student of the paper whose place a student has at this scale."""
    return scale_tables(scale).get("in_place_of", {}).get(student, student)
