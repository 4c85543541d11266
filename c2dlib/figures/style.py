"""One style for all figures: how a figure is made, its colours, its axes, its legend, how it is saved.

Every function of this package that makes a figure returns it; matplotlib's global settings are not changed.
"""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from c2dlib.config.methods import canonical
from c2dlib.files import write_whole

BLUE, GREEN, RED, GREY = (
    "#0072B2",
    "#009E73",
    "#D55E00",
    "#8C8C8C",
)  # Okabe and Ito's colours, safe for the colour-blind
LIGHT_BLUE, ORANGE, PINK = "#56B4E9", "#E69F00", "#CC79A7"
METHOD_STYLES = {  # method -> colour, line
    "baseline": ("#000000", "-"),
    "KDcls": (BLUE, "-"),
    "KDcls-labels": (GREY, "--"),
    "KDcls-smooth": (GREY, ":"),
    "KDcls-mean": (LIGHT_BLUE, "-."),
    "loc": (ORANGE, "-"),
    "loc-L1": (ORANGE, ":"),
    "loc+KDloc": (PINK, "-."),
    "loc-L1+KDloc-L1": (PINK, ":"),
    "KDcls+loc+KDloc": (GREEN, "-"),
    "FKD": (RED, ":"),
    "KDcls+loc+KDloc+FKD": (LIGHT_BLUE, "--"),
}
PAPER = {
    "facecolor": "#D9D9D9",
    "edgecolor": "#595959",
    "hatch": "////",
    "linewidth": 0.6,
}  # bars of the paper's numbers


def method_style(method: str) -> tuple[str, str]:
    """Colour and line of a method, by any of its names; grey where it has none of its own."""
    return METHOD_STYLES.get(canonical(method), (GREY, "-."))


def new_figure(
    rows: int, columns: int, size: tuple[float, float], **options
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of ``size`` inches and its axes, row by row.

    The figure is closed, so that a notebook shows it only where it is returned.
    """
    options |= {"figsize": size, "dpi": 100, "layout": "constrained", "squeeze": False}
    figure, axes = plt.subplots(rows, columns, **options)
    plt.close(figure)
    return figure, axes.tolist()


def plain_axes(ax: Axes) -> None:
    """Axes with small tick labels and a light grid, without a frame at the top and the right."""
    ax.tick_params(labelsize=8)
    ax.grid(color="#E5E5E5", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def legend_below(figure: Figure, ax: Axes) -> None:
    """The legend of one panel, below the whole figure."""
    handles, names = ax.get_legend_handles_labels()
    if handles:
        figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8, frameon=False)


def save(figure: Figure, path: Path) -> Figure:
    """Write a figure as PNG, whole or not at all; return it, so that the notebook shows it too."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_whole(path, buffer.getvalue())
    return figure
