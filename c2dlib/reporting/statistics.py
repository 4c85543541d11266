"""Means over seeds, differences with their t interval and their text form, and the tests of the claims.

Pure functions on numbers. ``Difference`` is what a table shows; ``Estimate`` carries the standard error and
the
degrees of freedom that a test needs.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, stats

from c2dlib.reporting.markdown import difference_text as difference_text
from c2dlib.reporting.markdown import missing

# Of statsmodels. They need no gradient: those that do often stop early where a variance is 0.
OPTIMIZERS = ("powell", "nm")


class Difference(NamedTuple):
    """Mean of paired differences with its 95 % interval, in the unit of the values."""

    mean: float | None  # None without a pair
    low: float | None  # None with fewer than two pairs
    high: float | None


def paired_difference(
    pairs: list[tuple[float | None, float | None]], draws: Sequence[int] = ()
) -> Difference:
    """Mean of first - second over the pairs, with Student's t interval from two pairs on.

    Args:
        pairs: two values per seed; a pair with a None or NaN is left out.
        draws: of each pair; empty: one. Where there are several, the pairs of a draw count as one, by their
            mean.
    """
    by_draw: dict[int, list[float]] = {}
    for (first, second), draw in zip(pairs, draws or [0] * len(pairs), strict=True):
        if not missing(first) and not missing(second):
            by_draw.setdefault(draw, []).append(first - second)
    if len(by_draw) > 1:
        differences = [statistics.fmean(of_draw) for of_draw in by_draw.values()]
    else:
        differences = [difference for of_draw in by_draw.values() for difference in of_draw]
    if not differences:
        return Difference(None, None, None)
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return Difference(mean, None, None)
    half = stats.t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / len(differences) ** 0.5
    return Difference(mean, mean - half, mean + half)


def mean_of(values: list[float | None]) -> float | None:
    """Arithmetic mean without None and NaN; None if nothing is left."""
    values = [value for value in values if not missing(value)]
    return statistics.fmean(values) if values else None


def sd_of(values: list[float | None]) -> float | None:
    """Sample standard deviation without None and NaN; None for fewer than two values."""
    values = [value for value in values if not missing(value)]
    return statistics.stdev(values) if len(values) > 1 else None


def median_of(values: list[float]) -> float | None:
    """Median; None for no value."""
    return statistics.median(values) if values else None


def chance_within(seeds: int, new_seeds: int) -> float:
    """The chance that the mean over new seeds lies in the 95 % t interval of an earlier mean over ``seeds``.

    All seeds are independent and of one normal distribution. It is below 95 %, because both means scatter.
    """
    reach = stats.t.ppf(0.975, seeds - 1) / (1 + seeds / new_seeds) ** 0.5
    return float(1 - 2 * stats.t.sf(reach, seeds - 1))


class Estimate(NamedTuple):
    """An estimated effect whose error divided by ``se`` follows Student's t with ``df`` degrees of
    freedom."""

    value: float
    se: float
    df: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The two-sided interval that contains the effect with this probability."""
        half = stats.t.ppf((1 + level) / 2, self.df) * self.se
        return self.value - half, self.value + half

    def p_above(self, bound: float = 0.0) -> float:
        """One-sided p of "the effect is not above ``bound``"."""
        if self.se == 0:
            return 0.0 if self.value > bound else 1.0
        return float(stats.t.sf((self.value - bound) / self.se, self.df))

    def p_below(self, bound: float = 0.0) -> float:
        """One-sided p of "the effect is not below ``bound``"."""
        return Estimate(-self.value, self.se, self.df).p_above(-bound)

    def p_within(self, margin: float) -> float:
        """p of two one-sided tests (TOST) of "the effect is not between -margin and margin"."""
        return max(self.p_above(-margin), self.p_below(margin))

    def detectable(self, alpha: float, power: float = 0.8) -> float:
        """The smallest effect above 0 that a one-sided test at ``alpha`` shows with this power (MDE)."""
        if self.se == 0:
            return 0.0
        critical = stats.t.ppf(1 - alpha, self.df)
        shift = optimize.brentq(
            lambda shift: stats.nct.sf(critical, self.df, shift) - power, 0.0, critical + 50.0
        )
        return float(self.se * shift)

    def detectable_margin(self, alpha: float, power: float = 0.8) -> float:
        """The smallest margin within which TOST shows an effect of 0 with this power."""
        return float(self.se * (stats.t.ppf(1 - alpha, self.df) + stats.t.ppf((1 + power) / 2, self.df)))


def pooled_variance(groups: list[list[float]]) -> tuple[float, int]:
    """The variance within groups that is common to all of them, and its degrees of freedom.

    It is the residual variance of a model with one mean per group.

    Raises:
        ValueError: if no group has two values.
    """
    squares, df = 0.0, 0
    for values in groups:
        if len(values) > 1:
            squares += statistics.variance(values) * (len(values) - 1)
            df += len(values) - 1
    if not df:
        raise ValueError("no group has two values")
    return squares / df, df


def welch_sum(estimates: list[tuple[float, Estimate]]) -> Estimate:
    """A weighted sum of independent estimates whose variances may differ.

    The degrees of freedom are Welch's and Satterthwaite's.

    Args:
        estimates: weight, estimate.
    """
    variances = [(weight * estimate.se) ** 2 for weight, estimate in estimates]
    total = math.fsum(variances)
    spread = math.fsum(v**2 / e.df for v, (_, e) in zip(variances, estimates, strict=True))
    return Estimate(
        math.fsum(weight * estimate.value for weight, estimate in estimates),
        total**0.5,
        total**2 / spread if spread else math.fsum(e.df for _, e in estimates),
    )


def holm(p_values: list[float]) -> list[float]:
    """p values corrected for their number by Holm's step-down method."""
    if len(p_values) < 2 or min(p_values) == 1:  # nothing to correct; statsmodels' function is slow
        return list(p_values)
    from statsmodels.stats.multitest import multipletests

    return multipletests(p_values, method="holm")[1].tolist()


def mixed_estimate(runs: pd.DataFrame, weights: Mapping[str, float]) -> Estimate | None:
    """A weighted sum of cell means over several draws, by a mixed model.

    Every cell (a student with a method) has a fixed mean. Random, per draw of training set, backbone and
    teacher, is a shift of each student, of each cell, and, where there are several students, of each method.
    The residual is the seed. So the standard error contains how the effect of a method differs between draws.

    Args:
        runs: columns ``cell``, ``student``, ``method``, ``draw``, ``value``; at least two draws, two methods.
        weights: of cells; others have weight 0.

    Returns:
        The degrees of freedom are those of the interaction of draw and method. None if there are none of
        these, or if the model does not converge or gives the sum no variance above 0.
    """
    if (runs.groupby("cell").value.nunique() == 1).all():
        return None  # the optimizers would look for a maximum that does not exist
    columns = ["cell", "student", "method", "draw", "value"]
    fitted = _mixed_fit(tuple(runs[columns].itertuples(index=False, name=None)), tuple(columns))
    if fitted is None:
        return None
    means, covariance = fitted
    vector = np.array([weights.get(cell, 0.0) for cell in sorted(runs.cell.unique())])
    variance = float(vector @ covariance @ vector)
    if not variance > 0:  # also where it is not a number
        return None
    df = _interaction_df(runs)
    return Estimate(float(vector @ means), variance**0.5, df) if df else None


def _interaction_df(runs: pd.DataFrame) -> int:
    """The degrees of freedom of the interaction of draw and method in the design that was run.

    In a balanced one (draws - 1) x (methods - 1); a method that has one draw only adds none.
    """
    pairs = runs[["draw", "method"]].drop_duplicates()
    return len(pairs) - int(
        np.linalg.matrix_rank(pd.get_dummies(pairs, columns=["draw", "method"]).to_numpy(float))
    )


@cache  # the claims have many sums of the same runs
def _mixed_fit(lines: tuple[tuple, ...], columns: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray] | None:
    """The means of the sorted cells and their covariance, by the most likely fit that converged."""
    from statsmodels.regression.mixed_linear_model import MixedLM

    runs = pd.DataFrame(lines, columns=list(columns))
    random = {"cell": "0 + C(cell)", "student": "0 + C(student)"}
    if runs.student.nunique() > 1:
        random["method"] = "0 + C(method)"
    model = MixedLM.from_formula("value ~ 0 + C(cell)", groups="draw", vc_formula=random, data=runs)
    fits = []
    for optimizer in OPTIMIZERS:
        with warnings.catch_warnings(), contextlib.suppress(np.linalg.LinAlgError):
            warnings.simplefilter("ignore")  # a variance of 0 lies on the border; that is a valid fit
            fits.append(model.fit(reml=True, method=[optimizer]))
    fits = [fit for fit in fits if fit.converged and math.isfinite(fit.llf)]
    if not fits:
        return None
    best = max(fits, key=lambda fit: fit.llf)
    means = best.fe_params.to_numpy()
    return means, best.cov_params().to_numpy()[: len(means), : len(means)]
