"""Names and styles of methods; a figure as it is shown and saved, with its text; colours in every eye."""

import base64
import io
import json
from itertools import combinations

import numpy as np
import pytest
from matplotlib import colormaps, rc_context
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from PIL import Image

from c2dlib.figures import style
from c2dlib.figures.style import METHOD_STYLES, PAGE, legend_above, method_style, new_figure, plain_axes, save

# Machado, Oliveira and Fernandes 2009: linear RGB as it is seen without the green cones
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = np.array([0.9505, 1.0, 1.089])


def lab(color: str, seen: np.ndarray) -> np.ndarray:
    """CIE Lab of a colour as an eye sees it whose cones change linear RGB by the matrix ``seen``."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = np.cbrt(XYZ @ np.clip(seen @ linear, 0, 1) / WHITE)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_the_ruler_of_colours_knows_black_from_white():
    assert np.linalg.norm(lab("white", np.eye(3)) - lab("black", np.eye(3))) == pytest.approx(116, abs=1)
    red_green = [np.linalg.norm(lab("#FF0000", m) - lab("#A0A000", m)) for m in (np.eye(3), DEUTERANOPIA)]
    assert red_green[1] < 0.5 * red_green[0]


@pytest.mark.parametrize("seen", [np.eye(3), DEUTERANOPIA], ids=["all cones", "deuteranopia"])
def test_no_two_colours_look_alike(seen):
    colors = [style.BLUE, style.GREEN, style.RED, style.GREY, style.LIGHT_BLUE, style.ORANGE, style.PINK]
    for one, other in combinations([*colors, style.FAINT, "#000000"], 2):
        assert np.linalg.norm(lab(one, seen) - lab(other, seen)) > 15, (one, other)


def test_methods_of_one_colour_have_different_lines():
    assert len(set(METHOD_STYLES.values())) == len(METHOD_STYLES)


def test_a_method_has_one_style_by_any_name():
    assert method_style("ours") == method_style("KDcls+loc+KDloc") == METHOD_STYLES["KDcls+loc+KDloc"]
    assert method_style("PKD") == (style.GREY, "-.")  # none of its own


def test_a_figure_is_no_wider_than_a_page():
    figure, _ = new_figure(1, 1, (20, 1))
    assert figure.size() == {"width": round(96 * PAGE), "height": 96}


def test_a_saved_figure_has_twice_the_pixels_its_text_and_its_exact_colours(tmp_path):
    figure, ((ax,),) = new_figure(1, 1, (2, 1))
    plain_axes(ax)
    ax.bar([0, 1], [1, 2], color=[style.BLUE, style.GREEN])
    figure.alt = "λ_kc: 1 → 2"
    assert save(figure, tmp_path / "figure.png") is figure
    image = Image.open(tmp_path / "figure.png")
    assert image.size == (384, 192) and image.mode == "P" and image.text["Description"] == figure.alt
    colors = {color for _, color in image.convert("RGB").getcolors(1 << 20)}
    wanted = [style.BLUE, style.GREEN, "#E5E5E5", "#FFFFFF", "#000000"]
    assert {tuple(round(255 * v) for v in to_rgb(color)) for color in wanted} <= colors


def test_a_photographs_palette_is_close_to_its_colours():
    figure, ((ax,),) = new_figure(1, 1, (2, 2))
    x, y = np.mgrid[0:1:40j, 0:1:40j]
    ax.imshow(np.stack([x, y, (x + y) / 2], 2))
    ax.set(xticks=[], yticks=[])
    image = Image.open(io.BytesIO(figure.png()))
    assert image.mode == "P"
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=192)
    exact = np.asarray(Image.open(buffer).convert("RGB"), float)
    assert np.abs(np.asarray(image.convert("RGB")) - exact).mean() < 5


def test_a_colour_bar_has_its_exact_colours():
    """Beside a picture of other colours, too."""
    figure, ((ax, other),) = new_figure(1, 2, (4, 2))
    x, y = np.mgrid[0:1:40j, 0:1:40j]
    other.imshow(np.stack([x, y, (x + y) / 2], 2))
    colors = ScalarMappable(Normalize(-1, 1), colormaps["PuOr_r"])
    figure.colorbar(colors, ax=ax)
    shown = {color for _, color in Image.open(io.BytesIO(figure.png())).convert("RGB").getcolors(1 << 20)}
    middle = [tuple(round(255 * v) for v in colors.to_rgba(value)[:3]) for value in (-0.5, 0.2, 0.7)]
    assert set(middle) <= shown


def test_a_notebook_shows_the_figure_at_its_size_with_its_text(monkeypatch):
    shown = []
    monkeypatch.setattr(style, "publish_display_data", lambda data, metadata: shown.append((data, metadata)))
    figure, _ = new_figure(1, 1, (2, 1))
    figure.alt = "nothing"
    figure._ipython_display_()
    ((data, metadata),) = shown
    assert json.dumps(data) and base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert data["text/plain"] == "nothing"
    assert metadata == {"image/png": {"width": 192, "height": 96, "alt": "nothing"}}


@pytest.mark.parametrize("width", [3.0, 5.0, 8.7])
def test_a_legend_is_not_wider_than_its_figure(drawn, width):
    with rc_context(style.STYLE):
        figure, ((ax,),) = new_figure(1, 1, (width, 3))
        for name in ("baseline", "KDcls", "loc", "loc+KDloc", "C2D", "KDcls-labels"):
            ax.plot([0, 1], label=name)
        legend_above(figure, [ax])
    figure.alt = "a line of each of six methods"
    box = drawn(figure).legends[0].get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width
