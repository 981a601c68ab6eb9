"""Readings over a simulated device whose power may pulse: of a meter that is polled, and of an
exact counter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chipmark.backends.sim.power_curve import PowerCurve, launches, modulated
from chipmark.backends.sim.sensors import Readings, Sensor
from chipmark.backends.sim.spec import SimSpec

_KEY = 0x706F6C6C


def polled_power(
    spec: SimSpec, segments: Sequence[tuple[float, float, float]], now_s: float
) -> Readings:
    """(time_s, energy_j, power_w) once every `spec.poll_s`, from second 0 to after `now_s`.

    segments: (start_s, end_s, watts) of the launches, in order. `energy_j` is NaN: such a meter
    has no counter. Moments are drawn evenly within each period: a meter that is read at even ones
    and a load in pulses may be in step, and then no reading shows it.
    """
    curve = power_curve(spec, segments, now_s)
    sensor = Sensor(
        "watts", spec.sensor_s, spec.sensor_s, read_period_s=spec.poll_s, drawn=True, key=_KEY
    )
    return sensor.readings(curve, 0.0, now_s + 2 * (spec.poll_s + spec.sensor_s))


def counted_power(
    spec: SimSpec, segments: Sequence[tuple[float, float, float]], now_s: float
) -> Readings:
    """(time_s, energy_j, power_w) at every change of power from second 0 to after `now_s`.

    `energy_j` is the exact integral, linear in between as power holds until the next change;
    `power_w` is NaN, as a counter has no watts of the moment.
    """
    curve = power_curve(spec, segments, now_s)
    time_s = curve.knots_s
    return time_s, curve.energy(time_s), np.full(time_s.size, np.nan)


def power_curve(
    spec: SimSpec, segments: Sequence[tuple[float, float, float]], now_s: float
) -> PowerCurve:
    """The power of the device in closed form, pulses included, from second 0 to after `now_s`."""
    end_s = now_s + 2 * (spec.poll_s + spec.sensor_s)
    curve = launches(segments, spec.idle_w, end_s)
    if not spec.pulse_s:
        return curve
    busy = launches([(start, end, 1.0) for start, end, _ in segments], 0.0, end_s)
    return modulated(curve, busy, spec.pulse_s, spec.pulse_depth)
