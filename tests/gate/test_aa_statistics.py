"""A/A arithmetic: against known values, scipy, and processes whose rates are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from chipmark.gate.aa_statistics import (
    MIN_PAIRS,
    Rate,
    detectable,
    effect_bound,
    false_reds,
    flipped,
    pair_noise,
)
from chipmark.gate.paired_effect import hodges_lehmann
from chipmark.gate.session_margin import DEVIATIONS, MIN_SESSIONS, movement, movements
from chipmark.gate.simulation.noise import Noise, paired_differences
from chipmark.gate.simulation.rule import simulate, verdicts_of
from chipmark.gate.verdict import LOOKS, Margins

KEY = ("decode", "time_s")


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def pairs(seed: int, n: int = MIN_PAIRS, noise: Noise | None = None) -> np.ndarray:
    return paired_differences(generator(seed), noise or Noise(), 0.0, 1, n)[0]


def test_a_rate_is_bounded_as_scipy_bounds_it():
    exact = stats.binomtest(3, 1000, alternative="less").proportion_ci(0.95, method="exact")
    assert Rate(3, 1000).bound == pytest.approx(exact.high)
    assert Rate(3, 1000).share == 0.003


def test_noise_effect_and_drift_of_known_values():
    a = np.exp([0.0, 0.0, 0.0, 0.1, 0.1, 0.1, 0.2, 0.2, 0.2])
    d = np.array([0.01, -0.01, 0.03, -0.03, 0.0, 0.02, -0.02, 0.01, -0.01])
    found = pair_noise(a, a * np.exp(d))
    assert found.pairs == 9
    assert found.effect.effect == pytest.approx(0.0)
    assert found.noise == pytest.approx(0.01 * 1.4826, rel=1e-4)  # |d| has the median 0.01
    assert found.drift.effect == pytest.approx(0.2, abs=0.01)
    faster = pair_noise(1 / a, 1 / (a * np.exp(d)), lower_is_better=False)
    assert faster.drift.effect == pytest.approx(found.drift.effect)
    with pytest.raises(ValueError, match="2 and 2 rounds"):
        pair_noise([1, 2], [1, 2])


def test_a_drawn_series_is_of_neighbours_with_signs_of_equal_chance():
    d = np.arange(1.0, 41.0)
    drawn = flipped(generator(0), d, 2_000, 16)
    steps = np.diff(np.abs(drawn), axis=1)
    assert set(np.unique(steps)) == {1.0, -39.0}
    assert abs(np.sign(drawn).mean()) < 0.02
    assert set(np.unique(np.abs(drawn))) == set(d)


def test_the_rate_of_a_known_process_lies_under_the_bound():
    """Without a floor the rule is red often enough to count: one machine in twenty may exceed."""
    margins = Margins(delta_red=0.004)
    true = simulate(0.0, trials=20_000, seed=9, margins=margins).regressed
    assert true > 1e-4
    under = 0
    for seed in range(20):
        reds = false_reds({KEY: pairs(seed)}, {KEY: margins}, seed, suites=150)
        under += reds.benchmark.bound >= true
    assert under >= 18


def test_reds_are_those_of_the_gates_own_arithmetic():
    d = pairs(4)
    other = ("prefill", "time_s")
    margins = {KEY: Margins(delta_red=0.0), other: Margins(delta_red=0.0)}
    reds = false_reds({KEY: d, other: 2 * d}, margins, 5, suites=100)
    draws = np.random.Generator(np.random.Philox(key=[5, 2]))
    first, second = (flipped(draws, d, 1_000, LOOKS[-1]) for _ in range(2))
    red = int((verdicts_of(first, second, Margins(delta_red=0.0), LOOKS)[0] == 1).sum())
    assert reds.by_key[KEY] == Rate(red, 1_000)
    assert reds.benchmark.trials == 2_000
    assert reds.benchmark.found == sum(r.found for r in reds.by_key.values())
    assert reds.suite.found <= reds.benchmark.found


def test_a_rule_that_is_red_too_often_is_said_to_be():
    wild = {KEY: pairs(0, noise=Noise().times(10))}
    reds = false_reds(wild, {KEY: Margins(delta_red=0.0)}, 0)
    assert reds.suite.share > 0.01
    assert not reds.kept
    assert false_reds(wild, {KEY: Margins(delta_red=effect_bound(wild[KEY], 0))}, 0).kept


def test_the_bound_of_effects_covers_the_percentile_of_a_known_process():
    effects = hodges_lehmann(paired_differences(generator(1), Noise(), 0.0, 20_000, LOOKS[-1]))
    true = np.quantile(np.abs(effects), 0.99)
    bounds = [effect_bound(pairs(s), 0, sets=50, series=200) for s in range(100, 125)]
    assert np.mean(np.array(bounds) >= true) >= 0.8
    assert np.median(bounds) < 1.7 * true
    more = [effect_bound(pairs(s, 160), 0, sets=50, series=200) for s in range(100, 110)]
    assert np.std(more) < np.std(bounds)


def test_the_slowdown_found_is_the_one_of_the_simulation():
    found = detectable(pairs(2, 400), Margins(), 0)
    assert found is not None
    power = simulate(math.expm1(found), trials=4_000, seed=3).regressed
    assert power == pytest.approx(0.95, abs=0.02)
    twice = detectable(pairs(2, 400, Noise().times(2)), Margins(), 0)
    assert twice is not None
    assert twice > found


def test_no_slowdown_is_found_where_the_noise_is_larger_than_all():
    assert detectable(np.linspace(-5, 5, 40), Margins(), 0) is None


@pytest.mark.parametrize("figure", [effect_bound, lambda d, s: detectable(d, Margins(), s)])
def test_nothing_is_told_from_too_few_pairs(figure):
    with pytest.raises(ValueError, match="39 pairs: 40 are the least"):
        figure(pairs(0, 39), 0)
    with pytest.raises(ValueError, match="not finite"):
        figure([*pairs(0, 39), math.nan], 0)


def test_a_seed_gives_the_same_figures():
    d = pairs(0)
    assert effect_bound(d, 1, sets=5, series=50) == effect_bound(d, 1, sets=5, series=50)
    one, two = (false_reds({KEY: d}, {KEY: Margins(delta_red=0.0)}, 1, suites=20) for _ in "ab")
    assert one == two


def test_the_margin_between_sessions_is_the_chi_square_bound():
    medians = [1.0, 1.02, 0.98, 1.01, 0.99]
    found = movement(KEY, medians)
    sd = float(np.std(np.log(medians), ddof=1))
    assert found.sd == pytest.approx(sd)
    # 0.711 is the 5 % point of chi-square with 4 degrees of freedom in any table.
    assert found.margin == pytest.approx(
        DEVIATIONS * math.sqrt(2) * sd * math.sqrt(4 / 0.711), 1e-3
    )
    assert found.widest == pytest.approx(math.log(1.02 / 0.98))
    assert movement(KEY, medians[: MIN_SESSIONS - 1]).margin is None
    with pytest.raises(ValueError, match="1 sessions"):
        movement(KEY, [1.0])


def test_the_margin_covers_the_true_one_on_95_of_100_machines():
    sd = 0.03
    medians = np.exp(generator(6).normal(0, sd, (2_000, 6)))
    margins = np.array([movement(KEY, m).margin for m in medians])
    assert np.mean(margins >= DEVIATIONS * math.sqrt(2) * sd) == pytest.approx(0.95, abs=0.015)


def test_movements_are_of_what_all_sessions_have():
    sessions = [{KEY: 1.0, ("gone", "time_s"): 1.0}, {KEY: 1.1}]
    assert [m.key for m in movements(sessions)] == [KEY]
    assert movements([]) == ()
