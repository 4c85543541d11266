"""Notebooks executed headless, in the Python environment of this process.

An executed copy is written whole or not at all.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from html import escape
from pathlib import Path

import nbformat

from c2dlib.files import errors_named, sweep, temporary_file, write_whole
from c2dlib.records import ROOT
from c2dlib.reporting.navigation import navigation, neighbours, with_navigation
from c2dlib.reporting.work_list import ablated
from c2dlib.workspace import PUBLISHED, Workspace, open_workspace

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
                _keep(temporary, target.with_suffix(".failed.ipynb"))
                raise
            _keep(temporary, target)
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


def _keep(temporary: str, target: Path) -> None:
    """Put the executed copy in place, readable by all and without the paths in papermill's metadata.

    Its line of navigation, and that of its neighbours, leads to the copies that are there.
    """
    notebook = nbformat.read(temporary, 4)
    for name in ("input_path", "output_path"):
        notebook.metadata.get("papermill", {}).pop(name, None)
    write_whole(target, nbformat.writes(notebook))
    for name in (target.stem, *neighbours(target.stem).values()):
        if (copy := target.parent / f"{name}.ipynb").exists():
            _renew_navigation(copy)


def _renew_navigation(copy: Path) -> None:
    """Bring the line of navigation of an executed copy up to date with the copies beside it."""
    notebook = nbformat.read(copy, 4)
    sources = Path(os.path.relpath(FOLDER, copy.parent)).as_posix() if copy.is_relative_to(ROOT) else ""

    def of_source(name: str) -> str:
        return f"{sources}/{name}.ipynb" if sources else ""

    def address(name: str) -> str:
        return f"{name}.ipynb" if (copy.parent / f"{name}.ipynb").exists() else of_source(name)

    name = copy.name.partition(".")[0]
    before = notebook.cells[0].source
    _show_navigation(notebook, navigation(name, of_source(name), address))
    if notebook.cells[0].source != before:
        write_whole(copy, nbformat.writes(notebook))


def _show_navigation(notebook: nbformat.NotebookNode, line: str) -> None:
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


def html(workspace: Workspace) -> Path:
    """Render a workspace's executed notebooks and claims into ``html/``, with an index; return the index.

    The pages need no server and no network.

    Raises:
        FileNotFoundError: if no notebook was executed there.
    """
    from nbconvert import HTMLExporter

    from c2dlib.reporting.formulas import markdown_to_html

    executed = sorted(p for p in workspace.results.glob("*.ipynb") if not p.name.startswith("."))
    if not executed:
        raise FileNotFoundError(
            f"{workspace.results}: no executed notebook; `make reproduce-table2` writes one, "
            "`make html ARGS=--published` renders the published ones"
        )
    exporter, items, folder = HTMLExporter(raw_template=WITHOUT_SCRIPTS), [], workspace.results / "html"
    exporter.register_filter("markdown2html", markdown_to_html)
    pages = {path.stem for path in executed}
    for path in executed:
        notebook = nbformat.read(path, 4)
        name = path.name.partition(".")[0]
        line = navigation(name, "", lambda other: f"{other}.html" if other in pages else "")
        _show_navigation(notebook, line)
        body, _ = exporter.from_notebook_node(_described(notebook), {"metadata": {"name": path.stem}})
        write_whole(folder / f"{path.stem}.html", body)
        title = notebook.cells[0].source.splitlines()[0].lstrip("# ")
        failed = " <b>(stopped on an error)</b>" if path.stem.endswith(".failed") else ""
        items.append(
            f'<li><a href="{path.stem}.html">{escape(title)}</a> <code>{path.stem}</code>{failed}</li>'
        )
    name = escape(f"{workspace.data_name}, scale {workspace.scale}")
    first = ("reading", "claims")
    texts = [path for path in sorted(workspace.results.glob("*.md")) if path.stem not in pages]
    for path in texts:  # a table with a notebook is on the notebook's page
        text = LINK.sub(
            lambda link, path=path: _from_page(link, path, folder), path.read_text(encoding="utf-8")
        )
        write_whole(folder / f"{path.stem}.html", PAGE.format(name=name, body=markdown_to_html(text)))
        title = escape(text.splitlines()[0].lstrip("# "))
        item = f'<li><a href="{path.stem}.html"><b>{title}</b></a></li>'
        items.insert(0 if path.stem in first else len(items), item)
    write_whole(
        folder / "index.html", PAGE.format(name=name, body=INDEX.format(name=name, items="\n".join(items)))
    )
    return folder / "index.html"


def _described(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with its pictures as HTML that has their texts, which nbconvert's page leaves out."""
    for output in (o for cell in notebook.cells for o in cell.get("outputs", [])):
        of_image = output.get("metadata", {}).get("image/png", {})
        if "alt" in of_image:
            source, size = output.data["image/png"].replace("\n", ""), of_image.get("width", "")
            output.data["text/html"] = (
                f'<img src="data:image/png;base64,{source}" width="{size}" alt="{escape(of_image.alt)}">'
            )
    return notebook


LINK = re.compile(r"\]\((?!\w+:|#)([^)#]+)")  # of Markdown, to a file


def _from_page(link: re.Match, page: Path, folder: Path) -> str:
    """A link of a Markdown file as its page needs it; other files are copied: all is in one folder."""
    target = page.parent / link[1]
    if target.parent == page.parent and target.suffix == ".md":
        return f"]({target.stem}.html"
    if not target.is_file():
        return f"](../{link[1]}"
    copy = folder / "files" / target.name
    write_whole(copy, target.read_bytes())
    return f"](files/{copy.name}"


# nbconvert's page without the scripts that it loads from the network.
WITHOUT_SCRIPTS = "{% extends 'lab/index.html.j2' %}" + "".join(
    f"{{% block html_head_{name} %}}{{% endblock %}}" for name in ("js", "js_mathjax", "js_mermaidjs")
)
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>c2dlib: {name}</title>
<style>body {{ font: 16px/1.6 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }}
li {{ margin: .4em 0 }} code {{ color: #666; font-size: 80% }} \
table {{ border-collapse: collapse; font-size: 85% }}
td, th {{ padding: .15em .6em; border-bottom: 1px solid #ddd }} \
img {{ max-width: 100% }} .anchor-link {{ display: none }}</style></head>
<body>
{body}
</body></html>
"""
INDEX = """<h1>Distilling Image Classifiers in Object Detectors, reproduced</h1>
<p>Executed notebooks on {name}. The tables they wrote are beside this folder.</p>
<ul>
{items}
</ul>"""
