"""How a row compares with another one, with an interval: latencies turn by turn, rates by repeats.

A ratio over 1 says that `row` is better than `base`. Pure functions of numbers; what they are
computed from is read by `chipmark.results.turns`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chipmark.metrics.distributions import student_t
from chipmark.metrics.events import Ints
from chipmark.metrics.intervals import CONFIDENCE, Interval
from chipmark.metrics.samples import Samples


@dataclass(frozen=True, slots=True)
class PairedRatio:
    """ratio: over 1 is better. interval: 95 %, None where there is none. n: pairs of turns, or
    the smaller number of repeats; sessions: independent blocks of pairs (0 for rates)."""

    ratio: float
    interval: Interval | None
    n: int
    sessions: int


def paired_latencies(row: Samples, base: Samples) -> PairedRatio | None:
    """The typical turn of `base` over that of `row`: geometric mean of the ratios turn by turn.

    row, base: one sample a piece of work (`samples.medians`); only what both did is compared,
    None where that is nothing or a latency is not positive. Turns of a session share its context
    and cache, so the interval takes sessions as blocks: the cluster-robust variance of a mean
    (Liang and Zeger 1986, with the factor S / (S - 1)), Student's t with S - 1 degrees of
    freedom; none under 2 sessions.
    """
    mine, its = _common(row, base)
    if not len(mine) or (row.value_s[mine] <= 0).any() or (base.value_s[its] <= 0).any():
        return None
    logs = np.log(base.value_s[its] / row.value_s[mine])
    center, n = float(logs.mean()), len(logs)
    names, owner = np.unique(row.session[mine], return_inverse=True)
    blocks = len(names)
    ratio = math.exp(center)
    if blocks < 2:
        return PairedRatio(ratio, None, n, blocks)
    sums = np.bincount(owner, weights=logs - center, minlength=blocks)
    error = math.sqrt(float((sums**2).sum()) * blocks / (blocks - 1)) / n
    half = _t(blocks - 1) * error
    return PairedRatio(ratio, (ratio * math.exp(-half), ratio * math.exp(half)), n, blocks)


def ratio_by_repeats(
    ratio: float, row: Sequence[float], base: Sequence[float]
) -> PairedRatio | None:
    """Interval around `ratio` (of the two rows' combined values, over 1 is better) from one value
    of each repeat.

    Repeats of two rows are independent: Welch's interval of the difference of mean logs. No
    interval under 2 repeats of either; None where a value is not positive.
    """
    if ratio <= 0 or any(not v > 0 or not math.isfinite(v) for v in (*row, *base)):
        return None
    n = min(len(row), len(base))
    if n < 2:
        return PairedRatio(ratio, None, n, 0)
    parts = [float(np.var(np.log(v), ddof=1)) / len(v) for v in (row, base)]
    whole = sum(parts)
    if whole == 0:
        return PairedRatio(ratio, (ratio, ratio), n, 0)
    # Welch and Satterthwaite's degrees of freedom.
    freedom = whole**2 / sum(p**2 / (len(v) - 1) for p, v in zip(parts, (row, base), strict=True))
    half = _t(freedom) * math.sqrt(whole)
    return PairedRatio(ratio, (ratio * math.exp(-half), ratio * math.exp(half)), n, 0)


def _common(row: Samples, base: Samples) -> tuple[Ints, Ints]:
    """Indices of the same work in both."""
    mine = {key: index for index, key in enumerate(_keys(row))}
    pairs = [(mine[key], index) for index, key in enumerate(_keys(base)) if key in mine]
    table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _keys(samples: Samples) -> list[tuple[int, int, int]]:
    columns = (samples.session, samples.turn, samples.position)
    return list(zip(*(c.tolist() for c in columns), strict=True))


def _t(freedom: float) -> float:
    return student_t(freedom, 0.5 + CONFIDENCE / 2)
