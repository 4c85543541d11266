"""This code makes results/published/ again from the records: no hash, table, figure or claim differs."""

import json
from pathlib import Path

import pandas as pd
import pytest

from c2dlib.config.experiment import Experiment
from c2dlib.data.coco import CocoFolder
from c2dlib.data.validation import Report
from c2dlib.records import ROOT, read_record
from c2dlib.reporting.claims import write_claims
from c2dlib.reporting.errors import gather, write_figure3
from c2dlib.reporting.tables import write_table
from c2dlib.reporting.work_list import TABLES, work_list
from c2dlib.workspace import PUBLISHED, Workspace

FROZEN = json.loads((ROOT / "tests" / "config" / "frozen" / "hashes.json").read_text())
RESULTS = sorted(path.parent for path in PUBLISHED.glob("*/records"))
WRITTEN = [path for folder in RESULTS for path in sorted(folder.glob("*.csv"))]
SEEDS = 20  # records beyond are not looked for


def place(results: Path, copy: Path) -> tuple[Workspace, CocoFolder]:
    """A copy of committed results, with the data folder that their records describe.

    The images of that folder need not be on this machine.
    """
    record = read_record(min((results / "records").glob("*.json")))
    splits = {
        name: range(record.data["images"][name])
        for name in ("train", "val", "test")
        if name in record.data["images"]
    }
    name, _, scale = results.name.rpartition("-")
    folder = CocoFolder(
        Path("nowhere"),
        name,
        splits,
        list(range(record.data["classes"])),
        Report(),
        (0, 0),
        record.data["annotation_hash"],
    )
    workspace = Workspace(
        scale, Path("nowhere"), copy / PUBLISHED.name / results.name, Path("nowhere"), "cpu"
    )
    workspace.results.mkdir(parents=True)
    for part in ("records", "errors", "reading.md"):
        if (results / part).exists():
            (workspace.results / part).symlink_to(results / part)
    return workspace, folder


def rows_of(source: str, committed: pd.DataFrame, workspace: Workspace, folder: CocoFolder) -> list:
    """The rows of a committed file, with as many seeds as it has."""
    recorded = (
        committed.get("records", pd.Series(dtype=str))
        .dropna()
        .str.findall(r"\.s(\d+)\.")
        .explode()
        .astype(float)
    )
    planned = (
        committed.get("status", pd.Series(dtype=str)).dropna().str.extract(r"of (\d+) seeds")[0].astype(float)
    )
    further = [] if TABLES[source].on_val else recorded + 1
    seeds = int(max([*further, *planned.dropna(), *committed.seeds]))
    return work_list(
        source, workspace, folder, seeds, list(committed.student.unique()), list(committed.method.unique())
    )


@pytest.mark.parametrize("path", WRITTEN, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_committed_results_are_what_the_records_say(path, tmp_path):
    workspace, folder = place(path.parent, tmp_path)
    committed = pd.read_csv(path)
    if path.stem in TABLES:
        write_table(path.stem, rows_of(path.stem, committed, workspace, folder), workspace, folder)
    elif path.stem == "figure3":
        write_figure3(gather(rows_of("table1", committed, workspace, folder), workspace)[0], workspace)
    else:
        assert path.stem in ("claims", "primary_claims")
        write_claims(workspace, folder)
    for name in (path.name, "claims.md" if path.stem == "primary_claims" else f"{path.stem}.md"):
        assert (workspace.results / name).read_text() == (path.parent / name).read_text(), (
            f"{path.parent / name} is stale"
        )


@pytest.mark.parametrize("results", RESULTS, ids=lambda p: p.name)
def test_no_record_and_no_hash_has_changed(results):
    """Every frozen record exists; its settings still give the hash in its name and the same identity."""
    names = {path.stem: path for path in (results / "records").glob("*.json")}
    assert set(FROZEN["records"].get(results.name, [])) <= names.keys()
    for name, path in names.items():
        record = read_record(path)
        settings = {key: value for key, value in record.experiment.items() if key != "recipe"}
        e = Experiment().replace(**settings)
        assert f"{e.name}.{e.hash()}" == name
        assert json.loads(json.dumps(e.identity())) == record.experiment
    assert set(FROZEN["backbones"].get(results.name, [])) <= {p.name for p in results.glob("backbones/*")}
