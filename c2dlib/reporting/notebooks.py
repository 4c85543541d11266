"""Notebooks executed headless, in the Python environment of this process.

An executed copy is written whole or not at all.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from pathlib import Path

import nbformat

from c2dlib.files import errors_named, sweep, temporary_file, write_whole
from c2dlib.records import ROOT
from c2dlib.reporting.navigation import navigation, neighbours, with_navigation
from c2dlib.reporting.work_list import ablated
from c2dlib.workspace import PUBLISHED, Workspace, open_workspace, waiting_lock

FOLDER = ROOT / "notebooks"
PIECES = {
    "method": "00_method",
    "teacher": "01_teacher",
    "figure3": "figure3_errors",
    "figure4": "figure4_examples",
    "your_data": "your_data",
    "own_loop": "own_loop",
    "scale": "scale",
    "regimes": "regimes",
}  # what `reproduce` takes besides the tables -> its notebook
# Environment variable, set while a notebook is executed: figures are shown in place of widgets.
HEADLESS = "C2D_HEADLESS"
BAR = re.compile(r"\r[^\r\n]*\n?")  # a progress bar, as tqdm writes it


def parameters(name: str) -> list[str]:
    """The names of the parameters of ``notebooks/<name>.ipynb``."""
    from papermill.inspection import _infer_parameters
    from papermill.iorw import load_notebook_node

    return [p.name for p in _infer_parameters(load_notebook_node(str(FOLDER / f"{name}.ipynb")))]


def execute(name: str, workspace: Workspace, given: dict) -> Path:
    """Execute ``notebooks/<name>.ipynb`` with parameters; return the path of the executed copy.

    The copy is beside the results. Papermill writes while it runs, therefore to a temporary name that is
    renamed at the end. A notebook that stops on an error is kept as ``<name>.failed.ipynb``.

    Args:
        name: the notebook's file name without its suffix.
        workspace: its ``results`` folder receives the executed copy.
        given: parameter -> value; the others keep the notebook's defaults.

    Raises:
        ValueError: for a parameter that the notebook does not have (papermill only warns).
        papermill.PapermillExecutionError: if a cell raises.
    """
    import papermill

    source, target = FOLDER / f"{name}.ipynb", workspace.results / f"{name}.ipynb"
    known = parameters(name)
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"{source.name} has no parameter {', '.join(unknown)}; it has {', '.join(known)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target.parent)
    os.environ[HEADLESS] = "1"
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # else every kernel warns of frozen modules
    try:
        with errors_named(target), temporary_file(target, ".ipynb") as (_, temporary):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)
                    papermill.execute_notebook(
                        _unformatted(source),
                        _unformatted(temporary),
                        given,
                        cwd=str(Path.cwd()),
                        kernel_name="python3",
                        progress_bar=False,
                        coalesce_streams=True,
                        stdout_file=_BarsOnly(),
                        extra_arguments=["--log-level=CRITICAL"],  # errors of cells are in the notebook
                    )
            except papermill.PapermillExecutionError:
                _keep(temporary, target.with_suffix(".failed.ipynb"), workspace)
                raise
            _keep(temporary, target, workspace)
        target.with_suffix(".failed.ipynb").unlink(missing_ok=True)
    finally:
        del os.environ[HEADLESS]
    return target


class _BarsOnly:
    """A file that passes the progress bars of an executed notebook on to stderr, and nothing else."""

    def write(self, text: str) -> None:
        sys.stderr.write("".join(BAR.findall(text)))

    def flush(self) -> None:
        sys.stderr.flush()


def _unformatted(path: str | Path) -> str:
    """A path for papermill, which takes braces in it for places of parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _keep(temporary: str, target: Path, workspace: Workspace) -> None:
    """Put the executed copy in place, readable by all and without the paths in papermill's metadata.

    Its line of navigation, and that of its neighbours, leads to the copies that are there. One process at a
    time does so: the copy of a neighbour is read and written again.
    """
    notebook = nbformat.read(temporary, 4)
    for name in ("input_path", "output_path"):
        notebook.metadata.get("papermill", {}).pop(name, None)
    with waiting_lock(workspace.runs / workspace.results.name, str(target.parent)):
        write_whole(target, nbformat.writes(notebook))
        for name in (target.stem, *neighbours(target.stem).values()):
            if (copy := target.parent / f"{name}.ipynb").exists():
                _renew_navigation(copy)


def read_copy(path: Path) -> nbformat.NotebookNode | None:
    """A notebook with at least one cell; anything else is named on stderr, and None."""
    try:
        notebook = nbformat.read(path, 4)
        nbformat.validate(notebook)
        if notebook.cells:
            return notebook
        reason = "it has no cell"
    except Exception as error:  # nbformat raises many types
        reason = str(error).partition("\n")[0] or type(error).__name__
    print(f"{path}: not a whole notebook ({reason}), not used", file=sys.stderr)
    return None


def _renew_navigation(copy: Path) -> None:
    """Bring the line of navigation of an executed copy up to date with the copies beside it."""
    notebook = read_copy(copy)
    if notebook is None:
        return
    sources = Path(os.path.relpath(FOLDER, copy.parent)).as_posix() if copy.is_relative_to(ROOT) else ""

    def of_source(name: str) -> str:
        return f"{sources}/{name}.ipynb" if sources else ""

    def address(name: str) -> str:
        return f"{name}.ipynb" if (copy.parent / f"{name}.ipynb").exists() else of_source(name)

    name = copy.name.partition(".")[0]
    before = notebook.cells[0].source
    show_navigation(notebook, navigation(name, of_source(name), address))
    if notebook.cells[0].source != before:
        write_whole(copy, nbformat.writes(notebook))


def show_navigation(notebook: nbformat.NotebookNode, line: str) -> None:
    """Write a line of ``navigation`` into a notebook, below its title."""
    first = notebook.cells[0]
    if first.cell_type == "markdown":
        first.source = with_navigation(first.source, line)


def execute_published(name: str, scale: str, data: str = "") -> Path:
    """Execute a notebook on the published records and weights, and keep the copy beside them.

    Nothing is trained; a table or a figure that the notebook writes is written anew from the records.

    Args:
        name: a key of ``PIECES``, or a table.
        scale, data: as for ``open_workspace``.

    Raises:
        ValueError: if the notebook does not show published results.
        papermill.PapermillExecutionError: if something that it needs is not published.
    """
    notebook = PIECES.get(name, name)
    if "published" not in parameters(notebook):
        raise ValueError(
            f"{notebook}.ipynb does not show published results: make reproduce-{name} executes it"
        )
    workspace, _ = open_workspace(scale, data, results=PUBLISHED)
    student = {"student": ablated(scale)} if "student" in parameters(notebook) else {}
    return execute(notebook, workspace, {"scale": scale, "data": data, "published": True, **student})
