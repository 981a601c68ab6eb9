"""Sets of time as sorted, disjoint spans: union, length, what two of them share."""

from __future__ import annotations

import numpy as np

from chipmark.metrics.events import Floats


def union(start_s: Floats, end_s: Floats, low_s: float, high_s: float) -> Floats:
    """The union of the spans [start, end], clipped to [low, high], as rows (start, end).

    Spans with a NaN end, or none of it inside, are left out; what touches is joined.
    """
    start, end = np.maximum(start_s, low_s), np.minimum(end_s, high_s)
    real = end > start  # False for NaN
    start, end = start[real], end[real]
    order = np.argsort(start, kind="stable")
    start, reach = start[order], np.maximum.accumulate(end[order])
    first = np.append(True, start[1:] > reach[:-1])[: len(start)]
    last = np.append(first[1:], True)[: len(start)]
    return np.stack((start[first], reach[last]), axis=1)


def length_s(spans: Floats) -> float:
    """Total length of disjoint spans in seconds."""
    return float((spans[:, 1] - spans[:, 0]).sum())


def shared_s(a: Floats, b: Floats) -> float:
    """Length in seconds of what two sets of disjoint spans have in common."""
    both = np.concatenate((a, b))
    joined = union(both[:, 0], both[:, 1], -np.inf, np.inf)
    return length_s(a) + length_s(b) - length_s(joined)
