"""Readings over a simulated device whose power may pulse: of a meter that is polled, and of an
exact counter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chipmark.backends.sim.spec import SimSpec

F64 = NDArray[np.float64]


def polled_power(
    spec: SimSpec, segments: Sequence[tuple[float, float, float]], now_s: float
) -> tuple[F64, F64, F64]:
    """(time_s, energy_j, power_w) every `spec.poll_s` from second 0 to after `now_s`.

    segments: (start_s, end_s, watts) of the launches, in order. `energy_j` is NaN: such a meter
    has no counter. Watts are those of the moment, pulses included.
    """
    time_s = np.arange(0.0, now_s + 2 * spec.poll_s, spec.poll_s)
    return time_s, np.full(time_s.size, np.nan), _watts(spec, segments, time_s)


def counted_power(
    spec: SimSpec, segments: Sequence[tuple[float, float, float]], now_s: float
) -> tuple[F64, F64, F64]:
    """(time_s, energy_j, power_w) at every change of power from second 0 to `now_s`.

    `energy_j` is the exact integral and linear in between; `power_w` is NaN, as a counter has no
    watts of the moment.
    """
    ends = np.array(segments, dtype=np.float64)[:, :2].ravel() if segments else np.zeros(0)
    edges = np.arange(0.0, now_s, spec.pulse_s / 2) if spec.pulse_s else np.zeros(0)
    time_s = np.unique(np.concatenate([[0.0, now_s], ends, edges]))
    watts = _watts(spec, segments, (time_s[1:] + time_s[:-1]) / 2)
    energy_j = np.concatenate([[0.0], np.cumsum(np.diff(time_s) * watts)])
    return time_s, energy_j, np.full(time_s.size, np.nan)


def _watts(spec: SimSpec, segments: Sequence[tuple[float, float, float]], time_s: F64) -> F64:
    """Watts at these moments, pulses included."""
    power_w = np.full(time_s.size, spec.idle_w)
    if segments:
        start, end, watts = np.array(segments, dtype=np.float64).T
        at = np.searchsorted(start, time_s, side="right") - 1
        busy = (at >= 0) & (time_s < end[np.maximum(at, 0)])
        power_w[busy] = watts[at[busy]] * _pulse(spec, time_s[busy])
    return power_w


def _pulse(spec: SimSpec, time_s: F64) -> F64:
    if not spec.pulse_s:
        return np.ones(time_s.size)
    first = (time_s / spec.pulse_s) % 1.0 < 0.5
    return np.where(first, 1 + spec.pulse_depth, 1 - spec.pulse_depth)
