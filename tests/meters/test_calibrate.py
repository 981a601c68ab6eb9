from __future__ import annotations

import math
import random
import warnings
from dataclasses import fields

import numpy as np
import pytest

from chipmark.engine.clock import VirtualClock
from chipmark.errors import ChipmarkError
from chipmark.meters.calibrate import Found, Plan, calibrate
from chipmark.meters.calibrate_estimates import Estimate, update_period
from chipmark.meters.calibration import Calibration
from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.meters.simulated_sensor import SensorSpec, SimulatedSensor


def drawn(seed: int) -> SensorSpec:
    """A sensor of the range that calibration must recover."""
    draw = random.Random(seed)
    period = 10 ** draw.uniform(-2, math.log10(2))
    idle = draw.uniform(20, 150)
    return SensorSpec(
        update_period_s=period,
        averaging_s=draw.choice([0, draw.uniform(0, 2), 10 ** draw.uniform(-2, math.log10(2))]),
        resolution_w=10 ** draw.uniform(-3, math.log10(5)),
        noise_w=draw.choice([0, 0.2, 1, 3]),
        lag_s=draw.choice([0, draw.uniform(0, 0.3)]),
        idle_w=idle,
        load_w=idle + draw.uniform(50, 400),
        phase_s=draw.uniform(0, period),
        seed=seed,
        reading_period_s=min(max(period / 5, 0.002), 0.05),
    )


def found_of(spec: SensorSpec, loaded: bool = True, start_s: float = 1000.0) -> Found:
    sensor = SimulatedSensor("test", spec, VirtualClock(start_s))
    return calibrate([sensor], sensor.load if loaded else None, sensor.clock)[0]


def faults(spec: SensorSpec, found: Found) -> list[str]:
    """What is wrong with what was found; a null without a reason is wrong too."""
    wrong = []

    def check(name: str, true: float, allowed: float) -> None:
        estimate = getattr(found, name)
        if estimate.value is None:
            if not estimate.reason:
                wrong.append(f"{name} has no reason")
        elif abs(estimate.value - true) > allowed:
            wrong.append(f"{name} {estimate.value} for {true}")

    check("update_period_s", spec.update_period_s, 0.05 * spec.update_period_s)
    window = max(0.15 * spec.averaging_s, spec.update_period_s)
    check("averaging_s", spec.averaging_s, window)
    check("lag_s", spec.lag_s, window)
    check("idle_w", spec.idle_w, 0.01 * spec.idle_w)
    step = spec.resolution_w
    check("resolution_w", step, step * ((found.resolution_factor or 1.0) * 1.001 - 1))
    return wrong


def recovered(seeds: range) -> dict[str, float]:
    """The share of sensors of which each quantity was found; asserts that none is wrong."""
    wrong, shares = [], dict.fromkeys(("update_period_s", "averaging_s", "resolution_w"), 0.0)
    for seed in seeds:
        spec = drawn(seed)
        found = found_of(spec, start_s=1000.0 + seed * 0.37)
        wrong += [f"{seed}: {text}" for text in faults(spec, found)]
        for name in shares:
            shares[name] += (getattr(found, name).value is not None) / len(seeds)
    assert not wrong, "\n".join(wrong)
    return shares


def test_sensors_are_recovered() -> None:
    shares = recovered(range(1000, 1006))
    assert shares["update_period_s"] >= 0.9
    assert shares["averaging_s"] >= 0.9


@pytest.mark.long
def test_hundreds_of_sensors_are_recovered() -> None:
    shares = recovered(range(300))
    # What is null is null with a reason; most must be found.
    assert shares["update_period_s"] >= 0.97
    assert shares["averaging_s"] >= 0.95
    assert shares["resolution_w"] >= 0.8


def test_a_constant_sensor_is_refused() -> None:
    found = found_of(SensorSpec(resolution_w=1000.0, noise_w=0.0))
    assert found.update_period_s.reason == "its value never changed"
    assert "0 W" in found.averaging_s.reason
    assert found.resolution_w.reason == "only 1 different values"
    assert found.idle_w.value is None


def test_a_load_that_moves_no_watts_is_refused() -> None:
    found = found_of(SensorSpec(load_w=80.2, noise_w=1.0, resolution_w=0.1))
    assert found.averaging_s.value is None
    assert "not told from the scatter" in found.averaging_s.reason
    assert found.update_period_s.value == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("window_s", [0.0, 0.8])
def test_of_a_sensor_that_is_asked_too_seldom_the_window_alone_is_seen(window_s: float) -> None:
    spec = SensorSpec(
        update_period_s=0.01, averaging_s=window_s, noise_w=2.0, reading_period_s=0.05
    )
    found = found_of(spec)
    assert found.update_period_s.value is None
    assert "shorter than it can be asked" in found.update_period_s.reason
    assert found.averaging_s.value == pytest.approx(window_s, abs=0.05)


def test_idle_alone_shows_what_noise_shows() -> None:
    found = found_of(SensorSpec(update_period_s=0.1, noise_w=1.0, resolution_w=0.25), loaded=False)
    assert found.update_period_s.value == pytest.approx(0.1, rel=0.05)
    assert found.resolution_w.value == pytest.approx(0.25)
    assert found.idle_w.value == pytest.approx(80, rel=0.01)
    assert found.averaging_s.reason == "no load was run"


def test_idle_that_the_steps_do_not_resolve_is_refused() -> None:
    spec = SensorSpec(averaging_s=1.0, noise_w=0.0, resolution_w=5.0, idle_w=82.4)
    found = found_of(spec)
    assert found.resolution_w.value == pytest.approx(5.0)
    assert found.idle_w.value is None
    assert found.idle_w.reason == "80 W, known to 2.5 W only"


def test_a_slow_sensor_is_read_for_twenty_updates() -> None:
    spec = SensorSpec(update_period_s=2.0, noise_w=1.0, resolution_w=0.1, reading_period_s=0.1)
    sensor = SimulatedSensor("test", spec, VirtualClock())
    told: list[str] = []
    found = calibrate([sensor], sensor.load, sensor.clock, told.append)[0]
    assert any("more: the sensor changes every 2 s" in text for text in told)
    assert found.idle_w.value == pytest.approx(80, rel=0.01)


def test_a_counter_has_a_period_and_no_window() -> None:
    found = found_of(SensorSpec(update_period_s=0.05, counter_j=0.001, resolution_w=0.001))
    assert found.update_period_s.value == pytest.approx(0.05, rel=0.01)
    assert found.idle_w.value == pytest.approx(80, rel=0.005)
    assert found.load_w.value == pytest.approx(220, rel=0.01)
    assert "adds up" in found.averaging_s.reason
    assert "steps of 0.001 J" in found.resolution_w.reason


def test_a_window_that_is_longer_than_the_steps_is_refused() -> None:
    found = found_of(SensorSpec(averaging_s=20.0))
    assert found.averaging_s.value is None
    assert found.averaging_s.reason


def test_meters_of_one_load_are_read_together() -> None:
    clock = VirtualClock()
    fast = SimulatedSensor("fast", SensorSpec(update_period_s=0.02), clock)
    slow = SimulatedSensor("slow", SensorSpec(update_period_s=0.5, averaging_s=1.5), clock)
    slow.load = fast.load
    first, second = calibrate([fast, slow], fast.load, clock)
    assert first.update_period_s.value == pytest.approx(0.02, rel=0.05)
    assert second.update_period_s.value == pytest.approx(0.5, rel=0.05)
    assert second.averaging_s.value == pytest.approx(1.5, abs=0.5)
    assert clock.now() < 200  # one load for both


def test_meters_are_stopped_where_the_load_fails() -> None:
    class Failing:
        name = "a load that fails"

        def work(self, seconds: float) -> tuple[float, float]:
            raise ChipmarkError("no such device")

    stopped = []

    class Watched(SimulatedSensor):
        def stop(self) -> PowerSamples:
            stopped.append(True)
            return super().stop()

    sensor = Watched("test", SensorSpec(), VirtualClock())
    with pytest.raises(ChipmarkError, match="no such device"):
        calibrate([sensor], Failing(), sensor.clock, plan=Plan(idle_s=1))
    assert len(stopped) == 2


def test_a_clock_that_wanders_is_seen_by_its_gaps() -> None:
    made = np.random.default_rng(5)
    updates = np.cumsum(0.1 * (1 + 0.04 * made.standard_normal(900)))
    time_s = np.arange(0.0, updates[-1], 0.01)
    value = made.normal(80, 3, 901)[np.searchsorted(updates, time_s)]
    found = update_period(time_s, value)
    assert found.value == pytest.approx(0.1, rel=0.05)
    assert update_period(time_s, np.round(value / 100)).value is None


def test_changes_without_a_rhythm_have_no_period() -> None:
    made = np.random.default_rng(6)
    moments = np.cumsum(made.exponential(0.5, 200))
    time_s = np.arange(0.0, moments[-1], 0.005)
    found = update_period(time_s, np.searchsorted(moments, time_s).astype(float))
    assert found.value is None
    assert "rhythm" in found.reason


class AnySensor:
    """Readings of any kind, as many as it likes."""

    info = MeterInfo("any", "polled", "board", "drawn", 0.1, covers="one card")

    def __init__(self, clock: VirtualClock, draw: random.Random) -> None:
        self._clock, self._draw, self._start_s = clock, draw, 0.0

    def start(self) -> None:
        self._start_s = self._clock.now()

    def stop(self) -> PowerSamples:
        draw, now = self._draw, self._clock.now()
        number = draw.choice([0, 1, 2, 3, 10, 200, 2000])
        made = np.random.default_rng(draw.randrange(1 << 30))
        time_s = np.sort(made.uniform(self._start_s, now, number))
        if draw.random() < 0.2:
            time_s = np.round(time_s)
        value = draw.choice([
            np.full(number, 80.0),
            np.zeros(number),
            made.normal(80, 5, number),
            np.where(made.random(number) < 0.02, 1e6, 80.0),
            np.where(made.random(number) < 0.5, np.nan, 80 + np.round(made.normal(0, 3, number))),
            made.normal(0, 1e300, number),
            np.full(number, np.inf),
            np.arange(number) / 10,
            made.choice([80.0, 90.0], number),
        ])  # fmt: skip
        nothing = np.full(number, np.nan)
        if draw.random() < 0.5:
            return PowerSamples(time_s, nothing, value)
        rising = draw.random() < 0.7
        joules = np.cumsum(np.nan_to_num(np.clip(value, 0, 1e300)) / 2000) if rising else value
        return PowerSamples(time_s, joules, nothing)


def check_any(seeds: range) -> None:
    """Whatever is read, each quantity is a finite number or null with a reason."""
    for seed in seeds:
        draw = random.Random(seed)
        clock = VirtualClock(draw.uniform(0, 1e5))
        load = SimulatedSensor("test", SensorSpec(), clock).load if draw.random() < 0.7 else None
        sensor = AnySensor(clock, draw)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = calibrate([sensor], load, clock)[0]
        stored = found.calibration(sensor, "a driver", 1.0)
        assert Calibration.model_validate_json(stored.model_dump_json()) == stored
        for field in fields(found):
            estimate = getattr(found, field.name)
            if isinstance(estimate, Estimate) and estimate.value is None:
                assert estimate.reason, (seed, field.name)


def test_whatever_is_read_is_a_number_or_null_with_a_reason() -> None:
    check_any(range(25))


@pytest.mark.long
def test_whatever_else_is_read() -> None:
    check_any(range(25, 500))
