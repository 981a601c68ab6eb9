"""The `stats` object of pytest-benchmark's JSON from samples (pytest_benchmark/stats.py, 5.x)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any


def stats_of(data: Sequence[float]) -> dict[str, Any]:
    """Every key that pytest-benchmark writes, for seconds a round, one call each.

    Quartiles are Tukey's (medians of the halves, the middle one out); `ops` is 1/mean, 0 for a
    mean of 0. ValueError without a sample.
    """
    if not data:
        raise ValueError("stats need a sample")
    ordered = sorted(data)
    n = len(ordered)
    mean, median = math.fsum(ordered) / n, statistics.median(ordered)
    stddev = statistics.stdev(ordered) if n > 1 else 0.0
    q1 = statistics.median(ordered[: n // 2]) if n > 1 else ordered[0]
    q3 = statistics.median(ordered[(n + 1) // 2 :]) if n > 1 else ordered[0]
    low, high = q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1)
    by_iqr = sum(not low <= value <= high for value in ordered)
    by_stddev = sum(abs(value - mean) > stddev for value in ordered)
    return {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": mean,
        "stddev": stddev,
        "rounds": n,
        "median": median,
        "iqr": q3 - q1,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": by_iqr,
        "stddev_outliers": by_stddev,
        "outliers": f"{by_stddev};{by_iqr}",
        "ld15iqr": next(value for value in ordered if value >= low),
        "hd15iqr": next(value for value in reversed(ordered) if value <= high),
        "ops": 1.0 / mean if mean > 0 else 0.0,
        "total": math.fsum(ordered),
        "data": list(data),
        "iterations": 1,
    }
