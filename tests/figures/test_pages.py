"""The notebooks' pages, without training: the data, the example, the rows; unknown names raise first."""

import pytest
import torch
from matplotlib.figure import Figure

from c2dlib.config.experiment import FIXED
from c2dlib.figures.pages import Page, PairPage, TablePage, session
from c2dlib.reporting.formulas import markdown_to_html
from c2dlib.reporting.labels import method_label
from c2dlib.training.run import experiment_for
from tests.reporting.helpers import record


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("page")
    return {
        "scale": "smoke",
        "data": "",
        "device": "cpu",
        "results": str(folder / "results"),
        "runs": str(folder / "runs"),
    }


@pytest.fixture(scope="module")
def table_parameters(places) -> dict:
    return {**places, "seeds": 1, "students": ["SSD300-VGG16"], "methods": [], "overrides": {}, "jobs": 1}


def test_a_page_says_where_it_runs_without_naming_the_machines_folders(places):
    page = Page(**places)
    text = page.where().data
    assert (
        "train: 24 images" in text
        and "device cpu" in text
        and session("cpu") in text
        and "torchvision" in text
    )
    assert places["results"] not in text and places["runs"] not in text
    page.folder.report.warnings.append("classes that train has no box of: [x](/etc/passwd)")
    html = markdown_to_html(page.where().data)
    page.folder.report.warnings.pop()
    assert "<li>classes that train has no box of: [x](/etc/passwd)</li>" in html


def test_the_example_has_three_to_six_objects_and_is_the_first_such_image(places):
    page = Page(**places)
    image, boxes, labels = page.example
    counts = [len(page.split[i][1]["boxes"]) for i in page.split.with_boxes()]
    first = page.split.with_boxes()[next(k for k, n in enumerate(counts) if 3 <= n <= 6)]
    assert type(boxes) is torch.Tensor and torch.equal(
        boxes, page.split[first][1]["boxes"].as_subclass(torch.Tensor)
    )
    assert len(boxes) == len(labels) and 0 <= int(labels.min()) and int(labels.max()) < len(page.class_names)
    assert image.dtype == torch.float32 and 0 <= float(image.min()) <= float(image.max()) <= 1
    assert isinstance(page.show_example(), Figure)


def test_a_table_without_runs_shows_its_rows_as_not_run(table_parameters):
    page = TablePage("table1", **table_parameters)
    assert (
        list(page.frame.status.unique()) == ["not run"]
        and page.done == []
        and "0 have a record" in page.where().data
    )
    assert "9 of them not run" in page.verdict().data
    assert "Chance: with SEEDS=1" in page.not_tested().data


def test_no_teacher_is_trained_for_the_picture_of_rows_that_need_none(table_parameters):
    page = TablePage("table1", **table_parameters | {"methods": ["baseline", "KDcls-labels"]})
    assert "none was trained" in page.teacher_view().data
    assert not list(page.workspace.runs.glob("cache/teacher-*"))


@pytest.mark.parametrize(
    "table, changes, words",
    [
        ("table9", {}, "table9"),
        ("table1", {"methods": ["KDclass"]}, "KDclass"),
        ("table1", {"students": ["SSD300"]}, "SSD300"),
        ("table1", {"overrides": {"stepz": 2}}, "stepz"),
        ("table1", {"overrides": {"data_hash": "a"}}, "SET cannot change data_hash: "),
        ("table1", {"overrides": {"eval_split": "val"}}, "SET cannot change eval_split: "),
        ("table3a", {"overrides": {"temperature": 1.0}}, "SET cannot change temperature: table3a varies it"),
    ],
)
def test_an_unknown_name_is_refused_before_anything_is_trained(table_parameters, table, changes, words):
    with pytest.raises(ValueError, match=words):
        TablePage(table, **table_parameters | changes)


def test_a_pair_differs_in_its_method_alone(places):
    page = PairPage("SSD300-VGG16", "ours", [0, 1], {}, 1, **places)
    assert [(method_label(e.method), e.seed) for pair in page.pairs for e in pair.values()] == [
        ("baseline", 0),
        ("C2D", 0),
        ("baseline", 1),
        ("C2D", 1),
    ]
    assert page.baseline == page.distilled.replace(method="baseline")


@pytest.mark.parametrize("name", FIXED)
def test_a_notebook_refuses_the_settings_that_a_command_refuses(places, name):
    """Else data="x" is a record of other data, and seed=1 is not the seed of the parameters."""
    page, message = Page(**places), f"SET cannot change {name}: student, method, seed, scale and data have"
    with pytest.raises(ValueError, match=message):
        PairPage("SSD300-VGG16", "ours", [0], {name: "1"}, 1, **places)
    with pytest.raises(ValueError, match=message):
        experiment_for(page.workspace, page.folder, "SSD300-VGG16", "KDcls", **{name: "1"})


def test_the_metrics_of_a_pair_say_on_how_many_images(places, monkeypatch):
    page = PairPage("SSD300-VGG16", "ours", [0], {}, 1, **places)
    monkeypatch.setattr(page, "records_of", lambda experiments, _: [record(e) for e in experiments])
    last = page.train().data.splitlines()[-1]
    assert last == "Metrics on `test`; 24 images for training, 8 for val, 16 for test."
