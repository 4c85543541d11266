"""The folders of a table's runs (data, results, checkpoints), the published results, a run's progress bar."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from c2dlib import distributed
from c2dlib.config.experiment import scale_data, scale_tables
from c2dlib.config.identity import digest
from c2dlib.data.badges import family_version, make_badges
from c2dlib.data.coco import CocoFolder, load_folder
from c2dlib.data.layouts import load_data
from c2dlib.data.validation import DataError
from c2dlib.records import EMBEDDED, PUBLISHED, embedded, results_name

PUBLISHED_WEIGHTS = PUBLISHED / "weights"  # a few checkpoints with their detections, laid out as runs/ is
Progress = Callable[[str, int, int], None]  # name of the work, steps done, steps in all


def chosen_device(device: str) -> str:
    """cpu, cuda or mps; ``auto`` is cuda where there is such a GPU, else cpu.

    Raises:
        ValueError: if there is no such device here.
    """
    here = ["cpu"]
    here += ["cuda"] if torch.cuda.is_available() else []
    here += ["mps"] if torch.backends.mps.is_available() else []
    if device == "auto":
        return "cuda" if "cuda" in here else "cpu"
    if device not in here:
        raise ValueError(f"DEVICE={device}: not available here; choose {', '.join(here)} or auto")
    return device


@dataclass(frozen=True)
class Workspace:
    """The folders of a table's runs, and the device they run on."""

    scale: str
    data: Path  # a COCO-format folder
    results: Path  # records and tables that are computed here
    runs: Path  # checkpoints and detections
    device: str = "auto"  # auto, cpu, cuda or mps

    @property
    def data_name(self) -> str:
        """``badges`` for the embedded set, else the folder's name."""
        return self.results.name.removesuffix(f"-{self.scale}")

    @property
    def published(self) -> Path:
        """The published results on data of this name at this scale; the folder need not exist."""
        return PUBLISHED / self.results.name

    def of_published(self) -> Workspace:
        """The same data with the published results and weights, which are read only.

        Where no weights are published on these data, the checkpoints are this machine's own.
        """
        weights = (PUBLISHED_WEIGHTS / self.results.name).is_dir()
        return dataclasses.replace(
            self, results=self.published, runs=PUBLISHED_WEIGHTS if weights else self.runs
        )

    def __post_init__(self):
        object.__setattr__(self, "device", chosen_device(self.device))


def open_workspace(
    scale: str,
    data: str | Path = "",
    results: Path = Path("results"),
    runs: Path = Path("runs"),
    device: str = "auto",
    check_images: bool = True,
) -> tuple[Workspace, CocoFolder]:
    """Validate data of one's own, or make an embedded data set where it does not exist.

    This happens before any result is written.

    Args:
        data: a COCO-format folder, or another layout that ``data.layouts`` reads; one of EMBEDDED where there
            is no folder of that name; empty: Badges.
        results, runs: where results and checkpoints are written; results ``PUBLISHED``: the published ones.
        check_images: whether the image files are checked too; False where another process has just checked
            them.

    Raises:
        DataError: with everything that is wrong with the folder; if it has no test split and the scale's
            tables report test.
        ValueError: for an unknown scale, or a device that is not here.
    """
    device, scenes = chosen_device(device), scale_data(scale)
    if name := embedded(data):
        if (family := EMBEDDED[name]) != "graded":
            scenes = {**scenes, "family": family}
        key = digest({**scenes, **family_version(family)})
        folder = opened(make_badges(runs / "data" / name / key, **scenes))
    else:
        folder = load_data(data, runs / "data", check_images, runs / "cache")
        if scale_tables(scale).get("split", folder.eval_split) != folder.eval_split:
            raise DataError(
                f"{folder.root} has no test split. At scale {scale} settings are chosen on val and tables "
                "report test, so add annotations/instances_test2017.json and test2017/ "
                "(`make data NAME=groceries DATA=FOLDER` writes them), or take SCALE=mini"
            )
    return Workspace(scale, folder.root, results / results_name(scale, data), runs, device), folder


@cache
def opened(root: Path) -> CocoFolder:
    """A folder that this code has validated before; its image files are not checked again."""
    return load_folder(root, check_images=False)


@contextlib.contextmanager
def waiting_lock(folder: Path, what: str) -> Iterator[None]:
    """Only one process at a time works in a folder; the others print that they wait.

    The lock is released when its process dies.

    Args:
        what: the work, as it is printed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.parent / f"{folder.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{what}: waiting for another process that works on it", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def lock_if_free(folder: Path) -> Iterator[bool]:
    """Whether no process works in a folder; if so, none begins until the end of the context."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.parent / f"{folder.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    return type(sys.stdout).__module__.startswith("ipykernel")


def new_bar(**options) -> tqdm:
    """A progress bar: on stderr in a terminal, on stdout in a notebook, which shows stderr as errors.

    Args:
        options: of tqdm.
    """
    place = {"file": sys.stdout, "ncols": 100} if in_notebook() else {"dynamic_ncols": True}
    return tqdm(**place, **options)


class ProgressBar:
    """A ``Progress`` with an estimate of the time left. Only the first of several processes shows it.

    Args:
        notebooks_only: show nothing in a process that is not the kernel of a notebook.
    """

    def __init__(self, notebooks_only: bool = False):
        self.notebooks_only, self.what, self.bar = notebooks_only, "", None

    def __call__(self, what: str, done: int, of: int) -> None:
        if not distributed.first() or (self.notebooks_only and not in_notebook()):
            return
        if what != self.what:
            if self.bar:
                self.bar.close()
            self.what, self.bar = what, new_bar(total=of, desc=what, initial=done - 1)
        self.bar.update(done - self.bar.n)
        if done == of:
            self.bar.close()
            self.what, self.bar = "", None


notebook_progress = ProgressBar(notebooks_only=True)
