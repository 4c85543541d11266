"""The regimes: read from records alone, and what is missing in words."""

from pathlib import Path

import pandas as pd
import pytest

from c2dlib.config.experiment import experiment
from c2dlib.records import ROOT, write_record
from c2dlib.reporting import regimes
from c2dlib.reporting.work_list import METRICS
from tests.reporting.helpers import SSD, cells, record

FOLDER = "badges-4-regimes"


def made(results: Path, mAPs: dict[str, list[float]], data: str = "badges-4", **changes) -> list:
    """A record per method and seed, as runs of the scale would leave them."""
    settings = {"data": data, "data_hash": "d", "eval_split": "test"}
    experiments = []
    for method, values in mAPs.items():
        for seed, mAP in enumerate(values):
            e = experiment("regimes", SSD, method, seed, **settings, **changes)
            of_data = {"annotation_hash": "d" * 12, "initial_weights": f"w{e.draw}"}
            r = record(e, mAP, experiment=e.identity(), data=of_data, eval_split="test", scale="regimes")
            write_record(r, results / f"{data}-regimes" / "records")
            experiments.append((e, r))
    return experiments


def test_gains_and_errors_of_a_place(tmp_path, monkeypatch):
    made(tmp_path, {"baseline": [40.0, 42, 41, 43], "loc": [42.0, 43, 44, 45], "KDcls": [40.0]})
    made(tmp_path, {"loc": [99.0]}, lambda_l=0.5)  # not the scale's own settings
    costs = pd.DataFrame({"Cls": [6.0, 3.0], "Loc": [4.0, 12.0]}, index=[50, 75])
    monkeypatch.setattr(
        regimes, "run_errors", lambda e, workspace: type("Errors", (), {"by_iou": costs + e.seed})
    )
    baselines, gains, expected = regimes.regimes(tmp_path)
    (line,) = baselines.to_dict("records")
    assert line["place"] == "Badges-4" and (line["seeds"], line["draws"], line["mAP"]) == (4, 4, 41.5)
    assert (line["Cls50"], line["Loc50"], line["Cls75"], line["Loc75"]) == (7.5, 5.5, 4.5, 13.5)
    by = gains.set_index(["method", "metric"])
    assert by.gain["loc", "mAP"] == pytest.approx(2.0) and by.seeds["loc", "mAP"] == 4
    assert by.low["loc", "mAP"] < 2 < by.high["loc", "mAP"]
    assert by.seeds["KDcls", "mAP"] == 1 and pd.isna(by.low["KDcls", "mAP"])
    assert set(METRICS) > set(gains.metric) and "C2D" not in set(gains.method)
    (shown,) = cells(regimes.regimes_markdown(baselines, gains, expected).split("## ")[0])
    assert shown["Cls / Loc at .50"] == "7.5 / 5.5" and shown["loc (loc-L1)"].startswith("+2.0 [")
    assert shown["C2D (C2D-free)"] == "–"
    sentences = regimes.missing(baselines, gains)
    assert "Badges-4, SSD300-VGG16: no loc+KDloc, C2D." in sentences
    assert any(
        s.startswith(
            "Badges-crowded: not run with all of its 8 seeds. `make reproduce-controls SCALE=regimes SEEDS=8 "
            'STUDENTS=SSD300-VGG16 DATA=badges-crowded METHODS="baseline KDcls loc loc-L1 '
        )
        for s in sentences
    )


def test_baselines_whose_errors_are_not_kept_are_counted(tmp_path, monkeypatch):
    made(tmp_path, {"baseline": [40.0, 42, 41], "loc": [42.0, 43, 44]})

    def kept_of_two(e, workspace):
        if e.seed == 0:
            raise FileNotFoundError
        by_iou = pd.DataFrame({"Cls": [6.0, 3.0], "Loc": [4.0, 12.0]}, index=[50, 75]) + e.seed
        return type("Errors", (), {"by_iou": by_iou})

    monkeypatch.setattr(regimes, "run_errors", kept_of_two)
    baselines, gains, _ = regimes.regimes(tmp_path)
    assert baselines.Cls50.tolist() == [7.5]
    sentence = "Cls and Loc are those of 2 of its 3 baselines; the errors of the others are not kept."
    assert f"Badges-4, SSD300-VGG16: {sentence}" in regimes.missing(baselines, gains)
    monkeypatch.setattr(regimes, "run_errors", lambda e, workspace: kept_of_two(e.replace(seed=1), workspace))
    assert not any("not kept" in s for s in regimes.missing(*regimes.regimes(tmp_path)[:2]))


def test_without_runs_everything_is_missing(tmp_path):
    baselines, gains = regimes.write_regimes(tmp_path)
    assert baselines.empty and gains.empty
    text = (tmp_path / "regimes.md").read_text()
    assert "No run was found." in text and text.count("not run with all of its") == len(regimes.PLACES)


def test_published_records_are_read_where_there_are_no_own_ones(tmp_path):
    place = next(p for p in regimes.PLACES if p.folder == FOLDER)
    published = tmp_path / "published" / FOLDER
    (published / "records").mkdir(parents=True)
    assert regimes.place_folder(place, tmp_path) == published
    (tmp_path / FOLDER / "records").mkdir(parents=True)
    assert regimes.place_folder(place, tmp_path) == tmp_path / FOLDER


def test_published_runs_are_shown_when_all_planned_seeds_are_there(tmp_path):
    published = tmp_path / "published"
    rows = {m: [40.0] * 8 for m in ("baseline", "KDcls", "loc", "loc+KDloc", "ours")}
    made(published, rows | {"loc": [41.0] * 7})
    baselines, gains, _ = regimes.regimes(tmp_path)
    assert baselines.empty and gains.empty
    assert "Badges-4: not run with all of its 8 seeds." in " ".join(regimes.missing(baselines, gains))
    made(published, rows)
    assert regimes.regimes(tmp_path)[0].seeds.tolist() == [8]


def test_a_plan_may_have_fewer_seeds_of_a_student_or_of_a_row(capsys, tmp_path):
    place = regimes.Place("f", "n", "c", 5, fewer=(("A", "loc", 3), ("B", "", 2)))
    methods = ["baseline", "KDcls", "loc", "loc+KDloc", "KDcls+loc+KDloc"]

    def runs(seeds: int, of_loc: int) -> pd.DataFrame:
        counts = dict.fromkeys(methods, seeds) | {"loc": of_loc}
        return pd.DataFrame([{"method": m, "seed": s} for m, count in counts.items() for s in range(count)])

    assert place.complete("A", runs(5, 3)) and not place.complete("A", runs(5, 2))
    assert not place.complete("A", runs(4, 3)) and not place.complete("C", runs(5, 3))
    assert place.complete("B", runs(2, 2))
    made(tmp_path / "published", {"baseline": [40.0], "KDcls": [41.0]})
    regimes.regimes(tmp_path)
    assert (
        "Badges-4: SSD300-VGG16 is left out until all its planned seeds are there" in capsys.readouterr().err
    )


def test_the_seeds_of_a_student_are_those_of_its_baseline_and_of_its_gains(tmp_path):
    made(tmp_path, {"baseline": [40.0] * 5, "loc": [41.0] * 3})
    (shown,) = cells(regimes.regimes_markdown(*regimes.regimes(tmp_path)).split("## ")[0])
    assert shown["seeds"] == "3 to 5"


def test_the_plans_expectations_are_differences_within_and_between_data_sets(tmp_path):
    base, noise = [40.0] * 8, [0.0, 0.2, -0.2, 0.1, 0.1, -0.1, 0.2, -0.3]  # a mean of 0

    def around(mean: float) -> list[float]:
        return [mean + n for n in noise]

    made(tmp_path, {"baseline": base, "loc+KDloc": around(43), "KDcls": around(40.5), "loc": around(42)})
    made(tmp_path, {"baseline": base, "loc+KDloc": around(41), "KDcls": around(42)}, data="badges")
    _, gains, expected = regimes.regimes(tmp_path)
    lines = expected.set_index("difference")
    assert expected.number.tolist() == [1, 2, 2, 3, *[4] * 6]
    alone = lines.loc["loc+KDloc - baseline, Badges-4"]
    of_gains = gains[(gains.place == "Badges-4") & (gains.method == "loc+KDloc") & (gains.metric == "mAP")]
    assert alone[["value", "low", "high"]].tolist() == of_gains[["gain", "low", "high"]].iloc[0].tolist()
    between = lines.loc["loc+KDloc - baseline, Badges-4 minus Badges"]
    assert (between.value, between.seeds) == (pytest.approx(2), "8 and 8")
    wider = (between.high - between.low) / (alone.high - alone.low)
    assert 1.2 < wider < 1.5  # about the root of 2: both differences have as much noise
    assert lines.value["KDcls - baseline, Badges minus Badges-4"] == pytest.approx(1.5)
    for difference in ("loc - loc-L1, Badges-4", "loc+KDloc - baseline, Badges-crowded minus Badges"):
        assert pd.isna(lines.value[difference]) and pd.isna(lines.low[difference])
    text = regimes.regimes_markdown(*regimes.regimes(tmp_path)).split("## The plan's expectations")[1]
    assert "| 2 | loc+KDloc - baseline, Badges-4 minus Badges | +2.0 [" in text
    assert "| 4 | loc - loc-other, Badges-4 | not run | – |" in text and "verdict" in text


def test_the_committed_text_is_what_the_records_say():
    written = next(path for path in (ROOT / "results").rglob("regimes.md"))
    assert regimes.regimes_markdown(*regimes.regimes(ROOT / "results")) == written.read_text()
