"""The losses' figures: arrows down the gradient on the zoomed object, losses over a shift, crops."""

import pytest
import torch

from c2dlib import figures

IMAGE = torch.linspace(0, 1, 3 * 40 * 60).reshape(3, 40, 60)
BOXES = torch.tensor([[1.0, 2, 20, 30], [40, 1, 59, 39]])


def test_arrows_go_down_the_gradient_and_the_object_fills_the_panel(drawn):
    truth, box = torch.tensor([20.0, 10, 30, 20]), torch.tensor([22.0, 10, 32, 20])
    gradients = {"loc": torch.tensor([1.0, 0, -2, 0]), "none": torch.zeros(4)}
    figure = drawn(figures.box_gradients(IMAGE, truth, box, gradients))
    ax, flat = figure.axes
    side = 12 * 2  # both boxes and half of their side on either side
    assert ax.get_xlim() == pytest.approx((13.5, 13.5 + side))
    arrows = [(note.xyann, note.xy) for note in ax.texts if getattr(note, "arrow_patch", None)]
    moves = [(x1 - x0, y1 - y0) for (x0, y0), (x1, y1) in arrows]
    longest = 0.16 * side
    assert moves == [pytest.approx(m, abs=1e-4) for m in ((-longest / 2, 0), (0, 0), (longest, 0), (0, 0))]
    assert flat.get_title() == "none"
    assert figure.alt.endswith(
        "of four: loc 1, none 0."
    )  # the left side moves to the truth, the right one away


def test_losses_over_shift_are_scaled_to_one_and_the_title_says_how_steep_they_are(drawn):
    values = {"loc": [6.0, 6, 0, 6, 6], "L1": [4.0, 2, 0, 2, 4]}
    figure = drawn(figures.losses_over_shift([-1.0, -0.5, 0, 0.5, 1], values, "shift"))
    above, below = figure.axes
    assert list(above.lines[0].get_ydata()) == [1, 1, 0, 1, 1]
    assert list(below.lines[0].get_ydata()) == [0, -2, 2, 0]
    title = "Mean outward slope, shift up to 0.25 → beyond:\nloc 2.0 → 0.0, L1 1.0 → 1.0"
    assert above.get_title() == title and title.replace("\n", " ") in figure.alt
    assert below.get_xlabel() == "shift"


def test_moving_crop_shows_every_crop(drawn):
    crops = torch.rand(3, 3, 8, 8) * 255
    figure = drawn(figures.moving_crop(IMAGE, BOXES[[0, 1, 0]], crops))
    assert [ax.get_title() for ax in figure.axes] == ["", "0", "1", "2"]
    whole = figure.axes[0]
    assert [text.get_text() for text in whole.texts] == ["0", "1", "2"]
    colors = [text.get_bbox_patch().get_facecolor() for text in whole.texts]
    assert colors == [ax.spines["top"].get_edgecolor() for ax in figure.axes[1:]]
    assert [text.get_color() for text in whole.texts] == ["black", "white", "white"]  # on orange, red, blue
