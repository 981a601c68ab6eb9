"""Joules of a window from a meter's samples: refused where they cannot carry the number.

By counter difference, else by trapezoid, interpolated at the edges of the window; a declared or
assumed power is a constant times the window. How far they may be off: `energy_bound`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from chipmark.codes import NullReason
from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.metrics.energy_bound import counter_bound, watts_bound
from chipmark.metrics.events import Floats

MIN_UPDATES = 20
GAP_PERIODS = 3.0
MAX_GAP = 0.20
STUCK_PERIODS = 20.0
"""Limits of DEFINITIONS, section Energy: updates of a window; a gap in units of the larger of
sensor and reading period; the share of the window that gaps may sum to; periods after which a
counter that stands still is stuck."""

EnergyMethod = Literal["counter", "trapezoid", "constant", "none"]
"""How joules follow from samples; `none` where there are no samples."""

_UNREAD_EDGE = 0.01
"""Share of the window that a counter may be extended over beyond its last reading."""


@dataclass(frozen=True, slots=True)
class WindowEnergy:
    """Energy of a window in joules, or the reason why it is refused."""

    energy_j: float | None
    reason: NullReason | None
    method: EnergyMethod
    error_rel: float | None = None
    """Bound of sensor class, aliasing, gaps and edges together (`energy_bound`); None where there
    is none, see `error_reason`."""
    updates: int = 0
    """Of the sensor in the window, by its period where that is known, else changes of value."""
    largest_gap_s: float = 0.0
    """Longest time without a sample."""
    gap_s: float = 0.0
    """Sum of the gaps."""
    error_reason: NullReason | None = None
    """Why joules that are known have no bound."""


def window_energy(
    samples: PowerSamples | None,
    meter: MeterInfo | None,
    start_s: float,
    end_s: float,
    least_w: float = 0.0,
) -> WindowEnergy:
    """Energy drawn between two times of the samples' clock, under the rules of refusal. least_w:
    the least that the unit draws (idle) as this meter shows it, which bounds what it did not see.
    """
    if meter is None or samples is None or not len(samples.time_s):
        return WindowEnergy(None, NullReason.NOT_MEASURED, "none")
    window = end_s - start_s
    if window <= 0:
        return WindowEnergy(None, NullReason.ZERO_DENOMINATOR, "none")
    if meter.source in ("declared", "assumed"):
        power = samples.power_w[np.isfinite(samples.power_w)]
        if not len(power):
            return WindowEnergy(None, NullReason.NOT_MEASURED, "constant")
        stated = None if meter.error_rel is not None else NullReason.ERROR_NOT_STATED
        joules = float(power.mean()) * window
        return WindowEnergy(joules, None, "constant", meter.error_rel, error_reason=stated)
    if int(np.isfinite(samples.energy_j).sum()) >= 2:
        return _by_counter(samples, meter, start_s, end_s, least_w)
    return _by_trapezoid(samples, meter, start_s, end_s, least_w)


def energy_at(samples: PowerSamples, meter: MeterInfo, times_s: Floats) -> Floats:
    """Cumulative energy in joules at given times, from an arbitrary zero.

    The same curve that `window_energy` takes its difference from, so that parts of a window sum
    to the whole. Beyond the samples the nearest power holds.
    """
    if meter.source in ("declared", "assumed"):
        return float(samples.power_w[np.isfinite(samples.power_w)].mean()) * times_s
    counted = np.isfinite(samples.energy_j)
    if int(counted.sum()) >= 2:
        return _extended(samples.time_s[counted], samples.energy_j[counted], times_s)
    good = np.isfinite(samples.power_w)
    time, power = samples.time_s[good], samples.power_w[good]
    steps = np.concatenate(([0.0], np.cumsum(np.diff(time) * (power[1:] + power[:-1]) / 2)))
    at = np.clip(np.searchsorted(time, times_s, side="right") - 1, 0, max(len(time) - 2, 0))
    inside = np.clip(times_s, time[0], time[-1])
    power_at = np.interp(inside, time, power)
    base = steps[at] + (inside - time[at]) * (power[at] + power_at) / 2
    return base + (times_s - inside) * power_at


def _by_counter(
    samples: PowerSamples, meter: MeterInfo, start_s: float, end_s: float, least_w: float
) -> WindowEnergy:
    good = np.isfinite(samples.energy_j)
    time, energy = samples.time_s[good], samples.energy_j[good]
    window, period = end_s - start_s, meter.update_period_s
    inside = (time >= start_s) & (time <= end_s)
    changes = int((np.diff(energy[inside]) != 0).sum())
    updates = _updates(meter, window, changes)
    largest = _largest_gap(time, start_s, end_s)
    # A counter loses nothing between two readings: only where W begins and ends is it a matter of
    # when it was read.
    brackets = [_bracket(time, at) for at in (start_s, end_s)]
    least = _least_gap(meter, time[inside])
    inner = [min(b, end_s) - max(a, start_s) for a, b in brackets if b - a > least]
    gap_s = float(sum(inner))

    def refused(reason: NullReason) -> WindowEnergy:
        return WindowEnergy(None, reason, "counter", None, updates, largest, gap_s)

    if (np.diff(energy) < 0).any():
        return refused(NullReason.COUNTER_BACKWARDS)
    exact = meter.scope == "sim"  # a closed form: no sensor, no period
    if not exact and _standstill_s(time, energy, start_s, end_s) > _stuck_after(meter, window):
        return refused(NullReason.COUNTER_STUCK)
    if not exact and updates < MIN_UPDATES:
        return refused(NullReason.COUNTER_TOO_COARSE)
    unread = max(time[0] - start_s, end_s - time[-1], 0.0)
    if unread > max(period, _UNREAD_EDGE * window) or gap_s > MAX_GAP * window:
        return refused(NullReason.POWER_GAPS)
    ends = _extended(time, energy, np.array([start_s, end_s]))
    joules = float(ends[1] - ends[0])
    bound = counter_bound(
        meter, time, energy, (start_s, end_s), (float(ends[0]), float(ends[1])), least_w
    )
    return WindowEnergy(
        joules, None, "counter", bound.error_rel, updates, largest, gap_s, bound.reason
    )


def _by_trapezoid(
    samples: PowerSamples, meter: MeterInfo, start_s: float, end_s: float, least_w: float
) -> WindowEnergy:
    good = np.isfinite(samples.power_w)
    time, power = samples.time_s[good], samples.power_w[good]
    window = end_s - start_s
    inside = (time >= start_s) & (time <= end_s)
    seen = power[inside]
    changes = int((np.diff(seen) != 0).sum()) + (1 if len(seen) else 0)
    # What was not read was not seen, however often the sensor changed.
    updates = min(_updates(meter, window, changes), len(seen))
    largest = _largest_gap(time, start_s, end_s) if len(time) else window
    least = _least_gap(meter, time[inside])
    edges = np.concatenate(([start_s], time[inside], [end_s]))
    spans = np.diff(edges)
    gap_s = float(spans[spans > least].sum())

    def refused(reason: NullReason) -> WindowEnergy:
        return WindowEnergy(None, reason, "trapezoid", None, updates, largest, gap_s)

    if updates < MIN_UPDATES:
        return refused(NullReason.POWER_TOO_FEW_UPDATES)
    if gap_s > MAX_GAP * window:
        return refused(NullReason.POWER_GAPS)
    cumulative = energy_at(samples, meter, edges)
    joules = float(cumulative[-1] - cumulative[0])
    bound = watts_bound(meter, time, power, (start_s, end_s), joules, least, least_w)
    return WindowEnergy(
        joules, None, "trapezoid", bound.error_rel, updates, largest, gap_s, bound.reason
    )


def _updates(meter: MeterInfo, window_s: float, changes: int) -> int:
    """Updates of the sensor in a window: by its period where that is known, since a steady device
    repeats its watts; else the changes of value that were seen."""
    if meter.period_known and meter.update_period_s > 0:
        return int(window_s / meter.update_period_s + 1e-9)
    return changes


def _least_gap(meter: MeterInfo, times: Floats) -> float:
    """Seconds from which a stretch between readings is a gap. The reading period is the meter's
    own; where a record does not hold it, the median of what was seen."""
    reading = meter.reading_period_s
    if reading is None:
        reading = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    return GAP_PERIODS * max(meter.update_period_s, reading)


def _stuck_after(meter: MeterInfo, window_s: float) -> float:
    """Seconds of standstill that no working counter shows: 20 of its periods, or the whole window
    where it has none."""
    period = meter.update_period_s
    return STUCK_PERIODS * period * (1 + 1e-9) if period > 0 else 0.999 * window_s


def _standstill_s(time: Floats, energy: Floats, start_s: float, end_s: float) -> float:
    """Longest time in the window over which all readings of the counter were the same."""
    inside = (time >= start_s) & (time <= end_s)
    times, values = time[inside], energy[inside]
    if len(times) < 2:
        return 0.0
    first = np.concatenate(([True], np.diff(values) != 0))
    begins = times[first]
    ends = times[np.append(np.flatnonzero(first)[1:] - 1, len(times) - 1)]
    return float((ends - begins).max())


def _bracket(time: Floats, at_s: float) -> tuple[float, float]:
    """Times of the readings around a moment; twice the moment itself where one is missing."""
    after = int(np.searchsorted(time, at_s, side="left"))
    if after == len(time) or time[after] == at_s or after == 0:
        return at_s, at_s
    return float(time[after - 1]), float(time[after])


def _largest_gap(time: Floats, start_s: float, end_s: float) -> float:
    """Longest stretch of the window without a sample, the edges included."""
    inside = time[(time > start_s) & (time < end_s)]
    return float(np.diff(np.concatenate(([start_s], inside, [end_s]))).max())


def _extended(time: Floats, energy: Floats, at: Floats) -> Floats:
    """Linear interpolation that continues with the mean slope beyond the samples."""
    values = np.interp(at, time, energy)
    if time[-1] > time[0]:
        mean = (energy[-1] - energy[0]) / (time[-1] - time[0])
        values = values + np.where(at < time[0], (at - time[0]) * mean, 0.0)
        values = values + np.where(at > time[-1], (at - time[-1]) * mean, 0.0)
    return np.asarray(values, dtype=np.float64)
