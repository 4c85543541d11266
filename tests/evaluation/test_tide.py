"""TIDE: by hand, against tidecv, and on everything a detector can do wrong."""

import random

import pandas as pd
import pytest

from c2dlib.evaluation.tide import (
    TYPES,
    _tidecv,
    ap50_per_image,
    box_ap,
    examples,
    telling_images,
    tide,
    tide_per_class,
)
from tests.evaluation.test_metrics import annotations, found

TWO = annotations([(1, 1, 10, 20, 40, 40), (2, 2, 100, 100, 40, 40)], (1, 2))
RIGHT = [found(1, [10, 20, 40, 40], 0.9, 1), found(2, [100, 100, 40, 40], 0.9, 2)]
WRONG = {  # a detection in place of, or (Dupe, Bkg) with a higher score than, the right one of image 1
    "Cls": [found(1, [10, 20, 40, 40], 0.9, 2)],
    "Loc": [found(1, [30, 20, 40, 40], 0.9, 1)],  # IoU 1/3
    "Both": [found(1, [30, 20, 40, 40], 0.9, 2)],
    "Bkg": [found(1, [150, 150, 40, 40], 0.95, 1), RIGHT[0]],
    "Dupe": [found(1, [10, 20, 40, 40], 0.95, 1), RIGHT[0]],
    "Miss": [],
}


@pytest.mark.parametrize("kind", TYPES)
def test_each_type_is_counted_and_shown(kind):
    detections = [*WRONG[kind], RIGHT[1]]
    line = tide(TWO, detections, [50]).loc[50]
    counts = {t: int(line[f"n_{t}"]) for t in TYPES}
    missed = (
        {"Miss": 1} if kind in ("Both", "Miss") else {}
    )  # Loc and Cls concern the object, so it is not missed
    also = {"Miss": 1} if kind == "Both" else {}
    assert {t: n for t, n in counts.items() if n} == {kind: 1} | missed | also
    shown = examples(TWO, detections)
    assert {t: len(rows) for t, rows in shown.items() if rows} == {t: n for t, n in counts.items() if n}
    (one,) = shown[kind]
    assert one.type == kind and one.image_id == 1
    assert (one.box is None) == (kind == "Miss") and (one.truth_box is None) == (kind in ("Both", "Bkg"))
    assert one.iou == (
        pytest.approx({"Cls": 1, "Loc": 1 / 3, "Dupe": 1}[kind]) if kind in ("Cls", "Loc", "Dupe") else None
    )


def test_costs_by_hand():
    """Correcting the wrong box of class 1's only detection raises its AP from 0 to 100. Class 2 has 100."""
    line = tide(TWO, [*WRONG["Loc"], RIGHT[1]], [50]).loc[50]
    assert (line.AP, line.Loc, line.Cls) == pytest.approx((50, 50, 0))
    assert tide(TWO, [*WRONG["Loc"], RIGHT[1]], [30]).loc[30].AP == pytest.approx(
        100
    )  # IoU 1/3 is enough here
    classes = tide_per_class(TWO, [*WRONG["Loc"], RIGHT[1]])
    assert classes.loc["1", "Loc"] == pytest.approx(100) and classes.loc["2"].tolist() == pytest.approx(
        [100] + 6 * [0]
    )
    line = tide(TWO, [*WRONG["Bkg"], RIGHT[1]], [50]).loc[50]  # precision 1/2 throughout
    assert (line.AP, line.Bkg, line.FalsePos) == pytest.approx((75, 25, 25))


def random_scene(seed: int, crowds: bool) -> tuple[dict, list[dict]]:
    rng = random.Random(seed)
    ids = [3, 7, 90]

    def box() -> list[float]:
        return [rng.uniform(0, 100), rng.uniform(0, 100), rng.uniform(15, 80), rng.uniform(15, 80)]

    truth = annotations(
        [(rng.randint(1, 20), rng.choice(ids), *box()) for _ in range(90)],
        ids,
        crowds=range(0, 90, 15) if crowds else (),
    )
    near = [
        found(
            a["image_id"],
            [v + rng.uniform(-9, 9) for v in a["bbox"][:2]] + a["bbox"][2:],
            rng.random(),
            a["category_id"] if rng.random() < 0.7 else rng.choice(ids),
        )
        for a in truth["annotations"]
        if rng.random() < 0.9
        for _ in range(2)
    ]
    return truth, near + [found(rng.randint(1, 20), box(), rng.random(), rng.choice(ids)) for _ in range(60)]


@pytest.mark.parametrize("crowds, counted, points", [(False, 0, 0.05), (True, 0.1, 1.0)])
def test_agrees_with_tidecv(crowds, counted, points):
    """The counts are equal without crowds; dAP differs by the recall grid alone.

    With crowds tidecv also counts the errors that the crowds excuse.
    """
    from tidecv.errors.main_errors import FalsePositiveError

    truth, detections = random_scene(0, crowds)
    ours = tide(truth, detections, [50, 75])
    for iou in (50, 75):
        theirs = _tidecv(truth, detections, iou)
        for kind, rows in theirs.error_dict.items():
            assert ours.loc[iou, f"n_{kind.short_name}"] == pytest.approx(
                len(rows), rel=counted, abs=60 * counted
            )
        base = theirs.ap_data.get_mAP()
        assert ours.AP[iou] == pytest.approx(base, abs=0.05)
        for kind, gain in theirs.fix_main_errors().items():
            assert ours.loc[iou, kind.short_name] == pytest.approx(gain, abs=points), (iou, kind)
        assert ours.FalsePos[iou] == pytest.approx(
            theirs.fix_errors(transform=FalsePositiveError.fix).get_mAP() - base, abs=points
        )
        assert ours.FalseNeg[iou] == pytest.approx(
            theirs.fix_errors(false_neg_dict=theirs.false_negatives).get_mAP() - base, abs=points
        )
    assert tide_per_class(truth, detections).AP.mean() == pytest.approx(ours.AP[50], abs=0.05)
    assert {t: len(rows) for t, rows in examples(truth, detections, 75).items()} == pytest.approx(
        {t: ours.loc[75, f"n_{t}"] for t in TYPES}, rel=counted, abs=60 * counted
    )


def test_nothing_found_and_nothing_wrong():
    nothing = tide(TWO, [], [50, 75])
    assert (nothing[["AP", *TYPES]] == 0).all(axis=None) and (nothing.n_Miss == 2).all()
    assert len(examples(TWO, [])["Miss"]) == 2 and (tide_per_class(TWO, []) == 0).all(axis=None)
    perfect = tide(TWO, RIGHT)
    assert perfect.AP.tolist() == pytest.approx([100] * 10) and (perfect[TYPES] == 0).all(axis=None)
    assert not any(examples(TWO, RIGHT).values())


def test_boxes_alone_know_no_classes():
    wrong = [{**row, "category_id": 3 - row["category_id"]} for row in RIGHT]
    assert tide(TWO, wrong, [50]).AP[50] == 0
    assert box_ap(TWO, wrong).tolist() == pytest.approx([100] * 10)
    assert box_ap(TWO, [*RIGHT, *wrong]).tolist() == pytest.approx(
        [100] * 10
    )  # an anchor's second class is no second box
    shifted = [{**row, "bbox": [row["bbox"][0] + 5, *row["bbox"][1:]]} for row in RIGHT]  # IoU 35 / 45
    assert box_ap(TWO, shifted).tolist() == pytest.approx([100] * 6 + [0] * 4)
    assert (box_ap(TWO, []) == 0).all()


def test_a_class_without_ground_truth_costs_nothing():
    """tidecv's own mean would count it as AP 0 (a third of the AP here)."""
    three = annotations([(1, 1, 10, 20, 40, 40), (2, 2, 100, 100, 40, 40)], (1, 2, 3))
    detections = [*RIGHT, found(1, [150, 10, 20, 20], 0.9, 3), found(1, [150, 10, 20, 20], 0.9, 44)]
    assert tide(three, detections, [50]).AP[50] == pytest.approx(100)
    assert tide_per_class(three, detections).index.tolist() == ["1", "2"]


@pytest.mark.parametrize("function", [tide, tide_per_class, examples, box_ap])
@pytest.mark.parametrize(
    "bad, words",
    [
        (found(99, [1, 1, 5, 5]), r"not in the annotations: \[99\]"),
        (found(1, [1, 1, 5, float("inf")]), "image 1 .* not finite"),
        (found(1, [1, 1, 5, 5], float("nan")), "image 1 .* not finite"),
    ],
)
def test_bad_detections_are_refused(function, bad, words):
    with pytest.raises(ValueError, match=words):
        function(TWO, [*RIGHT, bad])


def test_bad_thresholds_are_refused():
    with pytest.raises(ValueError, match=r"between 10 and 100, got \[5\]"):
        tide(TWO, RIGHT, [50, 5])


def test_images_are_chosen_by_rule():
    """Images: both right; one of two right; a crowd alone, which does not count. Equal changes go by id."""
    truth = annotations(
        [(1, 1, 10, 20, 40, 40), (2, 1, 10, 20, 40, 40), (2, 2, 100, 100, 40, 40), (3, 1, 0, 0, 9, 9)],
        (1, 2),
        crowds=[3],
    )
    detections = [found(1, [10, 20, 40, 40]), found(2, [10, 20, 40, 40])]
    assert ap50_per_image(truth, detections).to_dict() == pytest.approx({1: 100, 2: 100 * 51 / 101})
    assert ap50_per_image(truth, []).to_dict() == {1: 0, 2: 0}
    before = pd.Series({1: 10.0, 2: 50, 3: 50, 4: 90, 5: 20, 6: 20, 7: 20})
    after = pd.Series({1: 90.0, 2: 80, 3: 80, 4: 10, 5: 20, 6: 20, 7: 20})
    chosen = telling_images(before, after)
    assert chosen.index.tolist() == [1, 2, 3, 5, 4, 7]
    assert chosen.sort.tolist() == ["gained"] * 2 + ["middle"] * 2 + ["lost"] * 2
    assert telling_images(before[:3], after[:3], each=5).index.tolist() == [1, 2, 3]
