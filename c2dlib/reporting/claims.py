"""Each claim judged by the run records: it holds, does not hold, has not enough evidence, or was not run.

One list of claims (``paper_claims``) serves the verdict at the end of every notebook and ``claims.md``.
Verdicts are recomputed from the records; none is written by hand.
"""

from __future__ import annotations

import pandas as pd

from c2dlib.config.methods import canonical
from c2dlib.data.coco import CocoFolder
from c2dlib.files import write_whole
from c2dlib.records import RunRecord
from c2dlib.reporting.errors import run_errors
from c2dlib.reporting.markdown import MISSING, markdown_table
from c2dlib.reporting.paper_claims import SOURCES, Claim, Gain, RowChoice, claims
from c2dlib.reporting.statistics import difference_text, mean_of, paired_difference
from c2dlib.reporting.tables import collect
from c2dlib.reporting.work_list import Row, work_list
from c2dlib.workspace import Workspace

MOST_SEEDS = 20  # records of seeds from here on are not read
VERDICTS = ("holds", "does not hold", "not enough evidence", "not run")
PerRun = dict[tuple[int, str], float]  # (seed, origin of the initial weights) -> a number
PerSeed = dict[int, float]


def write_claims(workspace: Workspace, folder: CocoFolder) -> str:
    """Write ``claims.md`` and ``claims.csv`` beside the tables; return the former's text.

    ``reading.md``, a person's interpretation of the claims, is linked where it exists.
    """
    frame = verdicts(workspace, folder)
    write_whole(workspace.results / "claims.csv", frame.to_csv(index=False, float_format="%.4f"))
    lines = [
        f"# The paper's claims on {workspace.data_name}, scale {workspace.scale}",
        "",
        f"- Claims of the paper: {_counts(frame[~frame.control])}.",
        f"- *Controls, which the paper does not have*: {_counts(frame[frame.control])}.",
        "",
    ]
    if (workspace.results / "reading.md").exists():
        lines += [
            "What was tried where a claim does not hold, and what the numbers suggest: "
            "[reading.md](reading.md).",
            "",
        ]
    lines += [_explanation(len(frame)), ""]
    for name, of_source in frame.groupby("source", sort=False):
        lines += [f"## {name}", "", markdown(of_source), ""]
    write_whole(workspace.results / "claims.md", text := "\n".join(lines))
    return text


def _counts(frame: pd.DataFrame) -> str:
    return (
        ", ".join(f"**{(frame.verdict == word).sum()}** {word}" for word in VERDICTS) + f", of {len(frame)}"
    )


def _explanation(count: int) -> str:
    return (
        "An effect is a difference in AP points that is above 0 where the claim is true: "
        "the mean over seeds, paired by seed, of runs that started from the same initial weights, "
        "with a 95 % t interval. "
        "*holds*: the whole interval is above 0; *does not hold*: the whole interval is below 0; "
        "*not enough evidence*: it contains 0, or there is only one seed. "
        "*paper*: the same difference of the paper's numbers. "
        "*label control*: KD_cls with one-hot labels in place of the teacher's probabilities. "
        "*C2D*: KD_cls + loc + KD_loc, the paper's method. "
        "The intervals are not corrected for their number: if no effect existed, about "
        f"{count / 20:.0f} of {count} would exclude 0 by chance. "
        "A small scale tests the direction of an effect, not the paper's number."
    )


def verdicts(workspace: Workspace, folder: CocoFolder) -> pd.DataFrame:
    """``verdict`` of every table and figure on all recorded seeds, with its ``source`` as first column.

    Raises:
        ValueError: if a claim refers to a row that its table does not have.
    """
    frames = []
    for source, name in SOURCES.items():
        rows = work_list("table1" if source == "figure3" else source, workspace, folder, MOST_SEEDS)
        require_rows([claim for claim in claims() if claim.source == source], rows)
        frames.append(verdict(source, rows, collect(rows, workspace), workspace).assign(source=name))
    frame = pd.concat(frames, ignore_index=True)
    return frame[["source", *frame.columns.drop("source")]]


def require_rows(claims: list[Claim], rows: list[Row]) -> None:
    """Check that each row that a claim refers to is among the rows.

    Raises:
        ValueError: naming the claim and the row.
    """
    for claim in claims:
        for gain in (*claim.gains, *claim.than):
            for choice in (gain.row, gain.over):
                if find_row(rows, gain.student, choice) is None:
                    settings = "".join(f", {name} = {value}" for name, value in choice.settings.items())
                    raise ValueError(
                        f"the claim {claim.text!r} refers to a row that {claim.source} does not have: "
                        f"{gain.student}, {choice.method}{settings}"
                    )


def find_row(rows: list[Row], student: str, choice: RowChoice) -> Row | None:
    """The student's row with this method and these settings; None if there is none.

    Raises:
        ValueError: if several rows have them.
    """
    matching = [
        row
        for row in rows
        if row.student == student
        and canonical(row.method) == choice.method
        and choice.settings.items() <= row.settings.items()
    ]
    if len(matching) > 1:
        raise ValueError(
            f"{len(matching)} rows of {student} have method {choice.method} and settings {choice.settings}"
        )
    return matching[0] if matching else None


def verdict(
    source: str, rows: list[Row], records: dict[str, RunRecord], workspace: Workspace
) -> pd.DataFrame:
    """The claims on one table or figure whose students are among the rows.

    Args:
        source: a key of SOURCES; the rows of Figure 3 are those of Table 1.

    Returns:
        A line per claim: ``claim``, ``control`` (not in the paper), ``paper`` (the same difference of its
        numbers), ``effect`` in points with its interval ``low``, ``high``, ``seeds``, ``verdict``.
    """
    numbers, students, lines = Numbers(rows, records, workspace), {row.student for row in rows}, []
    for claim in claims():
        if claim.source == source and students.issuperset(claim.students):
            paper = None if claim.control else _effect(claim, numbers.paper).get(0)
            lines.append(
                {"claim": claim.text, "control": claim.control, "paper": paper}
                | judge(_effect(claim, numbers.reproduced))
            )
    return pd.DataFrame(
        lines, columns=["claim", "control", "paper", "effect", "low", "high", "seeds", "verdict"]
    )


class Numbers:
    """The metrics of one table's rows, per run."""

    def __init__(self, rows: list[Row], records: dict[str, RunRecord], workspace: Workspace):
        self.rows, self.records, self.workspace = rows, records, workspace

    def reproduced(self, student: str, choice: RowChoice, metric: str, iou: int | None) -> PerRun:
        """A metric of a row in its finished runs; with ``iou`` from their TIDE errors.

        Runs without that number are left out.
        """
        row, values = find_row(self.rows, student, choice), {}
        for e in row.experiments if row else ():
            record = self.records.get(e.hash())
            if record is None or record.status != "done":
                continue
            try:
                values[e.seed, record.origin] = (
                    record.metrics[metric]
                    if iou is None
                    else float(run_errors(e, self.workspace).by_iou.loc[iou, metric])
                )
            except FileNotFoundError:  # neither kept errors nor detections are on this machine
                continue
        return {run: value for run, value in values.items() if not pd.isna(value)}

    def paper(self, student: str, choice: RowChoice, metric: str, iou: int | None) -> PerRun:
        """The paper's number of a row, in the form of a single run; empty where it has none."""
        row = find_row(self.rows, student, choice)
        return {(0, ""): row.paper[metric]} if row and iou is None and metric in row.paper else {}


def _effect(claim: Claim, numbers) -> PerSeed:
    """Per seed: the mean of the claim's gains, minus the mean of those they are compared with."""
    effect = _mean_per_seed([_gain(gain, numbers) for gain in claim.gains])
    if claim.than:
        other = _mean_per_seed([_gain(gain, numbers) for gain in claim.than])
        effect = {seed: value - other[seed] for seed, value in effect.items() if seed in other}
    return effect


def _gain(gain: Gain, numbers) -> PerSeed:
    """A difference of two rows, in the seeds for which both have runs from the same initial weights."""
    first, second = (numbers(gain.student, choice, gain.metric, gain.iou) for choice in (gain.row, gain.over))
    return {run[0]: value - second[run] for run, value in first.items() if run in second}


def _mean_per_seed(gains: list[PerSeed]) -> PerSeed:
    """The mean over several gains, in the seeds that all of them have."""
    return {
        seed: mean_of([gain[seed] for gain in gains])
        for seed in gains[0]
        if all(seed in gain for gain in gains)
    }


def judge(effect: PerSeed) -> dict:
    """A verdict on numbers that are above 0 where a claim is true.

    ``holds``: the whole 95 % t interval is above 0. ``does not hold``: it is below 0. Otherwise ``not enough
    evidence``, or without any number ``not run``.

    Returns:
        The mean ``effect``, its interval ``low`` and ``high``, ``seeds`` and ``verdict``.
    """
    mean, low, high = paired_difference([(value, 0.0) for value in effect.values()])
    word = "not enough evidence" if effect else "not run"
    if low is not None and (low > 0 or high < 0):
        word = "holds" if low > 0 else "does not hold"
    return {"effect": mean, "low": low, "high": high, "seeds": len(effect), "verdict": word}


def markdown(frame: pd.DataFrame) -> str:
    """A ``verdict`` as a Markdown table; controls in italics."""
    rows = [
        [
            f"*{line.claim}*" if line.control else line.claim,
            MISSING if pd.isna(line.paper) else f"{line.paper:+.1f}",
            difference_text(line.effect, line.low, line.high) or MISSING,
            str(line.seeds),
            f"**{line.verdict}**" if line.verdict in VERDICTS[:2] else line.verdict,
        ]
        for line in frame.itertuples()
    ]
    return markdown_table(
        ["claim", "paper", "reproduced, points [95 % CI]", "seeds", "verdict"], rows, text_columns=(0, 4)
    )


def summary(frame: pd.DataFrame) -> str:
    """A ``verdict`` in a sentence or two."""
    if frame.empty:
        return "No claim refers to these rows alone."
    holds, fails, unclear, not_run = (int((frame.verdict == word).sum()) for word in VERDICTS)
    single = int((frame.seeds == 1).sum())
    sentence = (
        f"Of {len(frame)} claims {holds} hold, {fails} do not hold, {unclear} lack evidence"
        + (f" ({single} of them have one seed only)" if single else "")
        + f" and {not_run} were not run."
    )
    opposite = int((frame.paper.astype(float) * frame.effect.astype(float) < 0).sum())
    return sentence + (f" In {opposite} the effect has the opposite sign of the paper's." if opposite else "")


def not_tested(workspace: Workspace, seeds: int) -> list[str]:
    """What these runs do not test, in sentences."""
    sentences = []
    if workspace.scale != "coco":
        sentences.append(
            "The paper's numbers: a reduced scale shows the direction of an effect at most, "
            "scale `smoke` nothing."
        )
    if seeds < 3:
        sentences.append(f"Chance: with SEEDS={seeds} there is no interval, or a very wide one.")
    sentences.append("All claims at once: about one in twenty 95 % intervals excludes 0 by chance alone.")
    return sentences
