"""Rows against a baseline: turn by turn for latencies, by repeats for rates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from chipmark.metrics.paired import paired_latencies, ratio_by_repeats
from chipmark.metrics.samples import Samples


def turns(values: dict[tuple[int, int], float]) -> Samples:
    keys = np.array(list(values), dtype=np.int64).reshape(-1, 2)
    none = np.full(len(keys), -1, dtype=np.int64)
    return Samples(keys[:, 0], keys[:, 1], none, np.array(list(values.values())))


def test_turns_that_differ_by_much_are_compared_each_with_itself() -> None:
    # Turns from 10 ms to 10 s; the row takes half of each, one of them 0.4 and one 0.625 of it.
    base = {(s, t): 0.01 * 10 ** (s + t / 2) for s in range(3) for t in range(2)}
    row = {key: value / 2 for key, value in base.items()}
    row[(0, 0)] *= 0.8
    row[(1, 0)] /= 0.8
    found = paired_latencies(turns(row), turns(base))
    assert found is not None
    assert found.ratio == pytest.approx(2.0)
    assert (found.n, found.sessions) == (6, 3)
    # Sessions' sums of log ratios about the mean: a, -a and 0, with a = ln 1.25.
    error = math.sqrt(2 * math.log(1.25) ** 2 * 3 / 2) / 6
    assert found.interval is not None
    assert math.log(found.interval[1] / 2) == pytest.approx(4.3027 * error, rel=1e-4)  # type: ignore[operator]


def test_only_what_both_did_is_compared() -> None:
    found = paired_latencies(
        turns({(0, 0): 1.0, (1, 0): 1.0, (7, 0): 9.0}), turns({(1, 0): 3.0, (0, 0): 3.0})
    )
    assert found is not None
    assert found.ratio == pytest.approx(3.0)
    assert found.n == 2
    assert paired_latencies(turns({(0, 0): 1.0}), turns({(1, 0): 1.0})) is None
    alone = paired_latencies(turns({(0, 0): 1.0}), turns({(0, 0): 2.0}))
    assert alone is not None
    assert alone.interval is None


def test_the_interval_of_pairs_covers_a_true_ratio() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(400):
        work = {(s, t): float(rng.lognormal(sigma=2)) for s in range(8) for t in range(6)}
        shift = {s: 0.1 * rng.normal() for s in range(8)}
        row = {
            (s, t): v / 1.5 * math.exp(shift[s] + 0.05 * rng.normal()) for (s, t), v in work.items()
        }
        found = paired_latencies(turns(row), turns(work))
        assert found is not None
        assert found.interval is not None
        hits += found.interval[0] <= 1.5 <= found.interval[1]  # type: ignore[operator]
    assert 0.92 <= hits / 400 <= 0.98


def test_rates_have_the_interval_of_their_repeats() -> None:
    found = ratio_by_repeats(2.0, [2.0, 2.1, 1.9], [1.0, 1.02, 0.98])
    assert found is not None
    a, b = (np.var(np.log(v), ddof=1) / 3 for v in ([2.0, 2.1, 1.9], [1.0, 1.02, 0.98]))
    freedom = (a + b) ** 2 / (a**2 / 2 + b**2 / 2)
    assert 2 < freedom < 4
    from scipy.special import stdtrit

    half = stdtrit(freedom, 0.975) * math.sqrt(a + b)
    assert found.interval == pytest.approx((2 * math.exp(-half), 2 * math.exp(half)))
    assert found.n == 3


def test_rates_of_one_repeat_have_no_interval_and_equal_ones_no_width() -> None:
    one = ratio_by_repeats(2.0, [2.0], [1.0, 1.0])
    assert one is not None
    assert one.interval is None
    same = ratio_by_repeats(2.0, [2.0, 2.0], [1.0, 1.0])
    assert same is not None
    assert same.interval == (2.0, 2.0)
    assert ratio_by_repeats(2.0, [0.0, 2.0], [1.0, 1.0]) is None
