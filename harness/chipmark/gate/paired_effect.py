"""The effect of paired differences: Hodges-Lehmann with its exact signed-rank interval.

d_i = ln(B_i / A_i) of one ABBA pair. The estimate is the median of the Walsh averages
(d_i + d_j) / 2, i <= j; its interval inverts Wilcoxon's signed-rank test by the exact null
distribution, so that it covers at six pairs as well as at sixty (Hollander, Wolfe and Chicken,
Nonparametric Statistical Methods, 3rd ed., 3.2 and 3.3). Everything works along the last axis, so
that ten thousand benchmarks are one call.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

F64 = NDArray[np.float64]

LEVEL = 0.95
"""Two-sided confidence of the intervals; each bound alone holds with 97.5 %."""

MOST_PAIRS = 400
"""Above, the exact distribution has sums that no gate needs."""


def walsh_averages(d: ArrayLike) -> F64:
    """(d_i + d_j) / 2 for i <= j along the last axis, ascending: (..., n) -> (..., n (n + 1) / 2).

    Raises ValueError without a pair, with more than MOST_PAIRS, or with one that is not finite.
    """
    values = np.asarray(d, np.float64)
    n = values.shape[-1] if values.ndim else 0
    if not 1 <= n <= MOST_PAIRS:
        raise ValueError(f"{n} pairs: between 1 and {MOST_PAIRS} are needed")
    if not np.isfinite(values).all():
        raise ValueError(
            "a difference is not finite; its round failed or its time was not positive"
        )
    i, j = np.triu_indices(n)
    averages: F64 = np.sort((values[..., i] + values[..., j]) / 2, axis=-1)
    return averages


def hodges_lehmann(d: ArrayLike) -> Any:
    """Median of the Walsh averages along the last axis: a float for one series, else an array."""
    found = np.median(walsh_averages(d), axis=-1)
    return float(found) if found.ndim == 0 else found


def walsh_interval(d: ArrayLike, level: float = LEVEL) -> tuple[Any, Any]:
    """Bounds of the effect, each exceeded with at most (1 - level) / 2; infinite where there are
    too few pairs for the level (fewer than 6 at 95 %)."""
    averages = walsh_averages(d)
    n = np.asarray(d).shape[-1]
    depth = interval_depth(n, level)
    if depth == 0:
        none = np.full(averages.shape[:-1], np.inf)
        low, high = -none, none
    else:
        low, high = averages[..., depth - 1], averages[..., -depth]
    if np.ndim(low) == 0:
        return float(low), float(high)
    return low, high


@lru_cache(maxsize=512)
def interval_depth(n: int, level: float) -> int:
    """The rank c such that the c-th smallest and c-th largest Walsh averages are the bounds: the
    largest with P(T <= c - 1) <= (1 - level) / 2; 0 where there is none."""
    if not 0 < level < 1:
        raise ValueError(f"a confidence of {level:g} is not between 0 and 1")
    below = np.cumsum(signed_rank_pmf(n))
    # A relative slack of rounding: the sums are of exact integers over 2^n.
    return int(np.searchsorted(below, (1 - level) / 2 * (1 + 1e-12), side="right"))


@lru_cache(maxsize=512)
def signed_rank_pmf(n: int) -> F64:
    """P(T = t) of Wilcoxon's signed-rank statistic of n pairs without ties, t = 0..n (n + 1) / 2.

    Each rank k joins the sum with probability a half: a product of (1 + x^k) / 2.
    """
    pmf = np.zeros(n * (n + 1) // 2 + 1)
    pmf[0] = 1.0
    for rank in range(1, n + 1):
        pmf[rank:] = (pmf[rank:] + pmf[:-rank]) / 2
        pmf[:rank] /= 2
    pmf.flags.writeable = False
    return pmf
