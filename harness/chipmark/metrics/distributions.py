"""Quantiles of Student's t and of the beta distribution, and non-negative least squares.

What metrics need of scipy, in NumPy and the standard library, so that a machine without scipy can
write a whole record. Tested against scipy.
"""

from __future__ import annotations

import math
import sys

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_TINY = 1e-300
_TERMS = 10_000
_STEPS = 2_000


def student_t(freedom: float, p: float) -> float:
    """The p-quantile (0.5 <= p < 1) of Student's t with `freedom` > 0 degrees of freedom."""
    if not 0.5 <= p < 1 or freedom <= 0:
        raise ValueError(f"p = {p} of {freedom} degrees of freedom")
    if p == 0.5:
        return 0.0
    # P(|T| < t) = I_y(1 / 2, freedom / 2) with y = t^2 / (freedom + t^2), and 1 - y likewise by
    # the other tail: the smaller of the two keeps the digits.
    y = beta(0.5, freedom / 2, 2 * p - 1)
    if y < 0.5:
        return math.sqrt(freedom * y / (1 - y))
    x = beta(freedom / 2, 0.5, 2 * (1 - p))
    return math.sqrt(freedom * (1 - x) / x)


def beta(a: float, b: float, p: float) -> float:
    """The p-quantile (0 <= p <= 1) of the beta distribution, a and b over 0."""
    if a <= 0 or b <= 0 or not 0 <= p <= 1:
        raise ValueError(f"p = {p} of beta({a}, {b})")
    if p in (0.0, 1.0):
        return float(p)
    low, high, x = 0.0, 1.0, a / (a + b)
    for _ in range(_STEPS):
        miss = incomplete_beta(a, b, x) - p
        low, high = (low, x) if miss > 0 else (x, high)
        log_slope = (a - 1) * math.log(x) + (b - 1) * math.log1p(-x) - _log_beta(a, b)
        # Newton's step where it stays inside the bracket, else its middle.
        step = x - miss * math.exp(min(-log_slope, 700.0))
        new = step if low < step < high else (low + high) / 2
        if abs(new - x) <= 2 * sys.float_info.epsilon * x:
            return new
        x = new
    return x


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (Lentz's
    method; Numerical Recipes, 6.4)."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    front = math.exp(a * math.log(x) + b * math.log1p(-x) - _log_beta(a, b))
    if x > (a + 1) / (a + b + 2):
        return 1 - front * _fraction(b, a, 1 - x) / b
    return front * _fraction(a, b, x) / a


def _fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1 / _off_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _TERMS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _off_zero(1 + term * d)
            c = _off_zero(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < sys.float_info.epsilon:
            break
    return value


def _off_zero(x: float) -> float:
    return x if abs(x) > _TINY else _TINY


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def nonnegative(features: Floats, target: Floats) -> Floats:
    """x >= 0 (n,) of the least |features (m, n) x - target (m,)|, by the active set of Lawson and
    Hanson (Solving Least Squares Problems, 1974, chapter 23)."""
    n = features.shape[1]
    x, free = np.zeros(n), np.zeros(n, bool)
    slack = 10 * max(features.shape) * sys.float_info.epsilon
    slack *= float(np.linalg.norm(features) * np.linalg.norm(target))
    for _ in range(3 * n + 10):
        gradient = features.T @ (target - features @ x)
        if free.all() or gradient[~free].max() <= slack:
            break
        free[int(np.where(free, -np.inf, gradient).argmax())] = True
        while True:
            best = np.zeros(n)
            best[free] = np.linalg.lstsq(features[:, free], target, rcond=None)[0]
            below = free & (best <= 0)
            if not below.any():
                x = best
                break
            # As far towards the best as none that is free becomes negative; the first that reaches
            # 0 is bound there.
            shares = np.where(below, x / np.where(below, x - best, 1.0), np.inf)
            x = x + shares.min() * (best - x)
            free[int(shares.argmin())] = False
            x[~free] = 0.0
            if not free.any():
                break
    return x
