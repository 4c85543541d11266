"""Training batches as a function of (seed, step): nothing to save, so a run resumes at any step exactly."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.utils.data import DataLoader, Dataset, Sampler


def mix(*numbers: int) -> int:
    """One 63-bit seed from several integers (SplitMix64), the same on every machine."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & (2**64 - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        state ^= state >> 31
    return state >> 1


class Positions(Dataset):
    """An endless row of training samples: position p is image ``order(p // N)[p % N]`` of N, augmented from p.

    Images without a trainable box are left out, as in the paper's recipe. With ``group``, ``group`` images that follow each
    other are all wide or all high, so that little of a batch is padding. Of what is left over an epoch makes mixed batches,
    the last ones, and leaves out what does not fill one.
    """

    def __init__(self, split, transform, seed: int, group: int = 0):
        self.split, self.transform, self.seed, self.group = split, transform, seed, group
        self.usable = split.with_boxes()
        self.count = len(self.usable) - (len(self.usable) % group if 0 < group <= len(self.usable) else 0)
        self.order = lru_cache(maxsize=2)(self._order)

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(mix(self.seed, 1, epoch))
        order = torch.randperm(len(self.usable), generator=generator).tolist()
        if not self.group:
            return order
        shapes = [self.split.annotations["images"][i] for i in self.usable]
        batches, rests = [], []
        for wide in (True, False):
            mine = [i for i in order if (shapes[i]["width"] >= shapes[i]["height"]) == wide]
            full = len(mine) - len(mine) % self.group
            batches += [mine[i : i + self.group] for i in range(0, full, self.group)]
            rests += mine[full:]
        shuffled = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
        return [i for batch in [*shuffled, rests] for i in batch][: self.count]

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, position: int):
        epoch, place = divmod(position, self.count)
        image, target = self.split[self.usable[self.order(epoch)[place]]]
        torch.manual_seed(mix(self.seed, 2, position))
        return self.transform(image, {key: value for key, value in target.items() if key != "image_id"})


class Share(Sampler):
    """Which positions a process reads: of each part of a batch, one after the other, its own slice."""

    def __init__(self, first: int, last: int, part: int, rank: int, world: int):
        self.first, self.last, self.part, self.own, self.rank = first, last, part, part // world, rank

    def __iter__(self):
        for position in range(self.first, self.last, self.part):
            yield from range(position + self.rank * self.own, position + (self.rank + 1) * self.own)

    def __len__(self) -> int:
        return (self.last - self.first) // self.part * self.own


def stream(split, transform, seed: int, batch_size: int, start: int, steps: int, workers: int = 0, *, group: bool = False,
           parts: int = 1, rank: int = 0, world: int = 1) -> DataLoader:
    """Batches ``start`` .. ``steps`` - 1, each (list of images [3, H, W], list of targets).

    Args:
        group: all images of a batch are wide, or all are high.
        parts: a batch comes in so many pieces; rank, world: and each process gets its share of a piece.

    Raises:
        ValueError: if a batch cannot be divided so.
    """
    if batch_size % (parts * world):
        raise ValueError(f"batch_size={batch_size} cannot be divided among {world} process(es) and {parts} part(s) each (accumulate)")
    share = Share(start * batch_size, steps * batch_size, batch_size // parts, rank, world)
    positions = Positions(split, transform, seed, batch_size if group else 0)
    return DataLoader(positions, share.own, sampler=share, num_workers=workers, collate_fn=as_lists, persistent_workers=False,
                      pin_memory=torch.cuda.is_available() and workers > 0)


def as_lists(samples: list) -> tuple[list, list]:
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)
