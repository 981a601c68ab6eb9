"""Find out what a sensor is: rest, then steps of load, and what its readings tell of it.

All meters that one load moves are read at once. First idle; then a few long steps, which show how
slowly the sensors answer; then many steps of random length, as short as that allows, so that no
rhythm of the load is taken for the sensor's.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from chipmark.engine.contract import Clock
from chipmark.meters.calibrate_estimates import (
    TOO_FAST,
    Edge,
    Estimate,
    averaging,
    changed_share,
    idle_by_counter,
    idle_power,
    reading_period,
    resolution,
    response,
    step_by_counter,
    update_period,
)
from chipmark.meters.calibration import Calibration, Figure
from chipmark.meters.contract import Meter, PowerSamples
from chipmark.meters.poll import read_at_least_every

F64 = NDArray[np.float64]
Tell = Callable[[str], None]
"""Hears what is being done now."""

IDLE_S = 30.0
IDLE_UPDATES = 20
_LONG_S = (6.0, 10.0)
_LONG_STEPS = 3
_SETTLES = 0.7
_MOST_W, _MOST_J = 1e7, 1e15
_QUICK_IDLE_S = 20.0
QUICK_S = 0.002
"""Seconds between readings while the sensor's rhythm is looked for."""
_SHORT_S = 0.4
_LONGEST_S = 10.0
STEPS_S = 60.0
"""Seconds that the short steps take at least, and `MOST_STEPS` at most."""
MOST_STEPS = 60


class PowerLoad(Protocol):
    """Work that moves power."""

    name: str

    def work(self, seconds: float) -> tuple[float, float]:
        """Work for about so long; returns start and end on the clock of the meters."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds of idle and of short steps; `seed` draws the lengths of steps."""

    idle_s: float = IDLE_S
    steps_s: float = STEPS_S
    seed: int = 0


class _Recording:
    """What several meters read, stretch by stretch."""

    def __init__(self, meters: Sequence[Meter]) -> None:
        self._meters = meters
        self.idle: list[list[PowerSamples]] = [[] for _ in meters]
        self.steps: list[list[PowerSamples]] = [[] for _ in meters]
        self.edges: list[Edge] = []

    def read(self, what: Callable[[], None], into: list[list[PowerSamples]]) -> None:
        """Read all meters while `what` is done; they are stopped whatever it raises."""
        started: list[int] = []
        try:
            for number, meter in enumerate(self._meters):
                meter.start()
                started.append(number)
            what()
        finally:
            taken = {number: self._meters[number].stop() for number in started}
        for number, samples in taken.items():
            into[number].append(samples)

    def quickly(self, what: Callable[[], None]) -> None:
        """As `read`, as often as the sensors answer; not for idle, since it takes power itself."""
        with read_at_least_every(QUICK_S):
            self.read(what, self.steps)


@dataclass(frozen=True, slots=True)
class _Series:
    """One value of a meter over time."""

    time_s: F64
    value: F64

    @staticmethod
    def of(parts: Sequence[PowerSamples], counter: bool) -> _Series:
        if not parts:
            return _Series(np.zeros(0), np.zeros(0))
        time_s = np.concatenate([p.time_s for p in parts])
        value = np.concatenate([p.energy_j if counter else p.power_w for p in parts])
        # What no sensor reads is left out: printed once, it must not be taken for its range.
        with np.errstate(invalid="ignore"):
            good = np.isfinite(value) & (value >= 0) & (value < (_MOST_J if counter else _MOST_W))
        time_s, value = time_s[good], value[good]
        later = np.diff(time_s, prepend=-np.inf) > 0
        return _Series(time_s[later], value[later])


def calibrate(
    meters: Sequence[Meter],
    load: PowerLoad | None,
    clock: Clock,
    tell: Tell = lambda text: None,
    plan: Plan = Plan(),
    no_load: str = "no load was run",
) -> list[Found]:
    """What is found of each meter, in their order. Takes minutes on a real clock.

    load: what moves their power, None for idle alone; then `no_load` says why.
    Raises ChipmarkError where a meter cannot be read or the load fails.
    """
    recording = _Recording(meters)
    draw = random.Random(plan.seed)
    tell(f"idle for {plan.idle_s:.0f} s")
    recording.read(lambda: _rest(clock, plan.idle_s), recording.idle)
    if load is not None:
        tell(f"long steps of load, by {load.name}")
        lengths = [draw.uniform(*_LONG_S) for _ in range(2 * _LONG_STEPS)]
        recording.quickly(lambda: _steps(recording, load, clock, lengths))
        width = _width(recording)
        if width is not None:
            lengths = _lengths(draw, width, plan.steps_s)
            tell(f"{len(lengths) // 2} steps of load in {sum(lengths):.0f} s, by {load.name}")
            recording.quickly(lambda: _steps(recording, load, clock, lengths))
    else:
        tell(f"idle for {_QUICK_IDLE_S:.0f} s, read as often as it can be")
        recording.quickly(lambda: _rest(clock, _QUICK_IDLE_S))
    longest = max((_period(recording, i).value or 0.0 for i in range(len(meters))), default=0.0)
    missing = IDLE_UPDATES * longest * 1.05 - plan.idle_s
    if missing > 0:
        tell(f"idle for {missing:.0f} s more: the sensor changes every {longest:.2g} s")
        # What the load did must have left the averaging window.
        _rest(clock, min(2 * longest + 4, _LONGEST_S))
        recording.read(lambda: _rest(clock, missing), recording.idle)
    return [_found(recording, i, load, no_load) for i in range(len(meters))]


@dataclass(frozen=True, slots=True)
class Found:
    """What is found of one meter; see `Calibration`."""

    idle_w: Estimate
    load_w: Estimate
    update_period_s: Estimate
    averaging_s: Estimate
    lag_s: Estimate
    resolution_w: Estimate
    resolution_factor: float | None
    load: str
    readings: int
    reading_period_s: float

    def calibration(self, meter: Meter, driver: str, made_unix_s: float) -> Calibration:
        """As it is stored, with what it holds for."""
        info = meter.info
        return Calibration(
            meter=info.name,
            covers=info.covers,
            scope=info.scope,
            source=info.source,
            driver=driver,
            made_unix_s=made_unix_s,
            load=self.load,
            idle_w=_figure(self.idle_w),
            load_w=_figure(self.load_w),
            update_period_s=_figure(self.update_period_s),
            averaging_s=_figure(self.averaging_s),
            lag_s=_figure(self.lag_s),
            resolution_w=_figure(self.resolution_w),
            resolution_factor=self.resolution_factor,
            readings=self.readings,
            reading_period_s=self.reading_period_s,
        )


def _figure(found: Estimate) -> Figure:
    return Figure(value=found.value, scatter=found.scatter, reason=found.reason)


def _rest(clock: Clock, seconds: float) -> None:
    clock.sleep_until(clock.now() + seconds)


def _steps(recording: _Recording, load: PowerLoad, clock: Clock, lengths: Sequence[float]) -> None:
    """Rest and work in turn; ends with rest."""
    for number in range(0, len(lengths) - 1, 2):
        _rest(clock, lengths[number])
        start, end = load.work(lengths[number + 1])
        recording.edges += [Edge(start, True), Edge(end, False)]
    _rest(clock, lengths[0])


def _lengths(draw: random.Random, width: float, seconds: float) -> list[float]:
    """Lengths of rests and works, long enough that a sensor which needs `width` settles."""
    least = min(max(_SHORT_S, 2.5 * width), _LONGEST_S)
    lengths: list[float] = []
    while (sum(lengths) < seconds and len(lengths) < 2 * MOST_STEPS) or len(lengths) % 2:
        lengths.append(draw.uniform(least, 2 * least))
    return lengths


def _counts(parts: Sequence[PowerSamples]) -> bool:
    """Whether the meter is a counter, whose joules are what is integrated."""
    return sum(int(np.isfinite(p.energy_j).sum()) for p in parts) >= 2


def _period(recording: _Recording, number: int) -> Estimate:
    parts = [*recording.idle[number], *recording.steps[number]]
    series = _Series.of(parts, _counts(parts))
    return update_period(series.time_s, series.value)


def _width(recording: _Recording) -> float | None:
    """Seconds that the slowest sensor needs to show a whole step; None where none shows any."""
    widths = []
    for parts in recording.steps:
        series = _Series.of(parts, False)
        if _counts(parts):
            widths.append(0.0)
            continue
        if len(series.time_s) < 2:
            continue
        seen, _ = response(series.time_s, series.value, recording.edges)
        if seen is not None:
            widths.append(sum(averaging(seen, max(reading_period(series.time_s), 1e-3))))
    return max(widths, default=None)


def _found(recording: _Recording, number: int, load: PowerLoad | None, no_load: str) -> Found:
    idle, steps = recording.idle[number], recording.steps[number]
    parts = [*idle, *steps]
    counter = _counts(parts)
    whole, rest = _Series.of(parts, counter), _Series.of(idle, counter)
    refused = ""
    if len(whole.time_s) < 2 or len(rest.time_s) < 2:
        refused = "the sensor gave fewer than two readings"
    elif counter and (np.diff(whole.value) < 0).any():
        refused = "the counter went backwards"
    if refused:
        nothing = Estimate(None, reason=refused)
        name = load.name if load else ""
        return Found(
            nothing, nothing, nothing, nothing, nothing, nothing, None, name, len(whole.time_s), 0.0
        )
    period = update_period(whole.time_s, whole.value)
    grid = resolution(whole.value)
    step, factor = grid.step, grid.factor
    if counter:
        watts = idle_by_counter(rest.time_s, rest.value)
        said = "" if step.value is None else f", in steps of {step.value:.3g} J"
        step, factor = Estimate(None, reason=f"it counts joules{said}"), None
        window = lag = Estimate(None, reason="a counter adds up and averages over nothing")
        moved = _moved(_Series.of(steps, counter), recording.edges, no_load)
    else:
        watts = idle_power(rest.time_s, rest.value, period.value, grid.bound)
        window, lag, moved = _answer(_Series.of(steps, False), recording.edges, period, no_load)
    return Found(
        idle_w=watts,
        load_w=moved,
        update_period_s=period,
        averaging_s=window,
        lag_s=lag,
        resolution_w=step,
        resolution_factor=factor,
        load=load.name if load else "",
        readings=len(whole.time_s),
        reading_period_s=reading_period(whole.time_s),
    )


def _moved(series: _Series, edges: Sequence[Edge], no_load: str) -> Estimate:
    """Watts of a step by a counter."""
    if not edges or len(series.time_s) < 2:
        return Estimate(None, reason=no_load)
    return step_by_counter(series.time_s, series.value, edges)


def _answer(
    series: _Series, edges: Sequence[Edge], period: Estimate, no_load: str
) -> tuple[Estimate, Estimate, Estimate]:
    """Averaging window, lag, and the watts of a step."""
    if not edges or len(series.time_s) < 2:
        nothing = Estimate(None, reason=no_load)
        return nothing, nothing, nothing
    seen, why = response(series.time_s, series.value, edges)
    if seen is None:
        nothing = Estimate(None, reason=why)
        return nothing, nothing, nothing
    moved = Estimate(seen.step_w)
    reading, hold_s = reading_period(series.time_s), period.value
    if hold_s is None and changed_share(series.time_s, series.value) > TOO_FAST:
        hold_s = 0.0  # each reading is a new one
    if hold_s is None:
        total = sum(averaging(seen, max(reading, 1e-3)))
        text = f"its period is not known; it shows a whole step after {total:.2g} s"
        return Estimate(None, reason=text), Estimate(None, reason=text), moved
    window, lag = averaging(seen, hold_s)
    shortest = min(b.time_s - a.time_s for a, b in pairwise(edges))
    if window + lag + hold_s > _SETTLES * shortest:
        text = f"it does not settle within the steps of load, of {shortest:.2g} s and more"
        return Estimate(None, reason=text), Estimate(None, reason=text), moved
    half = len(edges) // 4 * 2
    ends = (edges[:half], edges[half:])
    middle = edges[half].time_s
    others = []
    for part, inside in zip(ends, (series.time_s < middle, series.time_s >= middle), strict=True):
        found, _ = response(series.time_s[inside], series.value[inside], part)
        if found is not None:
            others.append(averaging(found, hold_s))
    spread = [abs(a - b) / 2 for a, b in zip(*others, strict=True)] if len(others) == 2 else []
    # Nothing is seen that is finer than what the times of readings are.
    errors = [max(one, reading) for one in spread] or [None, None]
    return Estimate(window, errors[0]), Estimate(lag, errors[1]), moved
