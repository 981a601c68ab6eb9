"""A simulated power sensor in closed form, on any clock: `--meter sim:pulsed` and the like.

Its watts are the mean of the true power over the averaging window that ends `lag_s` before an
update, with noise and rounded to the resolution; an update holds until the next one. Nothing runs
in between: `stop` works out what would have been read since `start`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from chipmark.engine.clock import MonotonicClock
from chipmark.engine.contract import Clock
from chipmark.errors import UnknownNameError, UsageError
from chipmark.meters.contract import MeterInfo, PowerSamples

F64 = NDArray[np.float64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class SensorSpec:
    """What a simulated sensor is. Seconds, watts, joules."""

    update_period_s: float = 0.1
    averaging_s: float = 0.0
    """Window that its watts are a mean over; 0 for those of the moment."""
    lag_s: float = 0.0
    resolution_w: float = 1.0
    noise_w: float = 0.5
    """Standard deviation of each update."""
    idle_w: float = 80.0
    load_w: float = 300.0
    counter_j: float = 0.0
    """Step of an energy counter; 0 for a sensor that has only watts."""
    reading_period_s: float = 0.002
    phase_s: float = 0.0
    """When an update is made, on the clock."""
    seed: int = 1

    def __post_init__(self) -> None:
        """Raises UsageError for a value that no sensor has."""
        for field in fields(self):
            value = getattr(self, field.name)
            least = 1e-6 if field.name in ("update_period_s", "reading_period_s") else 0.0
            if not least <= value < 1e6:
                raise UsageError(f"{field.name} of a simulated sensor is {value}")


SENSORS: Mapping[str, SensorSpec] = {
    "pulsed": SensorSpec(),
    "averaged": SensorSpec(averaging_s=1.0, noise_w=1.0),
    "counter": SensorSpec(update_period_s=0.05, counter_j=0.001, resolution_w=0.001),
    "tool": SensorSpec(update_period_s=1.0, lag_s=0.3, noise_w=2.0, reading_period_s=0.2),
    "constant": SensorSpec(resolution_w=1000.0, noise_w=0.0),
}
"""`pulsed`: watts of the moment every 0.1 s. `averaged`: the same over one second, as NVML gives
them. `counter`: joules every 50 ms. `tool`: a vendor's tool whose sensor changes every second.
`constant`: one that always says the same."""


class SimulatedLoad:
    """Work of a simulated device: what `edges` holds is what its sensor sees."""

    name = "a simulated load"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.edges: list[tuple[float, float]] = []
        """Start and end of each stretch of work."""

    def work(self, seconds: float) -> tuple[float, float]:
        """Work so long, by the clock."""
        start_s = self._clock.now()
        # Known to the sensor from its start: who reads in between sees it.
        self.edges.append((start_s, start_s + seconds))
        self._clock.sleep_until(start_s + seconds)
        return self.edges[-1]


class SimulatedSensor:
    """The meter of a simulated device. `load` is what it does."""

    def __init__(self, name: str, spec: SensorSpec, clock: Clock | None = None) -> None:
        self._name, self._spec = name, spec
        self.clock: Clock = clock or MonotonicClock()
        self.load = SimulatedLoad(self.clock)
        self._start_s = self.clock.now()
        self.info = MeterInfo(
            name=f"sim:{name}",
            source="counter" if spec.counter_j else "polled",
            scope="sim",
            method="closed form of a simulated sensor",
            update_period_s=spec.update_period_s,
            covers="one simulated card",
            error_rel=0.0,
            period_known=False,
            reading_period_s=spec.reading_period_s,
        )

    def on(self, clock: Clock) -> SimulatedSensor:
        """The same sensor on another clock."""
        return SimulatedSensor(self._name, self._spec, clock)

    def start(self) -> None:
        """Begin at the clock's time."""
        self._start_s = self.clock.now()

    def stop(self) -> PowerSamples:
        """What would have been read from the start until now."""
        spec = self._spec
        now = self.clock.now()
        number = int((now - self._start_s) / spec.reading_period_s) + 1
        time_s = self._start_s + spec.reading_period_s * np.arange(number, dtype=np.float64)
        update = np.floor((time_s - spec.phase_s) / spec.update_period_s + 1e-9)
        first = update[0]
        updates = np.arange(first, update[-1] + 1)
        power_w, energy_j = self._at(updates)
        at = (update - first).astype(np.int64)
        return PowerSamples(time_s, energy_j[at], power_w[at])

    def _at(self, updates: F64) -> tuple[F64, F64]:
        """Watts and joules of updates by their numbers; NaN joules without a counter."""
        spec = self._spec
        end = spec.phase_s + updates * spec.update_period_s - spec.lag_s
        rise = spec.load_w - spec.idle_w
        if spec.averaging_s:
            share = (self._busy(end) - self._busy(end - spec.averaging_s)) / spec.averaging_s
        else:
            share = self._working(end)
        watts = spec.idle_w + rise * share + spec.noise_w * _normal(updates, spec.seed)
        if spec.resolution_w:
            watts = np.round(watts / spec.resolution_w) * spec.resolution_w
        energy = np.full(len(updates), np.nan)
        if spec.counter_j:
            joules = spec.idle_w * (end - spec.phase_s) + rise * self._busy(end)
            energy = np.floor(joules / spec.counter_j) * spec.counter_j
        return np.maximum(watts, 0.0), energy

    def _busy(self, time_s: F64) -> F64:
        """Seconds of work before each time."""
        busy = np.zeros(len(time_s))
        for start, end in self.load.edges:
            busy += np.clip(time_s, start, end) - start
        return busy

    def _working(self, time_s: F64) -> F64:
        at = np.zeros(len(time_s))
        for start, end in self.load.edges:
            at += (time_s >= start) & (time_s < end)
        return at


def simulated_sensor(target: str, options: Mapping[str, str]) -> SimulatedSensor:
    """The sensor of `--meter sim:TARGET,FIELD=VALUE`. UnknownNameError, UsageError."""
    if target not in SENSORS:
        raise UnknownNameError("simulated sensor", target, SENSORS)
    known = [field.name for field in fields(SensorSpec)]
    values: dict[str, float | int] = {}
    for key, text in options.items():
        if key not in known:
            raise UnknownNameError(f"option of --meter sim:{target}", key, known)
        try:
            values[key] = int(text) if key == "seed" else float(text)
        except ValueError as error:
            raise UsageError(f"--meter sim:{target},{key}={text}: not a number") from error
    return SimulatedSensor(target, replace(SENSORS[target], **values))  # type: ignore[arg-type]


def _normal(number: F64, seed: int) -> F64:
    """Standard normal draws that depend on their numbers and the seed alone (splitmix64 and
    Box-Muller), so that an update is the same in every call."""
    bits = number.astype(np.int64).astype(np.uint64) * np.uint64(2)
    first, second = (_uniform(bits + np.uint64(i), seed) for i in (0, 1))
    return np.asarray(np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second))


def _uniform(number: NDArray[np.uint64], seed: int) -> F64:
    """Uniform in (0, 1]."""
    start = np.uint64((seed * 0xD1B54A32D192ED03 + 1) % (1 << 64))
    mixed = (number + start) * _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return ((mixed >> np.uint64(11)).astype(np.float64) + 1) * 2.0**-53
