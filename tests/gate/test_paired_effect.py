"""Hodges-Lehmann and its interval: against scipy, a published example, and coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import wilcoxon

from chipmark.gate.paired_effect import (
    hodges_lehmann,
    interval_depth,
    signed_rank_pmf,
    walsh_averages,
    walsh_interval,
)

# Hollander and Wolfe, Nonparametric Statistical Methods, table 3.1: depression scale factor IV of
# nine patients before and after a tranquilizer.
BEFORE = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30])
AFTER = np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29])


def test_the_published_example():
    assert hodges_lehmann(AFTER - BEFORE) == pytest.approx(-0.46)
    assert walsh_interval(AFTER - BEFORE, 0.96) == pytest.approx((-0.786, -0.010))


@pytest.mark.parametrize("n", [1, 2, 5, 6, 10, 16, 25])
def test_the_null_distribution_is_scipys(n):
    below = np.cumsum(signed_rank_pmf(n))
    assert below[-1] == pytest.approx(1)
    for t in range(0, n * (n + 1) // 2 + 1, 3):
        ranks, left = np.arange(1, n + 1), t
        signs = -np.ones(n)
        for rank in ranks[::-1]:  # a sample whose positive ranks sum to t
            if rank <= left:
                signs[rank - 1], left = 1, left - rank
        if left == 0:
            p = wilcoxon(signs * ranks, alternative="less", method="exact").pvalue
            assert below[t] == pytest.approx(p)


def test_bounds_invert_the_signed_rank_test():
    d = np.random.default_rng(5).normal(0.3, 1.0, 16)
    low, high = walsh_interval(d)
    for shift, inside in ((low - 1e-9, False), (low + 1e-9, True), (high + 1e-9, False)):
        p = wilcoxon(d - shift, method="exact").pvalue
        assert (p > 0.05) == inside


@pytest.mark.parametrize(("n", "depth"), [(5, 0), (6, 1), (10, 9), (16, 30), (20, 53)])
def test_depths_are_those_of_the_tables(n, depth):
    # One less than these are the critical values of Wilcoxon's table, two-sided 5 %: 0, 8, 29, 52.
    assert interval_depth(n, 0.95) == depth


def test_too_few_pairs_have_no_bounds():
    assert walsh_interval([0.1] * 5) == (-np.inf, np.inf)
    low, high = walsh_interval(np.zeros((3, 4)))
    assert low.shape == high.shape == (3,)
    assert not np.isfinite(low).any()


def test_many_series_are_one_call():
    d = np.random.default_rng(1).normal(size=(7, 10))
    effects, (lows, highs) = hodges_lehmann(d), walsh_interval(d)
    for row, effect, low, high in zip(d, effects, lows, highs, strict=True):
        assert hodges_lehmann(row) == effect
        assert walsh_interval(row) == (low, high)


@pytest.mark.parametrize("n", [6, 10, 16])
@pytest.mark.parametrize("kind", ["normal", "laplace", "outliers"])
def test_the_interval_covers(n, kind):
    generator = np.random.default_rng(11)
    d = generator.normal(size=(4000, n))
    if kind == "laplace":
        d = generator.laplace(size=(4000, n))
    elif kind == "outliers":
        struck = generator.random(d.shape) < 0.1
        d = d + struck * generator.choice([-1, 1], d.shape) * generator.exponential(10, d.shape)
    low, high = walsh_interval(d)
    missed_below, missed_above = (low > 0).mean(), (high < 0).mean()
    # Each side misses at most 2.5 %; 4000 series tell that to within 0.75 % (three deviations).
    assert max(missed_below, missed_above) <= 0.025 + 0.0075


def test_the_bounds_are_no_wider_than_they_must_be():
    d = np.random.default_rng(12).normal(size=(4000, 16))
    low, _ = walsh_interval(d)
    assert (low > 0).mean() >= 0.015


@pytest.mark.parametrize("bad", [[], [0.1, np.nan], [np.inf]])
def test_what_is_no_difference_is_refused(bad):
    with pytest.raises(ValueError, match=r"pairs|finite"):
        hodges_lehmann(bad)


def test_walsh_averages_hold_each_pair_once():
    assert walsh_averages([0.0, 2.0, 10.0]).tolist() == [0.0, 1.0, 2.0, 5.0, 6.0, 10.0]
