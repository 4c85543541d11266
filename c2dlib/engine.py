"""Train and evaluate: the only place with an optimizer."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from c2dlib.data.stream import mix
from c2dlib.files import load_checkpoint, save_checkpoint

CHECKPOINT_SECONDS = 30  # an interruption loses at most this much work
LOG_EVERY = 10


class NonFiniteLoss(Exception):
    """A loss term or gradient that is not a number: training stopped, the last good checkpoint is kept."""


def learning_rate_factor(e, step: int, steps: int) -> float:
    """Linear warm-up, then drops at the milestones or a cosine to zero."""
    warm = min(1.0, (step + 1) / e.warmup) if e.warmup else 1.0
    if e.schedule == "cosine":
        return warm * 0.5 * (1 + math.cos(math.pi * step / steps))
    return warm * 0.1 ** sum(step >= m * steps for m in e.milestones)


def build_optimizer(e, modules: Iterable[nn.Module]) -> torch.optim.Optimizer:
    """Over exactly the parameters of ``modules`` that take gradients: no teacher is ever among them."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    if e.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=e.lr, weight_decay=e.weight_decay)
    return torch.optim.SGD(parameters, lr=e.lr, momentum=e.momentum, weight_decay=e.weight_decay)


def fit(e, steps: int, trained: dict[str, nn.Module], batches: Callable[[int], Iterable],
        losses: Callable[[list, list], dict[str, Tensor]], folder: Path, device: str,
        progress: Callable[[int, int], None] = lambda done, steps: None) -> list[dict]:
    """Minimise the sum of named losses; resumes from ``folder`` and leaves its checkpoint there.

    Step i depends on the seed, i and the weights alone (batches and random numbers are made anew from them),
    so on CPU an interrupted run ends in the same weights, bit for bit, as one that was not.

    Args:
        e: optimizer, lr, schedule, clip, precision and seed are read from it.
        trained: the modules whose parameters are optimised and kept; teachers are not among them.
        batches: start step -> batches (images, targets).
        losses: images, targets -> named, weighted terms.

    Returns:
        The log: a row per ``LOG_EVERY`` steps with step, seconds per step and every term.

    Raises:
        NonFiniteLoss: naming step and term.
    """
    accelerator = accelerate(device, e.precision)
    for module in trained.values():
        module.to(accelerator.device, memory_format=torch.channels_last).train()
    optimizer = build_optimizer(e, trained.values())
    start, log = 0, []
    if state := load_checkpoint(folder):
        for name, module in trained.items():
            module.load_state_dict(state["modules"][name])
        optimizer.load_state_dict(state["optimizer"])
        start, log = state["step"], state["log"]
    scaled = accelerator.prepare(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def save(step: int) -> None:
        modules = {name: module.state_dict() for name, module in trained.items()}
        save_checkpoint(folder, step, {"step": step, "modules": modules, "optimizer": optimizer.state_dict(),
                                       "log": log})

    saved, interval, row_time, row_step = time.monotonic(), CHECKPOINT_SECONDS, time.monotonic(), start
    for step, (images, targets) in enumerate(batches(start), start):
        torch.manual_seed(mix(e.seed, 3, step))
        for group in optimizer.param_groups:
            group["lr"] = e.lr * learning_rate_factor(e, step, steps)
        images = [image.to(accelerator.device) for image in images]
        targets = [{k: v.to(accelerator.device) for k, v in target.items()} for target in targets]
        with accelerator.autocast():
            terms = losses(images, targets)
        require_finite({f"loss term {name}": value for name, value in terms.items()}, step)
        scaled.zero_grad()
        accelerator.backward(sum(terms.values()))
        norm = accelerator.clip_grad_norm_(parameters, e.clip or math.inf)
        if accelerator.scaler is None:  # fp16: the scaler skips such a step itself
            require_finite({"gradient norm": norm}, step)
        scaled.step()
        progress(step + 1, steps)
        if (step + 1) % LOG_EVERY == 0 or step + 1 == steps:
            seconds = (time.monotonic() - row_time) / (step + 1 - row_step)
            row_time, row_step = time.monotonic(), step + 1
            log.append({"step": step + 1, "seconds": seconds, **{k: float(v.detach()) for k, v in terms.items()}})
        if step + 1 == steps or time.monotonic() - saved > interval:
            began = time.monotonic()
            save(step + 1)
            saved = time.monotonic()
            interval = max(CHECKPOINT_SECONDS, 20 * (saved - began))  # large models: at most 5 % on saving
    return log


def require_finite(terms: dict[str, Tensor], step: int) -> None:
    for name, value in terms.items():
        if not torch.isfinite(value).all():
            raise NonFiniteLoss(f"step {step}: {name} is {float(value.detach())}; training stopped, the "
                                f"last good checkpoint is kept. A lower lr or a clip often helps.")


class PeakMemory:
    """The most memory used since it was made, in MB: of tensors on a GPU, of the whole process on Linux; 0 where it cannot be told."""

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


def relative_cost(plain: Callable[[], Tensor], full: Callable[[], Tensor], device: str, precision: str, turns: int = 7) -> float:
    """What a training step costs in time of a plain one: forward and backward, without data and optimizer.

    Both are timed turn by turn, so that other work on the machine slows both; the median of their ratios.

    Args:
        plain, full: a loss each, anew at each call.
    """
    autocast, ratios = accelerate(device, precision).autocast, []
    for turn in range(turns + 1):  # the first warms up
        seconds = []
        for losses in (plain, full):
            began = time.perf_counter()
            with autocast():
                total = losses()
            total.backward()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
        if turn:
            ratios.append(seconds[1] / seconds[0])
    return statistics.median(ratios)


def accelerate(device: str, precision: str) -> Accelerator:
    """An Accelerator on the device asked for: ``auto``, ``cpu``, ``cuda`` or ``mps``."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # several trainings may share a process
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision=precision)
    if device not in ("auto", accelerator.device.type):
        raise ValueError(f"DEVICE={device}: not available here (found {accelerator.device.type})")
    return accelerator
