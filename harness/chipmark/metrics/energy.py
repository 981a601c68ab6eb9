"""Joules of a window from a meter's samples: refused where they cannot carry the number.

By counter difference, else by trapezoid, interpolated at the edges of the window; a declared or
assumed power is a constant times the window. Gross is the headline; net takes idle power off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.metrics.events import Floats

MIN_UPDATES = 20
MAX_GAP = 0.20
IDLE_MIN_S = 30.0
IDLE_DRIFT = 0.05
"""Limits of DEFINITIONS, section Energy."""


@dataclass(frozen=True, slots=True)
class WindowEnergy:
    """Energy of a window in joules, or the reason why it is refused.

    method: `counter`, `trapezoid` or `constant`. error_rel bounds sensor class, aliasing, gaps
    and edges together; None where the sensor class has no known bound. updates: distinct values
    seen in the window; largest_gap_s: longest time without a sample.
    """

    energy_j: float | None
    reason: str
    method: str
    error_rel: float | None = None
    updates: int = 0
    largest_gap_s: float = 0.0


@dataclass(frozen=True, slots=True)
class IdlePower:
    """Power with the model loaded and no work, before and after; equal ends unless they differ
    by over 5 %. `reason` where it is not known."""

    low_w: float | None
    high_w: float | None
    reason: str = ""


def window_energy(
    samples: PowerSamples | None, meter: MeterInfo | None, start_s: float, end_s: float
) -> WindowEnergy:
    """Energy drawn between two times of the samples' clock, under the rules of refusal."""
    if meter is None or samples is None or not len(samples.time_s):
        return WindowEnergy(None, "not_measured", "none")
    window = end_s - start_s
    if window <= 0:
        return WindowEnergy(None, "zero_denominator", "none")
    if meter.source in ("declared", "assumed"):
        power = samples.power_w[np.isfinite(samples.power_w)]
        if not len(power):
            return WindowEnergy(None, "not_measured", "constant")
        return WindowEnergy(float(power.mean()) * window, "", "constant", meter.error_rel)
    if int(np.isfinite(samples.energy_j).sum()) >= 2:
        return _by_counter(samples, meter, start_s, end_s)
    return _by_trapezoid(samples, meter, start_s, end_s)


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


def idle_power(
    before: PowerSamples | None, after: PowerSamples | None, meter: MeterInfo | None
) -> IdlePower:
    """Idle power from the two idle stretches, each at least 30 s and 20 updates."""
    if meter is None or meter.source in ("declared", "assumed"):
        return IdlePower(None, None, "idle_missing")
    values = []
    for samples in (before, after):
        if samples is None or len(samples.time_s) < 2:
            return IdlePower(None, None, "idle_missing")
        start_s, end_s = float(samples.time_s[0]), float(samples.time_s[-1])
        if end_s - start_s < IDLE_MIN_S - 1e-6:
            return IdlePower(None, None, "idle_too_short")
        energy = window_energy(samples, meter, start_s, end_s)
        if energy.energy_j is None:
            return IdlePower(None, None, "idle_too_short")
        values.append(energy.energy_j / (end_s - start_s))
    low, high = min(values), max(values)
    if high - low <= IDLE_DRIFT * low:
        low = high = (low + high) / 2
    return IdlePower(low, high)


def net_energy(energy_j: float, idle: IdlePower, window_s: float) -> tuple[float, float] | None:
    """(low, high) of E_W - P_idle x W in joules; None where idle is unknown or net is negative."""
    if idle.low_w is None or idle.high_w is None:
        return None
    low, high = energy_j - idle.high_w * window_s, energy_j - idle.low_w * window_s
    return (low, high) if low >= 0 else None


def _by_counter(
    samples: PowerSamples, meter: MeterInfo, start_s: float, end_s: float
) -> WindowEnergy:
    good = np.isfinite(samples.energy_j)
    time, energy = samples.time_s[good], samples.energy_j[good]
    window, period = end_s - start_s, meter.update_period_s
    inside = (time >= start_s) & (time <= end_s)
    updates = int((np.diff(energy[inside]) != 0).sum())
    gap = _largest_gap(time, start_s, end_s)
    if (np.diff(energy) < 0).any():
        return WindowEnergy(None, "counter_backwards", "counter", None, updates, gap)
    if period > 0 and window / period < MIN_UPDATES:
        return WindowEnergy(None, "counter_too_coarse", "counter", None, updates, gap)
    # A counter loses nothing between two readings, so only unread edges count as gaps.
    edge = max(time[0] - start_s, end_s - time[-1], 0.0)
    if edge > max(period, 0.01 * window):
        return WindowEnergy(None, "power_gaps", "counter", None, updates, gap)
    ends = _extended(time, energy, np.array([start_s, end_s]))
    joules = float(ends[1] - ends[0])
    error = None
    if meter.error_rel is not None:
        # Each edge may be off by one update of the counter.
        error = meter.error_rel + 2 * (period + edge) / window
    return WindowEnergy(joules, "", "counter", error, updates, gap)


def _by_trapezoid(
    samples: PowerSamples, meter: MeterInfo, start_s: float, end_s: float
) -> WindowEnergy:
    good = np.isfinite(samples.power_w)
    time, power = samples.time_s[good], samples.power_w[good]
    window = end_s - start_s
    inside = (time >= start_s) & (time <= end_s)
    seen = power[inside]
    updates = int((np.diff(seen) != 0).sum()) + (1 if len(seen) else 0)
    gap = _largest_gap(time, start_s, end_s) if len(time) else window
    if updates < MIN_UPDATES:
        return WindowEnergy(None, "power_too_few_updates", "trapezoid", None, updates, gap)
    if gap > MAX_GAP * window:
        return WindowEnergy(None, "power_gaps", "trapezoid", None, updates, gap)
    ends = energy_at(samples, meter, np.array([start_s, end_s]))
    joules = float(ends[1] - ends[0])
    error = None
    if meter.error_rel is not None and joules > 0:
        # Between two samples the true curve may be anywhere between their values; the edges may
        # be smeared by one averaging window.
        step = np.abs(np.diff(power)) * np.diff(time) / 2
        near = (time[1:] > start_s) & (time[:-1] < end_s)
        smear = (meter.averaging_s or meter.update_period_s) * float(np.ptp(seen))
        error = meter.error_rel + (float(step[near].sum()) + smear) / joules
    return WindowEnergy(joules, "", "trapezoid", error, updates, gap)


def _largest_gap(time: Floats, start_s: float, end_s: float) -> float:
    """Longest stretch of the window without a sample, the edges included."""
    inside = time[(time > start_s) & (time < end_s)]
    return float(np.diff(np.concatenate(([start_s], inside, [end_s]))).max())


def _extended(time: Floats, energy: Floats, at: Floats) -> Floats:
    """Linear interpolation that goes on with the mean slope beyond the samples."""
    values = np.interp(at, time, energy)
    if time[-1] > time[0]:
        mean = (energy[-1] - energy[0]) / (time[-1] - time[0])
        values = values + np.where(at < time[0], (at - time[0]) * mean, 0.0)
        values = values + np.where(at > time[-1], (at - time[-1]) * mean, 0.0)
    return np.asarray(values, dtype=np.float64)
