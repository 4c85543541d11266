"""The published weights: those of the published records, shown without training, never used if damaged."""

import dataclasses
import hashlib
import shutil

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save

from c2dlib.figures.pages import Page, PairPage, TablePage
from c2dlib.records import read_record
from c2dlib.reporting.markdown import without_columns
from c2dlib.reporting.tables import COSTS
from c2dlib.training.run import experiment_for
from c2dlib.workspace import PUBLISHED, PUBLISHED_WEIGHTS, Workspace

STUDENTS = sorted((PUBLISHED_WEIGHTS / "badges-mini").glob("*"))
SSD = "SSD300-VGG16"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> dict:
    root = tmp_path_factory.mktemp("machine")
    return {"scale": "mini", "data": "", "device": "cpu", "results": "", "runs": str(root)}


@pytest.mark.parametrize("folder", STUDENTS, ids=lambda path: path.name)
def test_weights_are_those_of_the_published_record(folder):
    """The hash of the weights alone is the one in the record that Table 1 is printed from."""
    record = read_record(PUBLISHED / "badges-mini" / "records" / f"{folder.name}.json")
    weights = hashlib.sha256(save(load_file(folder / "student.safetensors"))).hexdigest()
    assert weights == record.checkpoint_sha256
    table = (PUBLISHED / "badges-mini" / "table1.csv").read_text()
    assert record.name in table and {p.name for p in folder.iterdir()} == {
        "detections.json.gz",
        "student.safetensors",
    }


def test_nothing_is_trained_or_written(place, monkeypatch):
    for name in ("run_all", "run"):
        monkeypatch.setattr(f"c2dlib.figures.pages.{name}", lambda *_, **__: pytest.fail("it trains"))
    before = {path: path.stat().st_mtime_ns for path in PUBLISHED.rglob("*")}
    page = PairPage(SSD, "ours", [0], {}, 1, published=True, **place)
    assert len(STUDENTS) == 2 and "| mAP | 17.6 | 18.8 | +1.3 |" in page.train().data
    e = experiment_for(page.workspace, page.folder, SSD, "ours")
    text = page.about_teacher(e).data
    assert "published weights" in text and "**85.4 %** of 939 crops" in text and "chance**" not in text
    page.keep(page.detections_of([e]), "picture.png")
    assert {path: path.stat().st_mtime_ns for path in PUBLISHED.rglob("*")} == before


def test_a_picture_asks_for_its_detector_outside_inference_mode(place, monkeypatch):
    """Where the weights are missing they are trained then, which needs gradients."""
    page, modes = PairPage(SSD, "ours", [0], {}, 1, published=True, **place), []
    known = PairPage.detector

    def detector(self, e):
        modes.append(torch.is_inference_mode_enabled() or not torch.is_grad_enabled())
        return known(self, e)

    monkeypatch.setattr(PairPage, "detector", detector)
    page.detections_of([experiment_for(page.workspace, page.folder, SSD, "ours")])
    assert modes == [False]


@pytest.mark.parametrize("name", ["table1", "controls"])
def test_a_published_table_has_its_own_seeds_and_no_more(name, place):
    """The records of Table 1 include a fourth seed of SSD300, which only the controls use."""
    page = TablePage(name, **place, seeds=1, students=[], methods=[], overrides={}, jobs=1, published=True)
    committed = pd.read_csv(PUBLISHED / "badges-mini" / f"{name}.csv")
    assert list(page.frame.seeds) == list(committed.seeds)
    assert page.frame.mAP.tolist() == pytest.approx(committed.mAP.tolist(), abs=1e-4)
    shown = page.verdict().data
    assert ("\n- KD_cls raises mAP: **undecided**. KDcls - baseline, mAP: " in shown) == (name == "table1")
    assert ("| 1. KD_cls raises mAP |" in shown) == (name == "table1")
    assert ("**Exploratory**" if name == "table1" else "**No verdict**") in shown
    title, rest = (PUBLISHED / "badges-mini" / f"{name}.md").read_text().strip().split("\n", 1)
    table, costs = page.table().data, page.costs().data
    assert without_columns(rest.strip(), COSTS) in table and title not in table
    assert "| wall s |" in rest and "wall s" not in table.splitlines()[0] and "| wall s |" in costs
    assert costs.count("\n") == 1 + len(committed)


def test_rows_with_changed_settings_are_none_of_a_claims(place):
    """The choices on val have rows of the claims' methods too; their verdicts are those of other runs."""
    page = TablePage(
        "table1", **place, seeds=1, students=[], methods=[], overrides={}, jobs=1, published=True
    )
    assert "KD_cls raises mAP" in page.verdict().data
    page.rows = [
        dataclasses.replace(row, experiments=[e.replace(steps=5) for e in row.experiments])
        for row in page.rows
    ]
    assert page.verdict().data.startswith("**No verdict**")


def test_without_published_weights_those_of_this_machine_are_read(tmp_path):
    own = Workspace("photos", tmp_path, tmp_path / "groceries-photos", tmp_path / "runs", "cpu")
    assert own.of_published().runs == own.runs
    badges = Workspace("mini", tmp_path, tmp_path / "badges-mini", tmp_path / "runs", "cpu")
    assert badges.of_published().runs == PUBLISHED_WEIGHTS


def test_what_is_not_published_says_how_to_train_it(place):
    page = Page(**place, published=True)
    missing = experiment_for(page.workspace, page.folder, "FasterRCNN-QR50", "KDcls")
    for ask in (page.teacher, page.detector):
        with pytest.raises(FileNotFoundError, match="With `published = False`"):
            ask(missing)
    with pytest.raises(FileNotFoundError, match="no published weights of FasterRCNN-QR50.KDcls.s0"):
        page.records_of([missing], 1)
    with pytest.raises(FileNotFoundError, match="nothing is published of badges-smoke"):
        Page(**place | {"scale": "smoke"}, published=True)


@pytest.mark.parametrize("damaged", ["teacher", "student"])
def test_damaged_weights_are_not_used(damaged, place, tmp_path, monkeypatch):
    shutil.copytree(PUBLISHED_WEIGHTS, tmp_path / "weights")
    pattern = {"teacher": "cache/*/weights.safetensors", "student": "*/*baseline*/student.safetensors"}[
        damaged
    ]
    (path,) = (tmp_path / "weights").glob(pattern)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr("c2dlib.workspace.PUBLISHED_WEIGHTS", tmp_path / "weights")
    page = Page(**place, published=True)
    e = experiment_for(page.workspace, page.folder, SSD, "KDcls" if damaged == "teacher" else "baseline")
    with pytest.raises(Exception, match="does not match"):
        page.teacher(e) if damaged == "teacher" else page.detector(e)


@pytest.mark.parametrize("top1, near", [(8.0, True), (16.0, True), (17.0, False)])
def test_a_teacher_near_chance_is_named_as_one(top1, near, place, monkeypatch):
    """Twelve classes: chance is 8.3 %, and less than twice that is little better."""
    page = Page(**place)
    report = {"top1": top1, "crops": 100, "split": "test"}
    monkeypatch.setattr(page, "_teacher", lambda e: (None, report))
    text = page.about_teacher(experiment_for(page.workspace, page.folder, SSD, "KDcls")).data
    assert ("little better than chance" in text) == near and f"**{top1:.1f} %**" in text


def test_a_workspace_of_published_results_keeps_its_data(tmp_path):
    own = Workspace("mini", tmp_path, tmp_path / "results" / "badges-mini", tmp_path / "runs", "cpu")
    published = own.of_published()
    assert published.data == own.data and published.results == PUBLISHED / "badges-mini"
    assert published.runs == PUBLISHED_WEIGHTS
