"""Paired differences by hand, and how they are written."""

import pytest

from c2dlib.reporting.statistics import (
    Difference,
    difference_text,
    mean_of,
    median_of,
    paired_difference,
    sd_of,
)


def test_paired_by_hand():
    assert paired_difference([]) == Difference(None, None, None)
    assert paired_difference([(31.0, 30.0), (None, 30.0)]) == Difference(1.0, None, None)
    three = paired_difference(
        [(31.0, 30.0), (33.0, 31.0), (36.0, 33.0)]
    )  # 1, 2, 3: sd 1, t(0.975, 2) = 4.302653
    assert three == pytest.approx((2.0, -0.484138, 4.484138), abs=1e-5)


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
    assert (
        mean_of([1.0, None, 3.0]) == 2
        and sd_of([1.0, None, 3.0]) == pytest.approx(2**0.5)
        and median_of([3.0, 1.0, 2.0]) == 2
    )
    assert mean_of([None]) is None and sd_of([1.0]) is None and median_of([]) is None
