"""A small explorer of errors for JupyterLab: choose run, class, error type and IoU, page through the images."""

from __future__ import annotations

import io
import os
from functools import cache

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from c2dlib.config.experiment import Experiment
from c2dlib.data.augment import plain_transform
from c2dlib.evaluation.tide import MEANING, TYPES, ErrorExample, examples, tide
from c2dlib.figures import plots
from c2dlib.training.run import run_detections
from c2dlib.workspace import Workspace, opened

PER_PAGE = 4
HEADLESS = "C2D_HEADLESS"  # set while a notebook is executed without anyone who could click


class Errors:
    """What the explorer shows, without any widget: TIDE's bars and a page of errors of one run."""

    def __init__(self, runs: list[Experiment], workspace: Workspace):
        """Only runs whose detections are on this machine.

        Raises:
            FileNotFoundError: if there is none.
        """
        self.workspace, self.runs, self.split = workspace, {}, None
        for e in runs:
            try:
                run_detections(e, workspace)
            except FileNotFoundError as error:
                missing = error
                continue
            self.runs[e.name] = e
        if not self.runs:
            raise FileNotFoundError(f"no run with detections on this machine: {missing}" if runs else "no run given")
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
        for value, valid, what in ((run, self.runs, "run"), (type, TYPES, "error type"),
                                   (category, ["", *self.names.values()], "class")):
            if value not in valid:
                raise ValueError(f"no {what} {value!r}; there are {', '.join(filter(None, valid))}")
        return [one for one in self.examples(run, iou)[type]
                if not category or category in (self.names.get(one.category_id), self.names.get(one.truth_category_id))]

    def figure(self, run: str, type: str = "Cls", iou: int = 50, category: str = "", page: int = 0) -> Figure:
        """A page of errors; see ``matching`` for what it raises."""
        every = self.matching(run, type, iou, category)
        shown = every[page * PER_PAGE : (page + 1) * PER_PAGE]
        plain = plain_transform()
        images = {one.image_id: plain(self.split[self.row[one.image_id]][0]) for one in shown}
        where = f"{page * PER_PAGE + 1} to {page * PER_PAGE + len(shown)} of {len(every)}" if shown else "none"
        return plots.error_examples(images, shown, self.names, f"{type} ({MEANING[type]}) at IoU {iou / 100:.2f}: {where}")

    def bars(self, run: str, iou: int = 50) -> Figure:
        """What each type costs this run."""
        e = self.runs[run]
        line = tide(self.split.annotations, run_detections(e, self.workspace), [iou]).reset_index()
        return plots.error_bars(line.assign(student=e.student, method=e.method, seed=e.seed), iou)


def explore(runs: list[Experiment], workspace: Workspace):
    """The explorer: widgets in JupyterLab; executed headless, the figure of its first choice.

    Args:
        runs: finished runs; those whose detections are not on this machine are left out.

    Raises:
        FileNotFoundError: if there is no run to show.
    """
    shown = Errors(runs, workspace)
    if os.environ.get(HEADLESS):
        return shown.figure(next(iter(shown.runs)))
    import ipywidgets as widgets

    run = widgets.Dropdown(options=list(shown.runs), description="run", layout={"width": "26em"})
    kind = widgets.ToggleButtons(options=TYPES, description="error", style={"button_width": "4.5em"})
    category = widgets.Dropdown(options=[("every class", ""), *((n, n) for n in shown.names.values())], description="class")
    iou = widgets.IntSlider(50, 50, 95, 5, description="IoU, %", continuous_update=False)
    page = widgets.BoundedIntText(1, 1, 1, description="page")
    as_it_is = {"object_fit": "contain", "align_self": "flex-start", "max_width": "100%"}  # else stretched to the cell
    bars, images = (widgets.Image(format="png", layout=as_it_is) for _ in range(2))

    def turn(_=None) -> None:
        images.value = _png(shown.figure(run.value, kind.value, iou.value, category.value, page.value - 1))

    def choose(_=None) -> None:
        found = len(shown.matching(run.value, kind.value, iou.value, category.value))
        page.max = max(-(-found // PER_PAGE), 1)
        bars.value = _png(shown.bars(run.value, iou.value))
        if page.value == 1:
            turn()
        else:
            page.value = 1  # which turns

    for control in (run, kind, category, iou):
        control.observe(choose, "value")
    page.observe(turn, "value")
    choose()
    return widgets.VBox([widgets.HBox([run, category]), kind, widgets.HBox([iou, page]), images, bars])


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return buffer.getvalue()
