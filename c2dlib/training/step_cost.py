"""What distillation costs in a training step: time and memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor

from c2dlib.training.loop import accelerate
from c2dlib.training.step import TrainingStep


def distillation_cost(
    step: TrainingStep, batch: tuple[list, list], device: str, precision: str, turns: int
) -> float:
    """Time of a training step in time of the same step without its distillers, see ``relative_cost``.

    It changes the student's batch statistics, and the distillers remember nothing any more. Each process
    measures its own step.
    """
    for distiller in step.distillers:
        distiller.forget()
    images = [image.to(device) for image in batch[0]]
    targets = [{k: v.to(device) for k, v in target.items()} for target in batch[1]]
    step.train()

    def loss(distilled: bool) -> Tensor:
        return reduce(torch.add, step(images, targets, distilled, shared=False).values())

    return relative_cost(lambda: loss(False), lambda: loss(True), device, precision, turns)


def relative_cost(
    plain: Callable[[], Tensor], full: Callable[[], Tensor], device: str, precision: str, turns: int = 7
) -> float:
    """What a training step costs in time of a plain one: forward and backward, without data and optimizer.

    Both are timed turn by turn, so that other work on the machine slows both; the median of their ratios.

    Args:
        plain, full: compute a loss each, anew at each call.
    """
    autocast, ratios = accelerate(device, precision).autocast, []
    for turn in range(turns + 1):  # the first warms up
        seconds = []
        for loss in (plain, full):
            start = time.perf_counter()
            with autocast():
                total = loss()
            total.backward()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        if turn:
            ratios.append(seconds[1] / seconds[0])
    return statistics.median(ratios)


class PeakMemory:
    """The most memory used since this object was made, in MB; 0 where it is not known.

    On a GPU it is the memory of tensors, on Linux without one that of the whole process.
    """

    def __init__(self, device: str):
        self.cuda, self.reset = device == "cuda", False
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            gc.collect()
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL("libc.so.6").malloc_trim(0)  # glibc keeps what an earlier run freed
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
                self.reset = True

    def __call__(self) -> float:
        if self.cuda:
            return torch.cuda.max_memory_allocated() / 1e6
        lines = Path("/proc/self/status").read_text().splitlines() if self.reset else []
        return sum(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))
