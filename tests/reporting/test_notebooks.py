"""Notebooks: they are committed without outputs and definitions, and all run headless.

A table's notebook is short and begins with its table.
"""

import ast
import json
import re
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest

from c2dlib.evaluation.tide import BOXES, TYPES
from c2dlib.reporting import notebooks, tables
from c2dlib.reporting.navigation import navigation
from c2dlib.reporting.site import results_site
from c2dlib.reporting.work_list import work_list
from c2dlib.training.classifiers import classifier_teacher
from c2dlib.training.run import experiment_for, run
from c2dlib.workspace import PUBLISHED, Workspace, open_workspace, opened

SOURCES = sorted(notebooks.FOLDER.glob("*.ipynb"))
EXECUTED = sorted((PUBLISHED / "badges-mini").glob("*.ipynb"))
SSD = "SSD300-VGG16"
TABLES = {
    "table1": (SSD, ["baseline", "KDcls"], 2),
    "table2": ("SSD512-VGG16", ["baseline", "ours"], 2),
    "table3a": (SSD, ["baseline", "KDcls"], 8),
    "table3b": (SSD, ["KDcls-labels"], 1),
    "table4": (SSD, ["baseline", "KDloc"], 2),
    "table5": (SSD, ["baseline", "KDcls"], 2),
    "controls": (SSD, ["KDcls-smooth", "KDcls-mean", "KDcls-permuted", "loc-L1", "loc-other", "C2D-free"], 6),
    "reweighted": (SSD, ["baseline", "loc"], 7),
    "sizes": (SSD, ["baseline", "KDcls"], 8),
    "schedules": (SSD, ["baseline"], 2),
    "table2x": ("SSD512-VGG16", ["baseline", "PKD"], 2),
    "choices": ("SSD512-VGG16", ["baseline", "AT"], 3),
}  # rows

# What a table's notebook shows besides its table, its verdict and its training:
# a piece of the code -> the number of its figures, its notebooks.
SECTIONS = {
    "page.teacher_view()": (2, ["table1", "table2", "table3a", "table3b", "table4", "controls"]),
    "assert_close": (0, ["table1"]),
    "figures.gain_over_cost(page.frame)": (1, ["table2", "table2x"]),
    "figures.ap_over_iou(page.frame)": (1, ["table5"]),
    "figures.map_over_images(": (1, ["sizes"]),
    "figures.front(page.frame)": (1, ["reweighted"]),
}


def cells_of(name: str, kind: str) -> list[str]:
    """The sources of a notebook's cells of a kind, code or markdown."""
    return [
        cell.source
        for cell in nbformat.read(notebooks.FOLDER / f"{name}.ipynb", 4).cells
        if cell.cell_type == kind
    ]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    """A fresh workspace; the notebooks share its pre-training and its teacher."""
    root = tmp_path_factory.mktemp("workspace")
    return open_workspace("smoke", "", root / "results", root / "runs", "cpu")[0]


def parameters(workspace: Workspace, **more) -> dict:
    return {
        "scale": "smoke",
        "overrides": {"steps": 2},
        "device": "cpu",
        "jobs": 1,
        "results": str(workspace.results.parent),
        "runs": str(workspace.runs),
        **more,
    }


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_source_has_no_outputs(source: Path):
    notebook = nbformat.read(source, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code), "clear outputs first"
    assert [cell for cell in code if "parameters" in cell.metadata.get("tags", [])] == code[:1]
    assert "papermill" not in notebook.metadata and notebook.metadata.kernelspec.name == "python3"
    title, _, line, *_ = notebook.cells[0].source.splitlines()
    assert title.startswith("# ") and "?" in title
    expected = navigation(source.stem, source.name, "{}.ipynb".format)
    assert line == expected, f"{source}: write below the title: {expected}"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_source_defines_nothing(source: Path):
    for cell in nbformat.read(source, 4).cells:
        if cell.cell_type == "code":
            defined = [
                n
                for n in ast.walk(ast.parse(cell.source))
                if isinstance(n, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            ]
            assert not defined, f"definitions belong in c2dlib: {cell.source}"


def picture_of(table: str) -> str:
    """The cell with a table's first figure."""
    return f"figures.{'values_tried' if table == 'choices' else 'table_bars'}(page.frame)"


@pytest.mark.parametrize("name", tables.TABLES)
def test_a_tables_notebook_is_short_and_begins_with_its_table(name):
    cells = nbformat.read(notebooks.FOLDER / f"{name}.ipynb", 4).cells
    sources = [cell.source for cell in cells]
    assert len(sources) <= 15
    assert (
        sources.index("page.table()") < 6
        and sources.index(picture_of(name)) < sources.index("page.verdict()") < 8
    )
    assert all(len(cell.source.splitlines()) <= 12 for cell in cells[2:] if cell.cell_type == "code")


@pytest.mark.parametrize("name", [name for name in tables.TABLES if name != "table1"])
def test_tables_notebooks_do_not_drift_apart(name):
    """They share their code, except for the listed sections, and the prose before every shared cell."""
    code = [
        source.replace(name, "table1", 1) if "TablePage" in source else source
        for source in cells_of(name, "code")
    ]
    code = [picture_of("table1") if source == picture_of(name) else source for source in code]
    sections = [source for source in code if any(piece in source for piece in SECTIONS)]
    listed = [piece for piece, (_, names) in SECTIONS.items() if name in names]
    assert len(sections) == len(listed) and all(
        any(piece in source for source in sections) for piece in listed
    )
    common = [
        source
        for source in cells_of("table1", "code")
        if "page.teacher_view()" not in source and "by_hand" not in source
    ]
    curves = "if any(run.validation for run in page.done):\n    display(figures.convergence("
    code = [  # of choices alone: how mAP on val rises
        re.sub(rf"{re.escape(curves)}.*\n", "", source) if name == "choices" else source for source in code
    ]
    shared = [source for source in code if source not in sections]
    begin = 1 if name == "reweighted" else 0  # nothing of it is published: it begins with other parameters
    assert shared[begin:] == common[begin:] and len(shared) == len(common)
    prose, model = cells_of(name, "markdown"), cells_of("table1", "markdown")
    if name != "reweighted":  # nothing of it is published yet
        assert prose[0].split("\n\n")[-1] == model[0].split("\n\n")[-1]  # the run time
    last, of_model = (" ".join(text[-1].split()).split(" The same from a shell") for text in (prose, model))
    about_val = re.compile(r"Runs with the setting `validate_every` .*? at its end\. ")  # in choices alone
    assert about_val.sub("", last[0]) == of_model[0] and f"`make reproduce-{name} SCALE=smoke`" in last[1]
    verdict, of_model = (
        " ".join(next(text for text in texts if text.startswith("## Verdict")).split())
        for texts in (prose, model)
    )
    assert verdict[:300] == of_model[:300]
    for heading in ("## One image", "## Cost"):  # one text each
        assert {text for text in prose if text.startswith(heading)} <= {
            text for texts in (model, cells_of("table2", "markdown")) for text in texts
        }


@pytest.mark.parametrize("copy", EXECUTED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_an_executed_notebook_is_the_one_that_can_be_run(copy):
    """Else a reader sees other code and figures than those of the notebook that the copy names."""
    cells = [
        cell.source
        for cell in nbformat.read(copy, 4).cells
        if cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    assert cells == cells_of(copy.stem, "code"), f"{copy}: make it anew (`python -m c2dlib execute`)"


def test_losses_are_computed_by_hand_in_two_notebooks_only():
    """own_loop compares losses and gradients of two steps, and computes none by hand."""
    comparing = {source.stem for source in SOURCES if "assert_close" in source.read_text()}
    assert comparing - {"own_loop"} == {"00_method", "table1"}


@pytest.mark.parametrize("name", TABLES)
def test_runs_headless(name, workspace):
    student, methods, count = TABLES[name]
    if name == "table2":  # table1 trains in its notebook; these runs are recorded before and only read
        for row in work_list(name, workspace, opened(workspace.data), 1, [student], methods, {"steps": 2}):
            run(row.experiments[0], workspace)
    if name == "table3b":  # its row needs no teacher: the picture shows one that is at hand
        classifier_teacher(experiment_for(workspace, opened(workspace.data), student, "KDcls"), workspace)
    given = {"overrides": {}} if name in ("schedules", "reweighted") else {}  # they vary the steps
    path = notebooks.execute(
        name,
        workspace,
        parameters(workspace, students=[student], methods=methods, published=False, **given),
    )
    assert path == workspace.results / f"{name}.ipynb"
    frame = pd.read_csv(workspace.results / f"{name}.csv")
    assert (
        set(frame.status) == {"done"} and list(dict.fromkeys(frame.method)) == methods and len(frame) == count
    )
    cells = nbformat.read(path, 4).cells
    outputs = [o for cell in cells if cell.cell_type == "code" for o in cell.outputs]
    figures = sum("image/png" in o.get("data", {}) for o in outputs)
    assert figures == 2 + sum(
        count for count, names in SECTIONS.values() if name in names
    )  # the bars, the curves, the sections
    shown = "\n".join(o.data["text/markdown"] for o in outputs if "text/markdown" in o.get("data", {}))
    assert "| student | method |" in shown and f"{count} of {count} runs are done" in shown
    assert "These runs did **not** test" in shown and "torchvision" in shown  # the versions
    printed = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
    assert (
        ("c2dlib.distillation.losses.kd_cls" in printed)
        == ("c2dlib.distillation.losses.pooled_l1" in printed)
        == (name == "table1")
    )
    if name == "table2":
        assert SSD.replace("300", "512") not in printed  # no line for a run that was finished before
    assert (
        not list(workspace.results.glob(f".{name}*"))
        and not (workspace.results / f"{name}.failed.ipynb").exists()
    )


@pytest.mark.parametrize(
    "name, figures",
    [
        ("00_method", 8),
        ("figure3_errors", 6),
        ("figure4_examples", 1),
        ("01_teacher", 6),
        ("your_data", 3),
        ("own_loop", 0),
        ("scale", 1),
        ("regimes", 1),
    ],
)
def test_figures_run_headless(name, figures, workspace):
    """They train missing runs, show every figure, and write the pictures of Figures 3 and 4."""
    more = (
        {"students": [SSD], "methods": ["baseline", "ours"]} if name == "figure3_errors" else {"student": SSD}
    )
    given = parameters(workspace, published=False, **more)
    given = {k: v for k, v in given.items() if k in notebooks.parameters(name)}
    path = notebooks.execute(name, workspace, given)
    outputs = [o for cell in nbformat.read(path, 4).cells if cell.cell_type == "code" for o in cell.outputs]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == figures
    assert not any("application/vnd.jupyter.widget-view+json" in o.get("data", {}) for o in outputs)
    printed = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
    if name.startswith("figure"):
        assert (workspace.results / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    if name == "your_data":
        assert "detections on 8 images agree" in printed and "one CPU thread: onnx" in printed
        assert list(workspace.runs.rglob("*.onnx"))
    if name == "own_loop":
        assert "gradient: the same" in printed and "detections: the same" in printed
        assert "RTDetrForObjectDetection" in printed and (workspace.runs / "own_loop.pth").exists()
    if name == "figure3_errors":
        frame = pd.read_csv(workspace.results / "figure3.csv")
        assert set(frame.method) == {"baseline", "KDcls+loc+KDloc"} and set(frame.type) == {*TYPES, BOXES}
        assert sorted(set(frame.IoU)) == list(range(50, 100, 5))
        assert len(list((workspace.results / "errors").glob("*.json"))) >= 2


def test_notebook_without_published_results_is_not_executed_on_them():
    with pytest.raises(
        ValueError, match="own_loop.ipynb does not show published results: make reproduce-own_loop"
    ):
        notebooks.execute_published("own_loop", "mini")


def test_misspelt_parameter_is_refused_before_anything_runs(workspace):
    with pytest.raises(ValueError, match="no parameter sedes; it has scale, data, seeds"):
        notebooks.execute("table1", workspace, parameters(workspace, sedes=3))


def test_failing_cell_leaves_a_copy_to_read_and_the_last_whole_one(tmp_path, monkeypatch):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    cells = [
        nbformat.v4.new_code_cell("scale = 'smoke'\nfail = True", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("assert not fail, 'told to'"),
    ]
    meta = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=meta), folder / "small.ipynb")
    monkeypatch.setattr(notebooks, "FOLDER", folder)
    workspace = Workspace("smoke", tmp_path, tmp_path / "results", tmp_path / "runs", "cpu")

    whole, failed = workspace.results / "small.ipynb", workspace.results / "small.failed.ipynb"
    with pytest.raises(papermill.PapermillExecutionError, match="told to"):
        notebooks.execute("small", workspace, {})
    assert failed.exists() and not whole.exists()

    assert notebooks.execute("small", workspace, {"fail": False}) == whole
    assert not failed.exists()  # no longer true
    before = whole.read_bytes()
    with pytest.raises(papermill.PapermillExecutionError):
        notebooks.execute("small", workspace, {})
    assert whole.read_bytes() == before and "told to" in failed.read_text()
    assert sorted(p.name for p in workspace.results.iterdir()) == ["small.failed.ipynb", "small.ipynb"]
    assert str(tmp_path) not in json.dumps(json.loads(whole.read_text())["metadata"])  # no machine paths
    assert whole.stat().st_mode & 0o444 == 0o444


def test_pages_need_no_server_and_no_network(tmp_path):
    workspace = Workspace("smoke", tmp_path, tmp_path / "badges-smoke", tmp_path / "runs", "cpu")
    with pytest.raises(FileNotFoundError, match="no executed notebook"):
        results_site(workspace)
    workspace.results.mkdir()
    cells = [
        nbformat.v4.new_markdown_cell("# Is 1 < 2?"),
        nbformat.v4.new_code_cell(
            "1 < 2",
            outputs=[
                nbformat.v4.new_output("execute_result", {"text/plain": "True, really"}, execution_count=1),
                nbformat.v4.new_output(
                    "display_data",
                    {"image/png": "iVBORw0KGgo="},
                    metadata={"image/png": {"width": 96, "height": 96, "alt": 'a "fine" curve'}},
                ),
            ],
        ),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), workspace.results / "small.ipynb")
    (workspace.results / "claims.md").write_text(
        "# Claims\n\n[why](reading.md)\n\n| a | b |\n|---|---|\n| **holds** | 1 |\n"
    )
    (workspace.results / "reading.md").write_text("# Reading\n\nText.")
    index = results_site(workspace)
    claims = (index.parent / "claims.html").read_text()
    assert (
        "<strong>holds</strong></td>" in claims
        and 'href="reading.html"' in claims
        and 'href="claims.html"' in index.read_text()
    )
    page = (index.parent / "small.html").read_text()
    assert index.name == "index.html" and '<a href="small.html">Is 1 &lt; 2?</a>' in index.read_text()
    assert "True, really" in page and re.search("""alt=['"]a (&quot;|")fine(&quot;|") curve['"]""", page)
    assert all('href="index.html"' in text for text in (claims, page))
    assert not re.findall(r"""(?:src|href)=["']?https?://""", page + index.read_text())


NO_NOTEBOOKS = [
    "",
    "{",
    "[]",
    '{"cells": []}',
    '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
]


@pytest.mark.parametrize("content", NO_NOTEBOOKS)
def test_a_damaged_copy_is_named_and_ends_nothing(tmp_path, capsys, content):
    """Its neighbour is kept, and the site has the pages of the others."""
    workspace = Workspace("smoke", tmp_path, tmp_path / "badges-smoke", tmp_path / "runs", "cpu")
    workspace.results.mkdir()
    damaged = workspace.results / "table2.ipynb"
    damaged.write_text(content)
    with pytest.raises(FileNotFoundError, match="no executed notebook"):
        results_site(workspace)
    assert f"{damaged}: not a whole notebook" in capsys.readouterr().err
    executed = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Why?")])
    nbformat.write(executed, tmp_path / "executed.ipynb")
    notebooks._keep(str(tmp_path / "executed.ipynb"), workspace.results / "table1.ipynb", workspace)
    assert f"{damaged}: not a whole notebook" in capsys.readouterr().err
    (workspace.results / "empty.md").write_text("")
    index = results_site(workspace)
    assert f"{damaged}: not a whole notebook" in capsys.readouterr().err
    assert sorted(page.name for page in index.parent.glob("*.html")) == [
        "empty.html",
        "index.html",
        "table1.html",
    ]
    assert damaged.read_text() == content
