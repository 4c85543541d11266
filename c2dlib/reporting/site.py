"""Executed notebooks and texts as pages for a browser: no server, no network and no script is needed.

All that a page leads to is in the site's folder, which can therefore be published as it is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

import nbformat
from nbconvert import HTMLExporter

from c2dlib.files import write_whole
from c2dlib.records import PUBLISHED, ROOT
from c2dlib.reporting.formulas import markdown_to_html
from c2dlib.reporting.navigation import GROUPS, ORDER, navigation
from c2dlib.reporting.notebooks import FOLDER, PIECES, read_copy, show_navigation
from c2dlib.reporting.readme import descriptions, pages
from c2dlib.workspace import Workspace

FIRST = ["README", "results", "reading", "claims", "photographs", "METHOD", "DEVIATIONS"]  # of the texts
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^]]*)\]\((?!\w+:|#)(?P<file>[^)#\s]+)(?P<heading>#[^)\s]*)?\)")


def results_site(workspace: Workspace) -> Path:
    """Write a workspace's executed notebooks and texts into its ``html/``; return the index.

    Raises:
        FileNotFoundError: if no notebook was executed there.
    """
    results = Path(os.path.abspath(workspace.results))
    site = Site(results / "html", results, [results])
    if not site.notebooks:
        raise FileNotFoundError(
            f"{workspace.results}: no executed notebook; `make reproduce-table2` writes one, "
            "`make html ARGS=--published` renders the published ones"
        )
    return site.write()


def published_site(folder: Path = PUBLISHED / "html") -> Path:
    """Write all published results and the texts of this project into a folder; return the index.

    Notebooks that are not published as executed copies are shown without outputs.
    """
    results = sorted(path.parent for path in PUBLISHED.glob("*/records"))
    shown = {path.stem for place in results for path in _executed(place)}
    sources = [FOLDER / f"{name}.ipynb" for name in ORDER if name not in shown]
    texts = [*pages(), *(ROOT / name for name in ("METHOD.md", "DEVIATIONS.md"))]
    texts += [*sorted(PUBLISHED.parent.glob("*.md")), *sorted(PUBLISHED.glob("*.md"))]
    return Site(folder, ROOT, results, texts, sources).write()


def _executed(results: Path) -> list[Path]:
    """The executed notebooks of a results folder, in the order of reading."""
    copies = [path for path in sorted(results.glob("*.ipynb")) if not path.name.startswith(".")]
    return sorted(copies, key=lambda path: (*ORDER, _name(path)).index(_name(path)))


def _name(copy: Path) -> str:
    """The name of the notebook that a copy is of; that of ``table1.failed.ipynb`` is ``table1``."""
    return copy.name.partition(".")[0]


def _of_text(path: Path) -> str:
    """The name of the notebook that writes a text, if one does: ``figure3_errors`` for ``figure3.md``."""
    return PIECES.get(path.stem, path.stem)


class Site:
    """A folder of pages with an index.

    Notebooks that are damaged are named on stderr and left out.

    A page or a file lies where its source lies below ``root``; files from elsewhere lie in ``linked/``.

    Args:
        folder: where the site is written.
        root: a folder above most sources.
        results: the results folders whose executed notebooks and texts are shown.
        texts: further Markdown files.
        sources: notebooks to show without outputs.
    """

    def __init__(
        self,
        folder: Path,
        root: Path,
        results: list[Path],
        texts: Sequence[Path] = (),
        sources: Sequence[Path] = (),
    ):
        self.folder, self.root, self.results, self.texts = folder, root, results, list(texts)
        copies = [*(copy for place in results for copy in _executed(place)), *sources]
        self.notebooks = {path: notebook for path in copies if (notebook := read_copy(path))}
        self.pages = {path: self._place(path).with_name(f"{path.stem}.html") for path in self.notebooks}
        for text in (text for place in results for text in sorted(place.glob("*.md"))):
            if (notebook := text.with_suffix(".ipynb")) in self.pages:
                self.pages[text] = self.pages[notebook]  # which shows the table
            else:
                self.texts.append(text)
        self.pages |= {text: self._place(text).with_suffix(".html") for text in self.texts}
        self.exporter = HTMLExporter(raw_template=WITHOUT_SCRIPTS)
        self.exporter.register_filter("markdown2html", markdown_to_html)

    def write(self) -> Path:
        """Write all pages, the files that they lead to, and the index; return the index."""
        titles = {path: self._write_notebook(path) for path in self.notebooks}
        titles |= {path: self._write_text(path) for path in self.texts}
        write_whole(self.folder / INDEX, PAGE.format(title=TITLE, body=self._index(titles)))
        return self.folder / INDEX

    def _place(self, path: Path) -> Path:
        return path.relative_to(self.root) if path.is_relative_to(self.root) else Path("linked", path.name)

    def _address(self, target: Path, page: Path) -> str:
        """The address of a source or a file for a page; empty if it is not there, or not to be copied."""
        if target in self.results:
            return _relative(INDEX, page)
        if target in self.pages:
            return _relative(self.pages[target], page)
        return self._file(target, page) if self._may_copy(target) else ""

    def _may_copy(self, path: Path) -> bool:
        """Whether a file lies in the project or the results: pages lead to no other file of the machine."""
        places = [place.resolve() for place in (ROOT, *self.results)]
        return path.is_file() and any(path.resolve().is_relative_to(place) for place in places)

    def _file(self, path: Path, page: Path) -> str:
        """The address of a file, of which the site gets a copy."""
        write_whole(self.folder / self._place(path), path.read_bytes())
        return _relative(self._place(path), page)

    def _with_addresses(self, text: str, source: Path) -> str:
        """The Markdown of a source with the addresses that its page needs; a dead link is its text alone."""

        def link(match: re.Match) -> str:
            target = Path(os.path.abspath(source.parent / match["file"]))
            address = self._address(target, self.pages[source])
            shown = f"{match['image']}[{match['text']}]({address}{match['heading'] or ''})"
            return shown if address else match["text"]

        return LINK.sub(link, text)

    def _write_notebook(self, path: Path) -> str:
        """Write the page of a notebook; return its title."""
        notebook, page, name = self.notebooks[path], self.pages[path], _name(path)

        def neighbour(other: str) -> str:
            places = [folder / f"{other}.ipynb" for folder in (path.parent, *self.results, FOLDER)]
            return next((self._address(place, page) for place in places if place in self.pages), "")

        source = FOLDER / f"{name}.ipynb"
        line = navigation(name, self._file(source, page) if source.exists() else "", neighbour)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = self._with_addresses(cell.source, path)
            for data in (output.get("data", {}) for output in cell.get("outputs", [])):
                if "text/markdown" in data:
                    data["text/markdown"] = self._with_addresses(data["text/markdown"], path)
        show_navigation(notebook, f"{line} · [index]({_relative(INDEX, page)})")
        title = _title(notebook.cells[0].source, path)
        body, _ = self.exporter.from_notebook_node(_described(notebook), {"metadata": {"name": title}})
        write_whole(self.folder / page, body)
        return title

    def _write_text(self, path: Path) -> str:
        """Write the page of a Markdown file; return its title."""
        text, page = path.read_text(encoding="utf-8"), self.pages[path]
        body = f'<nav><a href="{_relative(INDEX, page)}">index</a></nav>\n'
        body += markdown_to_html(self._with_addresses(text, path))
        write_whole(self.folder / page, PAGE.format(title=escape(_title(text, path)), body=body))
        return _title(text, path)

    def _index(self, titles: dict[Path, str]) -> str:
        """The texts, then the notebooks in the order of reading, each with a sentence and all its copies."""
        numbers = [path for path in self.texts if _of_text(path) in ORDER]  # of a notebook: figure3.md
        others = sorted({_name(path) for path in self.notebooks}.difference(ORDER))
        texts = [path for path in self.texts if path not in numbers]
        texts.sort(key=lambda path: (*FIRST, path.stem).index(path.stem))
        groups = {"Texts": [self._item(path, titles) for path in texts]}
        sentences = descriptions()
        for group, names in {**GROUPS, "Other notebooks": others}.items():
            groups[group] = []
            for name in names:
                copies = [path for path in self.notebooks if _name(path) == name]
                copies += [path for path in numbers if _of_text(path) == name]
                if copies:
                    groups[group].append(self._item(copies[0], titles, sentences.get(name, ""), copies[1:]))
        places = ", ".join(f"<code>{escape(place.name)}</code>" for place in self.results)
        parts = [f"<h1>{TITLE}</h1>\n<p>Executed notebooks with their tables and figures, on {places}.</p>"]
        for group, items in groups.items():
            if items:
                parts += [f"<h2>{group}</h2>\n<ul>", *items, "</ul>"]
        return "\n".join(parts)

    def _item(
        self, path: Path, titles: dict[Path, str], sentence: str = "", copies: Sequence[Path] = ()
    ) -> str:
        """A line of the index: a page's title and source, what it is in a sentence, its other copies."""
        state = {".failed": " <b>(stopped on an error)</b>"}.get(Path(path.stem).suffix, "")
        if path.parent == FOLDER:
            state = " (not executed)"
        parts = [f"{self._to(path, titles[path])} <code>{escape(_short(self._place(path)))}</code>{state}"]
        if copies:
            parts.append("also " + ", ".join(self._to(copy, _short(self._place(copy))) for copy in copies))
        return f"<li>{' · '.join(parts)}{markdown_to_html(sentence)}</li>"

    def _to(self, path: Path, text: str) -> str:
        return f'<a href="{quote(self.pages[path].as_posix())}">{escape(text)}</a>'


def _relative(place: Path, page: Path) -> str:
    return quote(Path(os.path.relpath(place, page.parent)).as_posix())


def _short(place: Path) -> str:
    """Where a source lies, as the index names it: ``badges-mini/table1.ipynb``."""
    return place.as_posix().removeprefix("results/published/")


def _title(text: str, path: Path) -> str:
    """The first line of a source; the name of its file where that is empty."""
    return text.partition("\n")[0].strip().lstrip("# ") or path.stem


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


INDEX = Path("index.html")
TITLE = "Distilling Image Classifiers in Object Detectors, reproduced"
# nbconvert's page without the scripts that it loads from the network.
WITHOUT_SCRIPTS = "{% extends 'lab/index.html.j2' %}" + "".join(
    f"{{% block html_head_{name} %}}{{% endblock %}}" for name in ("js", "js_mathjax", "js_mermaidjs")
)
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>body {{ font: 16px/1.6 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }}
li {{ margin: .4em 0 }} li p {{ margin: 0 }} code {{ color: #666; font-size: 80% }} \
pre {{ overflow-x: auto }} \
table {{ border-collapse: collapse; font-size: 85% }}
td, th {{ padding: .15em .6em; border-bottom: 1px solid #ddd }} \
img {{ max-width: 100% }} .anchor-link {{ display: none }}</style></head>
<body>
{body}
</body></html>
"""
