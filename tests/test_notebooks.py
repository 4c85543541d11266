"""Notebooks: committed bare, without definitions, and every one of them runs headless at smoke scale."""

import ast
import json
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest

from c2dlib import notebooks, tables
from c2dlib.runs import run
from c2dlib.site import Site, open_site, opened

SOURCES = sorted(notebooks.FOLDER.glob("*.ipynb"))
TABLES = {"table1": ("SSD300-VGG16", ["baseline", "KDcls"]), "table2": ("SSD512-VGG16", ["baseline", "ours"])}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Site:
    """A fresh place to read and write; the notebooks share its pre-training and its teacher."""
    root = tmp_path_factory.mktemp("site")
    return open_site("smoke", "", root / "results", root / "runs", "cpu")[0]


def parameters(site: Site, **more) -> dict:
    return {"scale": "smoke", "overrides": {"steps": 2}, "device": "cpu", "jobs": 1, "results": str(site.results.parent),
            "runs": str(site.runs), **more}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_source_is_bare(source: Path):
    notebook = nbformat.read(source, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code), "clear the outputs before committing"
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


def test_tables_differ_in_words_only():
    one, two = (nbformat.read(notebooks.FOLDER / f"{name}.ipynb", 4).cells for name in TABLES)
    code = [[c.source.replace("table2", "table1") for c in cells if c.cell_type == "code"] for cells in (one, two)]
    assert code[0] == code[1]


@pytest.mark.parametrize("name", TABLES)
def test_runs_headless(name, site):
    student, methods = TABLES[name]
    if name == "table2":  # table1 trains in the notebook; here the runs are recorded before, and only read
        for row in tables.work_list(name, site, opened(site.data), 1, [student], methods, {"steps": 2}):
            run(row.experiments[0], site)
    path = notebooks.execute(name, site, parameters(site, students=[student], methods=methods))
    assert path == site.results / f"{name}.ipynb"
    frame = pd.read_csv(site.results / f"{name}.csv")
    assert set(frame.status) == {"done"} and list(frame.method) == methods
    cells = nbformat.read(path, 4).cells
    outputs = [o for cell in cells if cell.cell_type == "code" for o in cell.outputs]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 5
    said = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
    assert "c2dlib.losses.kd_cls" in said and "its checkpoint is not here" not in said
    assert "2 of 2 runs are done" in said
    assert not list(site.results.glob(f".{name}*")) and not (site.results / f"{name}.failed.ipynb").exists()


def test_misspelt_parameter_is_refused_before_anything_runs(site):
    with pytest.raises(ValueError, match="no parameter sedes; it has scale, data, seeds"):
        notebooks.execute("table1", site, parameters(site, sedes=3))


def test_failing_cell_leaves_a_copy_to_read_and_the_last_whole_one(tmp_path, monkeypatch):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    cells = [nbformat.v4.new_code_cell("scale = 'smoke'\nfail = True", metadata={"tags": ["parameters"]}),
             nbformat.v4.new_code_cell("assert not fail, 'told to'")]
    meta = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=meta), folder / "small.ipynb")
    monkeypatch.setattr(notebooks, "FOLDER", folder)
    site = Site("smoke", tmp_path, tmp_path / "results", tmp_path / "runs", "cpu")

    whole, failed = site.results / "small.ipynb", site.results / "small.failed.ipynb"
    with pytest.raises(papermill.PapermillExecutionError, match="told to"):
        notebooks.execute("small", site, {})
    assert failed.exists() and not whole.exists()

    assert notebooks.execute("small", site, {"fail": False}) == whole
    assert not failed.exists()  # no longer true
    before = whole.read_bytes()
    with pytest.raises(papermill.PapermillExecutionError):
        notebooks.execute("small", site, {})
    assert whole.read_bytes() == before and "told to" in failed.read_text()
    assert sorted(p.name for p in site.results.iterdir()) == ["small.failed.ipynb", "small.ipynb"]
    assert str(tmp_path) not in json.dumps(json.loads(whole.read_text())["metadata"])  # no machine paths
    assert whole.stat().st_mode & 0o444 == 0o444
