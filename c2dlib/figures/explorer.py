"""An explorer of TIDE errors for JupyterLab: choose run, class, type and IoU, and page through the images."""

from __future__ import annotations

import base64
import os
from functools import cache
from html import escape

from c2dlib.config.experiment import Experiment
from c2dlib.data.augment import plain_transform
from c2dlib.evaluation.tide import MEANING, TYPES, ErrorExample, examples, tide
from c2dlib.figures.errors import error_bars, error_examples
from c2dlib.figures.style import Picture
from c2dlib.reporting.notebooks import HEADLESS
from c2dlib.training.finished import run_detections
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

    def figure(
        self, run: str, type: str = "Cls", iou: int = 50, category: str = "", page: int = 0
    ) -> Picture:
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

    def bars(self, run: str, iou: int = 50) -> Picture:
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

    whole = {"description_width": "initial"}  # no description is cut
    run = widgets.Dropdown(
        options=list(browser.runs), description="run", style=whole, layout={"width": "32em"}
    )
    kind = widgets.ToggleButtons(
        options=TYPES,
        tooltips=[MEANING[name] for name in TYPES],
        description="error",
        style=whole | {"button_width": "5em"},
    )
    category = widgets.Dropdown(
        options=[("every class", ""), *((n, n) for n in browser.names.values())],
        description="class",
        style=whole,
        layout={"width": "20em"},
    )
    iou = widgets.IntSlider(
        50, 50, 95, 5, description="IoU, %", style=whole, layout={"width": "24em"}, continuous_update=False
    )
    previous, following = (
        widgets.Button(description=text, tooltip=tip, layout={"width": "8em"})
        for text, tip in (("◀ previous", "the page before"), ("next ▶", "the page after"))
    )
    page = widgets.BoundedIntText(
        1, min=1, max=1, description="page", style=whole, layout={"width": "8em"}, continuous_update=False
    )
    place, bars, images = widgets.Label(), widgets.HTML(), widgets.HTML()

    def show_page(_=None) -> None:
        images.value = _html(browser.figure(run.value, kind.value, iou.value, category.value, page.value - 1))
        previous.disabled, following.disabled = page.value == 1, page.value == page.max

    def show_choice(_=None) -> None:
        count = len(browser.matching(run.value, kind.value, iou.value, category.value))
        page.unobserve(show_page, "value")
        page.value, page.max = 1, max(-(-count // PER_PAGE), 1)
        page.observe(show_page, "value")
        place.value = f"of {page.max}"
        bars.value = _html(browser.bars(run.value, iou.value))
        show_page()

    def turn(button) -> None:
        page.value += 1 if button is following else -1

    page.observe(show_page, "value")
    for control in (run, kind, category, iou):
        control.observe(show_choice, "value")
    for button in (previous, following):
        button.on_click(turn)
    show_choice()
    wrapped = {"flex_flow": "row wrap"}  # in a narrow window too, everything is visible
    return widgets.VBox(
        [
            widgets.HBox([run, category], layout=wrapped),
            kind,
            widgets.HBox([iou, previous, page, place, following], layout=wrapped),
            images,
            bars,
        ]
    )


def _html(figure: Picture) -> str:
    """The figure as an image with its text for those who cannot see it; never wider than the notebook."""
    source = base64.b64encode(figure.png()).decode()
    width = figure.size()["width"]
    return (
        f'<img src="data:image/png;base64,{source}" alt="{escape(figure.alt)}" width="{width}" '
        'style="max-width: 100%; height: auto">'
    )
