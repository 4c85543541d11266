"""The diagram of the method: its words, their size, and that the committed file is the one the code draws."""

import re

from c2dlib import figures
from c2dlib.figures.method import ALT
from c2dlib.figures.style import TEXT
from c2dlib.records import ROOT

COMMITTED = ROOT / "docs" / "method.svg"


def test_diagram_names_every_part_and_can_be_read(drawn):
    figure = drawn(figures.method_diagram())
    texts = [text for text in figure.axes[0].texts if text.get_text()]
    words = " ".join(text.get_text() for text in texts)
    for part in ("student", "teacher, frozen", "KD_cls", "KD_loc", "loc", "eq. 12", "crop of true box"):
        assert part in words
    assert min(text.get_fontsize() for text in texts) >= TEXT and figure.alt == ALT


def test_no_word_lies_on_another(drawn):
    figure = drawn(figures.method_diagram())
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text()]
    page = figure.bbox
    for i, box in enumerate(boxes):
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_committed_diagram_is_the_drawn_one(tmp_path):
    """Its words and its size; the outlines of letters may differ between versions of matplotlib."""
    figures.write_diagram(tmp_path / "method.svg")

    def words(path):
        text = path.read_text()
        return re.findall(r"<!-- .*? -->", text), re.search(r'viewBox="[^"]*"', text)[0], ALT in text

    assert words(tmp_path / "method.svg") == words(COMMITTED)
    assert words(COMMITTED)[2]
