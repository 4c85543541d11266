"""Every figure has a text, fits a page, can be read there; it changes no global setting."""

from itertools import combinations

import matplotlib
import matplotlib.pyplot as plt
import pytest
from matplotlib.text import Text

from c2dlib.figures.style import PAGE, TEXT, TITLE, Picture


@pytest.fixture(autouse=True)
def nothing_global_changes():
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == []  # nothing is shown twice, nothing leaks


def shown_texts(figure: Picture) -> list[Text]:
    """The texts that are drawn, without those on images, which may lie on one another."""
    legends = [*figure.legends, *filter(None, (ax.get_legend() for ax in figure.axes))]
    texts = [*figure.texts, *(text for one in legends for text in (*one.get_texts(), one.get_title()))]
    for ax in figure.axes:
        texts += [] if ax.images else ax.texts
        if ax.axison:
            texts += [ax.title, ax.xaxis.label, ax.yaxis.label]
            for axis in (ax.xaxis, ax.yaxis):
                low, high = sorted(axis.get_view_interval())
                texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


@pytest.fixture
def drawn():
    """Draws a figure, checks what holds for all of them, and returns it."""

    def draw(figure: Picture) -> Picture:
        figure.draw_without_rendering()
        assert len(figure.alt) > 20 and "nan" not in figure.alt
        assert figure.get_figwidth() <= PAGE
        texts = shown_texts(figure)
        sizes = {text.get_fontsize() for text in figure.findobj(Text) if text.get_text().strip()}
        assert all(TEXT <= size <= TITLE for size in sizes), sizes
        # of an annotation the text alone, without its arrow
        boxes = [(text.get_text(), Text.get_window_extent(text).padded(-1)) for text in texts]
        page = figure.bbox.padded(2)
        for name, box in boxes:
            assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1, name
        for (one, box), (other, its_box) in combinations(boxes, 2):
            assert not box.overlaps(its_box), f"{one!r} lies on {other!r}"
        return figure

    return draw
