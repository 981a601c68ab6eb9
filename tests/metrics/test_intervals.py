from __future__ import annotations

import numpy as np
import pytest

from chipmark.metrics.intervals import by_repeat, percentile
from chipmark.metrics.ratios import Ratio, combine, null


def test_percentile_is_a_value_that_was_measured() -> None:
    samples = np.array([4.0, 1.0, 3.0, 2.0])
    assert percentile(samples, 0.5) == 2.0
    assert percentile(samples, 0.95) == 4.0
    assert percentile(np.zeros(0), 0.5) is None
    assert percentile(np.arange(1.0, 21.0), 0.95) == 19.0


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
