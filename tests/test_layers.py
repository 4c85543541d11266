"""The tree is the way of the data: no module imports from a folder that comes after its own."""

import ast
from pathlib import Path

import pytest

import c2dlib

PACKAGE = Path(c2dlib.__file__).parent
# From an image to a page. `evaluation` comes before `training` because a run ends with its metrics.
FOLDERS = [
    "config",
    "data",
    "detectors",
    "teacher",
    "distillation",
    "evaluation",
    "training",
    "reporting",
    "figures",
    "cluster",
    "deployment",
]
FOR_ALL = {
    "records": [],
    "files": [],
    "distributed": [],
    "workspace": ["config", "data"],
}  # module -> folders it may import from
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[tuple[str, str]]:
    """What a module imports of c2dlib, also inside its functions.

    Returns:
        Pairs: the first part after ``c2dlib.``, and the name or the whole path.
    """
    imports = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "c2dlib":
            parts = node.module.split(".")[1:]
            imports |= (
                {(parts[0], node.module)} if parts else {(alias.name, alias.name) for alias in node.names}
            )
        elif isinstance(node, ast.Import):
            imports |= {(a.name.split(".")[1], a.name) for a in node.names if a.name.startswith("c2dlib.")}
    return imports


def test_every_folder_has_its_place():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders == set(FOLDERS)
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", "__main__", "cli", *FOR_ALL}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_point_one_way(path):
    place = path.relative_to(PACKAGE).parts
    if place[0] in ("__init__.py", "__main__.py", "cli.py"):
        return  # the public names and the commands may use everything
    own = place[0].removesuffix(".py")
    allowed = FOR_ALL[own] if own in FOR_ALL else FOLDERS[: FOLDERS.index(own) + 1]
    for part, module in imported(path):
        assert part in allowed or part in FOR_ALL, (
            f"{path.relative_to(PACKAGE)} imports {module}, which comes after it"
        )


def test_settings_need_no_torch():
    """``config``, ``records`` and ``files`` are read by ``--help``, which must not wait for torch."""
    for path in [*PACKAGE.glob("config/*.py"), PACKAGE / "records.py", PACKAGE / "files.py"]:
        roots = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                roots.add((node.module or "").split(".")[0])
            elif isinstance(node, ast.Import):
                roots |= {a.name.split(".")[0] for a in node.names}
        assert not roots & {"torch", "torchvision", "timm", "accelerate", "pandas", "matplotlib"}, path
