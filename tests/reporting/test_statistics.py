"""Differences, intervals and tests: by hand, or as scipy and statsmodels have them."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api
import statsmodels.stats.weightstats
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM

from c2dlib.reporting.statistics import (
    Difference,
    Estimate,
    difference_text,
    holm,
    mean_of,
    median_of,
    mixed_estimate,
    paired_difference,
    pooled_variance,
    sd_of,
    welch_sum,
)


def test_paired_by_hand():
    assert paired_difference([]) == Difference(None, None, None)
    assert paired_difference([(31.0, 30.0), (None, 30.0)]) == Difference(1.0, None, None)
    three = paired_difference(
        [(31.0, 30.0), (33.0, 31.0), (36.0, 33.0)]
    )  # 1, 2, 3: sd 1, t(0.975, 2) = 4.302653
    assert three == pytest.approx((2.0, -0.484138, 4.484138), abs=1e-5)


def test_the_pairs_of_a_draw_count_as_one():
    pairs = [(value, 0.0) for value in (0.0, 2.0, 4.0, 1.0, 3.0)] + [(None, 0.0)]
    over_draws = paired_difference(pairs, [0, 1, 2, 0, 1, 2])  # means 0.5, 2.5, 4
    half = 4.302653 * (37 / 12) ** 0.5 / 3**0.5  # squares about 7/3: 121/36 + 1/36 + 100/36, halved
    assert over_draws == pytest.approx((7 / 3, 7 / 3 - half, 7 / 3 + half), abs=1e-5)
    assert paired_difference(pairs, [3] * 6) == paired_difference(pairs)  # one draw: each seed counts


@pytest.mark.parametrize(
    "difference, text",
    [
        ((1.24, 0.26, 2.14), "+1.2 [+0.3, +2.1]"),
        ((-1.24, -2.0, 0.0), "-1.2 [-2.0, +0.0]"),
        ((0.5, None, None), "+0.5"),
        ((0.5, float("nan"), float("nan")), "+0.5"),
        ((None, None, None), ""),
        ((float("nan"),) * 3, ""),
    ],
)
def test_a_difference_is_written_with_sign_and_interval(difference, text):
    assert difference_text(*difference) == text


def test_missing_values_are_left_out():
    assert paired_difference([(31.0, math.nan), (31.0, 30.0)]) == Difference(1.0, None, None)
    assert mean_of([math.nan, 2.0]) == 2 and sd_of([math.nan, 2.0]) is None
    assert (
        mean_of([1.0, None, 3.0]) == 2
        and sd_of([1.0, None, 3.0]) == pytest.approx(2**0.5)
        and median_of([3.0, 1.0, 2.0]) == 2
    )
    assert mean_of([None]) is None and sd_of([1.0]) is None and median_of([]) is None


def test_the_variance_pooled_over_groups_by_hand():
    # squares: 2 (of 1, 2, 3), 8 (of 0, 4), none (one value); degrees of freedom 2 + 1
    assert pooled_variance([[1.0, 2.0, 3.0], [0.0, 4.0], [9.0]]) == (pytest.approx(10 / 3), 3)
    with pytest.raises(ValueError, match="two values"):
        pooled_variance([[1.0], []])


def test_the_pooled_interval_is_that_of_a_linear_model():
    generator = np.random.default_rng(0)
    runs = pd.DataFrame({"method": list("aaabbbccccc"), "value": generator.normal(0, 1, 11)})
    fit = statsmodels.formula.api.ols("value ~ 0 + C(method)", runs).fit()
    test = fit.t_test([-1, 1, 0])
    variance, df = pooled_variance([g.value.tolist() for _, g in runs.groupby("method")])
    means = runs.groupby("method").value.mean()
    ours = Estimate(means.b - means.a, (variance * (1 / 3 + 1 / 3)) ** 0.5, df)
    assert ours.interval() == pytest.approx(test.conf_int()[0])
    assert 2 * min(ours.p_above(), ours.p_below()) == pytest.approx(float(test.pvalue))


def test_welch_over_students_is_scipys():
    generator = np.random.default_rng(1)
    a, b = generator.normal(1, 1, 5), generator.normal(0, 4, 8)
    one = [Estimate(x.mean(), x.std(ddof=1) / len(x) ** 0.5, len(x) - 1) for x in (a, b)]
    estimate = welch_sum([(1.0, one[0]), (-1.0, one[1])])
    expected = stats.ttest_ind(a, b, equal_var=False, alternative="greater")
    assert estimate.df == pytest.approx(expected.df)
    assert estimate.p_above() == pytest.approx(expected.pvalue)
    # equal variances and sizes: the degrees of freedom add up
    assert welch_sum([(0.5, Estimate(1, 2, 10)), (0.5, Estimate(3, 2, 10))]) == pytest.approx((2, 2**0.5, 20))


def test_tost_is_statsmodels_and_agrees_with_the_90_percent_interval():
    values = np.random.default_rng(2).normal(0.1, 0.4, 12)
    estimate = Estimate(values.mean(), values.std(ddof=1) / 12**0.5, 11)
    expected = statsmodels.stats.weightstats.DescrStatsW(values).ttost_mean(-0.5, 0.5)[0]
    assert estimate.p_within(0.5) == pytest.approx(expected)
    low, high = estimate.interval(0.9)
    edge = max(abs(low), abs(high))
    assert estimate.p_within(edge * 1.001) < 0.05 < estimate.p_within(edge * 0.999)


def test_holm_by_hand():
    # sorted .01 x 4, .02 x 3, .03 x 2, .5 x 1, none below the one before
    assert holm([0.02, 0.5, 0.01, 0.03]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert holm([]) == []


def test_the_detectable_effect_is_found_with_the_stated_power():
    estimate, alpha = Estimate(0.0, 0.7, 9), 0.01
    effect = estimate.detectable(alpha)
    critical = stats.t.ppf(1 - alpha, 9)
    assert stats.nct.sf(critical, 9, effect / 0.7) == pytest.approx(0.8)
    # with many degrees of freedom it is the textbook's (z of alpha + z of the power) x se
    assert Estimate(0, 1, 1e5).detectable(0.025) == pytest.approx(1.959964 + 0.841621, abs=1e-3)
    generator = np.random.default_rng(3)
    means = generator.normal(0, 0.7, 20_000)
    errors = 0.7 * np.sqrt(generator.chisquare(9, 20_000) / 9)
    found = ((means + effect) / errors > critical).mean()
    assert found == pytest.approx(0.8, abs=0.01)
    margin, critical = estimate.detectable_margin(0.05), stats.t.ppf(0.95, 9)
    within = ((means + margin) / errors > critical) & ((means - margin) / errors < -critical)
    assert within.mean() == pytest.approx(0.8, abs=0.02)


def test_a_mixed_model_without_a_valid_fit_gives_no_estimate(monkeypatch):
    generator = np.random.default_rng(7)
    cells = [("A", m, f"d{draw}", generator.normal()) for m in "ab" for draw in range(2) for _ in range(3)]
    runs = pd.DataFrame(cells, columns=["student", "method", "draw", "value"])
    runs, weights = runs.assign(cell=runs.student + " " + runs.method), {"A a": 1.0, "A b": -1.0}
    assert mixed_estimate(runs, weights).se > 0
    assert mixed_estimate(runs.assign(value=5.0), weights) is None  # no noise at all
    monkeypatch.setattr(MixedLM, "fit", lambda *_, **__: SimpleNamespace(converged=False, llf=0.0))
    assert mixed_estimate(runs.assign(value=runs.value + 1), weights) is None


def test_a_mixed_model_of_a_balanced_design_is_the_analysis_of_variance_by_hand():
    """The error of a difference of two methods comes from the interaction of draw and method."""
    generator, draws, methods, seeds, lines = np.random.default_rng(0), 4, 5, 3, []
    for draw in range(draws):
        shift = generator.normal(0, 2)
        for method in range(methods):
            own = generator.normal(0, 1)
            for _ in range(seeds):
                lines.append((f"d{draw}", f"m{method}", method + shift + own + generator.normal(0, 0.7)))
    runs = pd.DataFrame(lines, columns=["draw", "method", "value"])
    runs = runs.assign(student="s", cell="s " + runs.method)
    estimate = mixed_estimate(runs, {"s m1": 1.0, "s m0": -1.0})
    cells = runs.groupby(["draw", "method"]).value.mean().unstack().to_numpy()
    rest = cells - cells.mean(1, keepdims=True) - cells.mean(0) + cells.mean()
    mean_square = (rest**2).sum() / ((draws - 1) * (methods - 1))
    assert estimate.value == pytest.approx(cells[:, 1].mean() - cells[:, 0].mean())
    assert estimate.se == pytest.approx((2 * mean_square / draws) ** 0.5, rel=1e-3)
    assert estimate.df == 12


def test_a_method_with_one_draw_adds_no_degree_of_freedom():
    """Of two methods in four draws and six more in one of them, three: those of the two."""
    generator = np.random.default_rng(0)
    cells = [(m, d, s) for m in "AB" for d in range(4) for s in range(2)] + [(m, 0, 0) for m in "CDEFGH"]
    runs = pd.DataFrame(cells, columns=["method", "draw", "seed"]).assign(student="S")
    runs = runs.assign(cell="S " + runs.method, value=generator.normal(size=len(runs)) + runs.draw)
    assert mixed_estimate(runs, {"S A": 1.0, "S B": -1.0}).df == 3
    confounded = runs[(runs.method == "A") & (runs.draw < 2) | (runs.method == "B") & (runs.draw >= 2)]
    assert mixed_estimate(confounded, {"S A": 1.0, "S B": -1.0}) is None


def test_a_mixed_model_without_an_interaction_has_the_error_of_the_seeds():
    generator = np.random.default_rng(5)
    runs = pd.DataFrame(
        [
            (f"d{d}", s, f"m{m}", 5 * d + m + generator.normal(0, 1))
            for d in range(4)
            for s in ("s", "t")
            for m in range(3)
            for _ in range(4)
        ],
        columns=["draw", "student", "method", "value"],
    )
    runs = runs.assign(cell=runs.student + " " + runs.method)
    estimate = mixed_estimate(runs, {"s m1": 0.5, "s m0": -0.5, "t m1": 0.5, "t m0": -0.5})
    assert estimate.se == pytest.approx((4 * 0.25 / 16) ** 0.5, rel=0.35)  # 16 runs of each cell, sd 1
    assert estimate.value == pytest.approx(1, abs=1)


@pytest.mark.parametrize("seed", [10, 17, 18])
def test_a_mixed_model_of_several_students_finds_a_variance_of_0(seed):
    """An optimizer that needs gradients stops before, without convergence and with too large an error."""
    generator, lines = np.random.default_rng(seed), []
    seeds = {"s": 3, "t": 2, "u": 1, "v": 1}  # per draw
    for student, count in seeds.items():
        for draw in range(4):
            shift = generator.normal()
            for method in range(8):
                generator.normal()
                for _ in range(count):
                    value = 30 + method / 2 + shift + generator.normal(0, 0.8)
                    lines.append((student, f"m{method}", f"d{draw}", value))
    runs = pd.DataFrame(lines, columns=["student", "method", "draw", "value"])
    weights = {f"{s} {m}": sign / 4 for s in seeds for m, sign in (("m1", 1), ("m0", -1))}
    estimate = mixed_estimate(runs.assign(cell=runs.student + " " + runs.method), weights)
    exact = (2 / 16 * 0.64 * sum(1 / (4 * count) for count in seeds.values())) ** 0.5
    assert estimate.se == pytest.approx(exact, rel=0.08)
