"""A detector on its own: mAP on val along training, and precision over recall per class."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib import rc_context

from c2dlib.evaluation.scores import Threshold
from c2dlib.figures.style import (
    BLUE,
    PAGE,
    RED,
    STYLE,
    Picture,
    listed,
    method_style,
    new_figure,
    plain_axes,
)
from c2dlib.records import RunRecord
from c2dlib.reporting.labels import method_label

MOST_PANELS = 30


@rc_context(STYLE)
def validation_curves(records: list[RunRecord]) -> Picture:
    """mAP on val along training, a line per run; a dot marks the weights that were kept.

    Args:
        records: finished runs with metrics on val during training.
    """
    figure, axes = new_figure(1, 1, (6.4, 3.6))
    ax = axes[0][0]
    labels = []
    for record in records:
        color, dashes = method_style(record.method)
        steps = sorted(map(int, record.validation))
        values = [record.validation[str(step)]["mAP"] or 0.0 for step in steps]
        best = int(np.argmax(values))
        label = f"{method_label(record.method)}, seed {record.seed}: {values[best]:.1f} at step {steps[best]}"
        labels.append(label)
        ax.plot(steps, values, color=color, linestyle=dashes, linewidth=1.6, label=label)
        ax.plot(steps[best], values[best], "o", color=color, markersize=6)
    plain_axes(ax)
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.set(xlabel="training step", ylabel="mAP on val, percent")
    ax.legend()
    figure.alt = f"mAP on val along training; the best weights of each run: {listed(labels)}."
    return figure


@rc_context(STYLE)
def precision_recall_curves(
    curves: dict[str, np.ndarray], classes: pd.DataFrame, threshold: Threshold | None
) -> Picture:
    """Precision over recall at IoU 0.5, a panel per class from the highest AP50 to the lowest; all in grey.

    Of more than ``MOST_PANELS`` classes the first and the last are drawn. A dot is where the threshold lies.

    Args:
        curves: see ``scores.precision_recall``.
        classes: see ``scores.per_class``, at the threshold.
        threshold: of the checkpoint; None: no dots.
    """
    ranked = classes[classes["class"].isin(curves)].sort_values("AP50", ascending=False, kind="stable")
    shown = ranked
    if len(ranked) > MOST_PANELS:
        shown = pd.concat([ranked.head(MOST_PANELS // 2), ranked.tail(MOST_PANELS // 2)])
    columns = min(4, max(1, len(shown)))
    rows = max(1, math.ceil(len(shown) / columns))
    figure, grid = new_figure(
        rows, columns, (min(max(4.0, 2.1 * columns), PAGE), 2.0 * rows + 0.9), sharex=True, sharey=True
    )
    recalls = np.linspace(0, 100, 101)
    panels = [ax for line in grid for ax in line]
    for ax, row in zip(panels, shown.itertuples(), strict=False):
        for curve in curves.values():
            ax.plot(recalls, 100 * curve, color="#DDDDDD", linewidth=0.7)
        ax.plot(recalls, 100 * curves[row[1]], color=BLUE, linewidth=1.8)
        if threshold and not math.isnan(row.precision):
            ax.plot(row.recall, row.precision, "o", color=RED, markersize=6, zorder=3, clip_on=False)
        plain_axes(ax)
        ax.set(xlim=(0, 100), ylim=(0, 102), xticks=(0, 50), yticks=(0, 50, 100))
        name = row[1] if len(row[1]) <= 20 else f"{row[1][:19]}…"
        ax.set_title(f"{name}: AP50 {row.AP50:.0f}", parse_math=False)
    for ax in panels[len(shown) :]:
        ax.set_axis_off()
    text = f"red: the threshold, {threshold.score:.2f}" if threshold else "grey: the other classes"
    if len(ranked) > len(shown):
        text = f"the {len(shown) // 2} best and {len(shown) // 2} worst of {len(ranked)} classes; {text}"
    figure.supxlabel("recall, percent")
    figure.supylabel("precision, percent")
    figure.suptitle(text)
    values = listed([f"{row[1]} {row.AP50:.0f}" for row in shown.itertuples()])
    figure.alt = f"Precision over recall at IoU 0.5 per class ({text}). AP50: {values}."
    return figure
