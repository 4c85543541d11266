"""The folders of a table's runs (the data, the results, the ignored ``runs/``), and a run's progress bar."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from c2dlib import distributed
from c2dlib.config.experiment import EMBEDDED, scale_data
from c2dlib.config.identity import digest
from c2dlib.data.badges import VERSION, make_badges
from c2dlib.data.coco import CocoFolder, load_folder

Progress = Callable[[str, int, int], None]  # name of the work, steps done, steps in all


@dataclass(frozen=True)
class Workspace:
    """The folders of a table's runs, and the device they run on."""

    scale: str
    data: Path  # a COCO-format folder
    results: Path  # records and tables, to be committed
    runs: Path  # checkpoints and detections, not to be committed
    device: str = "auto"  # auto, cpu, cuda or mps

    @property
    def data_name(self) -> str:
        """``badges`` for the embedded set, else the folder's name."""
        return self.results.name.removesuffix(f"-{self.scale}")

    def __post_init__(self):
        if self.device == "auto":
            object.__setattr__(self, "device", "cuda" if torch.cuda.is_available() else "cpu")


def open_workspace(
    scale: str,
    data: str | Path = "",
    results: Path = Path("results"),
    runs: Path = Path("runs"),
    device: str = "auto",
    check_images: bool = True,
) -> tuple[Workspace, CocoFolder]:
    """Validate a COCO-format folder, or make an embedded data set where it does not exist.

    This happens before any result is written.

    Args:
        data: the folder, or one of EMBEDDED where there is no folder of that name; empty: Badges.
        results, runs: where results and checkpoints are written.
        check_images: whether the image files are checked too; False where another process has just checked
            them.

    Raises:
        DataError: with everything that is wrong with the folder.
        ValueError: for an unknown scale.
    """
    scenes = scale_data(scale)
    if data and (str(data) not in EMBEDDED or Path(data).exists()):
        folder = load_folder(data, check_images=check_images)
        name = folder.root.name + ("-of-yours" if folder.root.name in EMBEDDED else "")
    else:
        name = str(data) or "badges"
        if (family := EMBEDDED[name]) != "graded":
            scenes = {**scenes, "family": family}
        folder = opened(make_badges(runs / "data" / name / digest({**scenes, "version": VERSION}), **scenes))
    return Workspace(scale, folder.root, results / f"{name}-{scale}", runs, device), folder


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


class ProgressBar:
    """A ``Progress`` for a terminal, with an estimate of the time left.

    Only the first of several processes shows it.
    """

    def __init__(self):
        self.what, self.bar = "", None

    def __call__(self, what: str, done: int, of: int) -> None:
        if not distributed.first():
            return
        if what != self.what:
            if self.bar:
                self.bar.close()
            self.what, self.bar = what, tqdm(total=of, desc=what, initial=done - 1, dynamic_ncols=True)
        self.bar.update(done - self.bar.n)
        if done == of:
            self.bar.close()
