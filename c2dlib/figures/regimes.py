"""What each baseline loses to classes and to boxes, and beside it what each loss gains."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from IPython.display import Markdown
from matplotlib import rc_context
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from c2dlib.config.methods import canonical
from c2dlib.figures.style import (
    BLUE,
    GREY,
    ORANGE,
    PAGE,
    STYLE,
    TEXT,
    Picture,
    listed,
    method_style,
    new_figure,
    plain_axes,
    save,
    show_legend,
)
from c2dlib.records import ROOT
from c2dlib.reporting.labels import method_label
from c2dlib.reporting.regimes import COMPARED, PLACES, missing, write_regimes


class RegimesPage:
    """The notebook on all results folders together.

    Args:
        results: the folder of the results folders; empty: that of the repository.
    """

    def __init__(self, results: str = ""):
        self.results = Path(results or ROOT / "results")
        self.baselines, self.gains = write_regimes(self.results)

    def plot(self) -> Picture:
        """``regimes_plot``, also written as ``regimes.png``."""
        return save(regimes_plot(self.baselines, self.gains), self.results / "regimes.png")

    def table(self) -> Markdown:
        """The table and the notes of ``regimes.md``."""
        text = (self.results / "regimes.md").read_text(encoding="utf-8")
        return Markdown("\n".join(line for line in text.splitlines() if not line.startswith(("# ", "!["))))

    def missing(self) -> Markdown:
        """What was not run, with the command that runs it."""
        return Markdown("\n".join(f"- {sentence}" for sentence in missing(self.baselines, self.gains)))


@rc_context(STYLE)
def regimes_plot(baselines: pd.DataFrame, gains: pd.DataFrame) -> Picture:
    """A row per data set and student: left the baseline's errors, right the gains in mAP with intervals.

    Data sets without runs are named below.

    Args:
        baselines, gains: of ``reporting.regimes.regimes``.
    """
    rows = list(baselines[["place", "student"]].itertuples(index=False, name=None))
    run = {place for place, _ in rows}
    not_run = [place.name for place in PLACES if place.name not in run]
    without = f"not run with all planned seeds yet: {', '.join(not_run)}" if not_run else ""
    if not rows:
        figure, ((ax,),) = new_figure(1, 1, (PAGE, 1))
        ax.set_axis_off()
        ax.text(0.5, 0.5, without, ha="center")
        figure.alt = without
        return figure
    figure, (axes,) = new_figure(
        1, 1 + len(COMPARED), (PAGE, 2.1 + 0.46 * len(rows)), sharey=True, width_ratios=[1.5] + [1] * 4
    )
    errors, *panels = axes
    shown = gains[gains.metric == "mAP"].set_index(["place", "student", "method"])
    for y, row in enumerate(rows):
        line = baselines[(baselines.place == row[0]) & (baselines.student == row[1])].iloc[0]
        colors = [BLUE, ORANGE]
        errors.barh(
            [y - 0.17, y + 0.17],
            [line.Cls50, line.Loc50],
            height=0.32,
            color=colors,
            edgecolor=colors,  # a bar that is almost 0 is seen too
            linewidth=1.5,
            clip_on=False,
            zorder=3,
        )
        for offset, cost in ((-0.17, line.Cls50), (0.17, line.Loc50)):
            text = "not measured" if pd.isna(cost) else f" {cost:.1f}"
            errors.text(0 if pd.isna(cost) else cost, y + offset, text, va="center")
        for ax, pair in zip(panels, COMPARED.items(), strict=True):
            for method, offset, filled in ((pair[0], -0.13, True), (pair[1], 0.17, False)):
                if (*row, canonical(method)) in shown.index:
                    gain = shown.loc[(*row, canonical(method))]
                    color = method_style(method)[0] if filled else GREY
                    if pd.notna(gain.low):
                        ax.plot([gain.low, gain.high], [y + offset] * 2, color=color, linewidth=1.6)
                    face = color if filled else "white"
                    ax.plot(gain.gain, y + offset, "o", color=color, markerfacecolor=face, markersize=5)
    run_methods = {method for *_, method in shown.index}
    for ax, (method, control) in zip(panels, COMPARED.items(), strict=True):
        ax.axvline(0, color="black", linewidth=0.8)
        below = f"○ {method_label(control)}" if canonical(control) in run_methods else " "
        ax.set_title(f"{method_label(method)}\n{below}", fontsize=TEXT)
        ax.set_xlabel("gain, mAP")
    errors.set_title("the baseline loses,\nat IoU .50", fontsize=TEXT)
    errors.set_xlabel("AP points")
    errors.margins(x=0.15)
    _finish(figure, axes, rows, any(canonical(control) in run_methods for control in COMPARED.values()))
    measured = [
        f"{line.place}, {line.student}: {line.Cls50:.1f} to classes, {line.Loc50:.1f} to boxes"
        for line in baselines.itertuples()
        if pd.notna(line.Loc50)
    ]
    if without:
        figure.supxlabel(without)
    figure.alt = "AP points that the baselines lose at IoU .50, beside what each loss gains. " + "; ".join(
        [listed(measured), *filter(None, [without])]
    )
    return figure


def _finish(figure: Picture, axes: list, rows: list[tuple[str, str]], controls: bool) -> None:
    """Row labels, one range for all gains, lines between data sets, and the legend.

    Args:
        controls: whether any was run.
    """
    for ax in axes:
        plain_axes(ax)
        ax.grid(axis="y", visible=False)
        for y in range(1, len(rows)):
            if rows[y][0] != rows[y - 1][0]:
                ax.axhline(y - 0.5, color="#BFBFBF", linewidth=0.7)
    limits = [limit for ax in axes[1:] for limit in ax.get_xlim()]
    for ax in axes[1:]:
        ax.set_xlim(min(limits), max(limits))
    texts = [
        f"{place}\n{student}" if y == 0 or rows[y - 1][0] != place else student
        for y, (place, student) in enumerate(rows)
    ]
    axes[0].set_yticks(range(len(rows)), texts)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    keys = {
        "wrong classes": Patch(color=BLUE),
        "inexact boxes": Patch(color=ORANGE),
        "method, with 95 % interval": Line2D([], [], marker="o", color="black"),
    }
    if controls:
        keys["what it is compared with"] = Line2D([], [], marker="o", color=GREY, markerfacecolor="white")
    show_legend(figure, list(keys.values()), list(keys), 4)
