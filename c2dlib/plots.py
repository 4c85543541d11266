"""Figures for notebooks. A function that makes a figure returns it; no global style is changed."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor, nn

from c2dlib.methods import PARTS
from c2dlib.records import RunRecord
from c2dlib.tables import IOUS, labels

BLUE, GREEN, RED, GREY = "#0072B2", "#009E73", "#D55E00", "#8C8C8C"  # Okabe and Ito's: safe if colour-blind
STYLES = {"baseline": ("#000000", "-"), "KDcls": (BLUE, "-"), "KDcls-labels": (GREY, "--"),
          "loc": ("#E69F00", "-"), "loc+KDloc": ("#CC79A7", "-."), "KDcls+loc+KDloc": (GREEN, "-"),
          "FKD": (RED, ":"), "KDcls+loc+KDloc+FKD": ("#56B4E9", "--")}
PAPER = {"facecolor": "#D9D9D9", "edgecolor": "#595959", "hatch": "////", "linewidth": 0.6}


def _figure(rows: int, columns: int, size: tuple[float, float], **options) -> tuple[Figure, list[list[Axes]]]:
    """A figure of ``size`` inches; closed at once, so that a notebook shows it only where it is returned."""
    options |= {"figsize": size, "dpi": 100, "layout": "constrained", "squeeze": False}
    figure, axes = plt.subplots(rows, columns, **options)
    plt.close(figure)
    return figure, axes.tolist()


def _quiet(ax: Axes) -> None:
    ax.tick_params(labelsize=8)
    ax.grid(color="#E5E5E5", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def show_image(ax: Axes, image: Tensor, boxes: Tensor, labels: list[str], color: str = BLUE) -> Axes:
    """An image [3, H, W] (uint8 or 0..1) with boxes [N, 4] in its pixels and a text for each."""
    ax.imshow(image.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
    height, width = image.shape[-2:]
    for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels, strict=True):
        for edge, line in (("white", 3.2), (color, 1.8)):
            ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=edge, linewidth=line))
        right, below = x1 > 0.6 * width, y1 < 0.06 * height  # so that the text stays inside the image
        ax.text(x2 if right else x1, y1, label, fontsize=7, color="white", ha="right" if right else "left",
                va="top" if below else "bottom", bbox={"facecolor": color, "edgecolor": "none", "pad": 1.2})
    ax.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    return ax


def show_crops(crops: Tensor, labels: Tensor, probabilities: Tensor, names: list, maps: Tensor) -> Figure:
    """Up to six crops as the teacher sees them, mean |activation| of an early map, its five surest classes.

    Args:
        crops: [G, 3, s, s] in 0..255.
        labels: [G] 0..C-1, the truth: green among the bars.
        probabilities: [G, C].
        maps: [G, C_l, H_l, W_l].
    """
    count = min(len(crops), 6)
    figure, axes = _figure(3, count, (max(1.75 * count, 3.5), 5.2), height_ratios=[1.2, 1.2, 1])
    for i in range(count):
        show_image(axes[0][i], crops[i].clamp(0, 255) / 255, torch.zeros(0, 4), [])
        axes[0][i].set_title(names[labels[i]], fontsize=9, color=GREEN)
        axes[1][i].imshow(maps[i].abs().mean(0).cpu().numpy(), cmap="cividis")
        axes[1][i].set(xticks=[], yticks=[])
        best, ax = probabilities[i].topk(min(5, len(names))), axes[2][i]
        ax.barh(range(len(best.values)), best.values.tolist(), height=0.8, alpha=0.6,
                color=[GREEN if c == labels[i] else GREY for c in best.indices])
        for y, c in enumerate(best.indices.tolist()):
            ax.text(0.03, y, f"{names[c]}  {best.values[y]:.2f}", va="center", fontsize=7)
        ax.set(xlim=(0, 1), yticks=[], xticks=[0, 1], ylim=(len(best.values) - 0.4, -0.6))
        ax.tick_params(labelsize=7)
    for row, text in zip(axes, ("crop", "mean |l0|", "probability"), strict=True):
        row[0].set_ylabel(text, fontsize=8)
    return figure


def table_bars(frame: pd.DataFrame) -> Figure:
    """Gain in mAP over the student's own baseline, the paper's beside ours with its 95 % interval.

    ``frame`` is that of ``tables.table``; a row without a number of ours says why.
    """
    frame = frame.assign(method=labels(frame))
    students = frame.student.unique().tolist()
    methods = [m for m in frame.method.unique() if m != "baseline"]
    size = (max(2.0 * len(students) + 1, 4.5) + 0.05 * max(map(len, methods), default=0), 1.6 + 0.42 * max(len(methods), 1))
    figure, grid = _figure(1, len(students), size, sharex=True, sharey=True)
    for ax, student in zip(grid[0], students, strict=True):
        mine = frame[frame.student == student].set_index("method")
        base = mine.reindex(["baseline"]).iloc[0]  # all NaN if that row was not asked for
        for y, method in ((y, m) for y, m in enumerate(methods) if m in mine.index):
            row = mine.loc[method]
            if pd.notna(gain := row.paper_mAP - base.paper_mAP):
                ax.barh(y - 0.19, gain, 0.34, **PAPER)
            if pd.isna(row.get("gain")):
                why = "no baseline" if row.status == "done" else row.status.split(":")[0]
                ax.annotate(why, (0, y + 0.19), (4, 0), textcoords="offset points", va="center", fontsize=7,
                            color="#595959", style="italic")
                continue
            ax.barh(y + 0.19, row.gain, 0.34, color=BLUE)
            if pd.notna(row.gain_low):
                ax.plot([row.gain_low, row.gain_high], [y + 0.19] * 2, color="black", marker="|")
        _quiet(ax)
        ax.axvline(0, color="black", linewidth=0.8)
        shown = ["–" if pd.isna(v) else f"{v:.1f}" for v in (base.paper_mAP, base.mAP)]
        ax.set_title(f"{student}\n{shown[0]} | {shown[1]}", fontsize=9)
        ax.set(yticks=range(len(methods)), yticklabels=methods, ylim=(max(len(methods), 1) - 0.4, -0.6))
    keys = [Patch(**PAPER), Patch(color=BLUE), plt.Line2D([], [], color="black", marker="|")]
    figure.legend(keys, ["paper", "ours", "95 % interval over seeds"], loc="outside upper center", ncols=3,
                  fontsize=8, frameon=False)
    figure.supxlabel("gain over the baseline, mAP points (above: baseline mAP, paper | ours)", fontsize=8)
    return figure


def ap_over_iou(frame: pd.DataFrame) -> Figure:
    """Gain over the student's baseline at each IoU, in AP points: dashed the paper, solid ours."""
    students = frame.student.unique().tolist()
    figure, grid = _figure(1, len(students), (max(3.4 * len(students), 5), 3.4), sharey=True)
    for ax, student in zip(grid[0], students, strict=True):
        mine = frame[frame.student == student].set_index("method")
        for method in mine.index.drop("baseline", errors="ignore"):
            color, _ = STYLES.get(method, (GREY, "-"))
            for prefix, dashes in (("paper_", "--"), ("", "-")):
                columns = [prefix + iou for iou in IOUS]
                gains = mine.reindex(columns=columns).astype(float).reindex([method, "baseline"])
                ax.plot(range(50, 100, 5), gains.iloc[0] - gains.iloc[1], dashes, color=color, linewidth=1.4,
                        label="" if prefix else method)
        _quiet(ax)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set_title(student, fontsize=9)
        ax.set_xlabel("IoU threshold, %", fontsize=8)
    grid[0][0].set_ylabel("gain in AP over the baseline, points", fontsize=8)
    keys, names = grid[0][0].get_legend_handles_labels()
    keys += [plt.Line2D([], [], color=GREY, linestyle=dashes) for dashes in ("--", "-")]
    figure.legend(keys, [*names, "paper", "ours"], loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def curves(records: list[RunRecord]) -> Figure:
    """Losses along training, a line per run: above the detector's own, below the distillers' terms."""
    students = list(dict.fromkeys(r.student for r in records))
    figure, grid = _figure(2, max(len(students), 1), (max(2.2 * len(students) + 0.6, 5), 4.6), sharex="col")
    shown = {}
    for record in records:
        color, dashes = STYLES.get(record.method, (GREY, "-."))
        added = [k for k in record.curve if k in PARTS or k.startswith("fkd_")]
        own = [k for k in record.curve if k not in ("step", *added)]
        for axes, terms in zip(grid, (own, added), strict=True):
            total = [sum(values) for values in zip(*(record.curve[k] for k in terms), strict=True)]
            if total:
                line, = axes[students.index(record.student)].plot(
                    record.curve["step"], total, color=color, linestyle=dashes, linewidth=1.3, alpha=0.85,
                    marker="o" if len(total) < 3 else None, markersize=4)
                shown.setdefault(record.method, line)
    for axes, what in zip(grid, ("detector's losses", "distillation terms"), strict=True):
        axes[0].set_ylabel(what, fontsize=8)
        for ax in axes:
            _quiet(ax)
            ax.set_xlim(left=0)
    for column, student in enumerate(students):
        grid[0][column].set_title(student, fontsize=9)
        grid[1][column].set_xlabel("step", fontsize=8)
    if shown:
        options = {"ncols": 3, "fontsize": 8, "frameon": False}
        figure.legend(shown.values(), shown.keys(), loc="outside lower center", **options)
    return figure


def detections(image: Tensor, truth: tuple[Tensor, list], found: dict[str, tuple[Tensor, list]]) -> Figure:
    """Ground truth (boxes, texts) in blue, then per title of ``found`` a detector's in red (Figure 4)."""
    figure, axes = _figure(1, 1 + len(found), (3.4 * (1 + len(found)), 3.6))
    for ax, (title, (boxes, texts)) in zip(axes[0], {"ground truth": truth, **found}.items(), strict=True):
        show_image(ax, image, boxes, texts, RED if title in found else BLUE).set_title(title, fontsize=9)
    return figure


@torch.inference_mode()
def surest(detector: nn.Module, image: Tensor, names: list[str], count: int) -> tuple[Tensor, list[str]]:
    """A detector's ``count`` boxes of highest score on an image [3, H, W] in 0..1, with class and score."""
    found = detector([image])[0]
    best = found["scores"].argsort(descending=True)[:count]
    return found["boxes"][best], [f"{names[found['labels'][i] - 1]} {found['scores'][i]:.2f}" for i in best]
