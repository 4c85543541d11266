"""The line below a notebook's title: it names the file to run and leads to the neighbours that are there."""

import nbformat
import pytest

from c2dlib.reporting import notebooks
from c2dlib.reporting.navigation import ORDER, navigation, with_navigation


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


def test_copies_lead_to_one_another_and_else_to_the_sources(tmp_path, monkeypatch):
    """A copy's neighbours are linked as copies if they were executed, before or after it."""
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path / "notebooks")
    results = tmp_path / "results" / "badges-smoke"
    results.mkdir(parents=True)
    for name in ("01_teacher", "table1"):
        cell = nbformat.v4.new_markdown_cell(f"# What is {name}?\n\nText.")
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "executed.ipynb")
        notebooks._keep(str(tmp_path / "executed.ipynb"), results / f"{name}.ipynb")
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
