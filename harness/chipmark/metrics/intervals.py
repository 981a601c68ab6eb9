"""95 % intervals: by repeat (Student's t), and by ranks for percentiles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float | None, float | None]
"""Lower and upper end; None where that end does not exist (unbounded)."""

CONFIDENCE = 0.95
P95_MIN_SAMPLES = 59
"""Least n with 1 - 0.95^n >= 0.95: the largest sample is then a one-sided 95 % bound of p95."""


def by_repeat(center: float, repeats: Sequence[float], *, positive: bool = True) -> Interval | None:
    """Student's t interval around `center` from one value a repeat; None for under 2 repeats.

    `positive` quantities are treated on the log scale, where ratios scatter symmetrically.
    """
    values = np.asarray(repeats, dtype=np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    # scipy.special, not scipy.stats: the same functions at a tenth of the time to import.
    from scipy.special import stdtrit

    width = float(stdtrit(len(values) - 1, 0.5 + CONFIDENCE / 2)) / math.sqrt(len(values))
    if positive:
        if center <= 0 or (values <= 0).any():
            return None
        half = width * float(np.std(np.log(values), ddof=1))
        return center * math.exp(-half), center * math.exp(half)
    half = width * float(np.std(values, ddof=1))
    return center - half, center + half


def percentile(samples: NDArray[np.float64], q: float) -> float | None:
    """The order statistic of rank ceil(q n) (the inverse of the empirical distribution).

    None without samples. No interpolation, so that it is a value that was measured, and so that
    the rank interval below is an interval of the same quantity.
    """
    if not len(samples):
        return None
    rank = max(1, math.ceil(q * len(samples) - 1e-9))
    return float(np.sort(samples)[rank - 1])


def rank_interval(samples: NDArray[np.float64], q: float) -> Interval | None:
    """Distribution-free interval of the q-quantile from Binomial(n, q) ranks; None without samples.

    An end is None where no rank bounds it at this n (statistics by order: the number of samples
    below the quantile is Binomial(n, q)).
    """
    n = len(samples)
    if not n:
        return None
    from scipy.special import bdtr

    tail = (1 - CONFIDENCE) / 2
    ordered = np.sort(samples)
    # X_(l) above the quantile has probability P(B < l), X_(u) below it P(B >= u), B ~ Bin(n, q).
    cumulative = bdtr(np.arange(n + 1, dtype=np.float64), n, q)
    lower = int(np.searchsorted(cumulative, tail, side="right"))
    upper = int(np.searchsorted(cumulative, 1 - tail, side="left")) + 1
    return (
        float(ordered[lower - 1]) if lower >= 1 else None,
        float(ordered[upper - 1]) if upper <= n else None,
    )
