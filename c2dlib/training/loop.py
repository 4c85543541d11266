"""The training loop: the only place with an optimizer."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from c2dlib import distributed
from c2dlib.config.experiment import Experiment
from c2dlib.data.batches import combine_seeds
from c2dlib.records import code_version
from c2dlib.training.checkpoints import load_checkpoint, save_checkpoint

CHECKPOINT_SECONDS = 30  # an interruption loses at most this much work
LOG_EVERY = 10


@dataclass(frozen=True)
class OptimizerSettings:
    """What ``fit`` reads of an Experiment; the defaults are those of classifiers: AdamW with a cosine."""

    lr: float
    seed: int = 0
    optimizer: str = "adamw"
    weight_decay: float = 0.05
    momentum: float = 0.0
    schedule: str = "cosine"
    milestones: tuple = ()
    warmup: int = 20
    clip: float = 5.0
    precision: str = "no"
    accumulate: int = 1


class NonFiniteLoss(Exception):
    """A loss term or gradient that is not a number: training stopped, the last good checkpoint is kept."""


def learning_rate_factor(e: Experiment | OptimizerSettings, step: int, steps: int) -> float:
    """Linear warm-up, then drops at the milestones or a cosine to zero."""
    warm = min(1.0, (step + 1) / e.warmup) if e.warmup else 1.0
    if e.schedule == "cosine":
        return warm * 0.5 * (1 + math.cos(math.pi * step / steps))
    return warm * 0.1 ** sum(step >= m * steps for m in e.milestones)


def build_optimizer(e: Experiment | OptimizerSettings, modules: Iterable[nn.Module]) -> torch.optim.Optimizer:
    """An optimizer of exactly those parameters of ``modules`` that take gradients."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    if e.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=e.lr, weight_decay=e.weight_decay, fused=True)
    return torch.optim.SGD(parameters, lr=e.lr, momentum=e.momentum, weight_decay=e.weight_decay)


def fit(
    e: Experiment | OptimizerSettings,
    steps: int,
    trained: dict[str, nn.Module],
    batches: Callable[[int], Iterable],
    losses: Callable[[list, list], dict[str, Tensor]],
    folder: Path,
    device: str,
    progress: Callable[[int, int], None] = lambda done, steps: None,
    shared: bool = False,
    after_step: Callable[[int], bool] = lambda done: False,
) -> list[dict]:
    """Minimise the sum of named losses; resume from the checkpoint in ``folder``, and leave one there.

    Step i depends on the seed, i and the weights alone (batches and random numbers are made anew from them),
    so on CPU an interrupted run ends in the same weights, bit for bit, as one that was not interrupted.

    Args:
        trained: name in the checkpoint -> module whose parameters are optimised and kept; teachers are not
            among them.
        batches: start step -> batches (images, targets); with ``e.accumulate`` k, k of them make a step.
        losses: images, targets -> named, weighted terms.
        shared: all processes train, each with its share of the batches, on the mean of their terms.
            ``losses`` is then a ``nn.Module`` with the parameters of ``trained``. The first process saves;
            any number of processes can resume. False: one process trains, whichever it is, and saves.
        after_step: called with the number of steps done, also on resuming; it may evaluate, leaves the
            modules in training mode, and returns whether training ends here.

    Returns:
        The log: a row per ``LOG_EVERY`` steps with step, seconds per step, device, ``code_version`` and every
        term. Rows of checkpoints of earlier versions lack device or version.

    Raises:
        NonFiniteLoss: naming step and term.
        OSError: if the processes read different checkpoints.
    """
    accelerator, parts = accelerate(device, e.precision), e.accumulate
    for module in trained.values():
        module.to(device=accelerator.device)
        module.to(memory_format=torch.channels_last)
        module.train()
    optimizer = build_optimizer(e, trained.values())
    start, log = _resume(folder, trained, optimizer)
    scaled_optimizer = accelerator.prepare(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    parallel = _data_parallel(losses, start, folder) if shared and distributed.world() > 1 else None
    several = parallel is not None
    saves = distributed.first() or not shared
    compute_terms = parallel or losses
    if start and after_step(start):
        return log

    def save(step: int) -> None:
        modules = {name: module.state_dict() for name, module in trained.items()}
        state = {"step": step, "modules": modules, "optimizer": optimizer.state_dict(), "log": log}
        save_checkpoint(folder, step, state)

    saved, save_interval = time.monotonic(), float(CHECKPOINT_SECONDS)
    row_time, row_step = time.monotonic(), start
    for batch_number, (images, targets) in enumerate(batches(start), start * parts):
        step, part = divmod(batch_number, parts)
        last_part = part + 1 == parts
        own = [distributed.rank(), part] if several or parts > 1 else []
        torch.manual_seed(combine_seeds(e.seed, 3, step, *own))
        images = [image.to(accelerator.device, non_blocking=True) for image in images]
        targets = [
            {k: v.to(accelerator.device, non_blocking=True) for k, v in target.items()} for target in targets
        ]
        if part == 0:
            scaled_optimizer.zero_grad()
        with contextlib.nullcontext() if last_part or parallel is None else parallel.no_sync():
            with accelerator.autocast():
                terms = compute_terms(images, targets)
            accelerator.backward(sum(terms.values()) / parts)
        named = {f"loss term {name}": value for name, value in terms.items()}
        if not several:
            require_finite(named, step)
        if not last_part:
            continue
        for group in optimizer.param_groups:
            group["lr"] = e.lr * learning_rate_factor(e, step, steps)
        norm = accelerator.clip_grad_norm_(parameters, e.clip or math.inf)
        if several and not norm.isfinite():  # the same number in all processes: they stop together
            require_finite(named, step, several)
        if accelerator.scaler is None:  # fp16: the scaler skips such a step itself
            require_finite({"gradient norm": norm}, step)
        _update(scaled_optimizer, step)
        progress(step + 1, steps)
        last = after_step(step + 1) or step + 1 == steps
        if (step + 1) % LOG_EVERY == 0 or last:
            seconds = (time.monotonic() - row_time) / (step + 1 - row_step)
            row_time, row_step = time.monotonic(), step + 1
            row = {"step": step + 1, "seconds": seconds, "device": device_name(accelerator.device.type)}
            log.append(row | code_version() | _mean(terms, several))
        if last:  # the weights after the last update, and their loss on the last batch
            with accelerator.autocast(), _buffers_kept(trained):  # with gradients: some terms need them
                final = losses(images, targets)
            named = {f"loss term {name} after this last step": v.detach() for name, v in final.items()}
            require_finite(_largest_weights(trained) | named, step, several)
        if saves and (last or (time.monotonic() - saved > save_interval and _finite(trained))):
            save_start = time.monotonic()
            save(step + 1)
            saved = time.monotonic()
            save_interval = max(CHECKPOINT_SECONDS, 20 * (saved - save_start))  # at most 5 % of the time
        if last:
            break
    return log


def _update(optimizer: torch.optim.Optimizer, step: int) -> None:
    """One update of the weights.

    Raises:
        NonFiniteLoss: for a learning rate that torch cannot compute with.
    """
    try:
        optimizer.step()
    except RuntimeError as error:
        if "without overflow" not in str(error):
            raise
        lr = optimizer.param_groups[0]["lr"]
        raise NonFiniteLoss(
            f"step {step}: a learning rate of {lr:.3g} is too large; try a lower lr"
        ) from None


def _largest_weights(trained: dict[str, nn.Module]) -> dict[str, Tensor]:
    """The largest absolute weight of each module; NaN if one is."""
    weights = {
        name: [p.detach() for p in module.parameters() if p.numel()] for name, module in trained.items()
    }
    return {
        f"the largest weight of {name}": torch.stack([p.abs().max().float() for p in tensors]).max()
        for name, tensors in weights.items()
        if tensors
    }


def _finite(trained: dict[str, nn.Module]) -> bool:
    """Whether all weights are numbers; if not, the next step stops the training."""
    return all(bool(largest.isfinite()) for largest in _largest_weights(trained).values())


@contextlib.contextmanager
def _buffers_kept(trained: dict[str, nn.Module]) -> Iterator[None]:
    """Leave batch norm's running statistics as they were before."""
    before = [(buffer, buffer.clone()) for module in trained.values() for buffer in module.buffers()]
    yield
    with torch.no_grad():
        for buffer, value in before:
            buffer.copy_(value)


def _resume(
    folder: Path, trained: dict[str, nn.Module], optimizer: torch.optim.Optimizer
) -> tuple[int, list[dict]]:
    """Load the checkpoint in ``folder``, if there is one; return the number of steps done and their log."""
    state = load_checkpoint(folder)
    if state is None:
        return 0, []
    for name, module in trained.items():
        module.load_state_dict(state["modules"][name])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["log"]


def _data_parallel(losses: Callable, start: int, folder: Path) -> DistributedDataParallel:
    """``losses`` as a module whose gradients are averaged over the processes."""
    if not isinstance(losses, nn.Module):
        raise TypeError("several processes share a nn.Module, such as TrainingStep")
    starts = distributed.gathered(start)
    if len(set(starts)) > 1:
        raise OSError(
            f"{folder}: the processes find checkpoints of steps {starts}; "
            "it must be one folder for all of them"
        )
    return DistributedDataParallel(losses, gradient_as_bucket_view=True)


def _mean(terms: dict[str, Tensor], several: bool) -> dict[str, float]:
    """A step's terms as numbers, their mean over the processes."""
    own = {k: float(v.detach()) for k, v in terms.items()}
    rows = distributed.gathered(own) if several else [own]
    return {name: statistics.fmean(row[name] for row in rows) for name in terms}


def require_finite(terms: dict[str, Tensor], step: int, several: bool = False) -> None:
    """Check that all terms are numbers.

    Args:
        several: stop in all processes if a term of one is not a number; all must call this together.

    Raises:
        NonFiniteLoss: naming the first term that is not a number.
    """
    not_finite = [
        (name, float(value.detach())) for name, value in terms.items() if not torch.isfinite(value).all()
    ]
    if several:
        not_finite = sum(distributed.gathered(not_finite), [])
    if not_finite:
        name, number = not_finite[0]
        raise NonFiniteLoss(
            f"step {step}: {name} is {number}; training stopped, the last good checkpoint is kept. A lower "
            "lr or a clip often helps."
        )


def terms_of(row: dict) -> dict[str, float]:
    """The loss terms of a row of the log of ``fit``."""
    others = ("step", "seconds", "device", *code_version())
    return {name: value for name, value in row.items() if name not in others}


def device_name(kind: str) -> str:
    """The name of this process's device of a kind, cuda or another, as records have it."""
    return torch.cuda.get_device_name() if kind == "cuda" else f"{kind}, {torch.get_num_threads()} thread(s)"


def accelerate(device: str, precision: str) -> Accelerator:
    """An Accelerator on ``device``: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        ValueError: if there is no such device.
    """
    AcceleratorState._reset_state(reset_partial_state=True)  # several trainings may share a process
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision=precision)
    if device not in ("auto", accelerator.device.type):
        raise ValueError(f"DEVICE={device}: not available here (found {accelerator.device.type})")
    return accelerator
