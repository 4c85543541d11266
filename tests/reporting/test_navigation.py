"""The line below a notebook's title: it names the file to run and leads to the neighbours that are there."""

from pathlib import Path
from threading import Thread

import nbformat
import pytest

from c2dlib.reporting import notebooks
from c2dlib.reporting.navigation import ORDER, navigation, with_navigation
from c2dlib.workspace import Workspace


def test_every_notebook_has_its_place_in_the_order():
    assert sorted(ORDER) == sorted(path.stem for path in notebooks.FOLDER.glob("*.ipynb"))


def test_line_by_hand():
    line = navigation("01_teacher", "../notebooks/01_teacher.ipynb", {"00_method": "a.html"}.get)
    assert line == (
        "Open to run: [notebooks/01_teacher.ipynb](../notebooks/01_teacher.ipynb)"
        " · previous: [00_method](a.html)"
        " · next: `table1`"
    )
    assert navigation(ORDER[0], "", "{}.ipynb".format).startswith(
        "Open to run: `notebooks/00_method.ipynb` · next"
    )
    assert "next" not in navigation(ORDER[-1], "", "{}.ipynb".format)
    assert navigation("mine", "mine.ipynb", str) == "Open to run: [notebooks/mine.ipynb](mine.ipynb)"


@pytest.mark.parametrize("before", ["# Why?\n\nText.", "# Why?\n\nOpen to run: an old line\n\nText."])
def test_line_stands_once_below_the_title(before):
    assert with_navigation(before, "Open to run: x") == "# Why?\n\nOpen to run: x\n\nText."


def executed(folder: Path, name: str, text: str) -> str:
    """The path of an executed notebook of one cell."""
    path = folder / f"executed {name} {text}.ipynb"
    cell = nbformat.v4.new_markdown_cell(f"# What is {name}?\n\n{text}")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return str(path)


def test_of_two_processes_each_keeps_its_notebook(tmp_path, monkeypatch):
    """One keeps the second notebook while the other, for its line of navigation, has read an earlier copy."""
    workspace = Workspace("smoke", tmp_path, tmp_path / "badges-smoke", tmp_path / "runs", "cpu")
    first, second = (workspace.results / f"{name}.ipynb" for name in ("01_teacher", "table1"))
    notebooks._keep(executed(tmp_path, second.stem, "Old."), second, workspace)
    new = executed(tmp_path, second.stem, "New.")
    other = Thread(target=notebooks._keep, args=(new, second, workspace))
    read_copy = notebooks.read_copy

    def read_while_the_other_writes(path: Path):
        notebook = read_copy(path)
        if path == second and not other.ident:
            other.start()
            other.join(timeout=0.5)
        return notebook

    monkeypatch.setattr(notebooks, "read_copy", read_while_the_other_writes)
    notebooks._keep(executed(tmp_path, first.stem, "Text."), first, workspace)
    other.join()
    text = nbformat.read(second, 4).cells[0].source
    assert "New." in text and "previous: [01_teacher](01_teacher.ipynb)" in text


def test_copies_lead_to_one_another_and_else_to_the_sources(tmp_path, monkeypatch):
    """A copy's neighbours are linked as copies if they were executed, before or after it."""
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path / "notebooks")
    results = tmp_path / "results" / "badges-smoke"
    results.mkdir(parents=True)
    workspace = Workspace("smoke", tmp_path, results, tmp_path / "runs", "cpu")
    for name in ("01_teacher", "table1"):
        notebooks._keep(executed(tmp_path, name, "Text."), results / f"{name}.ipynb", workspace)
    line = nbformat.read(results / "01_teacher.ipynb", 4).cells[0].source.splitlines()[2]
    sources = "../../notebooks"
    assert line == (
        f"Open to run: [notebooks/01_teacher.ipynb]({sources}/01_teacher.ipynb) · "
        f"previous: [00_method]({sources}/00_method.ipynb) · next: [table1](table1.ipynb)"
    )
    assert (
        "previous: [01_teacher](01_teacher.ipynb)"
        in nbformat.read(results / "table1.ipynb", 4).cells[0].source
    )
