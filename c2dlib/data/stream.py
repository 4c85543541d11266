"""Training batches as a function of (seed, step): nothing to save, so a run resumes at any step exactly."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.utils.data import DataLoader, Dataset


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
    """An endless row of training samples: position p is image ``order(p // N)[p % N]``, augmented from p.

    Images without a trainable box are left out, as in the paper's recipe.
    """

    def __init__(self, split, transform, seed: int):
        self.split, self.transform, self.seed = split, transform, seed
        self.usable = split.with_boxes()
        self.order = lru_cache(maxsize=2)(self._order)

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(mix(self.seed, 1, epoch))
        return torch.randperm(len(self.usable), generator=generator).tolist()

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, position: int):
        epoch, place = divmod(position, len(self.usable))
        image, target = self.split[self.usable[self.order(epoch)[place]]]
        torch.manual_seed(mix(self.seed, 2, position))
        return self.transform(image, {key: value for key, value in target.items() if key != "image_id"})


def stream(split, transform, seed: int, batch_size: int, start: int, steps: int, workers: int = 0) -> DataLoader:
    """Batches ``start`` .. ``steps`` - 1, each (list of images [3, H, W], list of targets)."""
    positions = range(start * batch_size, steps * batch_size)
    return DataLoader(Positions(split, transform, seed), batch_size, sampler=positions, num_workers=workers,
                      collate_fn=as_lists, persistent_workers=False)


def as_lists(samples: list) -> tuple[list, list]:
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)
