"""What A/A pairs of a machine say: its noise, how often the gate would be falsely red on it, and
the slowdown that it can find there.

Both arms run the same command, so d = ln(B / A) of a pair has either sign with equal right. Series
as a gate sees them are drawn from the pairs: a run of neighbours (noise comes in spells), each
pair with a fresh sign. The gate's own arithmetic (`simulate.verdicts_of`) then judges them. Draws
are many and pairs are few: what the pairs never showed is in no draw, and the Clopper-Pearson
bound of a rate is about the draws alone. The bound of effects is taken over resampled sets of
pairs as well (a block bootstrap), so that few pairs widen it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chipmark.gate.paired_effect import hodges_lehmann
from chipmark.gate.simulation.rule import SUITE, upper_bound, verdicts_of
from chipmark.gate.unpaired_effect import shift
from chipmark.gate.verdict import LOOKS, Estimate, Margins, estimate

F64 = NDArray[np.float64]
Key = tuple[str, str]

MIN_PAIRS = 40
"""Pairs below which nothing is resampled."""

SUITES = 1_000
"""Pseudo suites of SUITE benchmarks; none red of them bounds the rate at 0.3 %."""

PROMISED_SUITE, PROMISED_BENCHMARK = 0.01, 0.001
"""The most false reds that the gate promises, a suite and a benchmark."""

POWER = 0.95
QUANTILE = 0.99
_BOOTSTRAP = 0.99
_BLOCK = 4  # pairs: two ABBA blocks stay together
_POWER_SERIES = 2_000
_STEP = 0.0025  # ln: grain of the slowdown that is found
_MOST_STEPS = 277  # +100 %


@dataclass(frozen=True, slots=True)
class Rate:
    """`found` of `trials` draws."""

    found: int
    trials: int

    @property
    def share(self) -> float:
        """Observed share."""
        return self.found / self.trials

    @property
    def bound(self) -> float:
        """Upper 95 % bound (Clopper-Pearson, one-sided) given the pairs that were seen."""
        return upper_bound(self.found, self.trials)


@dataclass(frozen=True, slots=True)
class FalseReds:
    """benchmark: over all draws; suite: suites of SUITE with at least one; by_key: each alone."""

    benchmark: Rate
    suite: Rate
    by_key: Mapping[Key, Rate]

    @property
    def kept(self) -> bool:
        """Whether the observed shares are within what the gate promises."""
        return self.suite.share <= PROMISED_SUITE and self.benchmark.share <= PROMISED_BENCHMARK


@dataclass(frozen=True, slots=True)
class PairNoise:
    """Of one benchmark and metric. effect: of B over A, zero but for chance. noise: robust
    standard deviation of a pair, ln (1.4826 x median absolute deviation). drift: of the last
    third of the rounds over the first, ln, above 0 is worse."""

    pairs: int
    effect: Estimate
    noise: float
    drift: Estimate


def pair_noise(a: ArrayLike, b: ArrayLike, *, lower_is_better: bool = True) -> PairNoise:
    """Noise, effect and drift of the values of both arms, by round, all above zero.

    Raises ValueError for arms of unequal length or fewer than 3 rounds.
    """
    from scipy.stats import median_abs_deviation

    sign = 1.0 if lower_is_better else -1.0
    log_a, log_b = (sign * np.log(np.asarray(arm, np.float64)) for arm in (a, b))
    if log_a.shape != log_b.shape or log_a.ndim != 1 or log_a.size < 3:
        raise ValueError(f"{log_a.size} and {log_b.size} rounds: 3 or more of both are needed")
    d, level = log_b - log_a, (log_a + log_b) / 2
    third = len(level) // 3
    noise = float(median_abs_deviation(d, scale="normal"))
    return PairNoise(len(d), estimate(d), noise, shift(level[:third], level[-third:]))


def flipped(generator: np.random.Generator, d: ArrayLike, series: int, pairs: int) -> F64:
    """`series` runs of `pairs` neighbouring differences, the last followed by the first, each
    with a sign by chance: (series, pairs)."""
    values = np.asarray(d, np.float64)
    starts = generator.integers(0, values.size, (series, 1))
    drawn: F64 = values[(starts + np.arange(pairs)) % values.size]
    return drawn * (2.0 * generator.integers(0, 2, drawn.shape) - 1.0)


def effect_bound(d: ArrayLike, seed: int, *, sets: int = 200, series: int = 500) -> float:
    """Upper bound, ln, of the 99th percentile of |Hodges-Lehmann| of A/A series as long as the
    gate's last look.

    sets: block-bootstrapped sets of the pairs; series: drawn of each. The level of the bootstrap
    is 99 %: at 40 pairs with outliers it falls short, and in simulation the bound holds in 86 to
    93 % of machines. Raises ValueError for fewer than MIN_PAIRS pairs.
    """
    values = _enough(d)
    generator = np.random.Generator(np.random.Philox(key=[seed, 1]))
    blocks = math.ceil(values.size / _BLOCK)
    quantiles = []
    for _ in range(sets):
        starts = generator.integers(0, values.size, (blocks, 1))
        one = values[((starts + np.arange(_BLOCK)) % values.size).ravel()[: values.size]]
        effects = hodges_lehmann(flipped(generator, one, series, LOOKS[-1]))
        quantiles.append(np.quantile(np.abs(effects), QUANTILE))
    return float(np.quantile(quantiles, _BOOTSTRAP))


def false_reds(
    pairs: Mapping[Key, Sequence[float]],
    margins: Mapping[Key, Margins],
    seed: int,
    *,
    suites: int = SUITES,
) -> FalseReds:
    """How often the gate is red on suites of SUITE benchmarks that take turns over the keys.

    Benchmarks of a suite are drawn apart from each other, which makes the most red suites of a
    given rate of red benchmarks. Absolute floors are left out; they only take reds away.
    """
    keys = sorted(pairs)
    generator = np.random.Generator(np.random.Philox(key=[seed, 2]))
    owner = np.arange(suites * SUITE) % len(keys)
    red = np.zeros(suites * SUITE, bool)
    by_key = {}
    for number, key in enumerate(keys):
        mine = np.flatnonzero(owner == number)
        d = _enough(pairs[key])
        first, second = (flipped(generator, d, mine.size, LOOKS[-1]) for _ in range(2))
        red[mine] = verdicts_of(first, second, margins[key], LOOKS)[0] == 1
        by_key[key] = Rate(int(red[mine].sum()), mine.size)
    any_red = red.reshape(suites, SUITE).any(axis=1)
    return FalseReds(Rate(int(red.sum()), red.size), Rate(int(any_red.sum()), suites), by_key)


def detectable(d: ArrayLike, margins: Margins, seed: int) -> float | None:
    """The smallest slowdown, ln, that ends REGRESSED and confirmed in at least 95 % of series of
    at most LOOKS[-1] rounds at this noise; None where +100 % does not.

    In steps of 0.25 %; the same draws at every step, so that the answer does not jitter.
    """
    values = _enough(d)
    generator = np.random.Generator(np.random.Philox(key=[seed, 3]))
    first, second = (flipped(generator, values, _POWER_SERIES, LOOKS[-1]) for _ in range(2))

    def found(steps: int) -> bool:
        effect = steps * _STEP
        verdicts, _ = verdicts_of(first + effect, second + effect, margins, LOOKS)
        return bool((verdicts == 1).mean() >= POWER)

    low, high = 0, _MOST_STEPS
    if not found(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return high * _STEP


def _enough(d: ArrayLike) -> F64:
    values = np.asarray(d, np.float64)
    if values.size < MIN_PAIRS:
        raise ValueError(f"{values.size} pairs: {MIN_PAIRS} are the least that is resampled")
    if not np.isfinite(values).all():
        raise ValueError("a difference is not finite")
    return values
