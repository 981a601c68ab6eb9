"""Steps so clear that no random order is as clear: known by a bound, without drawing orders.

Drawing is what a look back over many runs takes longest for, and of a clear step it only ever
finds that not one of its hundred thousand orders comes near.

The sum of k of n ranks is k (k + 1) / 2 plus Mann's and Whitney's U, whose generating function is
the Gaussian binomial over C(n, k). So Chernoff's bound of its tails is known for every k, and the
sum over all k bounds the tail of the largest standardised sum. Ranks with ties are means over
orders without them, which makes a generating function smaller only (Jensen).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

_SURE = 1e-7
"""Expected number of drawn orders as clear, at most, where none is drawn."""

_TILTS = 48
_WIDEST = 16.0

F64 = NDArray[np.float64]


def is_sure(statistic: float, n: int, least_side: int, draws: int) -> bool:
    """Whether of so many random orders of n values not one would reach `changes.pettitt`'s
    statistic, by all that can be expected."""
    return bool(draws * tail_bound(statistic, n, least_side) <= _SURE)


def tail_bound(statistic: float, n: int, least_side: int) -> float:
    """At least the probability that n values in random order reach the statistic."""
    k = np.arange(least_side, n - least_side + 1)
    sigma = np.sqrt(k * (n - k) * (n + 1) / 12)
    orders = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    i = np.arange(1, n + 1)
    tilts = np.geomspace(statistic / sigma.max() / 4, _WIDEST * statistic / sigma.min(), _TILTS)
    best: F64 = np.zeros(len(k))
    for s in tilts:
        # ln of 1 - q^i, summed up to i, with q = exp(-s): the Gaussian binomial's factors.
        factors = np.concatenate([[0.0], np.cumsum(np.log(-np.expm1(-s * i)))])
        ln_mean = factors[n] - factors[n - k] - factors[k] - orders
        best = np.minimum(best, ln_mean + s * (k * (n - k) / 2 - statistic * sigma))
    return float(2 * np.exp(best).sum())
