"""The shift of two samples: against scipy, a published example, and coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from chipmark.gate.unpaired_effect import (
    MOST_SAMPLES,
    block_medians,
    rank_sum_pmf,
    shift,
    shift_depth,
)

# Hollander and Wolfe, Nonparametric Statistical Methods, table 4.1: permeability of the human
# chorioamnion at term and at 12 to 26 weeks of gestation.
AT_TERM = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46]
EARLY = [1.15, 0.88, 0.90, 0.74, 1.21]


def test_the_published_example():
    found = shift(AT_TERM, EARLY)
    assert found.effect == pytest.approx(-0.305)
    assert (found.low, found.high) == pytest.approx((-0.76, 0.15))


@pytest.mark.parametrize(("m", "n"), [(1, 1), (3, 4), (5, 10), (9, 9)])
def test_the_null_distribution_is_scipys(m, n):
    pmf = rank_sum_pmf(m, n)
    assert pmf.sum() == pytest.approx(1)
    generator = np.random.default_rng(1)
    for _ in range(10):
        x, y = generator.normal(size=m), generator.normal(size=n)
        found = mannwhitneyu(x, y, alternative="less", method="exact")
        assert pmf[: int(found.statistic) + 1].sum() == pytest.approx(found.pvalue)


def test_bounds_invert_the_test():
    generator = np.random.default_rng(2)
    x, y = generator.normal(size=9), generator.normal(0.5, 1, 11)
    found = shift(x, y)
    for by, inside in ((found.low - 1e-9, False), (found.low + 1e-9, True)):
        p = mannwhitneyu(y - by, x, method="exact").pvalue
        assert (p > 0.05) == inside


def test_three_samples_a_side_have_no_interval_and_four_have():
    assert shift_depth(3, 3, 0.95) == 0
    assert shift([1, 2, 3], [4, 5, 6]).low == -math.inf
    assert shift_depth(4, 4, 0.95) == 1
    with pytest.raises(ValueError, match="confidence"):
        shift_depth(4, 4, 1.0)


@pytest.mark.parametrize(("m", "n"), [(5, 5), (10, 16), (32, 32)])
def test_the_interval_covers(m, n):
    generator = np.random.default_rng(3)
    missed = 0
    for _ in range(1500):
        found = shift(generator.laplace(size=m), generator.laplace(size=n))
        missed += not found.low <= 0 <= found.high
    # 5 % and three deviations of 1500 trials.
    assert missed / 1500 <= 0.05 + 0.017


def test_a_thousand_rounds_are_no_thousand_witnesses():
    blocks = block_medians(np.arange(1000.0))
    assert len(blocks) == MOST_SAMPLES
    assert blocks[0] == pytest.approx(15.5)
    assert (np.diff(blocks) > 0).all()
    assert shift(np.arange(1000.0), np.arange(1000.0)).n == MOST_SAMPLES


@pytest.mark.parametrize("bad", [[], [math.nan], [math.inf, 1.0]])
def test_what_is_no_sample_is_refused(bad):
    with pytest.raises(ValueError, match="sample"):
        shift([1.0, 2.0], bad)
