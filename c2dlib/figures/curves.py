"""Curves along training: the losses of each run, and mAP on val."""

from __future__ import annotations

from itertools import cycle
from textwrap import fill

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator, StrMethodFormatter

from c2dlib.config.methods import IMITATIONS, PARTS
from c2dlib.figures.style import (
    BLUE,
    FAINT,
    GREEN,
    ORANGE,
    PAGE,
    PINK,
    RED,
    STYLE,
    Picture,
    legend_above,
    listed,
    new_figure,
    plain_axes,
)
from c2dlib.records import RunRecord
from c2dlib.reporting.labels import method_label

LAST_THIRD = "#FCEFC7"


@rc_context(STYLE)
def training_curves(records: list[RunRecord], names: dict[str, str] | None = None) -> Picture:
    """Losses along training, a panel per row of a table: the detector's own, and distillation terms.

    The baseline has no panel of its own: its losses are grey in the others, at the same setting where the
    table has it. All panels of a student have one logarithmic axis, and lines of their own.

    Args:
        records: finished runs.
        names: experiment hash -> the run's label, see ``tables.names``; without it, its method.
    """
    panels: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        label = (names or {}).get(record.hash) or method_label(record.method)
        panels.setdefault((record.student, label), []).append(record)
    students = list(dict.fromkeys(r.student for r in records))
    per_student = {s: [label for student, label in panels if student == s] for s in students}
    baselines = {key: panels[key] for key in panels if panels[key][0].method == "baseline"}
    for student, labels in per_student.items():  # the baselines are in the other panels
        per_student[student] = [label for label in labels if (student, label) not in baselines] or labels
    widest = 5 if max((len(label) for _, label in panels), default=0) <= 16 else 4
    lines = {s: -(-len(labels) // widest) for s, labels in per_student.items()}
    columns = max([1, *(-(-len(labels) // lines[s]) for s, labels in per_student.items())])
    count = max(sum(lines.values()), 1)
    drawn = [(s, label) for s, labels in per_student.items() for label in labels]
    figure, grid = new_figure(
        count, columns, (max(PAGE * columns / widest, 6.2), 1.4 * count + 0.6), sharex=True
    )
    free = iter(grid)
    for student, labels in per_student.items():
        rows = [next(free) for _ in range(lines[student])]
        parts = np.array_split(np.array(labels, object), lines[student])  # about equally many in each line
        shown = [ax for row, part in zip(rows, parts, strict=True) for ax in row[: len(part)]]
        for ax, label in zip(shown, labels, strict=True):
            plain = "baseline" + label[label.find(", ") :] if ", " in label else "baseline"
            references = baselines.get((student, plain)) or baselines.get((student, "baseline"), [])
            _losses(ax, panels[student, label], references)
            ax.set_title(fill(label, 30), fontsize=STYLE["font.size"])
        low, high = (end(ax.get_ylim()[i] for ax in shown) for i, end in enumerate((min, max)))
        for row, part in zip(rows, parts, strict=True):
            for i, ax in enumerate(row):
                if i >= len(part):
                    ax.set_axis_off()
                    continue
                ax.set_ylim(low, high)
                ax.set_yticks(_log_ticks(low, high))
                if i:
                    ax.tick_params(labelleft=False)
        rows[0][0].set_ylabel(student)
    for column in zip(*grid, strict=True):
        [*(ax for ax in column if ax.axison)][-1].tick_params(labelbottom=True)
    grid[0][0].set_xlim(left=0)  # all panels share this axis: set after they are drawn
    if records:
        figure.supxlabel("training step")
        legend_above(figure, [ax for row in grid for ax in row])
    figure.alt = (
        f"Losses along training in {len(drawn)} panels. Mean of the detector's own losses, first → last: "
        + listed([f"{s} {label} {_ends(panels[s, label])}" for s, label in drawn], most=8)
    )
    return figure


def _log_ticks(low: float, high: float) -> list[float]:
    """The numbers at which a logarithmic axis has ticks: powers of ten, and more only where those are few."""
    ticks: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 3, 5)):
        ticks = [step * 10.0**k for k in range(-9, 10) for step in steps if low <= step * 10.0**k <= high]
        if len(ticks) >= 2:
            break
    return ticks


def _terms(record: RunRecord) -> tuple[list[float], list[float]]:
    """The sum of the detector's own losses at each recorded step, and that of the distillation terms."""
    imitations = {name.lower() for name in IMITATIONS}
    added = [k for k in record.curve if k in PARTS or k.split("_")[0] in imitations]
    own = [k for k in record.curve if k not in ("step", *added)]
    total = [
        [sum(values) for values in zip(*(record.curve[k] for k in terms), strict=True)]
        for terms in (own, added)
    ]
    return total[0], total[1]


def _ends(runs: list[RunRecord]) -> str:
    own = [_terms(r)[0] for r in runs]
    first, last = (sum(curve[i] for curve in own if curve) / max(len(own), 1) for i in (0, -1))
    return f"{first:.2g} → {last:.2g}"


def _losses(ax: Axes, runs: list[RunRecord], baselines: list[RunRecord]) -> None:
    distilled = [r for r in runs if r.method != "baseline"]
    for shown, part, color, line, label in (
        (baselines, 0, FAINT, "-", "baseline: detector's losses"),
        (distilled, 0, BLUE, "-", "detector's losses"),
        (distilled, 1, ORANGE, "--", "distillation terms"),
    ):
        for record in shown:
            values = _terms(record)[part]
            if values:
                ax.plot(
                    record.curve["step"],
                    values,
                    line,
                    color=color,
                    linewidth=2.4 if color == FAINT else 1.2,
                    marker="o" if len(values) < 3 else None,
                    markersize=4,
                    label=label,
                )
    plain_axes(ax)
    ax.locator_params(axis="x", nbins=3)
    ax.set_yscale("log", nonpositive="mask")
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_locator(NullLocator())


@rc_context(STYLE)
def convergence(records: list[RunRecord], names: dict[str, str] | None = None) -> Picture:
    """mAP on val along training, a line per run; the last third is marked, and its range is stated.

    A schedule is long enough if the curve is flat there. The last step's mAP is shown if it was measured on
    val.

    Args:
        records: finished runs of the setting ``validate_every``.
        names: experiment hash -> the run's label; without it, student and method. Where it occurs twice,
            student and seed stand behind it.

    Raises:
        ValueError: if none of the runs was evaluated on val while it was trained.
    """
    shown = [record for record in records if record.validation]
    if not shown:
        raise ValueError(
            "no run was evaluated on val while it was trained; train with the setting validate_every"
        )
    figure, ((ax,),) = new_figure(1, 1, (6.4, 3.8))
    plain_axes(ax)
    texts = [(names or {}).get(r.hash) or f"{r.student}, {method_label(r.method)}" for r in shown]
    last, sentences = 0, []
    looks = zip(
        (BLUE, ORANGE, GREEN, RED, PINK), ("-", "--", "-.", ":", "-"), ("o", "^", "v", "D", "s"), strict=True
    )
    for record, name, (color, line, marker) in zip(
        shown, _told_apart(texts, shown), cycle(looks), strict=False
    ):
        curve = {int(step): metrics["mAP"] for step, metrics in record.validation.items()}
        logged = int(record.curve["step"][-1]) if record.curve.get("step") else max(curve)
        planned = record.experiment.get("steps")  # records keep some lines of a log only
        steps = planned if planned and not record.experiment.get("patience") else logged
        if record.eval_split == "val":
            curve.setdefault(max(steps, *curve), record.metrics["mAP"])  # where the last step has none
        curve = dict(sorted(curve.items()))
        last = max(last, *curve)
        third = [value for step, value in curve.items() if 3 * step >= 2 * max(curve)]
        text = f"{name}: {min(third):.1f} to {max(third):.1f}, range {max(third) - min(third):.1f}"
        ax.plot(list(curve), list(curve.values()), line, color=color, marker=marker, markersize=4, label=text)
        sentences.append(text)
    ax.axvspan(2 * last / 3, last, color=LAST_THIRD, linewidth=0, zorder=0, label="last third")
    ax.set(xlabel="training step", ylabel="mAP on val", xlim=(0, 1.02 * last), ylim=(0, None))
    legend_above(figure, [ax], 1, "mAP on val; its range in the last third of the steps")
    figure.alt = "mAP on val along training. In the last third of the steps " + listed(sentences)
    return figure


def _told_apart(labels: list[str], records: list[RunRecord]) -> list[str]:
    """The labels, with student and seed behind those that occur more than once."""
    return [
        f"{label}, {record.student}, seed {record.seed}" if labels.count(label) > 1 else label
        for label, record in zip(labels, records, strict=True)
    ]
