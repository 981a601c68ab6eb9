"""Steps and drifts in seeded series: what is found, and what is not invented."""

from __future__ import annotations

import datetime
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from chipmark.gate.thresholds import Thresholds
from chipmark.history.changes import (
    LEAST_SIDE,
    clearest,
    least_runs,
    pettitt,
    scan_history,
)
from chipmark.history.observations import Observation, Series, series_of
from chipmark.history.report import regressed

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def series(logs, name="t.py::test_decode", direction="lower", machine="m") -> Series:
    points = tuple(
        Observation(
            run=f"{name}-{i}", created=(START + datetime.timedelta(days=i)).isoformat(),
            commit=f"c{i}", machine=machine, work="w", benchmark=name, metric="time_s", unit="s",
            direction=direction, value=float(0.01 * math.exp(x)), samples=5,
        )
        for i, x in enumerate(logs)
    )  # fmt: skip
    return Series((machine, "w", name, "time_s"), points)


def noise(seed: int, n: int) -> np.ndarray:
    """Heavy tails: 2 % in the middle, and a run in twenty that is disturbed."""
    generator = np.random.default_rng(seed)
    quiet = 0.02 * generator.standard_t(3, n) / math.sqrt(3)
    return quiet + np.where(generator.random(n) < 0.05, generator.exponential(0.2, n), 0.0)


def test_the_statistic_is_the_largest_standardised_rank_sum_of_all_cuts():
    ranks = stats.rankdata(np.random.default_rng(1).normal(size=15))
    by_hand = []
    for k in range(LEAST_SIDE, 15 - LEAST_SIDE + 1):
        u = stats.mannwhitneyu(ranks[:k], ranks[k:]).statistic
        by_hand.append(abs(u - k * (15 - k) / 2) / math.sqrt(k * (15 - k) * 16 / 12))
    assert float(pettitt(ranks)) == pytest.approx(max(by_hand))


def test_a_step_is_found_where_it_is_with_its_size():
    logs = noise(3, 40)
    logs[25:] += 0.08
    (change,) = scan_history([series(logs)]).changes
    assert abs(change.at - 25) <= 1
    assert change.before.commit == f"c{change.at - 1}"
    assert change.low < 0.08 < change.high
    assert change.worse
    assert not scan_history([series(-logs)]).changes[0].worse
    assert scan_history([series(-logs, direction="higher")]).changes[0].worse


def test_two_steps_and_a_recovery_are_told_apart():
    logs = noise(5, 60)
    logs[20:40] += 0.2
    found = scan_history([series(logs)])
    assert [abs(c.at - at) <= 1 for c, at in zip(found.changes, (20, 40), strict=True)] == [
        True, True
    ]  # fmt: skip
    assert [c.worse for c in found.changes] == [True, False]
    assert regressed(found, Thresholds()) == []  # it is over


def test_a_small_improvement_does_not_hide_the_step_before_it():
    logs = noise(5, 60) * 0.5
    logs[20:] += 0.2
    logs[40:] -= 0.05
    found = scan_history([series(logs)])
    assert not found.changes[-1].worse
    (worse,) = regressed(found, Thresholds())
    assert worse.low < 0.155 < worse.high
    assert 0.14 < worse.effect < 0.16
    (faster,) = regressed(scan_history([series(-logs, direction="higher")]), Thresholds())
    assert faster.effect == pytest.approx(worse.effect)
    floor = Thresholds.model_validate({"absolute_floor": 1.0})
    assert regressed(found, floor) == []


def test_more_series_need_more_runs_each():
    assert [least_runs(m) for m in (1, 5, 20, 100)] == [12, 14, 16, 20]
    clear = np.repeat([0.0, 0.5], 6) + 1e-3 * np.arange(12)
    many = [series(clear, f"t{i}") for i in range(30)]
    assert scan_history(many).judged == ()


def test_a_slow_drift_is_a_slope_and_not_a_row_of_steps():
    logs = noise(7, 60) + np.linspace(0, 0.3, 60)
    found = scan_history([series(logs)])
    assert not found.changes
    (drift,) = found.drifts
    assert drift.low < 0.3 < drift.high
    assert drift.days == pytest.approx(59)
    (worse,) = regressed(found, Thresholds())
    assert worse.effect == drift.effect


def test_at_most_one_series_in_a_hundred_has_an_invented_step():
    quiet = [series(noise(100 + i, 20 + i % 30), f"t{i}") for i in range(150)]
    found = scan_history(quiet)
    # Binomial at 1 %: more than 5 of 150 would be seen once in 400 times.
    assert len({c.series.key for c in found.changes}) + len(found.drifts) <= 5
    alone = sum(bool(scan_history([s]).changes) for s in quiet[:60])
    assert alone <= 4


def test_a_step_of_five_percent_is_found_in_most_series():
    stepped = []
    for i in range(20):
        logs = noise(500 + i, 40)
        logs[22:] += 0.05
        stepped.append(series(logs, f"t{i}"))
    found = scan_history(stepped)
    hit = {c.series.key for c in found.changes if abs(c.at - 22) <= 3}
    assert len(hit) >= 16


@pytest.mark.parametrize("n", [8, 9])
def test_the_clearest_step_is_as_rare_as_counting_all_orders_says(n):
    orders = np.array(list(itertools.permutations(np.arange(1.0, n + 1))))
    of_step = float(pettitt(np.arange(1.0, n + 1)))
    share = float((pettitt(orders) >= of_step - 1e-12).mean())
    assert clearest(n) == pytest.approx(share)


@pytest.mark.parametrize("n_series", [1, 5, 20])
def test_the_first_count_that_is_judged_finds_a_clear_step(n_series):
    least = least_runs(n_series)

    def many(n: int) -> list[Series]:
        found = []
        for i in range(n_series):
            logs = 0.002 * np.random.default_rng(i).normal(size=n)
            if i == 0:
                logs[n // 2 :] += 0.1
            found.append(series(logs, f"t{i}"))
        return found

    (change,) = (c for c in scan_history(many(least)).changes if c.series.key[2] == "t0")
    assert change.at == least // 2
    short = scan_history(many(least - 1))
    assert not short.judged
    assert len(short.short) == n_series
    assert short.least_runs == least


def test_twelve_runs_are_the_least_of_one_series():
    logs = np.array([0.0, 0.01, -0.01, 0.002, 0.004, 0.001, 0.5, 0.51, 0.49, 0.502, 0.505, 0.5])
    assert scan_history([series(logs)]).changes
    assert least_runs(1) == len(logs)
    short = scan_history([series(logs[:-1])])
    assert not short.judged
    assert len(short.short) == 1


def test_a_small_or_unguarded_change_is_told_and_does_not_fail():
    logs = noise(3, 60) * 0.1
    logs[30:] += 0.015
    found = scan_history([series(logs)])
    assert found.changes
    assert regressed(found, Thresholds()) == []
    logs[30:] += 0.2
    ignored = Thresholds.model_validate({"ignore": [{"benchmark": "*decode*", "reason": "known"}]})
    assert regressed(scan_history([series(logs)]), Thresholds())
    assert regressed(scan_history([series(logs)]), ignored) == []


def test_machines_are_never_one_series_and_time_orders_not_the_name():
    points = [*series(np.zeros(3)).points, *series(np.zeros(3), machine="other").points]
    found = series_of(points[::-1])
    assert [s.key[0] for s in found] == ["m", "other"]
    assert [o.commit for o in found[0].points] == ["c0", "c1", "c2"]
    assert series_of(points, "nothing*") == []
