"""Figures say what their data say; nothing global changes."""

import dataclasses
import math
from itertools import pairwise

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from c2dlib.evaluation.tide import TYPES
from c2dlib.figures import plots
from c2dlib.records import RunRecord

IMAGE = torch.linspace(0, 1, 3 * 40 * 60).reshape(3, 40, 60)
BOXES = torch.tensor([[1.0, 2, 20, 30], [40, 1, 59, 39]])


def record(student: str, method: str, seed: int, curve: dict) -> RunRecord:
    fields = {"student": student, "method": method, "seed": seed, "curve": curve}
    return RunRecord(**dict.fromkeys(RunRecord.__dataclass_fields__) | fields)


def frame() -> pd.DataFrame:
    nothing = math.nan
    rows = [("A", "baseline", 30.0, 40.0, nothing, nothing, nothing, "done"),
            ("A", "KD", 31.0, nothing, nothing, nothing, nothing, "not run"),
            ("A", "ours", 33.0, 41.5, 1.5, 0.5, 2.5, "done"),
            ("A", "KDcls-labels", nothing, 39.0, -1.0, nothing, nothing, "done"),
            ("B", "baseline", 20.0, 25.0, nothing, nothing, nothing, "done"),
            ("B", "ours", 22.0, nothing, nothing, nothing, nothing, "failed: step 7: loss term loc is nan")]
    columns = ["student", "method", "paper_mAP", "mAP", "gain", "gain_low", "gain_high", "status"]
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture(autouse=True)
def no_traces():
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == []  # nothing is shown twice, nothing leaks


def drawn(figure: Figure) -> Figure:
    figure.canvas.draw()
    return figure


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_table_bars_shows_the_papers_gain_ours_and_why_there_is_none():
    a, b = drawn(plots.table_bars(frame())).axes
    widths = [bar.get_width() for bar in a.patches]
    assert widths == pytest.approx([1.0, 3.0, 1.5, -1.0])  # KD paper; ours paper and ours; the control
    assert texts(a) == ["not run"] and texts(b) == ["failed"]
    assert a.get_title() == "A\n30.0 | 40.0"
    intervals = [line.get_xdata() for line in a.lines if len(set(line.get_xdata())) == 2]
    assert [list(x) for x in intervals] == [[0.5, 2.5]]
    assert [label.get_text() for label in a.get_yticklabels()] == ["KD", "C2D", "KDcls-labels"]


def test_table_bars_without_a_baseline_or_any_method():
    only = frame()[frame().method == "ours"].assign(gain=math.nan)
    a, _ = drawn(plots.table_bars(only)).axes
    assert texts(a) == ["no baseline"] and len(a.patches) == 0
    drawn(plots.table_bars(frame()[frame().method == "baseline"]))


def test_ap_over_iou_subtracts_each_ones_own_baseline():
    ours = {f"AP{iou}": [20.0, 20.0 + iou / 10] for iou in range(50, 100, 5)}
    paper = {f"paper_AP{iou}": [40.0, 43.0] for iou in range(50, 100, 5)}
    figure = drawn(plots.ap_over_iou(pd.DataFrame(
        {"student": "A", "method": ["baseline", "KDcls"], "paper_mAP": 1.0, **ours, **paper})))
    (ax,) = figure.axes
    theirs, mine = (line.get_ydata() for line in ax.lines if len(line.get_ydata()) == 10)
    assert list(theirs) == [3.0] * 10 and list(mine) == pytest.approx([iou / 10 for iou in range(50, 100, 5)])
    assert [t.get_text() for t in figure.legends[0].texts] == ["KDcls", "paper", "ours"]


def test_curves_separate_the_detectors_losses_from_the_distillation():
    curve = {"step": [10, 20, 30], "classification": [3.0, 2.0, 1.0], "bbox_regression": [1.0, 1.0, 1.0]}
    taught = curve | {"KDcls": [0.5, 0.4, 0.3], "loc": [0.1, 0.1, 0.1], "fkd_spatial": [1.0, 1.0, 1.0]}
    figure = drawn(plots.curves([record("A", "baseline", 0, curve), record("A", "KDcls+loc+FKD", 0, taught)]))
    above, below = figure.axes
    assert [list(line.get_ydata()) for line in above.lines] == [[4.0, 3.0, 2.0]] * 2
    assert list(below.lines[0].get_ydata()) == pytest.approx([1.6, 1.5, 1.4]) and len(below.lines) == 1


def test_curves_take_no_rivals_terms_for_the_detectors_and_show_what_is_far_larger():
    curve = {"step": [10, 20, 30], "loss_classifier": [3.0, 2.0, 1.0], "loss_box_reg": [1.0, 1.0, 1.0]}
    added = {"KD": {"kd_hint": [3000.0, 90.0, 9.0], "kd_rcnn_class": [1.0, 1.0, 1.0]}, "FGFI": {"fgfi": [5.0, 4.0, 3.0]},
             "GID": {"gid_box": [0.5, 0.4, 0.3]}, "AT": {"at": [0.5, 0.4, 0.3]}, "DeFeat": {"defeat_objects": [2.0, 2.0, 2.0]}}
    for rivals, scale in ((added, "log"), ({k: v for k, v in added.items() if k != "KD"}, "linear")):
        above, below = drawn(plots.curves([record("A", name, 0, curve | terms) for name, terms in rivals.items()])).axes
        assert all(list(line.get_ydata()) == [4.0, 3.0, 2.0] for line in above.lines) and above.get_yscale() == "linear"
        assert len(below.lines) == len(rivals) and below.get_yscale() == scale


def test_curves_of_nothing_and_of_one_step():
    drawn(plots.curves([]))
    figure = drawn(plots.curves([record("A", "baseline", 0, {"step": [4], "classification": [2.0]})]))
    assert figure.axes[0].lines[0].get_marker() == "o"


def test_show_image_draws_every_box_with_its_text_inside_the_image():
    figure, axes = plots._figure(1, 1, (3, 3))
    ax = plots.show_image(axes[0][0], (IMAGE * 255).to(torch.uint8), BOXES, ["one", "two"])
    drawn(figure)
    assert texts(ax) == ["one", "two"] and len(ax.patches) == 4  # a white edge under each coloured one
    frame = ax.get_window_extent()
    for text in ax.texts:
        extent = text.get_window_extent()
        assert frame.x0 - 2 <= extent.x0 and extent.x1 <= frame.x1 + 2


def test_show_crops_marks_the_truth_among_the_bars():
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1]])
    crops, maps = torch.rand(2, 3, 8, 8) * 255, torch.randn(2, 4, 3, 3)
    figure = drawn(plots.show_crops(crops, torch.tensor([0, 1]), probabilities, ["a", "b", "c"], maps))
    bars = figure.axes[4:]
    assert texts(bars[0]) == ["a  0.70", "b  0.20", "c  0.10"]
    green = matplotlib.colors.to_rgb(plots.GREEN)
    assert [[bar.get_facecolor()[:3] == green for bar in ax.patches] for ax in bars] == [[True, False, False],
                                                                                        [False, True, False]]
    drawn(plots.show_crops(torch.rand(9, 3, 8, 8), torch.zeros(9, dtype=torch.int64), torch.ones(9, 1), ["a"],
                           torch.randn(9, 4, 3, 3)))  # more than fit, and a single class


def test_detections_in_red_beside_the_truth_in_blue():
    found = {"ours": (BOXES[:1], ["a 0.9"]), "none": (BOXES[:0], [])}
    figure = drawn(plots.detections(IMAGE, (BOXES, ["a", "b"]), found))
    assert [ax.get_title() for ax in figure.axes] == ["ground truth", "ours", "none"]
    edges = [matplotlib.colors.to_hex(ax.patches[1].get_edgecolor()).upper() for ax in figure.axes[:2]]
    assert edges == [plots.BLUE, plots.RED]


def test_surest_takes_the_highest_scores_in_order():
    class Detector(torch.nn.Module):
        def forward(self, images):
            return [{"boxes": torch.arange(12.0).reshape(3, 4), "labels": torch.tensor([1, 2, 2]),
                     "scores": torch.tensor([0.1, 0.9, 0.5])}]

    boxes, found = plots.surest(Detector(), IMAGE, ["a", "b"], 2)
    assert boxes[:, 0].tolist() == [4, 8] and found == ["b 0.90", "b 0.50"]


def test_curves_tell_rows_of_one_method_apart():
    runs = [record("A", "KDcls", 0, {"step": [1, 2, 3], "loss": [v, v, v]}) for v in (3.0, 2.0)]
    runs = [dataclasses.replace(r, hash=str(i)) for i, r in enumerate(runs)]
    above = drawn(plots.curves(runs, {"0": "KDcls, T 1", "1": "KDcls, T 2"})).axes[0]
    assert len({line.get_color() for line in above.lines}) == 2
    above = drawn(plots.curves(runs)).axes[0]
    assert len({line.get_color() for line in above.lines}) == 1


def by_iou(cost=12.0) -> pd.DataFrame:
    """Two methods, two seeds, two thresholds; the distilled loses 2 points less to Cls."""
    return pd.DataFrame([
        {"student": "A", "method": method, "seed": seed, "origin": "a", "IoU": iou, **dict.fromkeys(TYPES, 0.0),
         "Cls": max(cost + seed - 2 * (method == "ours"), 0) if cost else 0.0}
        for method in ("baseline", "ours") for seed in (0, 1) for iou in (50, 75)])


def test_errors_over_iou_draws_the_mean_and_every_seed():
    above, below = drawn(plots.errors_over_iou(by_iou())).axes
    means = {line.get_label(): list(line.get_ydata()) for line in above.lines if not line.get_label().startswith("_")}
    assert means == {"baseline": [12.5, 12.5], "ours": [10.5, 10.5]}
    assert sorted(y for line in above.lines if line.get_marker() == "." for y in line.get_ydata()) == [
        10, 10, 11, 11, 12, 12, 13, 13]
    assert above.get_ylim()[0] == below.get_ylim()[0] == 0 and above.get_ylim()[1] >= 13


def test_change_over_iou_has_a_line_and_a_band_per_method():
    lines = pd.DataFrame([{"student": "A", "method": m, "IoU": iou, "type": "AP_boxes", "dAP": 30.0, "seeds": 2}
                          | ({} if m == "baseline" else {"change": 1.5, "change_low": 1.0, "change_high": 2.0})
                          for m in ("baseline", "ours") for iou in (50, 75)])
    ax, = drawn(plots.change_over_iou(lines, "AP of the boxes")).axes
    assert {line.get_label(): list(line.get_ydata()) for line in ax.lines if not line.get_label().startswith("_")} == {
        "ours": [1.5, 1.5]}
    (band,) = ax.collections
    assert sorted({y for _, y in band.get_paths()[0].vertices.tolist()}) == [1.0, 2.0] and not texts(ax)
    ax, = drawn(plots.change_over_iou(lines.assign(dAP=float("nan"), change=float("nan")), "AP")).axes
    assert texts(ax) == ["not measured"]


def test_error_bars_of_a_perfect_detector_are_flat_and_whole():
    ax, = drawn(plots.error_bars(by_iou())).axes
    assert [bar.get_height() for bar in ax.patches][::6] == [12.5, 10.5]
    ax, = drawn(plots.error_bars(by_iou(cost=0))).axes
    assert len(ax.patches) == 12 and {bar.get_height() for bar in ax.patches} == {0}
    assert [tick.get_text() for tick in ax.get_xticklabels()] == TYPES
    drawn(plots.error_bars(by_iou().iloc[:0]))  # nothing finished yet
    drawn(plots.errors_over_iou(by_iou().iloc[:0]))


def test_errors_per_class_shows_the_change():
    frame = pd.DataFrame([{"student": "A", "method": m, "seed": 0, "class": c, **dict.fromkeys(TYPES, 0.0), "Loc": v}
                          for m, values in (("baseline", (5, 6)), ("ours", (2, 6))) for c, v in zip("xy", values, strict=True)])
    ax = drawn(plots.errors_per_class(frame, "ours")).axes[0]
    assert ax.get_images()[0].get_array()[:, TYPES.index("Loc")].tolist() == [-3, 0] and texts(ax) == ["-3"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["x", "y"]
    whole = frame.replace({"method": {"ours": "KDcls+loc+KDloc"}})  # the paper's name of the same
    assert texts(drawn(plots.errors_per_class(whole, "ours")).axes[0]) == ["-3"]
    alone = drawn(plots.errors_per_class(frame[frame.method == "ours"], "ours"))
    assert texts(alone.axes[0]) == ["no student has runs of both KDcls+loc+KDloc and baseline"]


def test_best_of_shows_each_place_once():
    rows = [{"image_id": 1, "category_id": 3, "bbox": [0, 0, 10, 10], "score": 0.5},
            {"image_id": 1, "category_id": 7, "bbox": [0, 0, 10, 9], "score": 0.6},  # the same place, surer
            {"image_id": 1, "category_id": 3, "bbox": [20, 20, 10, 10], "score": 0.4},
            {"image_id": 2, "category_id": 3, "bbox": [0, 0, 10, 10], "score": 0.9}]
    boxes, said = plots.best_of(rows, 1, {3: "bun", 7: "cup"}, 5)
    assert said == ["cup 0.60", "bun 0.40"] and boxes.tolist() == [[0, 0, 10, 9], [20, 20, 30, 30]]
    boxes, said = plots.best_of(rows, 9, {}, 5)
    assert boxes.shape == (0, 4) and said == []
    truth = BOXES, ["a", "b"]
    figure = drawn(plots.compare([("gained", IMAGE, truth, {"ours": (boxes, said)})] * 2))
    assert [ax.get_title() for ax in figure.axes] == ["ground truth", "ours", "", ""]


def test_pulls_go_down_the_gradient():
    ax, flat = drawn(plots.pulls(IMAGE, BOXES[0], BOXES[1], {"loc": torch.tensor([1.0, 0, -2, 0]),
                                                             "none": torch.zeros(4)})).axes
    arrows = [(note.xyann, note.xy) for note in ax.texts if getattr(note, "arrow_patch", None)]
    moves = [(x1 - x0, y1 - y0) for (x0, y0), (x1, y1) in arrows]
    longest = 0.18 * 60  # of the image's width
    assert moves == [pytest.approx(m, abs=1e-4) for m in ((-longest / 2, 0), (0, 0), (longest, 0), (0, 0))]
    assert flat.get_title() == "none"


def test_reliability_and_confusion_say_how_often():
    probabilities = torch.tensor([[0.95, 0.05], [0.95, 0.05], [0.4, 0.6], [0.05, 0.95]])
    above, below = drawn(plots.reliability(probabilities, torch.tensor([0, 1, 1, 1]))).axes
    assert [bar.get_height() for bar in above.patches] == pytest.approx([1, 2 / 3])  # at 0.6; at 0.95 two of three
    assert sum(bar.get_height() for bar in below.patches) == 4
    ax = drawn(plots.confusion(torch.tensor([[0.75, 0.25], [0.0, 1.0]]), ["x", "y"])).axes[0]
    assert texts(ax) == ["75", "25", "100"]


def test_over_share_has_a_line_per_method():
    frame = pd.DataFrame([{"student": "A", "method": m, "train_share": s, "mAP": v, "mAP_sd": math.nan}
                          for m, s, v in (("baseline", 0.5, 10), ("baseline", 1, 20), ("KDcls", 0.5, 15), ("KDcls", 1, 21))])
    ax, = drawn(plots.over_share(frame, 300)).axes
    lines = [line for line in ax.lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in lines] == [[150, 300]] * 2
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["150", "300"]


def test_losses_over_error_are_scaled_to_one():
    above, below = drawn(plots.over_error([-1.0, 0, 1], {"loc": [4.0, 0, 2]}, "shift")).axes
    assert list(above.lines[0].get_ydata()) == [1, 0, 0.5] and list(below.lines[0].get_ydata()) == [-1, 0.5]


def test_follow_and_attention_show_every_crop():
    crops = torch.rand(3, 3, 8, 8) * 255
    assert len(drawn(plots.follow(IMAGE, BOXES[[0, 1, 0]], crops)).axes) == 4
    figure = drawn(plots.attention_maps(crops, torch.randn(3, 8, 8), ["a", "b", "c"]))
    assert [ax.get_title() for ax in figure.axes[:3]] == ["a", "b", "c"]
    panels = drawn(plots.softened({"T = 1": torch.tensor([0.9, 0.1])}, ["x", "y"], 1)).axes
    assert [bar.get_width() for bar in panels[0].patches] == pytest.approx([0.9, 0.1])


def test_gain_over_cost_leaves_out_what_has_no_gain_or_no_time():
    data = frame().assign(relative_seconds=[1.0, 1.2, 1.5, math.nan, 1.0, 1.4])
    figure = drawn(plots.gain_over_cost(data))
    (ax,) = figure.axes
    assert texts(ax) == ["ours"] and ax.get_title() == "A"
    point, interval, zero = ax.lines
    assert point.get_xydata().tolist() == [[1.5, 1.5]] and interval.get_ydata().tolist() == [0.5, 2.5]
    assert zero.get_ydata() == [0, 0]
    empty = drawn(plots.gain_over_cost(data.iloc[:1]))
    assert not empty.axes[0].lines[:-1]


def test_names_beside_the_points_do_not_overlap():
    rows = [("A", f"ours+{n}", 0.001 * i, math.nan, math.nan, 1.5) for i, n in enumerate(["KD", "FGFI", "GID", "FKD", "PKD", "AT"] * 3)]
    data = pd.DataFrame(rows, columns=["student", "method", "gain", "gain_low", "gain_high", "relative_seconds"])
    figure = drawn(plots.gain_over_cost(data))
    places = [text.xyann[1] for text in figure.axes[0].texts]  # share of the axes' height
    assert len(places) == 18 and all(b - a > 0.05 for a, b in pairwise(places)) and 0 <= places[0] and places[-1] <= 1
    assert [text.get_text() for text in figure.axes[0].texts] == data.method.tolist()  # by rising gain
