"""Curves: a panel per row of a table, the baseline in each; mAP on val with its last third."""

import dataclasses

import pytest

from c2dlib import figures
from c2dlib.records import RunRecord

CURVE = {"step": [10, 20, 30], "classification": [3.0, 2.0, 1.0], "bbox_regression": [1.0, 1.0, 1.0]}


def record(student: str, method: str, curve: dict, **more) -> RunRecord:
    fields = {
        "student": student,
        "method": method,
        "seed": 0,
        "curve": curve,
        "validation": {},
        "experiment": {},
    }
    return RunRecord(**dict.fromkeys(RunRecord.__dataclass_fields__) | fields | more)


def lines(ax) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in ax.lines}


def test_a_panel_has_the_baselines_losses_the_detectors_and_the_distillation_terms(drawn):
    taught = CURVE | {"KDcls": [0.5, 0.4, 0.3], "loc": [0.1, 0.1, 0.1], "fkd_spatial": [1.0, 1.0, 1.0]}
    runs = [record("A", "baseline", CURVE), record("A", "KDcls+loc+FKD", taught)]
    figure = drawn(figures.training_curves(runs))
    (ax,) = figure.axes
    assert lines(ax) == {
        "baseline: detector's losses": [4.0, 3.0, 2.0],
        "detector's losses": [4.0, 3.0, 2.0],
        "distillation terms": pytest.approx([1.6, 1.5, 1.4]),
    }
    assert ax.get_title() == "KDcls+loc+FKD" and "4 → 2" in figure.alt


def test_imitation_terms_are_told_from_the_detectors_losses(drawn):
    curve = {"step": [10, 20, 30], "loss_classifier": [3.0, 2.0, 1.0], "loss_box_reg": [1.0, 1.0, 1.0]}
    added = {
        "KD": {"kd_hint": [3000.0, 90.0, 9.0], "kd_rcnn_class": [1.0, 1.0, 1.0]},
        "FGFI": {"fgfi": [5.0, 4.0, 3.0]},
        "GID": {"gid_box": [0.5, 0.4, 0.3]},
        "AT": {"at": [0.5, 0.4, 0.3]},
        "DeFeat": {"defeat_objects": [2.0, 2.0, 2.0]},
    }
    figure = drawn(
        figures.training_curves([record("A", name, curve | terms) for name, terms in added.items()])
    )
    for ax, terms in zip(figure.axes, added.values(), strict=True):
        assert lines(ax)["detector's losses"] == [4.0, 3.0, 2.0]
        assert lines(ax)["distillation terms"] == [
            sum(values) for values in zip(*terms.values(), strict=True)
        ]
    assert len({ax.get_ylim() for ax in figure.axes}) == 1


def test_curves_of_nothing_and_of_one_step(drawn):
    drawn(figures.training_curves([]))
    (ax,) = drawn(
        figures.training_curves([record("A", "baseline", {"step": [4], "classification": [2.0]})])
    ).axes
    assert ax.lines[0].get_marker() == "o" and ax.get_title() == "baseline"  # it has a panel if it is alone


def test_each_row_has_its_panel_and_the_baseline_of_its_setting(drawn):
    values = {"0": 3.0, "1": 2.0, "2": 9.0, "3": 8.0}
    names = {
        "0": "KDcls, share 0.5",
        "1": "KDcls, share 1",
        "2": "baseline, share 0.5",
        "3": "baseline, share 1",
    }
    runs = [
        record("A", names[i].split(",")[0], {"step": [1, 2], "loss": [v, v]}, hash=i)
        for i, v in values.items()
    ]
    figure = drawn(figures.training_curves(runs, names))
    assert [(ax.get_title(), lines(ax)["baseline: detector's losses"]) for ax in figure.axes] == [
        ("KDcls, share 0.5", [9, 9]),
        ("KDcls, share 1", [8, 8]),
    ]


def test_the_longest_run_is_drawn_to_its_end(drawn):
    lengths = {"KDcls": 800, "loc": 2400}
    runs = [record("A", m, {"step": [10, last], "loss": [2.0, 1.0]}) for m, last in lengths.items()]
    for ax in drawn(figures.training_curves(runs)).axes:
        assert ax.get_xlim()[0] == 0 and ax.get_xlim()[1] >= 2400


def test_students_have_rows_of_their_own(drawn):
    runs = [
        record(s, m, CURVE) for s, methods in (("A", ["KDcls", "loc"]), ("B", ["KDcls"])) for m in methods
    ]
    figure = drawn(figures.training_curves(runs))
    assert [ax.get_ylabel() for ax in figure.axes] == ["A", "", "B", ""]
    assert [ax.axison for ax in figure.axes] == [True, True, True, False]
    assert figure.alt.startswith("Losses along training in 3 panels.")


def test_the_alt_counts_the_panels_that_are_drawn_without_the_baselines(drawn):
    figure = drawn(figures.training_curves([record("A", m, CURVE) for m in ("baseline", "KDcls", "loc")]))
    assert len(figure.axes) == 2 and "in 2 panels." in figure.alt and "A baseline" not in figure.alt


def test_no_panel_is_alone_on_a_further_line(drawn):
    methods = ["KDcls", "loc", "FKD", "AT", "PKD", "CWD"]
    runs = [record(s, m, CURVE) for s, count in (("A", 6), ("B", 2)) for m in methods[:count]]
    grid = [ax.axison for ax in drawn(figures.training_curves(runs)).axes]
    assert grid == [True] * 3 + [True] * 3 + [True, True, False]


def test_validation_states_the_range_of_the_last_third(drawn):
    curve = {str(step): {"mAP": value} for step, value in ((10, 5.0), (20, 30.0), (25, 31.0))}
    run = record("A", "baseline", CURVE, validation=curve, eval_split="val", metrics={"mAP": 30.5})
    figure = drawn(figures.convergence([run, record("A", "KDcls", CURVE)]))
    (line,) = [line for line in figure.axes[0].lines if len(line.get_xdata())]
    assert line.get_xydata().tolist() == [[10, 5], [20, 30], [25, 31], [30, 30.5]]
    assert figure.alt.endswith("A, baseline: 30.0 to 31.0, range 1.0")
    (third,) = figure.axes[0].patches
    assert (third.get_x(), third.get_width()) == (20, 10)
    longer = dataclasses.replace(run, experiment={"steps": 32})  # after the last line of the log that is kept
    assert drawn(figures.convergence([longer])).axes[0].lines[0].get_xdata().tolist() == [10, 20, 25, 32]
    stopped = dataclasses.replace(run, experiment={"steps": 90, "patience": 2})
    assert drawn(figures.convergence([stopped])).axes[0].lines[0].get_xdata()[-1] == 30
    kept_best = dataclasses.replace(run, validation={**curve, "30": {"mAP": 29.0}})
    (line,) = [
        line for line in drawn(figures.convergence([kept_best])).axes[0].lines if len(line.get_xdata())
    ]
    assert line.get_ydata()[-1] == 29  # of the last step; the record's is of the weights that were kept
    on_test = dataclasses.replace(run, eval_split="test")  # its mAP is not one of val
    assert len(drawn(figures.convergence([on_test])).axes[0].lines[0].get_xdata()) == 3
    twice = [dataclasses.replace(run, hash="a"), dataclasses.replace(run, hash="b", student="B", seed=1)]
    figure = drawn(figures.convergence(twice, dict.fromkeys("ab", "baseline, steps 9")))
    assert [t.get_text().split(":")[0] for t in figure.legends[0].get_texts()[:2]] == [
        "baseline, steps 9, A, seed 0",
        "baseline, steps 9, B, seed 1",
    ]
    with pytest.raises(ValueError, match="validate_every"):
        figures.convergence([record("A", "KDcls", CURVE)])
