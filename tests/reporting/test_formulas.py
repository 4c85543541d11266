"""Formulas in pages are MathML, which a browser draws without a script; the Markdown around them stays."""

import re

import nbformat
import pytest

from c2dlib.reporting import notebooks
from c2dlib.reporting.formulas import markdown_to_html


def test_formulas_become_mathml():
    html = markdown_to_html("The *temperature* $T^2$ of\n\n$$\\frac{a}{b} \\qquad (3)$$")
    assert "<em>temperature</em>" in html and "$" not in html
    assert "<msup><mi>T</mi><mn>2</mn></msup>" in html and html.count("<math") == 2
    assert 'display="block"' in html and re.search(r"<mfrac>.*<mi>a</mi>.*<mi>b</mi>.*</mfrac>", html)


@pytest.mark.parametrize("text", ["a class `5$_$ note`", "one $ alone", "$\\frac{a}{$"])
def test_what_is_no_formula_stays(text):
    assert "$" in markdown_to_html(text) and "<math" not in markdown_to_html(text)


@pytest.mark.parametrize("source", sorted(notebooks.FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_formula_of_the_notebooks_is_converted(source):
    """No dollar sign and no LaTeX command is left in the text of a page."""
    cells = [c.source for c in nbformat.read(source, 4).cells if c.cell_type == "markdown"]
    text = re.sub(r"<(code|math)\b.*?</\1>", "", "\n".join(map(markdown_to_html, cells)), flags=re.DOTALL)
    assert "$" not in text and not re.search(r"\\[a-z]+", text)


@pytest.mark.parametrize("name, equations", [("00_method", [3, 5, 8, 9, 10, 11, 12]), ("table1", [3, 11])])
def test_equations_stand_where_they_are_computed(name, equations):
    text = "\n".join(c.source for c in nbformat.read(notebooks.FOLDER / f"{name}.ipynb", 4).cells)
    assert sorted(map(int, re.findall(r"\\qquad \((\d+)\)\$\$", text))) == equations
