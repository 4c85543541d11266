"""Notebooks: committed bare, without definitions, and every one of them runs headless at smoke scale."""

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
from c2dlib.training.run import run
from c2dlib.workspace import Workspace, open_workspace, opened

SOURCES = sorted(notebooks.FOLDER.glob("*.ipynb"))
SSD = "SSD300-VGG16"
TABLES = {"table1": (SSD, ["baseline", "KDcls"], 2), "table2": ("SSD512-VGG16", ["baseline", "ours"], 2),
          "table3a": (SSD, ["baseline", "KDcls"], 8), "table3b": (SSD, ["KDcls-labels"], 1),
          "table4": (SSD, ["baseline", "KDloc"], 2), "table5": (SSD, ["baseline", "KDcls"], 2),
          "controls": (SSD, ["KDcls-smooth", "KDcls-mean", "loc-L1"], 3), "sizes": (SSD, ["baseline", "KDcls"], 8),
          "schedules": (SSD, ["baseline"], 2), "table2x": ("SSD512-VGG16", ["baseline", "PKD"], 2),
          "choices": ("SSD512-VGG16", ["baseline", "AT"], 3)}  # rows

MORE_FIGURES = {"table5": (2, 1), "sizes": (1, 1), "table2": (2, 1), "table2x": (4, 1)}  # code cells and figures of their own


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    """A fresh place to read and write; the notebooks share its pre-training and its teacher."""
    root = tmp_path_factory.mktemp("workspace")
    return open_workspace("smoke", "", root / "results", root / "runs", "cpu")[0]


def parameters(workspace: Workspace, **more) -> dict:
    return {"scale": "smoke", "overrides": {"steps": 2}, "device": "cpu", "jobs": 1,
            "results": str(workspace.results.parent), "runs": str(workspace.runs), **more}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_source_is_bare(source: Path):
    notebook = nbformat.read(source, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code), "clear outputs first"
    assert [cell for cell in code if "parameters" in cell.metadata.get("tags", [])] == code[:1]
    assert "papermill" not in notebook.metadata and notebook.metadata.kernelspec.name == "python3"
    assert notebook.cells[0].source.startswith("# ") and "?" in notebook.cells[0].source.splitlines()[0]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_source_defines_nothing(source: Path):
    for cell in nbformat.read(source, 4).cells:
        if cell.cell_type == "code":
            defined = [n for n in ast.walk(ast.parse(cell.source))
                       if isinstance(n, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))]
            assert not defined, f"definitions belong in c2dlib: {cell.source}"


@pytest.mark.parametrize("name", [name for name in TABLES if name != "table1"])
def test_tables_differ_in_words_only(name):
    one, two = (nbformat.read(notebooks.FOLDER / f"{n}.ipynb", 4).cells for n in ("table1", name))
    one, two = ([c.source for c in cells if c.cell_type == "code"] for cells in (one, two))
    two = [source.replace(name, "table1") for source in two]
    added = [source for source in two if source not in one]
    assert one == [source for source in two if source not in added] and len(added) == MORE_FIGURES.get(name, (0, 0))[0]


@pytest.mark.parametrize("name", TABLES)
def test_runs_headless(name, workspace):
    student, methods, count = TABLES[name]
    if name == "table2":  # table1 trains in the notebook; here the runs are recorded before, and only read
        for row in tables.work_list(name, workspace, opened(workspace.data), 1, [student], methods, {"steps": 2}):
            run(row.experiments[0], workspace)
    given = {"overrides": {}} if name == "schedules" else {}  # it varies the steps itself
    path = notebooks.execute(name, workspace, parameters(workspace, students=[student], methods=methods, **given))
    assert path == workspace.results / f"{name}.ipynb"
    frame = pd.read_csv(workspace.results / f"{name}.csv")
    assert set(frame.status) == {"done"} and list(dict.fromkeys(frame.method)) == methods and len(frame) == count
    cells = nbformat.read(path, 4).cells
    outputs = [o for cell in cells if cell.cell_type == "code" for o in cell.outputs]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 5 + MORE_FIGURES.get(name, (0, 0))[1]
    said = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
    assert "c2dlib.distillation.losses.kd_cls" in said and "its checkpoint is not here" not in said
    assert f"{count} of {count} runs are done" in said
    assert not list(workspace.results.glob(f".{name}*")) and not (workspace.results / f"{name}.failed.ipynb").exists()


@pytest.mark.parametrize("name, figures", [
    ("figure3_errors", 6), ("figure4_examples", 1), ("00_method", 6), ("01_teacher", 6), ("your_data", 3), ("scale", 1)])
def test_figures_run_headless(name, figures, workspace):
    """They train what is missing, show every figure, and keep the picture beside the tables."""
    more = {"students": [SSD], "methods": ["baseline", "ours"]} if name == "figure3_errors" else {"student": SSD}
    given = {k: v for k, v in parameters(workspace, **more).items() if k in notebooks.parameters(name)}
    path = notebooks.execute(name, workspace, given)
    outputs = [o for cell in nbformat.read(path, 4).cells if cell.cell_type == "code" for o in cell.outputs]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == figures
    assert not any("application/vnd.jupyter.widget-view+json" in o.get("data", {}) for o in outputs)
    said = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
    if name.startswith("figure"):
        assert (workspace.results / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    if name == "your_data":
        assert "detections on 8 images agree" in said and "one CPU thread: onnx" in said
        assert list(workspace.runs.rglob("*.onnx"))
    if name == "figure3_errors":
        frame = pd.read_csv(workspace.results / "figure3.csv")
        assert set(frame.method) == {"baseline", "KDcls+loc+KDloc"} and set(frame.type) == {*TYPES, BOXES}
        assert sorted(set(frame.IoU)) == list(range(50, 100, 5))
        assert len(list((workspace.results / "errors").glob("*.json"))) >= 2


def test_misspelt_parameter_is_refused_before_anything_runs(workspace):
    with pytest.raises(ValueError, match="no parameter sedes; it has scale, data, seeds"):
        notebooks.execute("table1", workspace, parameters(workspace, sedes=3))


def test_failing_cell_leaves_a_copy_to_read_and_the_last_whole_one(tmp_path, monkeypatch):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    cells = [nbformat.v4.new_code_cell("scale = 'smoke'\nfail = True", metadata={"tags": ["parameters"]}),
             nbformat.v4.new_code_cell("assert not fail, 'told to'")]
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
        notebooks.html(workspace)
    workspace.results.mkdir()
    cells = [nbformat.v4.new_markdown_cell("# Is 1 < 2?"), nbformat.v4.new_code_cell("1 < 2", outputs=[
        nbformat.v4.new_output("execute_result", {"text/plain": "True, really"}, execution_count=1)])]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), workspace.results / "small.ipynb")
    (workspace.results / "claims.md").write_text("# Claims\n\n[why](reading.md)\n\n| a | b |\n|---|---|\n| **holds** | 1 |\n")
    index = notebooks.html(workspace)
    claims = (index.parent / "claims.html").read_text()
    assert "<strong>holds</strong></td>" in claims and 'href="reading.html"' in claims and 'href="claims.html"' in index.read_text()
    page = (index.parent / "small.html").read_text()
    assert index.name == "index.html" and '<a href="small.html">Is 1 &lt; 2?</a>' in index.read_text()
    assert "True, really" in page
    assert not re.findall(r"""(?:src|href)=["']?https?://""", page + index.read_text())
