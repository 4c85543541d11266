"""Training batches as a function of (seed, step).

A run therefore resumes at any step exactly, without saved random state.
"""

from __future__ import annotations

import os
from functools import lru_cache

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from c2dlib.distributed import end_with_parent


def combine_seeds(*numbers: int) -> int:
    """One 63-bit seed from several integers (SplitMix64, Steele et al. 2014), the same on every machine."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & (2**64 - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        state ^= state >> 31
    return state >> 1


class EndlessSamples(Dataset):
    """An endless sequence of augmented training samples, epoch after epoch.

    Sample p is image ``order(p // N)[p % N]`` of the N images with a box; the seed and p alone decide order
    and augmentation. The images without a box are left out, as in the paper's recipe.

    Args:
        split: a ``CocoSplit``.
        transform: see ``augment.train_transform``.
        group: size of a group (a batch). The images of a group, which follow each other, are all wide or all
            high, so that batches need little padding. The images of an epoch that are left over make mixed
            batches at its end; those that fill none are dropped. 0: no groups.
    """

    def __init__(self, split, transform, seed: int, group: int = 0):
        self.split, self.transform, self.seed, self.group = split, transform, seed, group
        self.items = split.with_boxes()
        self.count = len(self.items) - (len(self.items) % group if 0 < group <= len(self.items) else 0)
        self.order = lru_cache(maxsize=2)(self._order)

    def _order(self, epoch: int) -> list[int]:
        """The images of an epoch in their order, as rows of ``items``."""
        generator = torch.Generator().manual_seed(combine_seeds(self.seed, 1, epoch))
        order = torch.randperm(len(self.items), generator=generator).tolist()
        if not self.group:
            return order
        entries = [self.split.annotations["images"][i] for i in self.items]
        batches, left_over = [], []
        for wide in (True, False):
            same_aspect = [i for i in order if (entries[i]["width"] >= entries[i]["height"]) == wide]
            full = len(same_aspect) - len(same_aspect) % self.group
            batches += [same_aspect[i : i + self.group] for i in range(0, full, self.group)]
            left_over += same_aspect[full:]
        shuffled = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
        return [i for batch in [*shuffled, left_over] for i in batch][: self.count]

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, position: int):
        epoch, place = divmod(position, self.count)
        image, target = self.split[self.items[self.order(epoch)[place]]]
        # Images are augmented on the CPU. torch.manual_seed would also seed every other kind of device, and
        # format three tracebacks for it: 1 ms an image.
        torch.default_generator.manual_seed(combine_seeds(self.seed, 2, position))
        return self.transform(image, {key: value for key, value in target.items() if key != "image_id"})


class ProcessSampler(Sampler):
    """The positions that one of several processes reads: its own slice of each part of each batch."""

    def __init__(self, first: int, last: int, part: int, rank: int, world: int):
        self.first, self.last, self.part, self.slice, self.rank = first, last, part, part // world, rank

    def __iter__(self):
        for position in range(self.first, self.last, self.part):
            yield from range(position + self.rank * self.slice, position + (self.rank + 1) * self.slice)

    def __len__(self) -> int:
        return (self.last - self.first) // self.part * self.slice


def training_batches(
    split,
    transform,
    seed: int,
    batch_size: int,
    start: int,
    steps: int,
    workers: int = 0,
    *,
    group: bool = False,
    parts: int = 1,
    rank: int = 0,
    world: int = 1,
) -> DataLoader:
    """Batches ``start`` .. ``steps`` - 1 of ``EndlessSamples``: (list of images [3, H, W], list of targets).

    Args:
        batch_size: images per step, of all processes together.
        workers: loader processes; 0: load in this process.
        group: all images of a batch are wide, or all are high.
        parts: parts that a batch is divided into, which come one after the other.
        rank, world: this process, of so many; each gets its slice of every part.

    Raises:
        ValueError: if ``batch_size`` is not a multiple of ``parts`` times ``world``.
    """
    if batch_size % (parts * world):
        raise ValueError(
            f"batch_size={batch_size} cannot be divided among {world} process(es) and "
            f"{parts} part(s) each (accumulate)"
        )
    sampler = ProcessSampler(start * batch_size, steps * batch_size, batch_size // parts, rank, world)
    samples = EndlessSamples(split, transform, seed, batch_size if group else 0)
    return DataLoader(
        samples,
        sampler.slice,
        sampler=sampler,
        num_workers=workers,
        collate_fn=as_lists,
        worker_init_fn=_begin_loader,
        persistent_workers=False,
        pin_memory=torch.cuda.is_available() and workers > 0,
    )


def _begin_loader(number: int) -> None:
    """Prepare a loader process. Else it goes on for up to 5 s after the training process was killed."""
    end_with_parent(os.getppid())


def as_lists(samples: list) -> tuple[list, list]:
    """Pairs (image, target) -> list of images and list of targets."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)
