"""No dead link: in Markdown files, in notebooks and their executed copies, and in the pages made of them."""

import os
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

from c2dlib.records import ROOT
from c2dlib.reporting.formulas import markdown_to_html
from c2dlib.reporting.navigation import GROUPS, ORDER
from c2dlib.reporting.readme import descriptions
from c2dlib.reporting.site import published_site, results_site
from c2dlib.workspace import PUBLISHED, Workspace


class Links(HTMLParser):
    """The addresses in ``href`` and ``src`` of an HTML text, and the names that a ``#`` can lead to.

    ``loaded``: the addresses that a browser fetches with the page.
    """

    def __init__(self, text: str):
        super().__init__()
        self.addresses, self.loaded, self.names = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.addresses += [values[key] for key in ("href", "src") if values.get(key)]
        self.loaded += [values[key] for key in ("href", "src") if values.get(key) and tag != "a"]
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


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The site of all published results: the folder, and the links of each page by its path in it."""
    folder = tmp_path_factory.mktemp("site")
    published_site(folder)
    return folder, {path.relative_to(folder): Links(path.read_text()) for path in folder.rglob("*.html")}


def test_links_of_every_page_resolve(pages):
    """Pages lead to one another and to copies of files, nowhere outside their folder: it can be published."""
    folder, links_of = pages
    assert len(links_of) > 30
    for page, links in links_of.items():
        place = (folder / page).parent
        assert dead(links, place) == [], page
        for address in links.addresses:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (place / unquote(parts.path)).resolve() if parts.path else folder / page
            assert target.is_relative_to(folder) and target.is_file(), f"{page}: {address}"
            if parts.fragment:
                assert unquote(parts.fragment) in links_of[target.relative_to(folder)].names, (
                    f"{page}: {address}"
                )
        assert page == Path("index.html") or os.path.relpath(folder / "index.html", place) in links.addresses


def test_pages_need_no_network(pages):
    """No script runs, and nothing is loaded but files of the folder."""
    folder, links_of = pages
    for page, links in links_of.items():
        assert not [a for a in links.loaded if urlsplit(a).scheme not in ("", "data")], page
        assert "<script" not in (folder / page).read_text(), page
    assert (folder / "results/published/badges-mini/table1.html").read_text().count("<math") > 10


def test_every_text_and_every_notebook_has_a_page_and_its_source(pages):
    folder, links_of = pages
    index = links_of[Path("index.html")].addresses

    def of_notebook(page: Path) -> bool:
        return (ROOT / page).with_suffix(".ipynb").exists()

    expected = [path.with_suffix(".html") for path in committed("*.md") if "weights" not in path.parts]
    expected += [path.with_suffix(".html") for path in PUBLISHED.glob("*/*.ipynb")]
    assert {str(path.relative_to(ROOT)) for path in expected} <= set(index)
    for name in ORDER:
        shown = [page for page in links_of if page.stem == name and of_notebook(page)]
        assert shown, name
        for page in shown:
            source = os.path.relpath(folder / "notebooks" / f"{name}.ipynb", (folder / page).parent)
            assert source in links_of[page].addresses


def test_the_index_has_the_order_of_reading_and_the_sentences_of_the_readme(pages):
    folder, links_of = pages
    stems = [Path(address).stem for address in links_of[Path("index.html")].addresses]
    assert list(dict.fromkeys(stem for stem in stems if stem in ORDER)) == ORDER
    assert stems.index("figure3") < stems.index("figure4_examples")  # numbers beside their notebook
    text, sentences = (folder / "index.html").read_text(), descriptions()
    assert sorted(sentences) == sorted(ORDER)
    assert all(unescape(markdown_to_html(s)) in unescape(text) for s in sentences.values())
    places = [text.index(f"<h2>{group}</h2>") for group in GROUPS]
    assert places == sorted(places)


def test_links_to_what_is_not_there_are_text_on_a_page(tmp_path):
    results = tmp_path / "badges-smoke"
    results.mkdir()
    cell = nbformat.v4.new_markdown_cell("# Why?\n\nSee [this](gone.md#part), [that](https://a.b/c).")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), results / "table1.ipynb")
    index = results_site(Workspace("smoke", tmp_path, results, tmp_path / "runs", "cpu"))
    links = Links((index.parent / "table1.html").read_text())
    assert "gone" not in " ".join(links.addresses) and "https://a.b/c" in links.addresses
    assert dead(links, index.parent) == [] and "linked/table1.ipynb" in links.addresses
    assert not [address for address in links.addresses if address.startswith("..")]


def test_a_page_holds_no_other_file_of_the_machine(tmp_path):
    """A link in a text may be the name of a class in data that were downloaded."""
    results = tmp_path / "badges-smoke"
    results.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (results / "errors.csv").write_text("a")
    (results / "way.txt").symlink_to(tmp_path / "secret.txt")
    links = f"[x]({tmp_path}/secret.txt) [y](../secret.txt) ![z](way.txt) [own](errors.csv)"
    cell = nbformat.v4.new_markdown_cell(links)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), results / "table1.ipynb")
    index = results_site(Workspace("smoke", tmp_path, results, tmp_path / "runs", "cpu"))
    copied = {path.name for path in index.parent.rglob("*") if path.is_file()}
    assert "errors.csv" in copied and not {"secret.txt", "way.txt"} & copied
    assert "secret" not in (index.parent / "table1.html").read_text()
