"""Seeded cases of a load and a sensor in closed form, and the joules that were drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from chipmark.backends.sim.power_curve import PowerCurve, steps
from chipmark.backends.sim.sensors import Sensor
from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.metrics.energy import WindowEnergy, window_energy

LOADS = ("constant", "ramp", "pulses", "pulses in step", "steps", "jumps")
SENSORS = ("counter", "mean", "long mean", "odd mean", "part-time", "at a moment", "drawn moments")


def ramp(start_s: float, end_s: float, first_w: float, last_w: float) -> PowerCurve:
    """One straight line."""
    ends = np.array([start_s, end_s], np.float64)
    return PowerCurve(ends, np.array([first_w], np.float64), np.array([last_w], np.float64))


def pulses(
    start_s: float, end_s: float, *, period_s: float, duty: float, high_w: float, low_w: float,
    phase: float = 0.0,
) -> PowerCurve:  # fmt: skip
    """`high_w` over `duty` of each period, `low_w` over the rest; a period begins `phase` of one
    after a multiple of `period_s`."""
    first = math.floor(start_s / period_s - phase) - 1
    begins = (np.arange(first, math.ceil(end_s / period_s - phase) + 2) + phase) * period_s
    knots = np.stack((begins, begins + duty * period_s), axis=1).ravel()
    return steps(knots, np.resize([high_w, low_w], len(knots) - 1))


@dataclass(frozen=True)
class Case:
    """A window over a curve, the sensor that looks at it, and what a meter says of that sensor."""

    load: str
    kind: str
    curve: PowerCurve
    sensor: Sensor
    meter: MeterInfo
    start_s: float
    end_s: float
    least_w: float

    @property
    def true_j(self) -> float:
        return float(np.diff(self.curve.energy(np.array([self.start_s, self.end_s])))[0])

    @property
    def samples(self) -> PowerSamples:
        reach = 3 * (self.sensor.update_period_s + self.sensor.averaging_s)
        first, last = self.start_s - reach, self.end_s + reach
        return PowerSamples(*self.sensor.readings(self.curve, first, last))

    @property
    def measured(self) -> WindowEnergy:
        return window_energy(self.samples, self.meter, self.start_s, self.end_s, self.least_w)


def info(sensor: Sensor, **changes: object) -> MeterInfo:
    """What is known of a simulated sensor."""
    held = sensor.update_period_s or (sensor.read_period_s if sensor.kind == "watts" else 0.0)
    known = MeterInfo(
        name="simulated",
        source="counter" if sensor.kind == "counter" else "polled",
        scope="board",
        method="closed form",
        update_period_s=held,
        averaging_s=sensor.averaging_s if sensor.kind == "watts" else None,
        error_rel=abs(sensor.gain),
        reading_period_s=sensor.read_period_s,
        resolution_w=sensor.resolution if sensor.kind == "watts" else None,
        jittered=sensor.drawn,
    )
    return replace(known, **changes)  # type: ignore[arg-type]


def cases(seed: int, count: int) -> Iterator[Case]:
    """Cases of every load and every sensor, in turn, drawn from one seed."""
    draw = np.random.default_rng(seed)
    for number in range(count):
        kind = SENSORS[number % len(SENSORS)]
        load = LOADS[(number // len(SENSORS)) % len(LOADS)]
        yield _case(draw, load, kind)


def _case(draw: np.random.Generator, load: str, kind: str) -> Case:
    period = float(10 ** draw.uniform(-2, -0.5))
    sensor = _sensor(draw, kind, period)
    seconds = period * float(draw.uniform(22, 300))
    if kind == "drawn moments":
        seconds = max(seconds, sensor.read_period_s * 100)
    start_s = float(draw.uniform(0, 3))
    idle, top = 60.0, float(draw.uniform(150, 700))
    curve = _load(draw, load, start_s, seconds, idle, top, sensor)
    end_s = start_s + seconds
    if draw.random() < 0.3 and kind != "part-time":
        sensor = replace(sensor, gaps=_gaps(draw, start_s, seconds))
    shown = 1 + sensor.gain
    meter = info(sensor, cap_w=top * 1.02)
    if kind == "at a moment":
        meter = replace(meter, averaging_s=None)
    if draw.random() < 0.3:
        meter = replace(meter, resolution_w=None)
    return Case(load, kind, curve, sensor, meter, start_s, end_s, idle / shown)


def _sensor(draw: np.random.Generator, kind: str, period: float) -> Sensor:
    plain = Sensor(
        "counter" if kind == "counter" else "watts",
        period,
        phase=float(draw.random()),
        gain=float(draw.choice([0.0, 0.02, 0.05, -0.02, -0.05])),
        resolution=float(draw.choice([0.0, 0.001, 1.0])),
        read_period_s=period * float(draw.choice([0.1, 0.25, 0.5, 0.9])),
        read_phase=float(draw.random()),
        drawn=bool(draw.random() < 0.5),
        key=int(draw.integers(1 << 62)),
    )
    if kind == "mean":
        return replace(plain, averaging_s=period)
    if kind == "long mean":
        return replace(plain, averaging_s=period * int(draw.integers(2, 12)))
    if kind == "odd mean":
        return replace(plain, averaging_s=period * float(draw.uniform(1, 6)))
    if kind == "part-time":
        return replace(plain, averaging_s=period * float(draw.uniform(0.1, 0.9)))
    if kind == "at a moment":
        return replace(plain, drawn=False)
    if kind == "drawn moments":
        return replace(plain, update_period_s=0.0, read_period_s=period / 10, drawn=True)
    return plain


def _load(
    draw: np.random.Generator, load: str, start_s: float, seconds: float, idle: float, top: float,
    sensor: Sensor,
) -> PowerCurve:  # fmt: skip
    first, last = start_s - 10 * sensor.averaging_s - 5, start_s + seconds + 5
    if load == "constant":
        return steps([first, last], [draw.uniform(idle, top)])
    if load == "ramp":
        ends = draw.permutation([draw.uniform(idle, top), draw.choice([idle, top])])
        return ramp(start_s, start_s + seconds, float(ends[0]), float(ends[1]))
    if load == "steps":
        knots = np.sort(draw.uniform(first, last, int(draw.integers(3, 60))))
        return steps(knots, draw.uniform(idle, top, len(knots) - 1))
    if load == "jumps":
        # Between idle and the cap, at the edges of the window too: nothing is further off.
        inner = draw.uniform(start_s, start_s + seconds, int(draw.integers(1, 40)))
        knots = np.unique([first, start_s, *inner, start_s + seconds, last])
        return steps(knots, draw.choice([idle, 1.02 * top], len(knots) - 1))
    beat = float(10 ** draw.uniform(-2, np.log10(2)))
    if load == "pulses in step":
        of = sensor.update_period_s if draw.random() < 0.6 else 0.0
        beat = max((of or sensor.read_period_s) * float(draw.choice([0.5, 1, 1, 2, 3])), 1e-3)
    return pulses(
        first, last, period_s=beat, duty=float(draw.uniform(0.02, 0.98)),
        high_w=top, low_w=float(draw.uniform(idle, top)), phase=float(draw.random()),
    )  # fmt: skip


def _gaps(
    draw: np.random.Generator, start_s: float, seconds: float
) -> tuple[tuple[float, float], ...]:
    begins = start_s + draw.uniform(-0.05, 1, int(draw.integers(1, 4))) * seconds
    return tuple((float(at), float(at + draw.uniform(0, 0.06) * seconds)) for at in begins)
