"""An explorer of TIDE errors for JupyterLab: choose run, class, type and IoU, and page through the images."""

from __future__ import annotations

import io
import os
from functools import cache

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from c2dlib.config.experiment import Experiment
from c2dlib.data.augment import plain_transform
from c2dlib.evaluation.tide import MEANING, TYPES, ErrorExample, examples, tide
from c2dlib.figures.errors import error_bars, error_examples
from c2dlib.reporting.notebooks import HEADLESS
from c2dlib.training.run import run_detections
from c2dlib.workspace import Workspace, opened

PER_PAGE = 4


class ErrorBrowser:
    """The explorer's figures, without widgets: the cost of each error type, and a page of a run's errors."""

    def __init__(self, runs: list[Experiment], workspace: Workspace):
        """Runs whose detections are not on this machine are left out.

        Raises:
            FileNotFoundError: if there is none.
        """
        self.workspace, self.runs = workspace, {}
        for e in runs:
            try:
                run_detections(e, workspace)
            except FileNotFoundError as error:
                missing = error
            else:
                self.runs[e.name] = e
        if not self.runs:
            raise FileNotFoundError(
                f"no run with detections on this machine: {missing}" if runs else "no run given"
            )
        self.split = opened(workspace.data).splits[next(iter(self.runs.values())).eval_split]
        self.names = {c["id"]: c["name"] for c in self.split.annotations["categories"]}
        self.row = {image_id: i for i, image_id in enumerate(self.split.image_ids)}
        self.examples = cache(self._examples)

    def _examples(self, run: str, iou: int) -> dict[str, list[ErrorExample]]:
        return examples(self.split.annotations, run_detections(self.runs[run], self.workspace), iou)

    def matching(self, run: str, type: str, iou: int, category: str = "") -> list[ErrorExample]:
        """The errors of a type, of detections or objects of a class ('' for every class).

        Raises:
            ValueError: for a run, type or class that does not exist, naming those that do.
        """
        for value, valid, what in (
            (run, self.runs, "run"),
            (type, TYPES, "error type"),
            (category, ["", *self.names.values()], "class"),
        ):
            if value not in valid:
                raise ValueError(f"no {what} {value!r}; there are {', '.join(filter(None, valid))}")
        return [
            error
            for error in self.examples(run, iou)[type]
            if not category
            or category in (self.names.get(error.category_id), self.names.get(error.truth_category_id))
        ]

    def figure(self, run: str, type: str = "Cls", iou: int = 50, category: str = "", page: int = 0) -> Figure:
        """A page of errors; see ``matching`` for what it raises."""
        errors = self.matching(run, type, iou, category)
        on_page = errors[page * PER_PAGE : (page + 1) * PER_PAGE]
        plain = plain_transform()
        images = {error.image_id: plain(self.split[self.row[error.image_id]][0]) for error in on_page}
        numbers = (
            f"{page * PER_PAGE + 1} to {page * PER_PAGE + len(on_page)} of {len(errors)}"
            if on_page
            else "none"
        )
        return error_examples(
            images, on_page, self.names, f"{type} ({MEANING[type]}) at IoU {iou / 100:.2f}: {numbers}"
        )

    def bars(self, run: str, iou: int = 50) -> Figure:
        """The cost of each error type in this run, in AP points."""
        e = self.runs[run]
        costs = tide(self.split.annotations, run_detections(e, self.workspace), [iou]).reset_index()
        return error_bars(costs.assign(student=e.student, method=e.method, seed=e.seed), iou)


def explore(runs: list[Experiment], workspace: Workspace):
    """The explorer: widgets in JupyterLab; in a notebook executed headless, the figure of their first values.

    Args:
        runs: finished runs; those whose detections are not on this machine are left out.

    Raises:
        FileNotFoundError: if there is no run to show.
    """
    browser = ErrorBrowser(runs, workspace)
    if os.environ.get(HEADLESS):
        return browser.figure(next(iter(browser.runs)))
    import ipywidgets as widgets

    run = widgets.Dropdown(options=list(browser.runs), description="run", layout={"width": "26em"})
    kind = widgets.ToggleButtons(options=TYPES, description="error", style={"button_width": "4.5em"})
    category = widgets.Dropdown(
        options=[("every class", ""), *((n, n) for n in browser.names.values())], description="class"
    )
    iou = widgets.IntSlider(50, 50, 95, 5, description="IoU, %", continuous_update=False)
    page = widgets.BoundedIntText(1, 1, 1, description="page")
    unstretched = {"object_fit": "contain", "align_self": "flex-start", "max_width": "100%"}
    bars, images = (widgets.Image(format="png", layout=unstretched) for _ in range(2))

    def show_page(_=None) -> None:
        images.value = _png(browser.figure(run.value, kind.value, iou.value, category.value, page.value - 1))

    def show_choice(_=None) -> None:
        count = len(browser.matching(run.value, kind.value, iou.value, category.value))
        page.max = max(-(-count // PER_PAGE), 1)
        bars.value = _png(browser.bars(run.value, iou.value))
        if page.value == 1:
            show_page()
        else:
            page.value = 1  # its observer shows the page

    for control in (run, kind, category, iou):
        control.observe(show_choice, "value")
    page.observe(show_page, "value")
    show_choice()
    return widgets.VBox([widgets.HBox([run, category]), kind, widgets.HBox([iou, page]), images, bars])


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return buffer.getvalue()
