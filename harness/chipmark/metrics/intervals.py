"""95 % intervals: by repeat (Student's t), and by bootstrap of sessions; percentiles by rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from chipmark.metrics.distributions import student_t

Interval = tuple[float | None, float | None]
"""Lower and upper end; None where that end does not exist (unbounded)."""

CONFIDENCE = 0.95
BOOTSTRAP_SESSIONS = 20
"""Distinct sessions that a bootstrap needs (DEFINITIONS, Intervals)."""

BOOTSTRAP_DRAWS = 1000
_BOOTSTRAP_KEY = 0x63686970
_RANK_BINS = 2048

P95_MIN_SAMPLES = 59
"""Least n with 1 - 0.95^n >= 0.95: the largest sample is then a one-sided 95 % bound of p95."""


def by_repeat(center: float, repeats: Sequence[float], *, positive: bool = True) -> Interval | None:
    """Student's t interval around `center` from one value a repeat; None for under 2 repeats.

    `positive` quantities are treated on the log scale, where ratios scatter symmetrically.
    """
    values = np.asarray(repeats, dtype=np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    width = student_t(len(values) - 1, 0.5 + CONFIDENCE / 2) / math.sqrt(len(values))
    if positive:
        if center <= 0 or (values <= 0).any():
            return None
        half = width * float(np.std(np.log(values), ddof=1))
        return center * math.exp(-half), center * math.exp(half)
    half = width * float(np.std(values, ddof=1))
    return center - half, center + half


def percentile(samples: NDArray[np.float64], q: float) -> float | None:
    """The order statistic of rank ceil(q n) (the inverse of the empirical distribution).

    None without samples. No interpolation, so that it is a value that was measured.
    """
    if not len(samples):
        return None
    rank = max(1, math.ceil(q * len(samples) - 1e-9))
    return float(np.sort(samples)[rank - 1])


def session_bootstrap(
    session: NDArray[np.int64], values: NDArray[np.float64], q: float
) -> Interval | None:
    """Percentile interval of the q-quantile where whole sessions are drawn anew, with all their
    samples; None under 20 distinct sessions.

    session: of each value. Draws are raw bits of Philox under a fixed key, so the interval is a
    function of the samples. Over 2048 samples ends are exact to a 2048th of the ranks.
    """
    names, owner = np.unique(session, return_inverse=True)
    if len(names) < BOOTSTRAP_SESSIONS:
        return None
    n, bins = len(values), min(len(values), _RANK_BINS)
    order = np.argsort(values, kind="stable")
    rank_bin = np.arange(n) * bins // n
    counts = np.zeros((len(names), bins))
    np.add.at(counts, (owner[order], rank_bin), 1.0)
    upper = values[order][np.searchsorted(rank_bin, np.arange(bins), side="right") - 1]
    taken = _drawn(len(names)) @ counts
    cumulative = np.cumsum(taken, axis=1)
    # The rank of `percentile`, among as many samples as the draw has.
    rank = np.maximum(1.0, np.ceil(q * cumulative[:, -1] - 1e-9))
    found = np.sort(upper[(cumulative < rank[:, None]).sum(axis=1)])
    tail = round((1 - CONFIDENCE) / 2 * BOOTSTRAP_DRAWS)
    return float(found[tail]), float(found[-1 - tail])


@lru_cache(maxsize=2)
def _drawn(n: int) -> NDArray[np.float64]:
    """How often each of `n` sessions is in each of the draws: shape (draws, n), rows sum to n."""
    bits = np.random.Philox(key=_BOOTSTRAP_KEY).random_raw(BOOTSTRAP_DRAWS * n)
    index = ((bits >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32)
    at = np.repeat(np.arange(BOOTSTRAP_DRAWS), n) * n + index.astype(np.int64)
    drawn = np.bincount(at, minlength=BOOTSTRAP_DRAWS * n)
    return drawn.reshape(BOOTSTRAP_DRAWS, n).astype(np.float64)
