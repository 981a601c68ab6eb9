from __future__ import annotations

import numpy as np
import pytest

from chipmark.metrics.intervals import by_repeat, percentile, rank_interval
from chipmark.metrics.ratios import Ratio, combine, null


def test_percentile_is_a_value_that_was_measured() -> None:
    samples = np.array([4.0, 1.0, 3.0, 2.0])
    assert percentile(samples, 0.5) == 2.0
    assert percentile(samples, 0.95) == 4.0
    assert percentile(np.zeros(0), 0.5) is None
    assert percentile(np.arange(1.0, 21.0), 0.95) == 19.0


def test_rank_interval_of_a_median_agrees_with_the_tables() -> None:
    # Known ranks: n = 10 gives (2, 9), n = 6 gives (1, 6), n = 5 has no two-sided 95 % interval.
    assert rank_interval(np.arange(1.0, 11.0), 0.5) == (2.0, 9.0)
    assert rank_interval(np.arange(1.0, 7.0), 0.5) == (1.0, 6.0)
    assert rank_interval(np.arange(1.0, 6.0), 0.5) == (None, None)


def test_rank_interval_covers_its_quantile_as_promised() -> None:
    draws = np.random.default_rng(11).exponential(size=(2000, 100))
    for q in (0.5, 0.9):
        truth = -np.log(1 - q)
        hits = 0
        for sample in draws:
            bounds = rank_interval(sample, q)
            assert bounds is not None
            assert bounds[0] is not None
            assert bounds[1] is not None
            hits += bounds[0] <= truth <= bounds[1]
        assert 0.945 <= hits / len(draws) <= 0.985


def test_a_high_percentile_of_few_samples_has_no_upper_end() -> None:
    bounds = rank_interval(np.arange(60.0), 0.95)
    assert bounds is not None
    assert bounds[0] is not None
    assert bounds[1] is None


def test_intervals_by_repeat_need_two() -> None:
    assert by_repeat(1.0, [1.0]) is None
    assert by_repeat(1.0, [1.0, 1.0, 1.0]) == (1.0, 1.0)
    # t(1) = 12.706, s = 0.0707: 0.85 +- 0.635.
    bounds = by_repeat(0.85, [0.8, 0.9], positive=False)
    assert bounds == (pytest.approx(0.2147, abs=1e-3), pytest.approx(1.4853, abs=1e-3))


def test_ratios_of_sums_skip_a_minority_and_say_why_not() -> None:
    parts = [Ratio(1.0, 2.0), Ratio(3.0, 2.0), null("no_probe")]
    assert combine(parts).value == 1.0
    assert combine(parts, every=True).null_reason == "no_probe"
    assert combine([Ratio(1.0, 2.0), null("in_cache"), null("in_cache")]).null_reason == "in_cache"
    assert combine([Ratio(1.0, 0.0)]).null_reason == "zero_denominator"
    assert combine([]).null_reason == "no_samples"
    assert Ratio(1.0, -1.0).value is None
