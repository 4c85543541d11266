"""No dead link: in Markdown files, in notebooks and their executed copies, and in the pages made of them."""

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

from c2dlib.records import ROOT
from c2dlib.reporting import notebooks
from c2dlib.reporting.formulas import markdown_to_html
from c2dlib.workspace import PUBLISHED, Workspace


class Links(HTMLParser):
    """The addresses in ``href`` and ``src`` of an HTML text, and the names that a ``#`` can lead to."""

    def __init__(self, text: str):
        super().__init__()
        self.addresses, self.names = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.addresses += [values[key] for key in ("href", "src") if values.get(key)]
        self.names.add(values.get("id"))


def committed(pattern: str) -> list[Path]:
    """The files of the repository that match a pattern of git, but not what is only on this machine."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", pattern],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split("\n")
    return [ROOT / name for name in listed if name and (ROOT / name).exists()]


def dead(links: Links, *folders: Path) -> list[str]:
    """The relative addresses that lead to no file beside any of the folders."""
    lost = []
    for address in links.addresses:
        parts = urlsplit(address)
        if parts.scheme or parts.netloc:
            continue  # of the web, or data
        path = unquote(parts.path)
        if path and not any((folder / path).exists() for folder in folders):
            lost.append(address)
    return lost


def markdown_of(path: Path) -> str:
    """The Markdown of a file, or of a notebook with that of its outputs."""
    if path.suffix == ".md":
        return path.read_text()
    parts = []
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        for output in cell.get("outputs", []):
            parts.append(output.get("data", {}).get("text/markdown", ""))
    return "\n\n".join(parts)


FILES = [path for pattern in ("*.md", "*.ipynb") for path in committed(pattern)]


@pytest.mark.skipif(not FILES, reason="not a git checkout")
def test_the_crawler_finds_links_and_dead_ones(tmp_path):
    (tmp_path / "there.md").touch()
    links = Links(markdown_to_html("[a](there.md#part) [b](gone.md) ![c](x/gone.png) [d](https://a.b/c)"))
    assert len(links.addresses) == 4 and dead(links, tmp_path) == ["gone.md", "x/gone.png"]
    assert len(FILES) > 30


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_files_resolve(path):
    assert dead(Links(markdown_to_html(markdown_of(path))), path.parent) == []


def test_links_of_pages_resolve(tmp_path):
    """Pages lead to one another and to copies of files, nowhere outside their folder: it can be published."""
    folder = PUBLISHED / "badges-mini"
    names = ["00_method.ipynb", "01_teacher.ipynb", "table1.ipynb", "claims.md", "reading.md"]
    names += ["claims.png", "choices.md", "figure3.md"]
    results = tmp_path / "published" / "badges-mini"
    workspace = Workspace("mini", tmp_path, results, tmp_path / "runs", "cpu")
    workspace.results.mkdir(parents=True)
    shutil.copy(PUBLISHED.parent / "primary_claims.yaml", tmp_path)
    for name in names:
        shutil.copy(folder / name, workspace.results)
    index = notebooks.html(workspace)
    pages = sorted(index.parent.glob("*.html"))
    assert [page.stem for page in pages] == [
        "00_method",
        "01_teacher",
        "choices",
        "claims",
        "figure3",
        "index",
        "reading",
        "table1",
    ]
    for page in pages:
        links = Links(page.read_text())
        assert dead(links, index.parent) == []
        assert not [address for address in links.addresses if address.startswith("..")]
        inside = [unquote(address[1:]) for address in links.addresses if address.startswith("#")]
        assert set(inside) <= links.names
        assert "<script" not in page.read_text()  # so nothing is loaded, and no code runs
    text = (index.parent / "table1.html").read_text()
    assert 'href="01_teacher.html"' in text and text.count("<math") > 10
