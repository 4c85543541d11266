"""Means over seeds, paired differences with their 95 % t interval, and the text form of such a difference."""

from __future__ import annotations

import statistics
from typing import NamedTuple

import pandas as pd
from scipy import stats


class Difference(NamedTuple):
    """Mean of paired differences with its 95 % interval, in the unit of the values."""

    mean: float | None  # None without a pair
    low: float | None  # None with fewer than two pairs
    high: float | None


def paired_difference(pairs: list[tuple[float | None, float | None]]) -> Difference:
    """Mean of first - second over the pairs, with Student's t interval from two pairs on.

    Args:
        pairs: two values per seed; a pair with a None is left out.
    """
    differences = [first - second for first, second in pairs if first is not None and second is not None]
    if not differences:
        return Difference(None, None, None)
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return Difference(mean, None, None)
    half = stats.t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / len(differences) ** 0.5
    return Difference(mean, mean - half, mean + half)


def difference_text(mean: float | None, low: float | None, high: float | None) -> str:
    """``+1.2 [+0.3, +2.1]``; without its interval where there is none; empty without a mean."""
    if pd.isna(mean):
        return ""
    return f"{mean:+.1f}" if pd.isna(low) else f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def mean_of(values: list[float | None]) -> float | None:
    """Arithmetic mean without the Nones; None if nothing is left."""
    values = [value for value in values if value is not None]
    return statistics.fmean(values) if values else None


def sd_of(values: list[float | None]) -> float | None:
    """Sample standard deviation without the Nones; None for fewer than two values."""
    values = [value for value in values if value is not None]
    return statistics.stdev(values) if len(values) > 1 else None


def median_of(values: list[float]) -> float | None:
    """Median; None for no value."""
    return statistics.median(values) if values else None
