"""A machine's tables beside the published ones: what is compared, what is kept, what is published."""

import dataclasses

import pandas as pd
import pytest

from c2dlib.evaluation.tide import BOXES, TYPES
from c2dlib.records import write_record
from c2dlib.reporting import publish as publishing
from c2dlib.reporting.console import read_lines
from c2dlib.reporting.errors import write_figure3
from c2dlib.reporting.publish import publish
from c2dlib.reporting.published import agreement
from c2dlib.reporting.statistics import chance_within
from c2dlib.reporting.tables import collect, table, write_table
from c2dlib.reporting.work_list import work_list
from tests.reporting.helpers import SSD, cells, record

METHODS = ["baseline", "loc"]


@pytest.fixture
def site(place, tmp_path, monkeypatch):
    """A fresh workspace, its data, and the workspace of what is published of them."""
    monkeypatch.setattr("c2dlib.workspace.PUBLISHED", tmp_path / "published")
    workspace = dataclasses.replace(place[0], results=tmp_path / "results" / "badges-smoke")
    return workspace, place[1], dataclasses.replace(workspace, results=workspace.published)


def rows_of(workspace, folder, seeds=1, **more):
    return work_list("table1", workspace, folder, seeds, [SSD], METHODS, **more)


def record_runs(workspace, folder, baseline: list[float], loc: list[float], **fields) -> None:
    """Finished runs with these mAP, from seed 0 on."""
    for row, values in zip(rows_of(workspace, folder, 9), (baseline, loc), strict=True):
        for e, mAP in zip(row.experiments, values, strict=False):
            write_record(record(e, mAP, **{"dirty": False, **fields}), workspace.results / "records")


def test_the_published_numbers_stand_beside_those_of_the_same_experiment(site):
    workspace, folder, published = site
    record_runs(published, folder, [20.0, 21.0, 22.0], [21.0, 22.5, 22.0])  # gains 1, 1.5, 0
    before = write_table("table1", rows_of(published, folder, 3), published, folder)
    assert not [name for name in before if name.startswith("published_")]
    record_runs(workspace, folder, [20.0], [23.0])
    frame = write_table("table1", rows_of(workspace, folder), workspace, folder).set_index("method")
    assert frame.mAP.tolist() == [20.0, 23.0] and frame.published_mAP.tolist() == [21.0, 21.8333]
    assert frame.published_seeds.tolist() == [3, 3]
    gain = frame.loc["loc"]
    assert (gain.gain, gain.published_gain) == (3.0, pytest.approx(2.5 / 3, abs=1e-4))
    assert gain.published_gain_high == pytest.approx(2.5 / 3 + 4.302653 * (1.75 / 3 / 3) ** 0.5, abs=1e-3)
    text = (workspace.results / "table1.md").read_text()
    shown = {line["method"]: line for line in cells(text)}
    assert shown["loc"]["published"] == "21.8 ± 0.8" and shown["loc"]["this machine"] == "23.0"
    assert (shown["loc"]["seeds published"], shown["loc"]["seeds here"]) == ("3", "1")
    assert "Of 1 gains of this machine, 0 lie within the published 95 % interval (0 %)" in text

    changed = rows_of(workspace, folder, overrides={"lr": 0.0123})
    frame = write_table("table1", changed, dataclasses.replace(workspace, results=workspace.results), folder)
    assert frame.published_mAP.isna().all() and "nothing to compare" in agreement(frame)


def test_the_last_sentence_counts_the_gains_within_the_interval():
    frame = pd.DataFrame(
        {
            "gain": [1.0, 3.0, None, 2.0],
            "seeds": [1, 1, 0, 3],
            "published_gain_low": [0.5, -1.0, 0.0, None],
            "published_gain_high": [1.5, 2.0, 1.0, None],
            "published_seeds": [3, 3, 3, 1],
        }
    )
    assert agreement(frame) == (
        "Of 2 gains of this machine, 1 lie within the published 95 % interval (50 %). "
        "Of independent runs with as many seeds, 84 % are expected to."
    )
    assert agreement(frame.drop(columns=["published_gain_low"])) == ""


def test_the_expected_share_by_the_formula_of_two_degrees_of_freedom():
    """P(|t| < x) = x / sqrt(2 + x^2); the interval of three seeds reaches 4.302653 standard errors."""
    for new, reach in ((1, 4.302653 / 2), (3, 4.302653 / 2**0.5)):
        assert chance_within(3, new) == pytest.approx(reach / (2 + reach**2) ** 0.5, abs=1e-6)


def test_records_of_further_seeds_are_used_and_no_table_loses_seeds_or_rows(site, capsys):
    workspace, folder, _ = site
    record_runs(workspace, folder, [20.0, 21.0, 22.0], [21.0, 22.0])
    asked = rows_of(workspace, folder, 1, with_recorded=True)
    assert [[e.seed for e in row.experiments] for row in asked] == [[0, 1, 2], [0, 1]]
    assert [len(row.experiments) for row in rows_of(workspace, folder)] == [1, 1]
    path = workspace.results / "table1.csv"
    assert write_table("table1", asked, workspace, folder).seeds.tolist() == [3, 2]
    written = path.read_text()
    one_seed = rows_of(workspace, folder, 1)
    assert write_table("table1", one_seed, workspace, folder).seeds.tolist() == [1, 1]
    assert path.read_text() == written
    assert f"{path}: kept as it is, {SSD} baseline has 3 seeds there and 1 here" in capsys.readouterr().err
    only = work_list("table1", workspace, folder, 1, [SSD], ["loc"], with_recorded=True)
    assert write_table("table1", only, workspace, folder).method.tolist() == METHODS
    assert path.read_text() == written and not capsys.readouterr().err
    changed = rows_of(workspace, folder, overrides={"lr": 0.0123})
    record_runs(workspace, folder, [], [])
    write_table("table1", changed, workspace, folder)
    assert path.read_text() == written  # nothing of these settings is finished


def errors_of(method: str) -> list[dict]:
    """The TIDE errors of two runs, as ``errors.gather`` has them."""
    return [
        {"student": SSD, "method": method, "seed": seed, "draw": 0, "pairing": "", "IoU": iou}
        | dict.fromkeys([*TYPES, BOXES], 1.0)
        for seed in (0, 1)
        for iou in range(50, 100, 5)
    ]


def test_figure3_keeps_more_seeds(site, capsys):
    workspace, runs = site[0], errors_of("baseline")
    write_figure3(pd.DataFrame(runs), workspace)
    before = (workspace.results / "figure3.csv").read_text()
    write_figure3(pd.DataFrame(runs[:10]), workspace)
    assert (workspace.results / "figure3.csv").read_text() == before
    assert "figure3.csv: kept as it is" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("seeds", "sids"),
        lambda text: text.replace(",2,", ",two,"),
        lambda text: text.replace("baseline", ""),
        lambda text: "\x00\udcff" + text,
    ],
    ids=["empty", "cut", "no seeds", "words", "no method", "bytes"],
)
def test_a_damaged_table_is_named_set_aside_and_written_anew(site, capsys, damage):
    workspace, folder, _ = site
    record_runs(workspace, folder, [20.0, 21.0], [21.0, 22.5])
    write_table("table1", rows_of(workspace, folder, 2), workspace, folder)
    path = workspace.results / "table1.csv"
    whole = path.read_bytes()
    damaged = damage(whole.decode()).encode(errors="surrogateescape")
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=f"{path}: not a whole table"):
        read_lines(path)
    capsys.readouterr()
    write_table("table1", rows_of(workspace, folder, 2), workspace, folder)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path}: not a whole table (") and line.endswith("written anew")
    assert path.read_bytes() == whole
    assert path.with_name("table1.csv.damaged").read_bytes() == damaged


def test_publish_copies_what_is_complete_and_says_what_it_did(site, monkeypatch):
    workspace, folder, published = site
    claims = []
    monkeypatch.setattr(publishing, "write_claims", lambda *place: claims.append(place[0].results))
    with pytest.raises(FileNotFoundError, match="no records"):
        publish(workspace, folder)
    record_runs(workspace, folder, [20.0, 21.0], [21.0])
    write_table("table1", rows_of(workspace, folder, 2), workspace, folder)
    (workspace.results / "table1.ipynb").write_text("executed")
    (workspace.results / "01_teacher.ipynb").write_text("teacher")
    (workspace.results / "figure4_examples.failed.ipynb").write_text("failed")
    said = publish(workspace, folder)
    assert said[0] == "records: 3 published, 0 were published before and stay, 0 left out"
    assert "table1: not published, 1 of 2 rows are not finished" in said
    names = {path.name for path in published.results.iterdir()}
    assert names == {"records", "01_teacher.ipynb"} and claims == [published.results]

    record_runs(workspace, folder, [20.0, 21.0], [21.0, 22.5])
    write_table("table1", rows_of(workspace, folder, 2), workspace, folder)
    said = publish(workspace, folder)
    assert "table1: published with its notebook, 2 seed(s) per row" in said
    assert pd.read_csv(published.results / "table1.csv").seeds.tolist() == [2, 2]
    assert (published.results / "table1.ipynb").read_text() == "executed"


def test_publish_replaces_no_table_of_more_seeds_and_no_record(site, monkeypatch):
    workspace, folder, published = site
    monkeypatch.setattr(publishing, "write_claims", lambda *_: None)
    record_runs(published, folder, [20.0, 21.0], [21.0, 22.0])
    write_table("table1", rows_of(published, folder, 2), published, folder)
    before = {path: path.read_bytes() for path in published.results.rglob("*.*")}
    record_runs(workspace, folder, [30.0], [31.0])
    write_table("table1", rows_of(workspace, folder), workspace, folder)
    said = publish(workspace, folder)
    assert said[0] == "records: 0 published, 2 were published before and stay, 0 left out"
    assert (
        f"table1: not published, the published table has more: {SSD} baseline has 2 seeds there and 1 here"
        in said
    )
    assert {path: path.read_bytes() for path in published.results.rglob("*.*")} == before

    record_runs(workspace, folder, [30.0, 31.0], [31.0, 32.0])
    write_table("table1", rows_of(workspace, folder, 2), workspace, folder)
    (workspace.results / "table1.ipynb").write_text("of other runs")
    assert "its notebook is not, it shows other runs" in "\n".join(publish(workspace, folder))
    assert {path: path.read_bytes() for path in published.results.rglob("*.*")} == before


PART = {"commit": "d" * 40, "dirty": True, "torch": "2", "steps": 3}


@pytest.mark.parametrize("changes", [{"dirty": True}, {"code": [PART]}], ids=["all of it", "a part of it"])
def test_records_with_local_changes_are_not_published(site, monkeypatch, changes):
    workspace, folder, published = site
    monkeypatch.setattr(publishing, "write_claims", lambda *_: None)
    record_runs(workspace, folder, [20.0], [], **changes)
    said = publish(workspace, folder)
    assert said[0].endswith("1 left out") and said[1].endswith("done, with local changes")
    assert not published.results.exists()


def test_a_table_is_published_only_if_all_its_records_are(site, monkeypatch):
    workspace, folder, published = site
    monkeypatch.setattr(publishing, "write_claims", lambda *_: None)
    record_runs(workspace, folder, [20.0, 21.0], [21.0, 22.0])
    write_table("table1", rows_of(workspace, folder, 2), workspace, folder)
    write_figure3(pd.DataFrame(errors_of("baseline") + errors_of("loc")), workspace)
    changed = rows_of(workspace, folder, 2)[1].experiments[1]
    write_record(record(changed, 22.0, dirty=True), workspace.results / "records")
    said = publish(workspace, folder)
    assert said[0] == "records: 3 published, 0 were published before and stay, 1 left out"
    assert (
        f"table1: not published, of its rows not every record is ({SSD} loc: 1 of 2 seeds); see what is left "
        "out above"
    ) in said
    assert any(line.startswith("figure3: not published, of its runs not every record is") for line in said)
    assert {path.name for path in published.results.iterdir()} == {"records"}


def test_a_table_of_this_machine_reads_no_published_record(site):
    workspace, folder, published = site
    record_runs(published, folder, [20.0], [21.0])
    rows = rows_of(workspace, folder, 1, with_recorded=True)
    assert collect(rows, workspace) == {} and set(table(rows, {}).status) == {"not run"}
