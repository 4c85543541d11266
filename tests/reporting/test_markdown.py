"""Texts from data in Markdown: shown as they are written, whatever they hold; numbers rounded as by hand."""

from html import unescape

import pytest

from c2dlib.reporting.formulas import markdown_to_html
from c2dlib.reporting.markdown import as_text, difference_text, signed


@pytest.mark.parametrize(
    "text",
    [
        *("[x](/etc/passwd)", "![x](../a.png)", "<script>alert(1)</script>", "<b@c.de>", "&lt;b&gt;"),
        *("a | b", "5$_$ note", "__init__", "*a*", "`a`", "\\[x\\]", "~~a~~", "val2017/café (1).jpg"),
    ],
)
def test_a_text_from_data_is_shown_as_it_is_written(text):
    html = markdown_to_html(f"- {as_text(text)}")
    assert unescape(html).split() == ["<ul>", *f"<li>{text}</li>".split(), "</ul>"]
    assert "<script" not in html and "<a" not in html and "<img" not in html


def test_a_text_from_data_stays_in_its_line():
    assert as_text("a\n\n# b") == "a # b"


def test_the_name_of_a_file_stays_readable_in_markdown():
    assert as_text("val2017/my_data-2.jpg: café (1)") == "val2017/my_data-2.jpg: café (1)"
    assert as_text("_a__b_") == "&#95;a&#95;&#95;b&#95;"


def test_the_half_of_a_difference_is_rounded_away_from_0():
    """Means of the paper's numbers are often ties, which binary floating point has a little too low."""
    assert difference_text(1.65, -1.65, 1.9499999) == "+1.7 [-1.7, +1.9]"
    assert difference_text((1.3 + 2.0) / 2, None, None) == "+1.7" and signed(1.649) == "+1.6"
    assert signed(float("inf")) == "+inf"
