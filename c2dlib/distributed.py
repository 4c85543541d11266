"""Several processes that share one run, as ``accelerate launch`` or ``torchrun`` start them.

In a single process these functions do nothing; ``end_with_parent`` is for any process that another one
starts.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
import sys
import threading
import time
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from filelock import FileLock, Timeout
from torch import Tensor

_held = []  # locks of the GPU that this process has
PATIENCE = timedelta(hours=2)  # for the first process, while it computes metrics or waits for a lock


def join(device: str) -> str:
    """Meet the other processes of this run, if it was started as several.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``; gloo connects processes on CPUs, nccl those on GPUs.

    Returns:
        The device, ``auto`` resolved.

    Raises:
        ValueError: if there are fewer GPUs here than processes.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        local_rank, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if device == "cuda" and local_rank >= gpus:
            raise ValueError(
                f"process {local_rank + 1} of this machine finds {gpus} GPU(s): one process per GPU; "
                "start fewer (--num_processes, --nproc-per-node) or ask for more GPUs"
            )
        PartialState(cpu=device == "cpu", timeout=PATIENCE)
    return device


def claim_gpu(folder: Path, wait: bool = False) -> int | None:
    """Take a GPU of this machine that no other run has, until this process ends; for runs beside each other.

    Args:
        folder: where the machine's locks lie.
        wait: until one is free; else, if none is, one is shared.

    Returns:
        Its number, which is now the current device; None where there is but one, or none.
    """
    if not torch.cuda.is_available() or (count := torch.cuda.device_count()) < 2:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    locks = [FileLock(folder / f"gpu-{platform.node()}-{i}.lock") for i in range(count)]
    while True:
        for i, lock in enumerate(locks):
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=0)
                _held.append(lock)
                torch.cuda.set_device(i)
                return i
        if not wait:
            torch.cuda.set_device(os.getpid() % count)
            return os.getpid() % count
        time.sleep(1)


def world() -> int:
    """How many processes share the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def first() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def agreed(value: Any) -> Any:
    """The first process's value, in all processes.

    All processes call this function and the next three, or none does.
    """
    return broadcast_object_list([value])[0] if world() > 1 else value


def first_process_first() -> AbstractContextManager[None]:
    """A context that the first process leaves before the others enter it."""
    return PartialState().main_process_first() if world() > 1 else contextlib.nullcontext()


def gathered(value: Any) -> list:
    """Every process's value, in their order."""
    return gather_object([value]) if world() > 1 else [value]


def as_one_batch(
    terms: dict[str, Tensor], divisors: dict[str, Tensor | int], images: int
) -> dict[str, Tensor]:
    """Scale a process's loss terms so that their mean over the processes is the loss of the whole batch.

    A term is a sum over its n samples (objects, proposals, images) divided by max(1, n). With n_i samples in
    process i of W, the term is multiplied by W max(1, n_i) / max(1, sum of n_i). Data parallel training then
    takes the mean over the processes.

    Args:
        divisors: term -> n; those not named are divided by the number of images.
    """
    if world() == 1:
        return terms
    device = next(iter(terms.values())).device
    counts = torch.stack(
        [torch.as_tensor(divisors.get(name, images), dtype=torch.float64, device=device) for name in terms]
    )
    total = counts.clone()
    dist.all_reduce(total)
    factors = world() * counts.clamp(min=1) / total.clamp(min=1)
    return {
        name: term * factor.to(term.dtype)
        for (name, term), factor in zip(terms.items(), factors, strict=True)
    }


def end_with_parent(parent: int) -> None:
    """End this process as soon as the process ``parent``, which started it, has ended, by whatever signal."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
