"""``claims.md``: the primary claims with their verdicts, then every other comparison of the tables without
one.

``evidence`` judges the primary claims. The comparisons (``paper_claims``) are descriptive: a gain and its
interval.
They are also shown at the end of every notebook. All of them are recomputed from the records; none is written
by
hand.
"""

from __future__ import annotations

import pandas as pd

from c2dlib.config.experiment import scale_tables
from c2dlib.config.methods import canonical
from c2dlib.data.coco import CocoFolder
from c2dlib.files import write_whole
from c2dlib.records import RunRecord
from c2dlib.reporting.errors import run_errors
from c2dlib.reporting.evidence import Evidence, evidence
from c2dlib.reporting.labels import without_masks
from c2dlib.reporting.ledger import NO_REGIME, claims_file, ledger_text
from c2dlib.reporting.markdown import MISSING, as_text, markdown_table, signed
from c2dlib.reporting.paper_claims import SOURCES, Claim, Gain, RowChoice, claims_at
from c2dlib.reporting.published import is_published
from c2dlib.reporting.statistics import Difference, difference_text, mean_of, paired_difference
from c2dlib.reporting.tables import collect
from c2dlib.reporting.work_list import Row, work_list
from c2dlib.workspace import Workspace

MOST_SEEDS = 20  # records of seeds from here on are not read
DESCRIPTIVE = (
    "A gain is a difference in AP points that is above 0 where the sentence is true: the mean over seeds, "
    "paired by "
    "seed, of runs that started from the same initial weights, with a 95 % t interval. *paper*: the same "
    "difference of the paper's numbers. In italics: controls, which the paper does not have. *label "
    "control*: KD_cls "
    "with one-hot labels in place of the teacher's probabilities. *C2D*: KD_cls + loc + KD_loc, the paper's "
    "method."
)
OVER_DRAWS = (
    "Seeds share draws of training set, backbone and teacher: the gains of a draw's seeds count as one, by "
    "their mean."
)
PerRun = dict[tuple[int, str], float]  # (seed, RunRecord.pairing) -> a number
PerSeed = dict[int, float]


def write_claims(workspace: Workspace, folder: CocoFolder) -> Evidence | None:
    """Write ``claims.md``, ``claims.csv`` (the comparisons) and ``primary_claims.csv`` beside the tables.

    ``reading.md``, a person's interpretation of the claims, is linked where it exists.

    Returns:
        What was found about the primary claims; None for a folder on which none is tested.
    """
    found, frame = evidence(workspace, folder), all_comparisons(workspace, folder)
    write_whole(workspace.results / "claims.csv", frame.to_csv(index=False, float_format="%.4f"))
    published = is_published(workspace)
    lines = [f"# The claims on {as_text(workspace.data_name)}, scale {workspace.scale}", ""]
    if (workspace.results / "reading.md").exists():
        lines += ["What was tried, and what the numbers suggest: [reading.md](reading.md).", ""]
    if found:
        write_whole(
            workspace.results / "primary_claims.csv", found.parts.to_csv(index=False, float_format="%.4f")
        )
        lines += [ledger_text(found, published), ""]
    else:
        lines += [NO_REGIME.format(file=claims_file(published)), ""]
    lines += [_head(frame, scale_tables(workspace.scale).get("draws", 1)), ""]
    for name, of_source in frame.groupby("source", sort=False):
        lines += [f"### {name}", "", markdown(of_source), ""]
    write_whole(workspace.results / "claims.md", "\n".join(lines))
    return found


def _head(frame: pd.DataFrame, draws: int) -> str:
    distinct = frame.drop_duplicates(
        ["effect", "low", "high", "seeds"]
    )  # one that is in several tables: once
    excluding = int(((distinct.low > 0) | (distinct.high < 0)).sum())
    what = f"{DESCRIPTIVE} {OVER_DRAWS}" if draws > 1 else DESCRIPTIVE
    return (
        f"## Descriptive comparisons\n\n{what}\n\n**None of these {len(frame)} comparisons has a "
        f"verdict.** "
        f"Of {int(distinct.low.notna().sum())} different intervals {excluding} exclude 0; they are not "
        "corrected for their number: "
        "about one in twenty excludes 0 by chance alone. A gain without an interval is of one seed and may "
        "be chance. "
        "A small scale shows the direction of an effect at most, not the paper's number."
    )


def all_comparisons(workspace: Workspace, folder: CocoFolder) -> pd.DataFrame:
    """``comparisons`` of every table and figure on all recorded seeds, with their ``source`` as first column.

    Raises:
        ValueError: if a comparison refers to a row that its table does not have.
    """
    frames = []
    claimed = {claim.source for claim in claims_at(workspace.scale)}
    for source, name in SOURCES.items():
        if source not in claimed:
            continue
        rows = work_list("table1" if source == "figure3" else source, workspace, folder, MOST_SEEDS)
        if "in_place_of" not in scale_tables(workspace.scale):
            require_rows([c for c in claims_at(workspace.scale) if c.source == source], rows)
        frames.append(comparisons(source, rows, collect(rows, workspace), workspace).assign(source=name))
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


def _text(claim: Claim, names: dict[str, str]) -> str:
    """The claim's sentence, with the name that the tables give its student."""
    (student, *others), text = claim.students, claim.text
    return text if others else text.replace(student, names.get(student, student), 1)


def _has_rows(claim: Claim, rows: list[Row], workspace: Workspace) -> bool:
    """Whether a scale with other students than the paper's has the rows; other scales have all of them."""
    return "in_place_of" not in scale_tables(workspace.scale) or all(
        find_row(rows, gain.student, choice)
        for gain in (*claim.gains, *claim.than)
        for choice in (gain.row, gain.over)
    )


def find_row(rows: list[Row], student: str, choice: RowChoice) -> Row | None:
    """The student's row with this method and these settings; None if there is none.

    Of several rows, it is the one that has no other settings.

    Raises:
        ValueError: if several rows have them, and each of them others besides.
    """
    matching = [
        row
        for row in rows
        if row.student == student
        and canonical(row.method) == choice.method
        and choice.settings.items() <= row.settings.items()
    ]
    if len(matching) > 1:
        exact = [row for row in matching if row.settings == choice.settings]
        if len(exact) == 1:
            return exact[0]
        raise ValueError(
            f"{len(matching)} rows of {student} have method {choice.method} and settings {choice.settings}"
        )
    return matching[0] if matching else None


def comparisons(
    source: str, rows: list[Row], records: dict[str, RunRecord], workspace: Workspace
) -> pd.DataFrame:
    """The comparisons on one table or figure whose students are among the rows.

    Args:
        source: a key of SOURCES; the rows of Figure 3 are those of Table 1.

    Returns:
        A line per comparison: ``claim``, ``control`` (not in the paper), ``paper`` (the same difference of
        its numbers), ``effect`` in points with its interval ``low``, ``high``, and ``seeds``.
    """
    numbers, students, lines = Numbers(rows, records, workspace), {row.student for row in rows}, []
    names = without_masks(list(records.values()))
    for claim in claims_at(workspace.scale):
        if (
            claim.source == source
            and students.issuperset(claim.students)
            and _has_rows(claim, rows, workspace)
        ):
            paper = Difference(None, None, None)
            if not claim.control:
                paper, _ = _effect(claim, numbers.paper, {0: 0})
            effect, seeds = _effect(claim, numbers.reproduced, numbers.draws)
            lines.append(
                {"claim": _text(claim, names), "control": claim.control, "paper": paper.mean}
                | {"effect": effect.mean, "low": effect.low, "high": effect.high, "seeds": seeds}
            )
    frame = pd.DataFrame(lines, columns=["claim", "control", "paper", "effect", "low", "high", "seeds"])
    return frame.astype({"paper": float, "effect": float, "low": float, "high": float})


class Numbers:
    """The metrics of one table's rows, per run."""

    def __init__(self, rows: list[Row], records: dict[str, RunRecord], workspace: Workspace):
        self.rows, self.records, self.workspace = rows, records, workspace
        self.draws = {e.seed: e.draw for row in rows for e in row.experiments}  # seed -> draw

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
                values[e.seed, record.pairing] = (
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


def _effect(claim: Claim, numbers, draws: dict[int, int]) -> tuple[Difference, int]:
    """The mean of the claim's gains, minus the mean of those they are compared with; and the number of
    seeds."""
    gains, others = ([_gain(gain, numbers) for gain in part] for part in (claim.gains, claim.than))
    effect = _mean_per_seed(gains)
    if others:
        other = _mean_per_seed(others)
        effect = {seed: value - other[seed] for seed, value in effect.items() if seed in other}
    pairs = [(value, 0.0) for value in effect.values()]
    return paired_difference(pairs, [draws[seed] for seed in effect]), len(effect)


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


def markdown(frame: pd.DataFrame) -> str:
    """``comparisons`` as a Markdown table; controls in italics, the paper's numbers where it has any."""
    rows = [
        [
            f"*{line.claim}*" if line.control else line.claim,
            MISSING if pd.isna(line.paper) else signed(line.paper),
            difference_text(line.effect, line.low, line.high) or "not run",
            str(line.seeds),
        ]
        for line in frame.itertuples()
    ]
    head = ["comparison", "paper", "gain, points [95 % CI]", "seeds"]
    if frame.paper.isna().all():
        head, *rows = ([cells[0], *cells[2:]] for cells in (head, *rows))
    return markdown_table(head, rows, text_columns=(0,))


def summary(frame: pd.DataFrame) -> str:
    """``comparisons`` in a sentence or two."""
    if frame.empty:
        return "No comparison refers to these rows alone."
    not_run, single = int((frame.seeds == 0).sum()), int((frame.seeds == 1).sum())
    text = f"{len(frame)} comparisons, {not_run} of them not run"
    text += f" and {single} with one seed only." if single else "."
    return f"{text} They are descriptive: verdicts are given in `claims.md`, on the primary claims only."


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
    sentences.append(
        "All comparisons at once: about one in twenty 95 % intervals excludes 0 by chance alone."
    )
    return sentences
