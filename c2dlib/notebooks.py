"""Notebooks executed headless, in this process's own Python environment, whole or not at all."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import nbformat

from c2dlib.explorer import HEADLESS
from c2dlib.files import write_whole
from c2dlib.records import ROOT
from c2dlib.site import Site

FOLDER = ROOT / "notebooks"
PIECES = {"method": "00_method", "teacher": "01_teacher", "figure3": "figure3_errors", "figure4": "figure4_examples",
          "your_data": "your_data"}  # what is reproduced beside the tables, and its notebook


def parameters(name: str) -> list[str]:
    """The parameters that ``notebooks/<name>.ipynb`` has."""
    from papermill.inspection import _infer_parameters
    from papermill.iorw import load_notebook_node

    return [p.name for p in _infer_parameters(load_notebook_node(str(FOLDER / f"{name}.ipynb")))]


def execute(name: str, site: Site, given: dict) -> Path:
    """Run ``notebooks/<name>.ipynb`` with parameters; leave the executed copy beside the results.

    Papermill writes while it runs, so it writes to a temporary name that is renamed at the end; a notebook that
    stops on an error is kept as ``<name>.failed.ipynb``.

    Raises:
        ValueError: for a parameter the notebook does not have (papermill would only warn).
        papermill.PapermillExecutionError: if a cell raises.
    """
    import papermill

    source, target = FOLDER / f"{name}.ipynb", site.results / f"{name}.ipynb"
    inside = parameters(name)
    if unknown := sorted(set(given) - set(inside)):
        raise ValueError(f"{source.name} has no parameter {', '.join(unknown)}; it has {', '.join(inside)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{name}.", suffix=".ipynb")
    os.close(handle)
    os.environ[HEADLESS] = "1"  # nobody can click: widgets become figures
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            papermill.execute_notebook(str(source), temporary, given, cwd=str(Path.cwd()), kernel_name="python3",
                                       progress_bar=False, coalesce_streams=True)
        _keep(temporary, target)
        target.with_suffix(".failed.ipynb").unlink(missing_ok=True)
    except papermill.PapermillExecutionError:
        _keep(temporary, target.with_suffix(".failed.ipynb"))
        raise
    finally:
        del os.environ[HEADLESS]
        Path(temporary).unlink(missing_ok=True)
    return target


def _keep(temporary: str, target: Path) -> None:
    """Put the executed copy in place, readable by all and without the paths papermill notes in it."""
    notebook = nbformat.read(temporary, 4)
    for name in ("input_path", "output_path"):
        notebook.metadata.get("papermill", {}).pop(name, None)
    write_whole(target, nbformat.writes(notebook))
