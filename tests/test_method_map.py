"""METHOD.md: every function, test and deviation it names exists, and no equation is left out."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def rows(file: str) -> list[list[str]]:
    """The cells of every table row of a Markdown file, heads and rules left out."""
    lines = [line for line in (ROOT / file).read_text().splitlines() if line.startswith("|")]
    heads = {i - 1 for i, line in enumerate(lines) if set(line) <= set("|-: ")}
    kept = [line for i, line in enumerate(lines) if i not in heads and i - 1 not in heads]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in kept]


MAP = rows("METHOD.md")
DEVIATIONS = {row[0] for row in rows("DEVIATIONS.md")}


def names_of_tests(body: list[ast.stmt], prefix: str = "") -> set[str]:
    """``test_name`` and ``TestClass::test_name`` of a test file's syntax tree."""
    names = {
        prefix + node.name
        for node in body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    for node in body:
        if isinstance(node, ast.ClassDef):
            names |= names_of_tests(node.body, f"{node.name}::")
    return names


@pytest.mark.parametrize("row", MAP, ids=lambda row: f"{row[0]} {row[2]}")
def test_what_a_row_names_exists(row):
    _, _, function, test, deviation = row
    module, _, name = function.strip("`").rpartition(".")
    try:
        owner = importlib.import_module(module)
    except ModuleNotFoundError:  # a method: the module is one name shorter
        module, _, owner_name = module.rpartition(".")
        owner = getattr(importlib.import_module(module), owner_name)
    assert callable(getattr(owner, name))
    path, _, test_name = test.strip("`").partition("::")
    assert test_name in names_of_tests(ast.parse((ROOT / path).read_text()).body)
    assert deviation == "none" or deviation in DEVIATIONS, f"{deviation!r} is no row of DEVIATIONS.md"


def test_every_equation_of_the_losses_is_there():
    covered = set()
    for paper in (row[0] for row in MAP):
        if numbers := re.fullmatch(r"eq\. (\d+)(?:-(\d+))?", paper):
            covered |= set(range(int(numbers[1]), int(numbers[2] or numbers[1]) + 1))
    assert covered == {3, 4, 5, 6, 8, 9, 10, 11, 12}
    for paper in ("tables 1-5", "table 2", "table 3b", "figure 3", "figure 4"):
        assert any(row[0] == paper for row in MAP)
