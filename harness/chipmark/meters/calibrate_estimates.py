"""What readings tell of their sensor: update period, averaging window, lag, resolution and idle.

Pure functions of times and values. Each gives a value with its scatter, or None and the reason why
it cannot be seen.

The period is the rhythm of the changes of value, found by their coherence: |mean of
exp(2 pi i f t)| over the changes is 1 at the sensor's frequency, however many updates repeat their
value. The averaging window is fitted to the mean response to steps of load: a boxcar of length A,
read from updates a period T apart, rises as the distribution of lag + U(0, A) + U(0, T).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

TOO_FAST = 0.55
"""Share of readings that differ from the one before, over which a sensor changes too fast for its
rhythm to be seen."""

FINEST_W = 1e-4
"""Steps under this are taken as none: what sensors print has a tenth of a milliwatt at best."""

_MIN_CHANGES = 12
_MOST_CHANGES = 400
_COHERENT = 0.55
_CHANCE = 1e-3
_SETTLED = 0.3
_MANY_VALUES = 8
_FEW_VALUES = 4
_IDLE_ERROR = 0.01
_DITHERED = 0.5
_BINS = 240


@dataclass(frozen=True, slots=True)
class Estimate:
    """A quantity, or None and why. scatter: half the difference of what two halves of the data
    give, or the bound that the text names."""

    value: float | None
    scatter: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Edge:
    """A moment when the load began or ended."""

    time_s: float
    rising: bool


@dataclass(frozen=True, slots=True)
class Response:
    """Mean response to the edges: `share` of the step that was seen `after_s` an edge."""

    after_s: F64
    share: F64
    step_w: float
    """Watts between rest and load."""


def reading_period(time_s: F64) -> float:
    """Median seconds between readings; 0 for fewer than two."""
    return float(np.median(np.diff(time_s))) if len(time_s) > 1 else 0.0


def change_times(time_s: F64, value: F64) -> F64:
    """Middle of each pair of readings between which the value changed; pauses between stretches
    of reading (over 3 reading periods) are left out."""
    spans = np.diff(time_s)
    near = spans <= 3 * max(reading_period(time_s), 1e-9)
    changed = (np.diff(value) != 0) & near
    middle = (time_s[1:] + time_s[:-1]) / 2
    return np.asarray(middle[changed], np.float64)


def changed_share(time_s: F64, value: F64) -> float:
    """Share of the readings that differ from the one before."""
    return len(change_times(time_s, value)) / max(1, len(time_s) - 1)


def update_period(time_s: F64, value: F64) -> Estimate:
    """Seconds between updates of the sensor."""
    at, reading = change_times(time_s, value), reading_period(time_s)
    if not len(at):
        return Estimate(None, reason="its value never changed")
    if (share := changed_share(time_s, value)) > TOO_FAST:
        return Estimate(
            None,
            reason=f"it changed between {share:.0%} of its readings, {reading:.3g} s apart: its "
            "period is shorter than it can be asked",
        )
    if len(at) < _MIN_CHANGES:
        return Estimate(None, reason=f"its value changed only {len(at)} times")
    whole = _rhythm(at[:_MOST_CHANGES], reading)
    if whole is None:
        return _by_gaps(at, reading)
    half = min(len(at) // 2, _MOST_CHANGES)
    others = [p for p in (_rhythm(at[:half], reading), _rhythm(at[-half:], reading)) if p]
    # A half may have too few changes to differ from chance; it is left out then.
    near = [p for p in others if abs(p - whole) < 0.2 * whole]
    scatter = max((abs(p - whole) for p in near), default=None)
    return Estimate(whole, scatter)


def _rhythm(at: F64, reading: float) -> float | None:
    """The longest period in whose rhythm the moments come; None where chance could do as well."""
    if len(at) < 4 or reading <= 0:
        return None
    gap = float(np.quantile(np.diff(at), 0.1)) + reading
    span = float(at[-1] - at[0])
    # A bin of half a reading blurs a period of 2 readings by a tenth.
    width = max(reading / 2, span / (1 << 20))
    size = 1 << (int(4 * span / width) + 1).bit_length()
    counts = np.bincount(((at - at[0]) / width).astype(np.int64), minlength=1)
    coherence = np.abs(np.fft.rfft(counts, size)) / len(at)
    frequency = np.fft.rfftfreq(size, width)
    # No period is longer than the shortest gaps, nor shorter than two readings.
    band = (frequency >= 1 / gap) & (frequency <= 1 / (1.8 * reading))
    if not band.any():
        return None
    seen, where = coherence[band], frequency[band]
    trials = np.maximum(1.0, 4 * (where - where[0]) * span + 1)
    needed = np.maximum(_COHERENT, np.sqrt(np.log(trials / _CHANCE) / len(at)))
    good = np.flatnonzero((seen >= needed) & (seen >= 0.85 * seen.max()))
    if not len(good):
        return None
    top = good[0]
    while top + 1 < len(seen) and seen[top + 1] > seen[top]:
        top += 1
    tried = where[top] + np.linspace(-0.5, 0.5, 101) / span
    exact = np.abs(np.exp(2j * np.pi * tried[:, None] * (at - at[0])[None, :]).sum(axis=1))
    return float(1 / tried[int(np.argmax(exact))])


def _by_gaps(at: F64, reading: float) -> Estimate:
    """Of a sensor whose clock wanders: the gaps that most changes have."""
    gaps = np.diff(at)
    middle = float(np.median(gaps))
    alike = gaps[np.abs(gaps - middle) <= 0.1 * middle + reading]
    if middle < 2.5 * reading or len(alike) < 0.6 * len(gaps):
        return Estimate(None, reason="its changes keep no rhythm that differs from chance")
    return Estimate(float(alike.mean()), float(alike.std()))


@dataclass(frozen=True, slots=True)
class Grid:
    """The steps of a sensor's values. bound: the largest step that what was seen allows, infinite
    for a constant; factor: how much smaller or larger than `step` the true one may be."""

    step: Estimate
    bound: float
    factor: float | None = None


def resolution(value: F64) -> Grid:
    """The grid that all values are on, in the values' unit: their greatest common divisor, which
    few values may overstate."""
    distinct = np.unique(value)
    steps = np.diff(distinct)
    steps = steps[steps > FINEST_W / 10]  # the same number by two ways of computing it
    least = float(steps.min()) if len(steps) else math.inf
    if len(steps) + 1 < _FEW_VALUES:
        return Grid(Estimate(None, reason=f"only {len(steps) + 1} different values"), least)
    step = 0.0
    for difference in np.unique(steps):
        step = _common(float(difference), step)
        if step < FINEST_W:
            text = f"its values are on no grid: finer than {max(least, FINEST_W):.2g}"
            return Grid(Estimate(None, reason=text), least)
    return Grid(Estimate(step), step, 1.0 if len(steps) + 1 >= _MANY_VALUES else 2.0)


def _common(length: float, step: float) -> float:
    """Greatest common divisor of a length and a shorter step, as far as floating point can tell."""
    a, b = max(length, step), min(length, step)
    while b > FINEST_W / 10:
        a, b = b, abs(a - round(a / b) * b)
    # Euclid's remainders gather the errors of rounding; the length itself has one of them.
    return length / round(length / a)


def levels(time_s: F64, value: F64, edges: Sequence[Edge]) -> tuple[F64, float]:
    """Mean value in the last part of the time before each edge and after the last one, and the
    standard deviation of the readings there."""
    bounds = [float(time_s[0]), *(edge.time_s for edge in edges), float(time_s[-1])]
    found, squares, count = [], 0.0, 0
    for start, end in pairwise(bounds):
        low = max(start, end - _SETTLED * (end - start))
        part = value[(time_s > low) & (time_s <= end)]
        if not len(part):
            # Read too seldom for so short a stretch: the last value before its end holds.
            at = max(0, int(np.searchsorted(time_s, end, side="right")) - 1)
            part = value[at : at + 1]
        found.append(float(part.mean()))
        squares += float(((part - part.mean()) ** 2).sum())
        count += len(part)
    return np.array(found), math.sqrt(squares / max(1, count))


def response(time_s: F64, value: F64, edges: Sequence[Edge]) -> tuple[Response | None, str]:
    """The mean response to the edges, or None and why."""
    if len(edges) < 4:
        return None, f"only {len(edges)} steps of load were made"
    level, noise = levels(time_s, value, edges)
    steps = np.diff(level) * np.where([edge.rising for edge in edges], 1.0, -1.0)
    step = float(np.median(steps))
    if step <= 3 * noise or step <= 0:
        text = f"the load moved {max(step, 0.0):.3g} W, not told from the scatter of {noise:.2g} W"
        return None, text
    after, share = [], []
    ends = [*(edge.time_s for edge in edges[1:]), float(time_s[-1])]
    for number, edge in enumerate(edges):
        if steps[number] < 0.5 * step:
            continue
        inside = (time_s >= edge.time_s) & (time_s < ends[number])
        after.append(time_s[inside] - edge.time_s)
        share.append((value[inside] - level[number]) / (level[number + 1] - level[number]))
    return Response(np.concatenate(after), np.concatenate(share), step), ""


def averaging(found: Response, period_s: float) -> tuple[float, float]:
    """(averaging window, lag) in seconds that fit the mean response of updates `period_s` apart."""
    longest = float(np.quantile(found.after_s, 0.99))
    whole = longest * np.linspace(0.0, 1.0, _BINS + 1) ** 2
    window, lag = _fitted(found, period_s, whole, (0.0, 0.9 * longest), (0.0, 0.5 * longest))
    # Again with all bins where the step is.
    width = window + period_s
    near = np.linspace(max(0.0, lag - width), min(longest, lag + 2 * width), _BINS + 1)
    return _fitted(found, period_s, near, (0.0, 2 * width), (max(0.0, lag - width), lag + width))


def _fitted(
    found: Response,
    period_s: float,
    bins: F64,
    window: tuple[float, float],
    lag: tuple[float, float],
) -> tuple[float, float]:
    """Least squares over the means of the bins, by a grid that closes in. window, lag: ranges."""
    after, share, weight = _binned(found, bins)
    best = (0.0, 0.0)
    for _ in range(4):
        grids = [np.linspace(low, high, 41) for low, high in (window, lag)]
        errors = np.array([
            ((rise(after[None, :] - grids[1][:, None], w, period_s) - share) ** 2 * weight).sum(1)
            for w in grids[0]
        ])  # fmt: skip
        i, j = np.unravel_index(int(np.argmin(errors)), errors.shape)
        best = (float(grids[0][i]), float(grids[1][j]))
        window, lag = (
            (max(0.0, at - 3 * (grid[1] - grid[0])), at + 3 * (grid[1] - grid[0]))
            for at, grid in zip(best, grids, strict=True)
        )
    return best


def rise(after_s: F64, window_s: float, period_s: float) -> F64:
    """Share of a step that is seen on average so long after it: the distribution function of
    U(0, window) + U(0, period)."""
    a, b = max(window_s, 1e-6), max(period_s, 1e-6)

    def area(x: F64) -> F64:
        return np.asarray(np.maximum(x, 0.0) ** 2 / 2)

    x = after_s
    return np.asarray((area(x) - area(x - a) - area(x - b) + area(x - a - b)) / (a * b))


def _binned(found: Response, bins: F64) -> tuple[F64, F64, F64]:
    """Mean time and share of the readings in each bin that has any, and its width."""
    inside = (found.after_s >= bins[0]) & (found.after_s < bins[-1])
    after, share = found.after_s[inside], found.share[inside]
    number = len(bins) - 1
    at = np.searchsorted(bins, after, side="right") - 1
    count, total, time = (
        np.bincount(at, weights, minlength=number) for weights in (None, share, after)
    )
    used = count > 0
    return time[used] / count[used], total[used] / count[used], np.diff(bins)[used]


def idle_power(time_s: F64, value: F64, period_s: float | None, largest_step: float) -> Estimate:
    """Watts without work, None where they are not known to 1 %.

    The bound is twice the standard error over the updates and, where the value does not move over
    its own steps (at most `largest_step`), half of one.
    """
    mean, deviation = float(value.mean()), float(value.std())
    # There may be pauses between stretches of reading.
    span = reading_period(time_s) * len(time_s)
    updates = span / period_s if period_s else len(change_times(time_s, value)) + 1
    error = 2 * deviation / math.sqrt(max(updates, 1))
    if deviation < _DITHERED * largest_step:
        error += largest_step / 2
    if math.isinf(error):
        return Estimate(None, reason=f"always {mean:.4g} W, in steps that were not seen")
    if mean <= 0 or error > _IDLE_ERROR * mean:
        return Estimate(None, error, f"{mean:.4g} W, known to {error:.2g} W only")
    return Estimate(mean, error)


def step_by_counter(time_s: F64, energy_j: F64, edges: Sequence[Edge]) -> Estimate:
    """Watts that the load adds by a counter: of the later part of each stretch between edges."""
    if len(edges) < 2:
        return Estimate(None, reason=f"only {len(edges)} steps of load were made")
    bounds = np.array([float(time_s[0]), *(edge.time_s for edge in edges), float(time_s[-1])])
    begins = bounds[1:] - 0.5 * np.diff(bounds)
    joules = np.interp(bounds[1:], time_s, energy_j) - np.interp(begins, time_s, energy_j)
    watts = joules / (bounds[1:] - begins)
    signs = np.where([edge.rising for edge in edges], 1.0, -1.0)
    steps = np.diff(watts) * signs
    scatter = float(steps.std())
    if (step := float(np.median(steps))) <= 3 * scatter:
        text = f"the load moved {max(step, 0.0):.3g} W, with a scatter of {scatter:.2g} W"
        return Estimate(None, reason=text)
    return Estimate(step, scatter)


def idle_by_counter(time_s: F64, energy_j: F64) -> Estimate:
    """Watts without work by a counter, from its first to its last change."""
    at = np.flatnonzero(np.diff(energy_j) != 0)
    if len(at) < 2:
        return Estimate(None, reason=f"the counter changed {len(at)} times")
    first, last = at[0], at[-1]
    span = float(time_s[last + 1] - time_s[first + 1])
    watts = float(energy_j[last + 1] - energy_j[first + 1]) / span
    error = watts * 2 * reading_period(time_s) / span
    if watts <= 0 or error > _IDLE_ERROR * watts:
        return Estimate(None, error, f"{watts:.4g} W, known to {error:.2g} W only")
    return Estimate(watts, error)
