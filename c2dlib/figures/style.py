"""One style for all figures: how a figure is made, shown, described and saved; its colours, axes and legend.

- A figure is at most ``PAGE`` inches wide, the width of a page on GitHub and of an exported notebook, and its
  text has at least 9 points there. It is a PNG of twice the pixels of that width with a palette of 256
  colours: a third of the bytes of one without, for photographs too, and fewer than an SVG of many marks.
  Photographs beside a colour bar have none: what the bar explains has its exact colour.
- Every function of this package that makes a figure returns a ``Picture``, which has a text for those who
  cannot see it. matplotlib's global settings are not changed: ``@rc_context(STYLE)`` holds inside a function.
- No meaning is in a colour alone: methods also differ in their lines, detections in their lines and marks.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from IPython.display import publish_display_data
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from PIL import Image, PngImagePlugin

from c2dlib.config.methods import canonical
from c2dlib.files import write_whole

PAGE = 8.7  # inches
PIXELS = 96  # of a page per inch
SHARPNESS = 2  # pixels of the PNG per pixel of a page
TEXT, TITLE = 9, 10  # points
STYLE = {
    "font.size": TEXT,
    "axes.labelsize": TEXT,
    "axes.titlesize": TITLE,
    "xtick.labelsize": TEXT,
    "ytick.labelsize": TEXT,
    "legend.fontsize": TEXT,
    "figure.titlesize": TITLE,
    "figure.labelsize": TEXT,
    "legend.frameon": False,
}
# Okabe and Ito's colours, safe for the colour-blind, and a grey dark enough to differ from each
BLUE, GREEN, RED, GREY = "#0072B2", "#009E73", "#D55E00", "#555555"
LIGHT_BLUE, ORANGE, PINK = "#56B4E9", "#E69F00", "#CC79A7"
FAINT = "#CCCCCC"  # of what is only a reference
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


class Picture(Figure):
    """A figure with a text for those who cannot see it, in the notebook's metadata and in the PNG."""

    alt = ""

    def draw(self, renderer: RendererBase) -> None:
        """As a figure; ticks that are made only now have the style too."""
        with rc_context(STYLE):
            super().draw(renderer)

    def png(self) -> bytes:
        """The PNG, of ``SHARPNESS`` times the size in which it is shown."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=SHARPNESS * PIXELS)
        image = Image.open(buffer).convert("RGB")
        photographs = any(shown.get_array().ndim == 3 for ax in self.axes for shown in ax.images)
        if not photographs:
            image = _with_palette(image)
        elif not any(ax.get_label() == "<colorbar>" for ax in self.axes):  # matplotlib's label
            image = image.quantize(256, Image.Quantize.MEDIANCUT)
        text, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
        text.add_itxt("Description", self.alt)
        image.save(buffer, "png", optimize=True, pnginfo=text)
        return buffer.getvalue()

    def size(self) -> dict[str, int]:
        """``width`` and ``height`` in pixels of a page."""
        width, height = self.get_size_inches()
        return {"width": round(PIXELS * width), "height": round(PIXELS * height)}

    def _ipython_display_(self) -> None:
        publish_display_data(
            {"image/png": base64.b64encode(self.png()).decode(), "text/plain": self.alt},
            {"image/png": self.size() | {"alt": self.alt}},
        )


def _with_palette(image: Image.Image) -> Image.Image:
    """A chart in its 256 most frequent colours: those are exact, the rest are shades of soft edges."""
    pixels = np.asarray(image, np.int64) @ np.array([1 << 16, 1 << 8, 1])
    found, place, counts = np.unique(pixels, return_inverse=True, return_counts=True)
    colors = np.stack([found >> 16, found >> 8 & 255, found & 255], 1)  # [N, 3]
    palette = colors[counts.argsort()[::-1][:256]]
    nearest = np.concatenate(
        [
            ((some[:, None] - palette) ** 2).sum(2).argmin(1)
            for some in np.array_split(colors, 1 + len(colors) // 1000)
        ]
    )
    reduced = Image.fromarray(nearest[place].reshape(pixels.shape).astype(np.uint8), "P")
    reduced.putpalette(palette.astype(np.uint8).tobytes())
    return reduced


def method_style(method: str) -> tuple[str, str]:
    """Colour and line of a method, by any of its names; grey where it has none of its own."""
    return METHOD_STYLES.get(canonical(method), (GREY, "-."))


def new_picture(size: tuple[float, float]) -> Picture:
    """An empty figure of ``size`` inches, at most ``PAGE`` wide, which pyplot does not know."""
    return Picture(figsize=(min(size[0], PAGE), size[1]), dpi=PIXELS, layout="constrained")


def new_figure(
    rows: int, columns: int, size: tuple[float, float], **options
) -> tuple[Picture, list[list[Axes]]]:
    """A figure of ``size`` inches, at most ``PAGE`` wide, and its axes, row by row."""
    figure = new_picture(size)
    return figure, figure.subplots(rows, columns, squeeze=False, **options).tolist()


def plain_axes(ax: Axes, grid: str = "both") -> None:
    """Axes with a light grid and without a frame at the top and the right.

    Args:
        grid: along which axis: both, x or y.
    """
    ax.grid(axis=grid, color="#E5E5E5", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


class AtDrawing(Artist):
    """Calls ``place(renderer)`` when its axes are drawn, before what they hold: their size is known then."""

    def __init__(self, ax: Axes, place: Callable[[RendererBase], None]):
        super().__init__()
        self.place = place
        self.set(zorder=-1, in_layout=False)
        ax.add_artist(self)

    def draw(self, renderer: RendererBase) -> None:
        """Calls ``place``; draws nothing itself."""
        self.place(renderer)


def legend_above(
    figure: Figure, axes: list[Axes], columns: int = 6, title: str = "", order: tuple[str, ...] = ()
) -> None:
    """One legend for all panels, above the figure: every name once, only names of what is drawn.

    Args:
        title: above the names.
        order: names that come first, in this order.
    """
    keys: dict = {}
    for ax in axes:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            keys.setdefault(name, handle)
    names = [name for name in order if name in keys] + [name for name in keys if name not in order]
    show_legend(figure, [keys[name] for name in names], names, columns, title)


def show_legend(figure: Figure, keys: list, names: list[str], columns: int = 6, title: str = "") -> None:
    """A legend above the figure, in at most ``columns`` columns and no wider than it.

    It is only the title if there are no keys.
    """
    if keys or title:
        figure.legend(
            keys,
            names,
            loc="outside upper center",
            ncols=_columns_that_fit(names, columns, figure.get_figwidth()),
            title=title or None,
            title_fontsize=TITLE,
            columnspacing=1.4,
        )


def _columns_that_fit(names: list[str], most: int, width: float) -> int:
    """The largest number of columns, up to ``most``, of a legend that is not wider than ``width`` inches."""
    for columns in range(min(most, len(names)), 1, -1):
        rows = -(-len(names) // columns)
        longest = [max(map(len, names[i : i + rows])) for i in range(0, len(names), rows)]
        if sum(0.07 * letters + 0.55 for letters in longest) <= width:  # a letter; key and space
            return columns
    return 1


def listed(items: list[str], most: int = 12) -> str:
    """``a, b and 3 more``: a list in a description that is read aloud."""
    shown = ", ".join(items[:most])
    return f"{shown} and {len(items) - most} more" if len(items) > most else shown


def save(figure: Picture, path: Path) -> Picture:
    """Write a figure as PNG, whole or not at all; return it, so that the notebook shows it too."""
    write_whole(path, figure.png())
    return figure
