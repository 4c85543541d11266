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
from torch.nn.parallel import DistributedDataParallel

from c2dlib import distributed
from c2dlib.data.batches import combine_seeds
from c2dlib.training.checkpoints import load_checkpoint, save_checkpoint

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


def fit(
    e,
    steps: int,
    trained: dict[str, nn.Module],
    batches: Callable[[int], Iterable],
    losses: Callable[[list, list], dict[str, Tensor]],
    folder: Path,
    device: str,
    progress: Callable[[int, int], None] = lambda done, steps: None,
    shared: bool = False,
    after_step: Callable[[int], None] = lambda done: None,
) -> list[dict]:
    """Minimise the sum of named losses; resumes from ``folder`` and leaves its checkpoint there.

    Step i depends on the seed, i and the weights alone (batches and random numbers are made anew from them),
    so on CPU an interrupted run ends in the same weights, bit for bit, as one that was not.

    Args:
        e: optimizer, lr, schedule, clip, precision and seed are read from it, and ``accumulate`` where it has that.
        trained: the modules whose parameters are optimised and kept; teachers are not among them.
        batches: start step -> batches (images, targets); with ``accumulate`` k, k of them make a step.
        losses: images, targets -> named, weighted terms; their mean over the processes is what is minimised.
        shared: all processes train, each with its share of the batches; the first one saves. A checkpoint can be gone
            on from by any number of processes.
        after_step: called with the number of steps done; it may evaluate, and leaves the modules in training mode.

    Returns:
        The log: a row per ``LOG_EVERY`` steps with step, seconds per step and every term.

    Raises:
        NonFiniteLoss: naming step and term.
        OSError: if processes do not see the same checkpoint.
    """
    accelerator, parts = accelerate(device, e.precision), getattr(e, "accumulate", 1)
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
    model, several = _Together(trained, losses), shared and distributed.world() > 1
    if several:
        if len(set(seen := distributed.gathered(start))) > 1:
            raise OSError(
                f"{folder}: the processes find checkpoints of steps {seen}; it must be one folder for all of them"
            )
        model = DistributedDataParallel(model, gradient_as_bucket_view=True)

    def save(step: int) -> None:
        modules = {name: module.state_dict() for name, module in trained.items()}
        save_checkpoint(
            folder, step, {"step": step, "modules": modules, "optimizer": optimizer.state_dict(), "log": log}
        )

    saved, interval, row_time, row_step = time.monotonic(), CHECKPOINT_SECONDS, time.monotonic(), start
    for place, (images, targets) in enumerate(batches(start), start * parts):
        step, part = divmod(place, parts)
        whole = part + 1 == parts  # the step's last part
        torch.manual_seed(
            combine_seeds(e.seed, 3, step, *[distributed.rank(), part] * (several or parts > 1))
        )
        images = [image.to(accelerator.device, non_blocking=True) for image in images]
        targets = [
            {k: v.to(accelerator.device, non_blocking=True) for k, v in target.items()} for target in targets
        ]
        if part == 0:
            scaled.zero_grad()
        with contextlib.nullcontext() if whole or not several else model.no_sync():
            with accelerator.autocast():
                terms = model(images, targets)
            accelerator.backward(sum(terms.values()) / parts)
        named = {f"loss term {name}": value for name, value in terms.items()}
        if not several:
            require_finite(named, step)
        if not whole:
            continue
        for group in optimizer.param_groups:
            group["lr"] = e.lr * learning_rate_factor(e, step, steps)
        norm = accelerator.clip_grad_norm_(parameters, e.clip or math.inf)
        if several and not norm.isfinite():  # the same number in all processes: they stop together
            require_finite(named, step, several)
        if accelerator.scaler is None:  # fp16: the scaler skips such a step itself
            require_finite({"gradient norm": norm}, step)
        scaled.step()
        progress(step + 1, steps)
        after_step(step + 1)
        if (step + 1) % LOG_EVERY == 0 or step + 1 == steps:
            seconds = (time.monotonic() - row_time) / (step + 1 - row_step)
            row_time, row_step = time.monotonic(), step + 1
            log.append({"step": step + 1, "seconds": seconds, **_mean(terms, several)})
        if distributed.first() and (step + 1 == steps or time.monotonic() - saved > interval):
            began = time.monotonic()
            save(step + 1)
            saved = time.monotonic()
            interval = max(CHECKPOINT_SECONDS, 20 * (saved - began))  # large models: at most 5 % on saving
    return log


class _Together(nn.Module):
    """Everything that is trained and the loss over it as one module: what data parallel training wraps."""

    def __init__(self, trained: dict[str, nn.Module], losses: Callable):
        super().__init__()
        self.trained, self.losses = nn.ModuleDict(trained), losses

    def forward(self, images: list, targets: list) -> dict[str, Tensor]:
        return self.losses(images, targets)


def _mean(terms: dict[str, Tensor], several: bool) -> dict[str, float]:
    """A step's terms as numbers, their mean over the processes."""
    own = {k: float(v.detach()) for k, v in terms.items()}
    rows = distributed.gathered(own) if several else [own]
    return {name: statistics.fmean(row[name] for row in rows) for name in terms}


def require_finite(terms: dict[str, Tensor], step: int, several: bool = False) -> None:
    """
    Raises:
        NonFiniteLoss: naming the first term that is not a number; with ``several`` in all processes if in one.
    """
    bad = next(
        ((name, float(value.detach())) for name, value in terms.items() if not torch.isfinite(value).all()),
        None,
    )
    if bad := next(filter(None, distributed.gathered(bad)), None) if several else bad:
        raise NonFiniteLoss(
            f"step {step}: {bad[0]} is {bad[1]}; training stopped, the last good checkpoint is kept. A lower "
            "lr or a clip often helps."
        )


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


def relative_cost(
    plain: Callable[[], Tensor], full: Callable[[], Tensor], device: str, precision: str, turns: int = 7
) -> float:
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
