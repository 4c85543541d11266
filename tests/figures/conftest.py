"""A figure changes no global setting and stays closed, whatever the test."""

import matplotlib
import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure


@pytest.fixture(autouse=True)
def nothing_global_changes():
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == []  # nothing is shown twice, nothing leaks


@pytest.fixture
def drawn():
    """Draws a figure and returns it."""

    def draw(figure: Figure) -> Figure:
        figure.draw_without_rendering()  # the canvas of a closed figure draws nothing
        return figure

    return draw
