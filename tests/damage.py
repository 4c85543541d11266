"""Damaged copies of a file, for the tests that each of them is named."""

import random
from collections.abc import Iterator


def damages(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Copies of ``content`` with one byte changed, or cut; at every place if ``count`` is 0."""
    chance = random.Random(seed)
    places = chance.sample(range(len(content)), count) if count else range(len(content))
    for place in places:
        other = bytes([content[place] ^ chance.randint(1, 255)])
        yield content[:place] + other + content[place + 1 :]
    for place in [*chance.sample(range(len(content)), min(count or 50, 50)), len(content) - 1]:
        yield content[:place]
        yield content[:place] + content[place + 1 :]
