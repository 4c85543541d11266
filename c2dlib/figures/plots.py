"""Figures for notebooks. A function that makes a figure returns it; no global style is changed."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor, nn
from torchvision.ops import nms

from c2dlib.config.methods import IMITATIONS, PARTS, canonical
from c2dlib.evaluation.tide import TYPES
from c2dlib.files import write_whole
from c2dlib.records import RunRecord
from c2dlib.reporting.labels import frame_labels
from c2dlib.reporting.work_list import CONTROL, IOUS

BLUE, GREEN, RED, GREY = "#0072B2", "#009E73", "#D55E00", "#8C8C8C"  # Okabe and Ito's: safe if colour-blind
STYLES = {"baseline": ("#000000", "-"), "KDcls": (BLUE, "-"), "KDcls-labels": (GREY, "--"),
          "loc": ("#E69F00", "-"), "loc+KDloc": ("#CC79A7", "-."), "KDcls+loc+KDloc": (GREEN, "-"),
          "KDcls-smooth": (GREY, ":"), "KDcls-mean": ("#56B4E9", "-."), "loc-L1": ("#E69F00", ":"),
          "loc-L1+KDloc-L1": ("#CC79A7", ":"), "FKD": (RED, ":"), "KDcls+loc+KDloc+FKD": ("#56B4E9", "--")}
PAPER = {"facecolor": "#D9D9D9", "edgecolor": "#595959", "hatch": "////", "linewidth": 0.6}


def _figure(rows: int, columns: int, size: tuple[float, float], **options) -> tuple[Figure, list[list[Axes]]]:
    """A figure of ``size`` inches; closed at once, so that a notebook shows it only where it is returned."""
    options |= {"figsize": size, "dpi": 100, "layout": "constrained", "squeeze": False}
    figure, axes = plt.subplots(rows, columns, **options)
    plt.close(figure)
    return figure, axes.tolist()


def save(figure: Figure, path: Path) -> Figure:
    """Write a figure beside the tables, whole or not at all, and hand it on to be shown."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_whole(path, buffer.getvalue())
    return figure


def _quiet(ax: Axes) -> None:
    ax.tick_params(labelsize=8)
    ax.grid(color="#E5E5E5", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def show_image(ax: Axes, image: Tensor, boxes: Tensor, labels: list[str], color: str = BLUE) -> Axes:
    """An image [3, H, W] (uint8 or 0..1) with boxes [N, 4] in its pixels and a text for each."""
    ax.imshow(image.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
    height, width = image.shape[-2:]
    _boxes(ax, boxes, labels, color, (height, width))
    ax.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    return ax


def _boxes(ax: Axes, boxes: Tensor, labels: list[str], color: str, size: tuple[int, int]) -> None:
    """Boxes [N, 4] with a text each, on an image of height and width ``size``."""
    for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels, strict=True):
        for edge, line in (("white", 3.2), (color, 1.8)):
            ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=edge, linewidth=line))
        right, below = x1 > 0.6 * size[1], y1 < 0.06 * size[0]  # so that the text stays inside the image
        ax.text(x2 if right else x1, y1, label, fontsize=7, color="white", ha="right" if right else "left",
                va="top" if below else "bottom", bbox={"facecolor": color, "edgecolor": "none", "pad": 1.2})


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


def follow(image: Tensor, boxes: Tensor, crops: Tensor) -> Figure:
    """A box that moves over an image, from light to dark, and the crop that follows it.

    Args:
        image: [3, H, W]. boxes: [N, 4] in its pixels. crops: [N, 3, s, s] in 0..255.
    """
    count = len(boxes)
    figure = plt.figure(figsize=(1.5 * count + 3.2, 3.1), dpi=100, layout="constrained")
    plt.close(figure)
    places = figure.add_gridspec(1, count + 2)
    whole = show_image(figure.add_subplot(places[0, :2]), image, torch.zeros(0, 4), [])
    for i, (box, crop) in enumerate(zip(boxes, crops, strict=True)):
        shade = plt.get_cmap("cividis")(1 - i / max(count - 1, 1))
        _boxes(whole, box[None], [str(i)], shade, image.shape[-2:])
        ax = show_image(figure.add_subplot(places[0, 2 + i]), crop.clamp(0, 255) / 255, torch.zeros(0, 4), [])
        ax.set_title(str(i), fontsize=9)
        plt.setp(ax.spines.values(), color=shade, linewidth=2.5)
    return figure


def pulls(image: Tensor, truth: Tensor, box: Tensor, gradients: dict[str, Tensor]) -> Figure:
    """Where each loss moves the sides of a predicted box: minus its gradient, as arrows on the sides.

    Args:
        image: [3, H, W]. truth, box: [4] xyxy. gradients: title -> [4]; the longest arrow of each is as long as another's.
    """
    figure, axes = _figure(1, len(gradients), (3.1 * len(gradients), 3.4))
    x1, y1, x2, y2 = box.tolist()
    middles = [(x1, (y1 + y2) / 2), ((x1 + x2) / 2, y1), (x2, (y1 + y2) / 2), ((x1 + x2) / 2, y2)]
    for ax, (title, gradient) in zip(axes[0], gradients.items(), strict=True):
        show_image(ax, image, truth[None], ["truth"])
        _boxes(ax, box[None], ["predicted"], RED, image.shape[-2:])
        scale = 0.18 * image.shape[-1] / gradient.abs().max().clamp(min=1e-12)
        for i, (x, y) in enumerate(middles):
            step = float(-gradient[i] * scale)
            ax.annotate("", (x + step, y) if i % 2 == 0 else (x, y + step), (x, y), annotation_clip=False,
                        arrowprops={"arrowstyle": "-|>", "color": "black", "linewidth": 2, "mutation_scale": 12})
        ax.set_title(title, fontsize=9)
    return figure


def over_error(errors: list[float], values: dict[str, list[float]], what: str) -> Figure:
    """Losses over how far a box is off, each divided by its largest value, and below their slopes."""
    figure, axes = _figure(2, 1, (6.2, 4.6), sharex=True)
    upper, lower = axes[0][0], axes[1][0]
    for (name, row), color in zip(values.items(), (BLUE, GREEN, RED, GREY), strict=False):
        scaled = [v / max(max(row), 1e-12) for v in row]
        slopes = [(b - a) / (v - u) for (a, b), (u, v) in zip(pairwise(scaled), pairwise(errors), strict=True)]
        upper.plot(errors, scaled, color=color, label=name, linewidth=1.6)
        lower.plot([(a + b) / 2 for a, b in pairwise(errors)], slopes, color=color, linewidth=1.2)
    _quiet(upper)
    _quiet(lower)
    lower.axhline(0, color="black", linewidth=0.8)
    upper.set_ylabel("loss / its largest value", fontsize=8)
    lower.set_ylabel("slope", fontsize=8)
    lower.set_xlabel(what, fontsize=8)
    upper.legend(fontsize=8, frameon=False)
    return figure


def softened(probabilities: dict[str, Tensor], names: list[str], label: int) -> Figure:
    """Distributions over the classes, a panel per title, the true class in green.

    Args:
        probabilities: title -> [C].
    """
    figure, axes = _figure(1, len(probabilities), (2.3 * len(probabilities) + 0.8, 0.9 + 0.19 * len(names)), sharey=True)
    for ax, (title, row) in zip(axes[0], probabilities.items(), strict=True):
        ax.barh(range(len(names)), row.tolist(), color=[GREEN if c == label else GREY for c in range(len(names))])
        _quiet(ax)
        ax.set(yticks=range(len(names)), yticklabels=names, xlim=(0, 1), ylim=(len(names) - 0.4, -0.6))
        ax.set_title(title, fontsize=9)
    return figure


def confusion(matrix: Tensor, names: list[str], title: str = "") -> Figure:
    """A row per true class, a column per answer, in shares of the row [C, C]; numbers where there are few classes."""
    count = len(names)
    side = min(2.2 + 0.28 * count, 11)
    figure, axes = _figure(1, 1, (side + 0.8, side))
    ax = axes[0][0]
    shown = ax.imshow(matrix.numpy(), cmap="Blues", vmin=0, vmax=1)
    if count <= 26:
        for y in range(count):
            for x in range(count):
                if (share := float(matrix[y][x])) >= 0.01:
                    ax.text(x, y, f"{100 * share:.0f}", ha="center", va="center", fontsize=6,
                            color="white" if share > 0.6 else "black")
        ax.set_xticks(range(count), names, rotation=90)
        ax.set_yticks(range(count), names)
    ax.tick_params(labelsize=7)
    ax.set(xlabel="answer", ylabel="truth", title=title)
    figure.colorbar(shown, ax=ax, shrink=0.7)
    return figure


def reliability(probabilities: Tensor, labels: Tensor, bins: int = 10) -> Figure:
    """How often the teacher is right, where it is how sure: on the diagonal if calibrated; below, how often it is so sure.

    Args:
        probabilities: [G, C]. labels: [G] 0..C-1.
    """
    confidence, answer = probabilities.max(1)
    which = (confidence * bins).long().clamp(max=bins - 1)
    right = (answer == labels).double()
    size = torch.bincount(which, minlength=bins)
    accuracy = torch.bincount(which, right, minlength=bins) / size.clamp(min=1)
    figure, axes = _figure(2, 1, (4.2, 4.4), sharex=True, height_ratios=[2.4, 1])
    centres = [(b + 0.5) / bins for b in range(bins)]
    there = [b for b in range(bins) if size[b]]
    axes[0][0].plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    axes[0][0].bar([centres[b] for b in there], [float(accuracy[b]) for b in there], 0.92 / bins, color=BLUE, alpha=0.85)
    axes[1][0].bar(centres, size.tolist(), 0.92 / bins, color=GREY)
    for (ax,), text in zip(axes, ("share right", "crops"), strict=True):
        _quiet(ax)
        ax.set_ylabel(text, fontsize=8)
    axes[0][0].set(xlim=(0, 1), ylim=(0, 1))
    axes[1][0].set_xlabel("confidence of the answer", fontsize=8)
    return figure


def attention_maps(crops: Tensor, maps: Tensor, titles: list[str]) -> Figure:
    """Crops [G, 3, s, s] in 0..255 and below each what its probability rests on [G, s, s]: red supports, blue misleads.

    Each map has its own scale.
    """
    count = max(len(crops), 1)
    figure, axes = _figure(2, count, (max(1.7 * count, 3.5), 3.9))
    for i in range(len(crops)):
        for row in axes:
            show_image(row[i], crops[i].clamp(0, 255) / 255, torch.zeros(0, 4), [])
        most = float(maps[i].abs().max().clamp(min=1e-9))
        axes[1][i].imshow(maps[i].numpy(), cmap="RdBu_r", vmin=-most, vmax=most, alpha=0.65)
        axes[0][i].set_title(titles[i], fontsize=8)
    return figure


def table_bars(frame: pd.DataFrame) -> Figure:
    """Gain in mAP over the student's own baseline, the paper's beside ours with its 95 % interval.

    ``frame`` is that of ``tables.table``; a row without a number of ours says why.
    """
    frame = frame.assign(method=frame_labels(frame))
    students = frame.student.unique().tolist()
    methods = [m for m in frame.method.unique() if not m.startswith("baseline")]
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


def gain_over_cost(frame: pd.DataFrame) -> Figure:
    """Gain in mAP over what a training step costs in time of a plain one, a panel per student, "ours" and sums with it green.

    ``frame`` is that of ``tables.table``; rows without a gain or a time are left out. Bars: 95 % intervals over seeds.
    """
    frame = frame[frame.gain.notna() & frame.relative_seconds.notna()]
    students = frame.student.unique().tolist() or ["no row has both"]
    columns = min(len(students), 3)
    tall = 2.6 + 0.1 * frame.student.value_counts().max() if len(frame) else 2.6
    figure, grid = _figure(-(-len(students) // columns), columns, (4.0 * columns, tall * -(-len(students) // columns)))
    axes = [ax for row in grid for ax in row]
    for ax, student in zip(axes, students, strict=False):
        mine = frame[frame.student == student].sort_values("gain")
        colors = [GREEN if canonical(m).startswith(canonical("ours")) else GREY if m == CONTROL else BLUE for m in mine.method]
        for row, color in zip(mine.itertuples(), colors, strict=True):
            ax.plot(row.relative_seconds, row.gain, "o", color=color, markersize=4)
            if pd.notna(row.gain_low):
                ax.plot([row.relative_seconds] * 2, [row.gain_low, row.gain_high], color=color, alpha=0.3, linewidth=1)
        _quiet(ax)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.margins(x=0.08, y=0.1)
        ax.locator_params(axis="x", nbins=5)
        _names_beside(ax, mine.method.tolist(), mine.relative_seconds.tolist(), mine.gain.tolist(), colors)
        ax.set_title(student, fontsize=9)
    for ax in axes[len(students):]:
        ax.set_axis_off()
    figure.get_layout_engine().set(w_pad=0.12)  # the names move with the axes after they were measured
    figure.supxlabel("time of a training step, plain student = 1", fontsize=8)
    figure.supylabel("gain over the baseline, mAP points", fontsize=8)
    return figure


def _names_beside(ax: Axes, names: list[str], xs: list[float], ys: list[float], colors: list[str]) -> None:
    """A name per point, ys rising, in a column right of the axes; evenly spaced where they would overlap."""
    low, high = ax.get_ylim()
    step, right = 1 / max(len(names) + 1, 12), ax.get_xlim()[1]
    ax.set(ylim=(low, high), xlim=(ax.get_xlim()[0], right))
    places, floor = [], 0.0
    for y in ys:  # from below, then pushed down again from the top
        floor = max((y - low) / (high - low), floor)
        places.append(floor)
        floor += step
    ceiling = 1.0
    for i in reversed(range(len(places))):
        places[i] = ceiling = min(places[i], ceiling)
        ceiling -= step
    for name, x, y, color, place in zip(names, xs, ys, colors, places, strict=True):
        ax.annotate(name, (x, y), (1.02, place), textcoords="axes fraction", fontsize=7, color=color, va="center",
                    annotation_clip=False, arrowprops={"arrowstyle": "-", "color": color, "alpha": 0.3, "linewidth": 0.6})


def gpu_hours(frame: pd.DataFrame, what: str) -> Figure:
    """GPU hours of a run per student and method; whiskers: where the hours are counted, half and twice them.

    Args:
        frame: of ``cost.costs``, for one number of GPUs; its last method is drawn green.
        what: the axis' label.
    """
    students, methods = frame.student.unique().tolist(), frame.method.unique().tolist()
    figure, ((ax,),) = _figure(1, 1, (7.0, 0.9 + 0.27 * len(students) * len(methods)))
    height, shades = 0.8 / len(methods), [GREY, BLUE, "#56B4E9"][: len(methods) - 1]
    for k, (method, color) in enumerate(zip(methods, [*shades, GREEN], strict=True)):
        mine = frame[frame.method == method].set_index("student").reindex(students)
        hours = (mine.hours * mine.gpus).tolist()
        places = [i + (k - (len(methods) - 1) / 2) * height for i in range(len(students))]
        spread = [[h / 2 if source == "counted" else 0 for h, source in zip(hours, mine.source, strict=True)],
                  [h if source == "counted" else 0 for h, source in zip(hours, mine.source, strict=True)]]
        ax.barh(places, hours, height, color=color, label=method, xerr=spread, error_kw={"elinewidth": 0.8, "alpha": 0.5})
    _quiet(ax)
    ax.grid(axis="y", visible=False)
    ax.set_yticks(range(len(students)), students)
    ax.invert_yaxis()
    ax.set_xlabel(what, fontsize=8)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    return figure


def over_share(frame: pd.DataFrame, images: int) -> Figure:
    """mAP over the number of training images, a line per method, bars of one sd over seeds (table ``sizes``).

    Args:
        images: how many a share of 1 is.
    """
    students = frame.student.unique().tolist()
    figure, grid = _figure(1, len(students), (max(3.4 * len(students), 5), 3.4), sharey=True)
    for ax, student in zip(grid[0], students, strict=True):
        for method, mine in frame[frame.student == student].groupby("method", sort=False):
            color, dashes = STYLES.get(canonical(method), (GREY, "-."))
            ax.errorbar(mine.train_share * images, mine.mAP, mine.mAP_sd.fillna(0), color=color, linestyle=dashes,
                        marker="o", markersize=3.5, linewidth=1.4, capsize=2, label=method)
        _quiet(ax)
        ax.set_xscale("log", base=2)
        ticks = sorted(frame.train_share.unique() * images)
        ax.set_xticks(ticks, [f"{round(n)}" for n in ticks])
        ax.set_title(student, fontsize=9)
        ax.set_xlabel("training images", fontsize=8)
    grid[0][0].set_ylabel("mAP", fontsize=8)
    _key(figure, grid[0][0])
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
    keys += [plt.Line2D([], [], color="black", linestyle=dashes) for dashes in ("--", "-")]
    figure.legend(keys, [*names, "paper", "ours"], loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def errors_over_iou(by_iou: pd.DataFrame, types: tuple[str, ...] = ("Cls", "Loc")) -> Figure:
    """What classification and localisation errors cost at each IoU (Figure 3): mean over seeds, one dot per run.

    ``by_iou`` is the first frame of ``errors.gather``.
    """
    students = by_iou.student.unique().tolist()
    size = (max(2.6 * len(students) + 0.6, 5), 2.3 * len(types) + 0.7)
    figure, grid = _figure(len(types), max(len(students), 1), size, sharex=True, sharey="row")
    for axes, kind in zip(grid, types, strict=True):
        axes[0].set_ylabel(f"{kind} error, AP points", fontsize=8)
        for ax, student in zip(axes, students, strict=False):
            _quiet(ax)
            for method, mine in by_iou[by_iou.student == student].groupby("method", sort=False):
                color, dashes = STYLES.get(canonical(method), (GREY, "-."))
                mean = mine.groupby("IoU")[kind].mean()
                ax.plot(mean.index, mean, color=color, linestyle=dashes, linewidth=1.5, label=method)
                if mine.seed.nunique() > 1:
                    ax.plot(mine.IoU, mine[kind], ".", color=color, markersize=2.5, alpha=0.6)
        axes[0].set_ylim(bottom=0)  # of the whole row, once all of it is drawn
    for column, student in enumerate(students):
        grid[0][column].set_title(student, fontsize=9)
        grid[-1][column].set_xlabel("IoU threshold, %", fontsize=8)
    _key(figure, grid[0][0])
    return figure


def change_over_iou(lines: pd.DataFrame, what: str) -> Figure:
    """Change against the baseline at each IoU, with its 95 % interval over seeds as a band, a panel per student.

    Args:
        lines: ``errors.differences`` of one type.
        what: the label of the axis.
    """
    students = lines.student.unique().tolist()
    figure, grid = _figure(1, max(len(students), 1), (max(2.9 * len(students) + 0.6, 5), 3.2), sharey=True)
    for ax, student in zip(grid[0], students, strict=False):
        _quiet(ax)
        ax.axhline(0, color="black", linewidth=0.8)
        for method, mine in lines[(lines.student == student) & (lines.method != "baseline")].groupby("method", sort=False):
            color, dashes = STYLES.get(canonical(method), (GREY, "-."))
            change = mine.set_index("IoU").reindex(columns=["change", "change_low", "change_high"]).astype(float)
            ax.plot(change.index, change.change, color=color, linestyle=dashes, linewidth=1.5, label=method)
            ax.fill_between(change.index, change.change_low, change.change_high, color=color, alpha=0.12, linewidth=0)
        if lines[lines.student == student].dAP.isna().all():
            ax.text(0.5, 0.6, "not measured", transform=ax.transAxes, ha="center", fontsize=8, color="#595959")
        ax.set_title(student, fontsize=9)
        ax.set_xlabel("IoU threshold, %", fontsize=8)
    grid[0][0].set_ylabel(what, fontsize=8)
    _key(figure, grid[0][0])
    return figure


def error_bars(by_iou: pd.DataFrame, iou: int = 50) -> Figure:
    """All six error types at one IoU (the supplement's figure): a bar per method, a dot per seed.

    ``by_iou`` is the first frame of ``errors.gather``. The scale is a square root, for one type often dwarfs the rest.
    """
    mine = by_iou[by_iou.IoU == iou]
    students, methods = mine.student.unique().tolist(), mine.method.unique().tolist()
    figure, grid = _figure(1, max(len(students), 1), (max(3.0 * len(students) + 0.6, 5), 3.2), sharey=True)
    for ax, student in zip(grid[0], students, strict=False):
        _quiet(ax)
        for i, method in enumerate(methods):
            runs = mine[(mine.student == student) & (mine.method == method)]
            color, dashes = STYLES.get(canonical(method), (GREY, "-."))
            at = [x + (i + 0.5) / len(methods) * 0.84 - 0.42 for x in range(len(TYPES))]
            ax.bar(at, runs[TYPES].mean(), 0.8 / len(methods), color=color, alpha=0.85, label=method,
                   hatch="//" if dashes == "--" else None, edgecolor="white", linewidth=0.4)
            for x, kind in zip(at, TYPES, strict=True):
                if len(runs) > 1:
                    ax.plot([x] * len(runs), runs[kind], ".", color="black", markersize=2.5)
        ax.set_yscale("function", functions=(lambda v: v.clip(0) ** 0.5, lambda v: v**2))
        ax.set_ylim(0, 1.05 * max(mine[TYPES].max(axis=None), 0.1))
        ax.set_xticks(range(len(TYPES)), TYPES)
        ax.set_title(student, fontsize=9)
    grid[0][0].set_ylabel(f"cost at IoU {iou / 100:.2f}, AP points (root scale)", fontsize=8)
    _key(figure, grid[0][0])
    return figure


def errors_per_class(by_class: pd.DataFrame, method: str, other: str = "baseline") -> Figure:
    """How much less (blue) or more (red) each error costs each class with ``method``, a panel per student.

    ``by_class`` is the second frame of ``errors.gather``; numbers are means over seeds, in AP points at IoU 0.50.
    """
    by_class = by_class.assign(method=by_class.method.map(canonical))
    method, other = canonical(method), canonical(other)
    students = [s for s, mine in by_class.groupby("student", sort=False) if {method, other} <= set(mine.method)]
    classes = by_class["class"].unique().tolist()
    size = (max(2.7 * len(students) + 1.6, 5), 1.4 + 0.24 * len(classes))
    figure, grid = _figure(1, max(len(students), 1), size, sharey=True)
    change = {s: _mean_errors(by_class, s, method) - _mean_errors(by_class, s, other) for s in students}
    most = max([1.0, *(frame.abs().max(axis=None) for frame in change.values())])
    for ax, student in zip(grid[0], students, strict=False):
        values = change[student].reindex(classes)
        shown = ax.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
        for (y, x), value in ((at, v) for at, v in zip(((y, x) for y in range(len(classes)) for x in range(len(TYPES))),
                                                       values.to_numpy().ravel(), strict=True) if abs(v) >= 0.5):
            ax.text(x, y, f"{value:+.0f}", ha="center", va="center", fontsize=6,
                    color="white" if abs(value) > 0.6 * most else "black")
        ax.set_xticks(range(len(TYPES)), TYPES)
        ax.set_yticks(range(len(classes)), classes)
        ax.tick_params(labelsize=7)
        ax.set_title(student, fontsize=9)
    if students:
        figure.colorbar(shown, ax=grid[0], shrink=0.8).set_label(f"{method} - {other}, AP points", fontsize=8)
    else:
        grid[0][0].set_axis_off()
        grid[0][0].text(0.5, 0.5, f"no student has runs of both {method} and {other}", ha="center", fontsize=9)
    return figure


def _mean_errors(by_class: pd.DataFrame, student: str, method: str) -> pd.DataFrame:
    mine = by_class[(by_class.student == student) & (by_class.method == method)]
    return mine.groupby("class", sort=False)[TYPES].mean()


def _key(figure: Figure, ax: Axes) -> None:
    """The legend of one panel, below the whole figure."""
    handles, names = ax.get_legend_handles_labels()
    if handles:
        figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8, frameon=False)


def error_examples(images: dict[int, Tensor], shown: list, names: dict[int, str], title: str) -> Figure:
    """Single errors: the detection in red with label and score, the object it concerns in blue.

    Args:
        images: image id -> [3, H, W], uint8 or 0..1.
        shown: ``errors.ErrorExample`` each.
        names: category id -> name.
    """
    columns = max(min(len(shown), 4), 1)
    rows = max(-(-len(shown) // columns), 1)
    figure, grid = _figure(rows, columns, (2.7 * columns, 2.9 * rows + 0.4))
    figure.suptitle(title, fontsize=10)
    for ax, one in zip((ax for line in grid for ax in line), [*shown, *[None] * (rows * columns - len(shown))], strict=True):
        if one is None:
            ax.set_axis_off()
            continue
        show_image(ax, images[one.image_id], torch.zeros(0, 4), [])
        for box, category, color, more in ((one.truth_box, one.truth_category_id, BLUE, ""),
                                           (one.box, one.category_id, RED, f" {one.score or 0:.2f}")):
            if box is not None:
                corners = torch.tensor([[box[0], box[1], box[0] + box[2], box[1] + box[3]]])
                _boxes(ax, corners, [names[category] + more], color, images[one.image_id].shape[-2:])
        ax.set_title(f"image {one.image_id}" + ("" if one.iou is None else f", IoU {one.iou:.2f}"), fontsize=8)
    return figure


def curves(records: list[RunRecord], names: dict[str, str] | None = None) -> Figure:
    """Losses along training, a line per run: above the detector's own, below the distillers' terms, logarithmic where they differ a lot.

    Args:
        names: experiment hash -> what to call it, see ``labels.run_labels``; else its method.
    """
    students = list(dict.fromkeys(r.student for r in records))
    figure, grid = _figure(2, max(len(students), 1), (max(2.2 * len(students) + 0.6, 5), 4.6), sharex="col")
    shown, styles, rivals = {}, {}, {name.lower() for name in IMITATIONS}
    for record in records:
        name = (names or {}).get(record.hash, record.method)
        if name not in styles:
            styles[name] = STYLES.get(name) or (plt.get_cmap("tab20")(len(styles) % 20), "-")
        color, dashes = styles[name]
        added = [k for k in record.curve if k in PARTS or k.split("_")[0] in rivals]
        own = [k for k in record.curve if k not in ("step", *added)]
        for axes, terms in zip(grid, (own, added), strict=True):
            total = [sum(values) for values in zip(*(record.curve[k] for k in terms), strict=True)]
            if total:
                line, = axes[students.index(record.student)].plot(
                    record.curve["step"], total, color=color, linestyle=dashes, linewidth=1.3, alpha=0.85,
                    marker="o" if len(total) < 3 else None, markersize=4)
                shown.setdefault(name, line)
    for axes, what in zip(grid, ("detector's losses", "distillation terms"), strict=True):
        axes[0].set_ylabel(what, fontsize=8)
        for ax in axes:
            _quiet(ax)
            ax.set_xlim(left=0)
            ends = [value for line in ax.lines for value in line.get_ydata() if value > 0]
            if ends and max(ends) > 100 * min(ends):
                ax.set_yscale("log")
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


def compare(lines: list[tuple[str, Tensor, tuple, dict[str, tuple[Tensor, list]]]]) -> Figure:
    """Figure 4: an image per line, ground truth in blue, then each detector's boxes in red.

    Args:
        lines: what to write beside the image, the image [3, H, W], its truth (boxes, texts), and per title a detector's
            (boxes, texts).
    """
    titles = ["ground truth", *lines[0][3]]
    tall = [image.shape[1] / image.shape[2] for _, image, _, _ in lines]
    size = (2.9 * len(titles), 2.9 * sum(tall) + 0.08 * len(lines) + 0.3)
    figure, grid = _figure(len(lines), len(titles), size, height_ratios=tall)
    for axes, (text, image, truth, found) in zip(grid, lines, strict=True):
        for ax, (title, (boxes, texts)) in zip(axes, {"ground truth": truth, **found}.items(), strict=True):
            show_image(ax, image, boxes, texts, RED if title in found else BLUE)
        axes[0].set_ylabel(text, fontsize=8)
    for ax, title in zip(grid[0], titles, strict=True):
        ax.set_title(title, fontsize=9)
    return figure


def best_of(detections: list[dict], image_id: int, names: dict[int, str], count: int) -> tuple[Tensor, list[str]]:
    """The ``count`` surest places on an image, from COCO results: boxes xyxy, class and score of the surest there.

    A box that overlaps a surer one, of whatever class, by more than half is the same place.
    """
    mine = [d for d in detections if d["image_id"] == image_id]
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in (d["bbox"] for d in mine)],
                         dtype=torch.float32).reshape(-1, 4)
    kept = nms(boxes, torch.tensor([d["score"] for d in mine], dtype=torch.float32), 0.5)[:count]
    return boxes[kept], [f"{names[mine[i]['category_id']]} {mine[i]['score']:.2f}" for i in kept]


@torch.inference_mode()
def surest(detector: nn.Module, image: Tensor, names: list[str], count: int) -> tuple[Tensor, list[str]]:
    """A detector's ``count`` boxes of highest score on an image [3, H, W] in 0..1, with class and score."""
    found = detector([image])[0]
    best = found["scores"].argsort(descending=True)[:count]
    return found["boxes"][best], [f"{names[found['labels'][i] - 1]} {found['scores'][i]:.2f}" for i in best]
