"""How far the joules of a window may be from what was drawn, derived from what the meter is.

A meter shows true watts divided by 1 + g, |g| <= `error_rel`. All terms below are joules in what
it shows, J; drawn were up to (1 + error_rel) times as many, so the bound relative to J is
error_rel + (1 + error_rel) x terms / J. Power lies between `least_w` (idle, else 0) and the unit's
cap, which is the most that anything unseen can be.

**Counter.** It rises only, and a reading at r shows the joules of a moment in (r - T, r], with T
its period. So the joules at an edge x lie between the last reading at or before x and the first at
or after x + T, plus one step q of its resolution; without that reading, the cap times the time
that is missing. q is at most the least difference between any two steps that were seen.

**Watts.** The sensor looks every T and shows the mean over the A seconds before; h is what it
holds. Three things are between h's readings and the power p, and their terms add:

- Reading: between two readings at most T apart h has one of their two values, so the trapezoid is
  off by half their difference times the span at most. Over longer spans whole updates were
  missed: cap and least power bound them, or h's slope, at most (cap - least) / A. Where moments
  are drawn evenly in their periods R (`jittered`), R x the sum of m readings is an unbiased
  estimate of m periods whatever h does; the readings are independent, so Bernstein's inequality
  holds with L = ln(3 / 10^-6): sqrt(2 L S) + range x L / 3, S the sum of their variances. Of two
  neighbours half the squared difference expects at least the mean variance; over disjoint
  pairs its sum Y, independent and bounded, gives S <= 2 (sqrt(Y) + range x sqrt(L))^2, by the
  one-sided Bernstein inequality of non-negative variables. Time without a reading is between
  least and cap.
- Sensor: the integral of h weighs each moment of p by the number of looks whose windows hold
  it, times T / A: between floor(A/T) T/A and ceil(A/T) T/A, which is 1 where A is a multiple of
  T. Where A < T the share 1 - A / T is never seen, and a load in step with the sensor may hide in
  it: cap and least power bound it. Where A is not known nothing but these bounds the window.
  The exception is a meter that is read at drawn moments (`jittered`), states no averaging, and
  has no period longer than that of reading: it vouches that no load can be in step with it.
- Edges: h lags, by A / 2 + T at most. The A + T before an edge counts in part: what it holds is
  at most the smaller of (cap - least) times that lag and all that h shows around the edge.

A clock that differs from the run's by up to c (a log's: `clock_s`) widens both: a counter's edges
are x - c and x + c, and an edge of watts lags by c more, from A + T + c before it to as long after.

The roundings of watts to their resolution may all go one way: half a step times the window. Where
the step is not stated it is at most the least difference that was seen, as of a counter; where no
two readings differ there is none to see: then it is the coarsest decimal unit, up to a watt, that
the value is a multiple of.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from chipmark.codes import NullReason
from chipmark.meters.contract import MeterInfo
from chipmark.metrics.events import Floats

CHANCE = 1e-6
"""Probability that the statistical part of a bound does not hold."""

_L = math.log(3 / CHANCE)
_SAME = 1e-6
"""Relative: periods and averaging windows this close are taken as equal."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Relative to the joules of the window; None with the reason."""

    error_rel: float | None
    reason: NullReason | None = None


@dataclass(frozen=True, slots=True)
class _Limits:
    """Watts as the meter shows them: the least and the most that the unit can draw (inf: no cap is
    known)."""

    least_w: float
    cap_w: float

    @property
    def range_w(self) -> float:
        return self.cap_w - self.least_w


def counter_bound(
    meter: MeterInfo, time: Floats, energy: Floats, window: tuple[float, float],
    ends_j: tuple[float, float], least_w: float,
) -> Bound:  # fmt: skip
    """Of a counter's difference. time, energy: all of its readings. window: start and end. ends_j:
    what the counter is taken to show there. least_w: the least that the unit draws."""
    joules = ends_j[1] - ends_j[0]
    if meter.error_rel is None:
        return Bound(None, NullReason.ERROR_NOT_STATED)
    if meter.clock_s is None:
        return Bound(None, NullReason.ERROR_CLOCK_UNKNOWN)
    limits = _limits(meter, least_w, 0.0)
    period = meter.update_period_s
    if not meter.period_known:
        period = max(period, _longest_between_changes(time, energy))
    step = _least_step(energy) if period > 0 else 0.0
    low_a, low_b = (_counter_least(time, energy, at - meter.clock_s, limits) for at in window)
    high_a, high_b = (
        _counter_most(time, energy, at + meter.clock_s, period, limits) + step for at in window
    )
    more = (high_b - ends_j[1]) + (ends_j[0] - low_a)
    less = (ends_j[1] - low_b) + (high_a - ends_j[0])
    terms = max(more, less, 0.0)
    seen = meter.averaging_s
    if seen is not None and 0 < seen < period * (1 - _SAME):
        terms += (1 - seen / period) * _anything(limits, window[1] - window[0], joules)
    return _relative(terms, joules, meter.error_rel)


def watts_bound(
    meter: MeterInfo, time: Floats, power: Floats, window: tuple[float, float], joules: float,
    least_gap_s: float, least_w: float,
) -> Bound:  # fmt: skip
    """Of a trapezoid over watts. time, power: all readings. joules: the trapezoid's. least_gap_s:
    spans from which on nothing is assumed of what happened in them."""
    if meter.error_rel is None:
        return Bound(None, NullReason.ERROR_NOT_STATED)
    if meter.clock_s is None:
        return Bound(None, NullReason.ERROR_CLOCK_UNKNOWN)
    seconds = window[1] - window[0]
    limits = _limits(meter, min(least_w, float(power.min())), float(power.max()))
    whole = _anything(limits, seconds, joules)
    period, averaging = meter.update_period_s, meter.averaging_s
    if not meter.period_known:
        period = max(period, _longest_between_changes(time, power))
    drawn = _drawn(meter, time, power, window, joules, limits)
    step = meter.resolution_w
    if step is None:
        step = _least_step(power) or _decimal_unit(float(power[0]))
    rounding = step / 2 * seconds
    if _of_the_moment(meter) and not meter.clock_s:
        return _relative(min(whole, drawn + rounding), joules, meter.error_rel)
    if not averaging:
        return _relative(whole, joules, meter.error_rel)
    spans = _Spans(time, power, window)
    reading = min(drawn, spans.between(period, averaging, least_gap_s, limits))
    if averaging < period * (1 - _SAME):
        unseen = 1 - averaging / period
        lag_s = period + averaging + meter.clock_s
        terms = unseen * whole + (1 - unseen) * reading + limits.range_w * lag_s
    else:
        share = averaging / period if period > 0 else math.inf
        low, high = _coverage(share)
        over_least = max(joules + reading - limits.least_w * seconds, 0.0)
        terms = reading + over_least * max(1 - 1 / high, 1 / low - 1)
        edges = [_edge(spans, at, period, averaging, meter.clock_s, low, limits) for at in window]
        # One edge gains what the other loses of a lag; of a clock both may gain.
        terms += sum(edges) if meter.clock_s else max(edges)
    return _relative(min(whole, terms + rounding), joules, meter.error_rel)


def _limits(meter: MeterInfo, least_w: float, seen_w: float) -> _Limits:
    error = meter.error_rel or 0.0
    if meter.cap_w is None or error >= 1:
        return _Limits(max(least_w, 0.0), math.inf)
    return _Limits(max(least_w, 0.0), max(meter.cap_w / (1 - error), seen_w, least_w))


def _anything(limits: _Limits, seconds: float, joules: float) -> float:
    """What the joules of a window can be off by where nothing of it was seen."""
    return max(limits.cap_w * seconds - joules, joules - limits.least_w * seconds, 0.0)


def _relative(terms_j: float, joules: float, error_rel: float) -> Bound:
    if joules <= 0:
        return Bound(None, NullReason.ZERO_DENOMINATOR)
    if not math.isfinite(terms_j):
        return Bound(None, NullReason.ERROR_WITHOUT_CAP)
    bound = error_rel + (1 + error_rel) * terms_j / joules
    return Bound(bound) if bound <= 1 else Bound(None, NullReason.ERROR_OVER_100)


def _of_the_moment(meter: MeterInfo) -> bool:
    """Whether a reading shows the watts of a moment that was drawn: no averaging, and not a value
    that the sensor held from a look of its own time."""
    reading = meter.reading_period_s
    held = reading is None or meter.update_period_s > reading * (1 + _SAME)
    return meter.jittered and not meter.averaging_s and not held


def _coverage(share: float) -> tuple[float, float]:
    """Least and largest weight of a moment in the integral of what the sensor shows; share: its
    averaging window over its period, 1 or more."""
    if not math.isfinite(share):
        return 1.0, 1.0
    return math.floor(share * (1 + _SAME)) / share, math.ceil(share * (1 - _SAME)) / share


def _least_step(values: Floats) -> float:
    """An upper bound of the step that values are rounded to: all of them are multiples of it, and
    so are the differences of their differences."""
    rises = np.abs(np.diff(values))
    noise = 16 * np.finfo(np.float64).eps * float(np.abs(values).max(initial=0.0))
    rises = np.unique(rises[rises > noise])
    if not len(rises):
        return 0.0
    between = np.diff(rises)
    return float(min(rises[0], between[between > noise].min(initial=math.inf)))


def _decimal_unit(value: float) -> float:
    """The coarsest of 1, 0.1, 0.01 and 0.001 that a value is a multiple of; 0 where none is."""
    units = (1.0, 0.1, 0.01, 0.001)
    return next((u for u in units if abs(value / u - round(value / u)) < 1e-6), 0.0)


def _longest_between_changes(time: Floats, values: Floats) -> float:
    changed = time[1:][np.diff(values) != 0]
    return float(np.diff(changed).max(initial=0.0))


def _counter_least(time: Floats, energy: Floats, at_s: float, limits: _Limits) -> float:
    """Least joules that the counter's own count can be at a moment; -inf where no reading and no
    cap bounds it."""
    before = int(np.searchsorted(time, at_s, side="right")) - 1
    if before >= 0:
        return float(energy[before]) + limits.least_w * (at_s - float(time[before]))
    return float(energy[0]) - limits.cap_w * (float(time[0]) - at_s)


def _counter_most(
    time: Floats, energy: Floats, at_s: float, period: float, limits: _Limits
) -> float:
    """Most joules that it can be there; inf where no reading and no cap bounds it."""
    after = int(np.searchsorted(time, at_s + period, side="left"))
    high = math.inf
    if after < len(time):
        high = float(energy[after]) - limits.least_w * (float(time[after]) - period - at_s)
    near = min(int(np.searchsorted(time, at_s, side="left")), len(time) - 1)
    missing_s = max(at_s - (float(time[near]) - period), 0.0)
    if missing_s:
        high = min(high, float(energy[near]) + limits.cap_w * missing_s)
    return high


class _Spans:
    """The stretches between neighbouring readings, cut to a window; before the first and after the
    last reading their watts hold over a stretch of unknown (infinite) length."""

    def __init__(self, time: Floats, power: Floats, window: tuple[float, float]) -> None:
        self._time = np.concatenate(([-np.inf], time, [np.inf]))
        self._power = np.concatenate(([power[0]], power, [power[-1]]))
        self._window = window

    def _cut(self, start_s: float, end_s: float) -> tuple[Floats, Floats, Floats, Floats]:
        """(whole length, length inside, watts before, watts after) of each stretch that touches
        start_s to end_s."""
        first = int(np.searchsorted(self._time, start_s, side="right")) - 1
        last = int(np.searchsorted(self._time, end_s, side="left"))
        times, watts = self._time[first : last + 1], self._power[first : last + 1]
        inside = np.diff(np.clip(times, start_s, end_s))
        touched = inside > 0
        return np.diff(times)[touched], inside[touched], watts[:-1][touched], watts[1:][touched]

    def at_most(self, start_s: float, end_s: float, period: float, cap_w: float) -> float:
        """The most joules that the sensor can have shown from start_s to end_s."""
        whole, inside, a, b = self._cut(start_s, end_s)
        watts = np.where(whole <= period * (1 + 1e-9), np.maximum(a, b), cap_w)
        return float((watts * inside).sum())

    def between(
        self, period: float, averaging: float, least_gap_s: float, limits: _Limits
    ) -> float:
        """What the trapezoid may be off from what the sensor showed: see "Reading" above."""
        whole, inside, a, b = self._cut(*self._window)
        low, high = np.minimum(a, b), np.maximum(a, b)
        cut = inside < whole * (1 - 1e-12)
        swing = (high - low) * inside * np.where(cut, 1.0, 0.5)
        missed = whole > period * (1 + 1e-9)
        if not missed.any():
            return float(swing.sum())
        # How many looks fell between two readings, and how many at most between those of a run.
        known = missed & (whole <= least_gap_s)
        hidden = inside.copy()
        if period > 0:
            looks = np.ceil(whole[known] / period - 1e-9) - 1
            hidden[known] = np.minimum(inside[known], looks * period)
        # Without a cap nothing is added where nothing is hidden, and inf where anything is.
        more = swing + np.where(hidden > 0, limits.cap_w - high, 0.0) * np.maximum(hidden, 1e-300)
        less = swing + hidden * (low - limits.least_w)
        # Its mean over the averaging window moves by the range in one such window at most.
        slope = inside * limits.range_w / averaging * (whole / 2 + period)
        slope = slope + np.where(cut, swing, 0.0)
        more = np.where(missed, np.minimum(more, slope), swing)
        less = np.where(missed, np.minimum(less, slope), swing)
        found = max(float(more.sum()), float(less.sum()))
        if period > 0 and known.any():
            runs = int((np.diff(known.astype(int), prepend=0) == 1).sum())
            lost = float(whole[known].sum()) / period + runs - int(known.sum())
            rest = max(float(more[~known].sum()), float(less[~known].sum()))
            if lost > 0:
                rest += lost * period * limits.range_w
            found = min(found, rest + float(swing[known].sum()))
        return found


def _edge(
    spans: _Spans, at_s: float, period: float, averaging: float, clock_s: float, low: float,
    limits: _Limits,
) -> float:  # fmt: skip
    """Joules over the least power in the lag of the sensor before an edge of the window, and what
    its clock may differ by on top."""
    reach = period + averaging + clock_s
    shown = spans.at_most(at_s - reach, at_s + reach, period, limits.cap_w)
    over = max(shown - 2 * reach * limits.least_w, 0.0) / low
    return min(limits.range_w * (period + averaging / 2 + clock_s), over)


def _drawn(
    meter: MeterInfo, time: Floats, power: Floats, window: tuple[float, float], joules: float,
    limits: _Limits,
) -> float:  # fmt: skip
    """What the trapezoid may be off from what the sensor showed, by the scatter of neighbouring
    readings; inf where moments of reading were not drawn, or nothing caps what is between them."""
    period = meter.reading_period_s
    if not meter.jittered or not period or not math.isfinite(limits.cap_w):
        return math.inf
    inside = (time >= window[0]) & (time <= window[1])
    # The periods that the edges cut have readings that are not even in what is left of them.
    watts = power[inside][1:-1]
    if len(watts) < 2:
        return math.inf
    pairs = len(watts) // 2
    halves = (watts[1 : 2 * pairs : 2] - watts[: 2 * pairs : 2]) ** 2 / 2
    spread = math.sqrt(float(halves.sum())) + limits.range_w * math.sqrt(_L)
    variance = 2 * spread**2 + (len(watts) % 2) * limits.range_w**2 / 4
    chance = math.sqrt(2 * _L * variance) + limits.range_w * _L / 3
    seen = float(watts.sum()) * period
    left_s = max(window[1] - window[0] - len(watts) * period, 0.0)
    more = seen + chance * period + limits.cap_w * left_s - joules
    less = joules - (seen - chance * period + limits.least_w * left_s)
    return max(more, less, 0.0)
