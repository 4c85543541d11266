"""The losses' figures: curves per run, arrows down the gradient, losses over a shift."""

import dataclasses

import pytest
import torch

from c2dlib import figures
from c2dlib.records import RunRecord

IMAGE = torch.linspace(0, 1, 3 * 40 * 60).reshape(3, 40, 60)
BOXES = torch.tensor([[1.0, 2, 20, 30], [40, 1, 59, 39]])


def record(student: str, method: str, seed: int, curve: dict) -> RunRecord:
    fields = {"student": student, "method": method, "seed": seed, "curve": curve}
    return RunRecord(**dict.fromkeys(RunRecord.__dataclass_fields__) | fields)


def test_curves_separate_the_detectors_losses_from_the_distillation(drawn):
    curve = {"step": [10, 20, 30], "classification": [3.0, 2.0, 1.0], "bbox_regression": [1.0, 1.0, 1.0]}
    taught = curve | {"KDcls": [0.5, 0.4, 0.3], "loc": [0.1, 0.1, 0.1], "fkd_spatial": [1.0, 1.0, 1.0]}
    figure = drawn(
        figures.training_curves([record("A", "baseline", 0, curve), record("A", "KDcls+loc+FKD", 0, taught)])
    )
    above, below = figure.axes
    assert [list(line.get_ydata()) for line in above.lines] == [[4.0, 3.0, 2.0]] * 2
    assert list(below.lines[0].get_ydata()) == pytest.approx([1.6, 1.5, 1.4]) and len(below.lines) == 1


def test_curves_tell_imitation_terms_from_the_detectors_and_show_far_larger_ones_on_a_log_scale(drawn):
    curve = {"step": [10, 20, 30], "loss_classifier": [3.0, 2.0, 1.0], "loss_box_reg": [1.0, 1.0, 1.0]}
    added = {
        "KD": {"kd_hint": [3000.0, 90.0, 9.0], "kd_rcnn_class": [1.0, 1.0, 1.0]},
        "FGFI": {"fgfi": [5.0, 4.0, 3.0]},
        "GID": {"gid_box": [0.5, 0.4, 0.3]},
        "AT": {"at": [0.5, 0.4, 0.3]},
        "DeFeat": {"defeat_objects": [2.0, 2.0, 2.0]},
    }
    for imitations, scale in ((added, "log"), ({k: v for k, v in added.items() if k != "KD"}, "linear")):
        above, below = drawn(
            figures.training_curves(
                [record("A", name, 0, curve | terms) for name, terms in imitations.items()]
            )
        ).axes
        assert (
            all(list(line.get_ydata()) == [4.0, 3.0, 2.0] for line in above.lines)
            and above.get_yscale() == "linear"
        )
        assert len(below.lines) == len(imitations) and below.get_yscale() == scale


def test_curves_of_nothing_and_of_one_step(drawn):
    drawn(figures.training_curves([]))
    figure = drawn(
        figures.training_curves([record("A", "baseline", 0, {"step": [4], "classification": [2.0]})])
    )
    assert figure.axes[0].lines[0].get_marker() == "o"


def test_curves_tell_rows_of_one_method_apart(drawn):
    runs = [record("A", "KDcls", 0, {"step": [1, 2, 3], "loss": [v, v, v]}) for v in (3.0, 2.0)]
    runs = [dataclasses.replace(r, hash=str(i)) for i, r in enumerate(runs)]
    above = drawn(figures.training_curves(runs, {"0": "KDcls, T 1", "1": "KDcls, T 2"})).axes[0]
    assert len({line.get_color() for line in above.lines}) == 2
    above = drawn(figures.training_curves(runs)).axes[0]
    assert len({line.get_color() for line in above.lines}) == 1


def test_arrows_go_down_the_gradient(drawn):
    ax, flat = drawn(
        figures.box_gradients(
            IMAGE, BOXES[0], BOXES[1], {"loc": torch.tensor([1.0, 0, -2, 0]), "none": torch.zeros(4)}
        )
    ).axes
    arrows = [(note.xyann, note.xy) for note in ax.texts if getattr(note, "arrow_patch", None)]
    moves = [(x1 - x0, y1 - y0) for (x0, y0), (x1, y1) in arrows]
    longest = 0.18 * 60  # of the image's width
    assert moves == [pytest.approx(m, abs=1e-4) for m in ((-longest / 2, 0), (0, 0), (longest, 0), (0, 0))]
    assert flat.get_title() == "none"


def test_losses_over_shift_are_scaled_to_one(drawn):
    above, below = drawn(figures.losses_over_shift([-1.0, 0, 1], {"loc": [4.0, 0, 2]}, "shift")).axes
    assert list(above.lines[0].get_ydata()) == [1, 0, 0.5] and list(below.lines[0].get_ydata()) == [-1, 0.5]


def test_moving_crop_shows_every_crop(drawn):
    crops = torch.rand(3, 3, 8, 8) * 255
    assert len(drawn(figures.moving_crop(IMAGE, BOXES[[0, 1, 0]], crops)).axes) == 4
