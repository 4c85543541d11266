"""Where a table's runs read and write: the data folder, the results, the ignored ``runs/``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from c2dlib.config.experiment import scale_data
from c2dlib.config.identity import digest
from c2dlib.data.badges import VERSION, make_badges
from c2dlib.data.coco import CocoFolder, load_folder

Progress = Callable[[str, int, int], None]  # what, steps done, steps


@dataclass(frozen=True)
class Workspace:
    """Where a table's runs read and write, and on what they run."""

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


def open_workspace(scale: str, data: str | Path = "", results: Path = Path("results"), runs: Path = Path("runs"),
              device: str = "auto", check_images: bool = True) -> tuple[Workspace, CocoFolder]:
    """The embedded Badges (made if need be) or a COCO-format folder, validated before anything is written.

    Args:
        check_images: of a folder; not needed where another process has just done so.

    Raises:
        DataError: with everything that is wrong with the folder.
    """
    counts = scale_data(scale)
    if data:
        folder = load_folder(data, check_images=check_images)
        name = folder.root.name if folder.root.name != "badges" else "badges-of-yours"
    else:
        root = make_badges(runs / "data" / "badges" / digest({**counts, "version": VERSION}), **counts)
        folder, name = opened(root), "badges"
    return Workspace(scale, folder.root, results / f"{name}-{scale}", runs, device), folder


@cache
def opened(root: Path) -> CocoFolder:
    """A folder this code has validated before: headers and files are not read again."""
    return load_folder(root, check_images=False)


@contextlib.contextmanager
def waiting_lock(folder: Path, what: str):
    """Only one process at a time works in a folder; the others wait, and say so. A dead process holds nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.parent / f"{folder.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{what}: another process is at it, waiting for it", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
