"""The primary claims as Markdown: verdicts, what an interval contains, what would have been detected."""

from __future__ import annotations

import pandas as pd

from c2dlib.evaluation.halves import DIVISIONS
from c2dlib.reporting.evidence import (
    CONTRADICTED,
    EQUIVALENT,
    EXPLORED,
    FEWEST_SEEDS,
    INCOMPLETE,
    LEVEL,
    NOT_RUN,
    REPRODUCED,
    UNDECIDED,
    Evidence,
    by_device,
)
from c2dlib.reporting.markdown import MISSING, folded, markdown_table, number, signed
from c2dlib.reporting.primary_claims import ORDER, read_claims
from c2dlib.reporting.statistics import difference_text

FIGURE = "claims.png"
EXPLORATORY = (
    "**Exploratory**: these runs are older than the file of the claims, so they suggest and test nothing."
)
NO_REGIME = (
    "The primary claims are not tested on these data: {file} names other regimes. "
    "What follows is descriptive."
)
ALT = (
    "Forest plot of the primary claims: for each part the paper's difference, the reproduced one by student, "
    "and the pooled one with its interval"
)


IMAGES = (
    "Standard errors of the same sums, in AP points: first that of the intervals above, from the seeds (and "
    "draws); then that from the choice of test images alone, which they do not contain. The second is the "
    f"covariance of different runs over {DIVISIONS} random divisions of the test images into halves, cut at "
    "0; what a single run does on single images is in the first. Images are taken as independent, and AP as "
    "a mean over them, so it is rather too small where photographs resemble one another. An interval for "
    "other seeds *and* images has the root of the sum of both squares."
)
DEVICES = (
    "The same sums on the runs from CPUs alone and, after the slash, on those from a GPU alone. A number "
    "without an interval is of two seeds or one. Descriptive: the verdicts are those of all runs."
)
ORDERED = (
    "*mAP in the best order*: if each object's best box had its IoU as score and every other box came last; "
    "nearly the mAR. The rank correlation is over boxes of the right class with at least the IoU named."
)


def claims_file(published: bool) -> str:
    """A link to the file of the claims, from ``results/<data>-<scale>/`` or from the published folder."""
    return f"[primary_claims.yaml]({'../' * (2 if published else 1)}primary_claims.yaml)"


def ledger_text(found: Evidence, published: bool = False) -> str:
    """The section on the primary claims."""
    parts = found.parts
    paragraphs = [
        "## The fifteen primary claims",
        _status(found, published),
        _counts(parts.drop_duplicates("id").verdict, found.regime.exploratory),
        _table(parts, found.regime.exploratory),
        f"![{ALT}]({FIGURE})",
        _statistics(parts, found.teachers),
        "\n".join(f"- {sentence}" for sentence in found.left_out),
    ]
    if found.students.value.notna().any():
        paragraphs += [
            "### By student",
            "The same sums on each student, with its own pooled 95 % interval.",
            _students_table(found),
        ]
    devices = by_device(read_claims(), found.regime, found.runs) if found.runs else pd.DataFrame()
    if len(devices):
        paragraphs += ["### On one kind of device", DEVICES, _devices_table(devices)]
    if len(found.also):
        paragraphs += [
            "### Not among the claims, pooled in the same way",
            "Means over the compact students, and each student alone; descriptive: no verdict, no "
            "correction.",
            ORDERED if found.also["sum"].str.contains(ORDER["score_IoU"], regex=False).any() else "",
            _also_table(found.also),
        ]
    if pd.concat([found.parts.se_images, found.students.se_images, found.also.se_images]).notna().any():
        paragraphs += ["### Other test images", IMAGES, _images_table(found)]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def verdicts(found: Evidence | None, rows: set[tuple[str, str]]) -> str:
    """The primary claims that are on rows of one table, with their verdicts, in Markdown.

    Args:
        found: None where no claim is tested on the data.
        rows: (student, method) of the table, methods as in ``methods.canonical``.
    """
    if found is None:
        return "**No verdict**: the primary claims are not tested on these data."
    on_rows = [
        claim.id
        for claim in read_claims()
        if all(
            (student, term.method) in rows
            for part in claim.parts
            for term in part.terms
            for student in found.regime.groups[term.group]
        )
    ]
    lines = found.parts[found.parts.id.isin(on_rows)]
    if lines.empty:
        return "**No verdict**: no primary claim is on rows of this table alone."
    sentences = [_sentence(claim, found.regime.exploratory) for _, claim in lines.groupby("id", sort=False)]
    table = folded(
        "How each was computed; <i>detectable</i>: the smallest difference that so many seeds would show in "
        "four of five repetitions",
        _table(lines, found.regime.exploratory),
    )
    status = [EXPLORATORY] if found.regime.exploratory else []
    return "\n\n".join([*status, "\n".join(sentences), table])


def _sentence(claim: pd.DataFrame, exploratory: bool) -> str:
    """A claim, what was found of each part beside the paper's number, and the verdict."""
    first = claim.iloc[0]
    parts = "; ".join(
        f"{line.sum}: {_estimate(line)}, the paper's {_paper(line)}" for line in claim.itertuples()
    )
    return f"- {first.claim}: **{_verdict(first, exploratory).strip('*')}**. {parts}."


def _status(found: Evidence, published: bool) -> str:
    file = claims_file(published)
    if found.regime.exploratory:
        runs = (
            "these runs and with knowledge of them" if published else "the published runs of the same seeds"
        )
        return (
            f"**Exploratory.** {file} was written after {runs}, so "
            "they cannot test its claims. The same statistics on the same rows show what they suggest; no "
            "claim is called reproduced or contradicted here. Seed 0 also chose settings, on val."
        )
    return (
        f"Claims, rows, margins and families were committed before the runs ({file}). Data: "
        f"{found.regime.what}. Each claim has one verdict, here and wherever it is mentioned."
    )


def _counts(verdicts: pd.Series, exploratory: bool) -> str:
    words = [REPRODUCED, CONTRADICTED, EQUIVALENT, UNDECIDED]
    counted = [(verdicts == (EXPLORED[word] if exploratory else word)).sum() for word in words]
    names = [EXPLORED[word] for word in words] if exploratory else words
    none = verdicts.str.startswith("no verdict").sum()
    texts = [f"**{count}** {name}" for count, name in zip(counted, names, strict=True)]
    texts += [f"**{(verdicts == word).sum()}** {word}" for word in (INCOMPLETE, NOT_RUN)]
    texts += [f"**{none}** without verdict"] if none else []
    return f"Of {len(verdicts)} claims: {', '.join(texts)}."


def _table(parts: pd.DataFrame, exploratory: bool) -> str:
    rows = []
    for line in parts.itertuples():
        first = line.part == 1
        rows.append(
            [
                f"{line.id}. {line.claim}" if first else "",
                line.sum + _bound(line),
                _paper(line),
                _estimate(line),
                _detectable(line),
                line.seeds if line.draws == 1 else f"{line.seeds} in {line.draws} draws",
                _p(line) if first else "",
                _verdict(line, exploratory) if first else "",
            ]
        )
    return markdown_table(
        [
            "claim",
            "sum of means over seeds",
            "paper",
            "reproduced [95 % CI]",
            "detectable",
            "seeds",
            "p, p after Holm",
            "exploratory result" if exploratory else "verdict",
        ],
        rows,
        text_columns=(0, 1, 7),
    )


def _bound(line) -> str:
    if pd.notna(line.within):
        return f", within ±{line.within:g}"
    return "" if pd.isna(line.otherwise_within) else f", above 0, else within ±{line.otherwise_within:g}"


def _paper(line) -> str:
    if pd.isna(line.paper):
        return MISSING
    return signed(line.paper) + (f" ({line.paper_students} only)" if line.paper_students else "")


def _estimate(line) -> str:
    text = difference_text(line.value, line.low, line.high) or MISSING
    return f"{text} (90 %)" if line.level == 0.9 and pd.notna(line.low) else text


def _detectable(line) -> str:
    text = ("±" if pd.notna(line.within) and pd.notna(line.mde) else "") + number(line.mde)
    text += f", ±{number(line.mde_within)}" if pd.notna(line.mde_within) else ""
    return f"({text})" if pd.isna(line.value) and pd.notna(line.mde) else text


def _p(line) -> str:
    if pd.isna(line.p):
        return MISSING
    text = f"{_p_text(line.p)}, {_p_text(line.p_holm)}"
    if line.verdict not in (CONTRADICTED, EXPLORED[CONTRADICTED]):
        return text
    return f"{text}; against {_p_text(line.p_against)}, {_p_text(line.p_against_holm)}"


def _p_text(p: float) -> str:
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def _verdict(line, exploratory: bool) -> str:
    if line.verdict == NOT_RUN:
        return line.why
    if line.verdict == INCOMPLETE:
        return f"{INCOMPLETE}; {line.why}"
    if exploratory or line.verdict == UNDECIDED or line.verdict.startswith("no verdict"):
        return line.verdict
    return f"**{line.verdict}**"


def _statistics(parts: pd.DataFrame, teachers: dict[str, int]) -> str:
    if (parts.draws > 1).any():
        residual = (
            "The standard error is that of a mixed model: students and methods fixed; draw, its interactions "
            "with student and method, and seed random, with one variance of the seed for all students. A sum "
            "for which it has no valid fit gets no interval and no verdict."
        )
        noise = (
            "The intervals contain two kinds of noise: the seed, and the draw of training set, backbone and "
            "teacher. They do not contain the choice of test images."
        )
    else:
        residual = (
            "Each student and method has its own mean. The residual variance is a student's own, pooled over "
            "all methods that the claims name; the variances of the students may differ (Welch)."
        )
        noise = (
            "The intervals contain the noise of the seed alone: there is one training set, one teacher and "
            "one pre-trained backbone per student. They do not contain the noise of the test images."
        )
    if teachers:
        noise += " " + " ".join(
            f"Rows of {student}, however, have {count} trainings of that teacher, so their intervals "
            "contain a part of that noise too."
            for student, count in teachers.items()
        )
    items = [
        "A claim holds if all of its sums do, so its p is the largest of theirs: one-sided in the claimed "
        "direction, and for *within* two one-sided tests (TOST), whose interval has 90 %.",
        f"Holm's correction is made within each family (classes 1 to 3, boxes 4 to 8, together 9 to 13, "
        f"controls 14 and 15) at {100 * LEVEL:.0f} % in each direction, with p = 1 for a claim whose rows "
        "are missing. "
        "*reproduced* and *contradicted* also ask that the two-sided 95 % interval lies on that side.",
        "*detectable*: the effect that these runs would have shown with 80 % power at the strictest step of "
        "the correction; for *within*, the margin that they would have shown if the difference were 0; in "
        f"brackets, where rows are missing: with {FEWEST_SEEDS} seeds of each of these. The smallest effect "
        f"that matters is {parts.smallest_effect.min():g} points: where the detectable one "
        "is larger, *undecided* does not mean that there is no effect.",
        *_margins_out_of_reach(parts),
        f"{residual} {noise}",
        f"A sum over a row of fewer than {FEWEST_SEEDS} seeds gets no interval and no verdict.",
        "*paper*: the same sum of the paper's numbers, on its students.",
    ]
    return "\n".join(f"- {item}" for item in items)


def _margins_out_of_reach(parts: pd.DataFrame) -> list[str]:
    """A sentence per claim whose margin these runs could not show whatever they had found."""
    sentences = []
    for claim, lines in parts[parts.p_at_best_holm >= LEVEL].groupby("id"):
        sums = lines[lines.p_at_best >= min(LEVEL, lines.p_at_best.max())]["sum"]
        missing = f", with {FEWEST_SEEDS} seeds of each missing row," if lines.value.isna().any() else ""
        sentences.append(
            f"Claim {claim}: with this noise{missing} even a difference of exactly 0 "
            f"({'; '.join(sums)}) would not be shown to lie within its margin."
        )
    return sentences


def _students_table(found: Evidence) -> str:
    students = list(dict.fromkeys(found.students.student))
    texts = found.parts.set_index(["id", "part"])["sum"]
    rows = []
    for (claim, part), lines in found.students.groupby(["id", "part"], sort=False):
        cells = {
            line.student: difference_text(line.value, line.low, line.high) for line in lines.itertuples()
        }
        rows.append([f"{claim}. {texts[claim, part]}", *(cells.get(s) or MISSING for s in students)])
    return markdown_table(["sum of means over seeds", *students], rows, text_columns=(0,))


def _devices_table(devices: pd.DataFrame) -> str:
    students, rows = [student for student in dict.fromkeys(devices.student) if student], []
    for name, lines in devices.groupby("sum", sort=False):
        texts = {
            (line.student, line.device): difference_text(line.value, line.low, line.high) or MISSING
            for line in lines.itertuples()
        }
        cells = [
            f"{texts[student, 'CPU']} / {texts[student, 'GPU']}" if (student, "CPU") in texts else MISSING
            for student in ["", *students]
        ]
        rows.append([str(name), *cells])
    head = ["sum of means over seeds", "pooled: CPUs / GPU", *students]
    return markdown_table(head, rows, text_columns=(0,))


def _also_table(also: pd.DataFrame) -> str:
    students = [student for student in dict.fromkeys(also.student) if student]
    rows = []
    for name, lines in also.groupby("sum", sort=False):
        own = lines.set_index("student")
        texts = [difference_text(line.value, line.low, line.high) for _, line in own.iterrows()]
        by_student = dict(zip(own.index, texts, strict=True))
        paper = own.paper.get("")
        cells = [by_student.get(student) or MISSING for student in ["", *students]]
        rows.append([str(name), MISSING if pd.isna(paper) else signed(paper), *cells, own.seeds[""]])
    head = ["difference", "paper", "reproduced [95 % CI]", *students, "seeds"]
    return markdown_table(head, rows, text_columns=(0,))


def _images_table(found: Evidence) -> str:
    """Both standard errors of each part of a claim and of each further difference, pooled and by student."""
    students, sums = list(dict.fromkeys(found.students.student)), found.parts.set_index(["id", "part"])["sum"]
    cells: dict[str, dict[str, str]] = {}
    for line in [*found.parts.assign(student="").itertuples(), *found.students.itertuples()]:
        name = f"{line.id}. {sums[line.id, line.part]}"
        cells.setdefault(name, {})[line.student] = _errors_text(line)
    for line in found.also.itertuples():
        cells.setdefault(line.sum, {})[line.student] = _errors_text(line)
    rows = [
        [name, *(own.get(student, MISSING) for student in ["", *students])]
        for name, own in cells.items()
        if set(own.values()) != {MISSING}
    ]
    head = ["sum of means over seeds", "pooled: seeds / images", *students]
    return markdown_table(head, rows, text_columns=(0,))


def _errors_text(line) -> str:
    if pd.isna(line.se) or pd.isna(line.se_images):
        return MISSING
    return f"{line.se:.1f} / {line.se_images:.1f}"
