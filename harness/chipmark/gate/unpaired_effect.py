"""The effect between two unpaired sets of samples: Hodges-Lehmann with its exact interval.

Stored results are not paired: the estimate is the median of all differences y_j - x_i, and its
interval inverts the Mann-Whitney test by the exact null distribution (Hollander, Wolfe and
Chicken, Nonparametric Statistical Methods, 3rd ed., 4.2 and 4.3).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chipmark.gate.paired_effect import LEVEL
from chipmark.gate.verdict import Estimate

F64 = NDArray[np.float64]

SAMPLES = "samples a side"
MOST_SAMPLES = 32
"""Longer series are cut into this many blocks. Rounds of one process are not independent, and a
thousand of them must not look like a thousand witnesses."""


def block_medians(samples: ArrayLike, most: int = MOST_SAMPLES) -> F64:
    """The samples, or medians of `most` blocks of neighbours where there are more."""
    values = np.asarray(samples, np.float64)
    if values.size <= most:
        return values
    return np.array([np.median(block) for block in np.array_split(values, most)])


def shift(x: ArrayLike, y: ArrayLike, level: float = LEVEL) -> Estimate:
    """How much larger y is than x, with bounds that are infinite where there are too few samples.

    `n` of the result is the smaller number of samples. Raises ValueError without samples or with
    one that is not finite.
    """
    a, b = block_medians(x), block_medians(y)
    if not a.size or not b.size:
        raise ValueError("a side has no sample")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a sample is not finite")
    differences = np.sort((b[None, :] - a[:, None]).ravel())
    depth = shift_depth(*sorted((a.size, b.size)), level)
    low, high = -math.inf, math.inf
    if depth:
        low, high = float(differences[depth - 1]), float(differences[-depth])
    n = min(a.size, b.size)
    return Estimate(float(np.median(differences)), low, high, n, SAMPLES)


@lru_cache(maxsize=1024)
def shift_depth(m: int, n: int, level: float) -> int:
    """The rank c such that the c-th smallest and c-th largest differences are the bounds; 0 where
    there is none."""
    if not 0 < level < 1:
        raise ValueError(f"a confidence of {level:g} is not between 0 and 1")
    below = np.cumsum(rank_sum_pmf(m, n))
    return int(np.searchsorted(below, (1 - level) / 2 * (1 + 1e-12), side="right"))


@lru_cache(maxsize=1024)
def rank_sum_pmf(m: int, n: int) -> F64:
    """P(U = u) of the Mann-Whitney statistic without ties, u = 0..m n.

    The counts are the coefficients of the Gaussian binomial, the product over i = 1..m of
    (1 - x^(n + i)) / (1 - x^i), in whole numbers: sums of floats would cancel.
    """
    counts = [1] + [0] * (m * n)
    for i in range(1, m + 1):
        for u in range(m * n, n + i - 1, -1):
            counts[u] -= counts[u - n - i]
        for u in range(i, m * n + 1):
            counts[u] += counts[u - i]
    total = math.comb(m + n, m)
    pmf = np.array([count / total for count in counts])
    pmf.flags.writeable = False
    return pmf
