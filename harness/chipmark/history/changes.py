"""Where a series changed, and whether it drifts: tests that assume no shape of the noise.

A change is looked for by Pettitt's statistic (A non-parametric approach to the change-point
problem, Applied Statistics 28, 1979): the largest standardised rank sum over all places to cut.
Its p-value comes from permutations (scipy), which hold at six runs as at six hundred and with any
tails; a found change cuts the series, and both parts are looked at again. Libraries of change
points (ruptures) place cuts well and have no error rate: their penalty would have to be set anew
for every noise.

What no cut explains may drift: the slope is Theil's and Sen's with its interval, tested by
Kendall's tau. Over all series, steps and slopes together, the share of false findings is held to
FALSE_SHARE (Benjamini and Hochberg), where the runs of a series that did not change could be in
any order. A machine whose state wanders from run to run breaks that: it did change, and what is
found is a fault of the machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from chipmark.gate.unpaired_effect import shift
from chipmark.history.clear_step import is_sure
from chipmark.history.observations import Observation, Series

FALSE_SHARE = 0.01
"""Expected share of reported changes that are false."""

LEAST_SIDE = 4
"""Runs on each side of a change, at least: an exact interval of 95 % needs four a side."""

TESTS_A_SERIES = 2
"""One for steps and one for a slope: the false findings of both together are held."""

_LEAST_PART = 10
"""Runs of a part between two steps in which another one is looked for."""

_DRAWN = 1.5
"""p-values are counted in random orders, so that a step is asked to be that much clearer than the
correction demands."""

_FIRST_LOOK, _SECOND_LOOK = 999, 99_999
_WORTH_A_LOOK = 0.02
_DAY_S = 86_400.0

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Change:
    """A step. at: index of the first run after it. effect, low, high: ln of after over before
    with its 95 % interval, over the runs between neighbouring changes. worse: by the metric's
    direction. p: of the step being none."""

    series: Series
    at: int
    effect: float
    low: float
    high: float
    worse: bool
    p: float

    @property
    def before(self) -> Observation:
        """The last run before it."""
        return self.series.points[self.at - 1]

    @property
    def after(self) -> Observation:
        """The first run after it."""
        return self.series.points[self.at]


@dataclass(frozen=True, slots=True)
class Drift:
    """A slope that no step explains. effect, low, high: ln from the first run to the last, with
    its 95 % interval. p: of the slope being none."""

    series: Series
    effect: float
    low: float
    high: float
    worse: bool
    days: float
    p: float


@dataclass(frozen=True, slots=True)
class History:
    """What was found in each of `judged`; `short` had too few runs to tell."""

    changes: tuple[Change, ...]
    drifts: tuple[Drift, ...]
    judged: tuple[Series, ...]
    short: tuple[Series, ...]
    least_runs: int


@dataclass(frozen=True, slots=True)
class _Cut:
    series: Series
    at: int
    p: float


def least_runs(n_series: int) -> int:
    """Runs from which one clear step among so many series can be distinguished from chance.

    Benjamini and Hochberg over all tests: one finding among t = TESTS_A_SERIES x n_series has to
    be rarer than FALSE_SHARE / t. See `clearest` for the rarest that a step in n runs can be.
    """
    n = 2 * LEAST_SIDE
    while clearest(n) * _DRAWN > FALSE_SHARE / (TESTS_A_SERIES * max(n_series, 1)):
        n += 1
    return n


def clearest(n: int) -> float:
    """p of the clearest step in n runs: one that halves them without any overlap.

    Of an even n, 2 in C(n, n / 2) orders are as clear. Of an odd one the two cuts next to the
    middle are equally clear, so twice as many are, less those in which both cuts are.
    """
    half = n // 2
    one_cut = 2 / math.comb(n, half)
    return one_cut if n % 2 == 0 else one_cut * (2 - 1 / (half + 1))


def scan_history(series: Sequence[Series], seed: int = 0) -> History:
    """Changes and drifts of every series that is long enough."""
    least = least_runs(len(series))
    judged = [s for s in series if len(s.points) >= least]
    found: list[_Cut | Drift] = []
    for number, s in enumerate(judged):
        found += _cuts(s, seed + number, len(judged))
        found += [] if (drift := drift_of(s)) is None else [drift]
    kept = _false_share_held(found, TESTS_A_SERIES * len(judged))
    changes: list[Change] = []
    drifts: list[Drift] = []
    for s in judged:
        steps = _sized(s, [c for c in kept if isinstance(c, _Cut) and c.series is s])
        slopes = [d for d in kept if isinstance(d, Drift) and d.series is s]
        if slopes and _left_by_slope(slopes[0]) < _left_by_steps(s, steps):
            drifts += slopes
        else:
            changes += steps
    short = tuple(s for s in series if len(s.points) < least)
    return History(tuple(changes), tuple(drifts), tuple(judged), short, least)


def pettitt(ranks: F64, axis: int = -1) -> F64:
    """The largest standardised rank sum over all cuts with LEAST_SIDE values on each side."""
    centred = ranks - ranks.mean(axis=axis, keepdims=True)
    found: F64 = np.abs(_standardised(centred, axis)).max(axis=axis)
    return found


def _standardised(centred: F64, axis: int = -1) -> F64:
    n = centred.shape[axis]
    sums = np.moveaxis(np.cumsum(centred, axis=axis), axis, -1)[
        ..., LEAST_SIDE - 1 : n - LEAST_SIDE
    ]
    k = np.arange(LEAST_SIDE, n - LEAST_SIDE + 1)
    scaled: F64 = np.moveaxis(sums / np.sqrt(k * (n - k) * (n + 1) / 12), -1, axis)
    return scaled


def _p_value(ranks: F64, seed: int, n_series: int) -> float:
    """Of a step this clear in values whose order means nothing; resolved finely enough for one
    finding among so many series."""
    finest = max(_SECOND_LOOK, round(10 * TESTS_A_SERIES * n_series / FALSE_SHARE))

    def permuted(n: int) -> float:
        found = stats.permutation_test(
            (ranks,), pettitt, permutation_type="pairings", vectorized=True, n_resamples=n,
            alternative="greater", batch=5_000, rng=np.random.default_rng(seed),
        )  # fmt: skip
        return float(found.pvalue)

    p = permuted(_FIRST_LOOK)
    if p >= _WORTH_A_LOOK:
        return p
    if is_sure(float(pettitt(ranks)), len(ranks), LEAST_SIDE, finest):
        return 1 / (finest + 1)  # what drawing comes to where none is as clear
    return permuted(finest)


def _cuts(series: Series, seed: int, n_series: int) -> list[_Cut]:
    """Cuts of a series and of its parts, each with its p-value; one that is clearly none ends its
    branch."""
    logs = _logs(series)
    found: list[_Cut] = []
    todo = [(0, len(logs))]
    while todo:
        start, end = todo.pop()
        part = logs[start:end]
        if len(part) < _LEAST_PART:
            continue
        ranks = stats.rankdata(part)
        p = _p_value(ranks, seed + start, n_series)
        if p > FALSE_SHARE:
            continue
        statistic = np.abs(_standardised(ranks - ranks.mean()))
        at = start + LEAST_SIDE + int(statistic.argmax())
        found.append(_Cut(series, at, p))
        todo += [(start, at), (at, end)]
    return sorted(found, key=lambda cut: cut.at)


def _false_share_held(found: Sequence[_Cut | Drift], tests: int) -> list[_Cut | Drift]:
    """Benjamini and Hochberg over all tests; what was not found counts as p = 1."""
    if not found:
        return []
    values = [*(item.p for item in found), *[1.0] * max(0, tests - len(found))]
    adjusted = stats.false_discovery_control(values)[: len(found)]
    return [item for item, p in zip(found, adjusted, strict=True) if p <= FALSE_SHARE]


def _sized(series: Series, cuts: Sequence[_Cut]) -> list[Change]:
    logs = _logs(series)
    edges = [0, *(cut.at for cut in cuts), len(logs)]
    sizes = []
    for cut, start, end in zip(cuts, edges[:-2], edges[2:], strict=True):
        found = shift(logs[start : cut.at], logs[cut.at : end])
        worse = _worse(series, found.effect)
        sizes.append(Change(series, cut.at, found.effect, found.low, found.high, worse, cut.p))
    return sizes


def drift_of(series: Series) -> Drift | None:
    """The slope over all runs; None where it is clearly none."""
    times, logs = _days(series), _logs(series)
    days = float(times[-1] - times[0])
    if days <= 0 or float(np.ptp(logs)) == 0.0:
        return None
    p = float(stats.kendalltau(times, logs).pvalue)
    found = stats.theilslopes(logs, times, alpha=0.95)
    effect, low, high = (float(v) * days for v in (found.slope, found.low_slope, found.high_slope))
    if p > FALSE_SHARE or low <= 0 <= high or not math.isfinite(effect):
        return None
    return Drift(series, effect, low, high, _worse(series, effect), days, p)


def _left_by_slope(drift: Drift) -> float:
    """Sum of distances that the slope leaves: whether it or the steps say it better."""
    times, logs = _days(drift.series), _logs(drift.series)
    rest = logs - drift.effect / drift.days * times
    return float(np.abs(rest - np.median(rest)).sum())


def _left_by_steps(series: Series, steps: Sequence[Change]) -> float:
    parts = np.split(_logs(series), [step.at for step in steps])
    return float(sum(np.abs(part - np.median(part)).sum() for part in parts))


def _days(series: Series) -> F64:
    return np.array([o.time_s for o in series.points]) / _DAY_S


def _logs(series: Series) -> F64:
    logs: F64 = np.log([o.value for o in series.points])
    return logs


def _worse(series: Series, effect: float) -> bool:
    return series.sign * effect > 0
