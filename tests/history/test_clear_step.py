"""A step's bound against the exact chances, and against orders that are drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from chipmark.gate.unpaired_effect import rank_sum_pmf
from chipmark.history import changes
from chipmark.history.changes import LEAST_SIDE, pettitt
from chipmark.history.clear_step import is_sure, tail_bound


def exact_sum(statistic: float, n: int) -> float:
    """The exact tails of every cut's rank sum, added up."""
    total = 0.0
    for k in range(LEAST_SIDE, n - LEAST_SIDE + 1):
        u = np.arange(k * (n - k) + 1) - k * (n - k) / 2
        reached = np.abs(u) >= statistic * math.sqrt(k * (n - k) * (n + 1) / 12) - 1e-9
        total += float(rank_sum_pmf(k, n - k)[reached].sum())
    return total


@pytest.mark.parametrize("n", [10, 13, 20, 30])
@pytest.mark.parametrize("statistic", [1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5])
def test_the_bound_is_above_what_it_bounds_and_not_far(n: int, statistic: float) -> None:
    exact, bound = exact_sum(statistic, n), tail_bound(statistic, n, LEAST_SIDE)
    assert bound >= exact
    assert bound <= 15 * exact + 1e-9


@pytest.mark.parametrize("tied", [False, True])
def test_a_clear_step_has_the_p_of_drawn_orders(
    tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(3).normal(size=60)
    values = np.where(np.arange(60) < 30, noise, noise + 9)
    ranks = stats.rankdata(np.round(values) if tied else values)
    assert is_sure(float(pettitt(ranks)), 60, LEAST_SIDE, 99_999)
    told = changes._p_value(ranks, 0, 1)
    monkeypatch.setattr(changes, "is_sure", lambda *_: False)
    assert told == changes._p_value(ranks, 0, 1) == 1e-5


def test_what_may_be_chance_is_still_drawn() -> None:
    assert not is_sure(3.0, 20, LEAST_SIDE, 99_999)
    assert not is_sure(4.5, 30, LEAST_SIDE, 99_999)
