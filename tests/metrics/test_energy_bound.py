"""Stated bounds against sensors whose load is known in closed form."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from chipmark.backends.sim.power_curve import steps
from chipmark.backends.sim.sensors import Sensor
from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.metrics.energy import window_energy


def outside(meters: ModuleType, seed: int, count: int) -> tuple[list[Any], dict[str, list[float]]]:
    """Cases whose true joules lie outside their bound, and all bounds by kind of sensor."""
    wrong, bounds = [], dict[str, list[float]]()
    for case in meters.cases(seed, count):
        found = case.measured
        if found.energy_j is None or found.error_rel is None:
            assert found.reason or found.error_reason
            continue
        bounds.setdefault(case.kind, []).append(found.error_rel)
        error = abs(case.true_j - found.energy_j) / found.energy_j
        if error > found.error_rel + 1e-9:
            wrong.append(case)
    return wrong, bounds


def test_true_joules_are_inside_the_stated_bound(simulated_meters: ModuleType) -> None:
    wrong, bounds = outside(simulated_meters, 20261127, 1000)
    assert not wrong, wrong[0]
    assert set(bounds) == set(simulated_meters.SENSORS)
    # They are of use: most cases have one, and those of a sensor that sees everything are narrow.
    assert sum(map(len, bounds.values())) > 900
    for kind in ("counter", "mean", "long mean"):
        assert np.median(bounds[kind]) < 0.15


@pytest.mark.long
def test_true_joules_are_inside_the_stated_bound_in_many_cases(
    simulated_meters: ModuleType,
) -> None:
    wrong, _ = outside(simulated_meters, 4, 20000)
    assert not wrong, wrong[0]


@pytest.mark.parametrize("load", ["constant", "ramp", "fast pulses", "slow pulses"])
def test_a_counter_is_within_a_thousandth(simulated_meters: ModuleType, load: str) -> None:
    pulses = simulated_meters.pulses
    curve = {
        "constant": steps([0, 70], [250.0]),
        "ramp": simulated_meters.ramp(5, 65, 60.0, 400.0),
        "fast pulses": pulses(0, 70, period_s=0.01, duty=0.3, high_w=400.0, low_w=60.0),
        "slow pulses": pulses(0, 70, period_s=2.0, duty=0.3, high_w=400.0, low_w=60.0),
    }[load]
    sensor = Sensor("counter", 0.02, phase=0.3, resolution=0.001, read_period_s=0.005, drawn=True)
    samples = PowerSamples(*sensor.readings(curve, 4.0, 66.0))
    found = window_energy(samples, simulated_meters.info(sensor), 5.0, 65.0)
    true_j = float(np.diff(curve.energy(np.array([5.0, 65.0])))[0])
    assert found.energy_j == pytest.approx(true_j, rel=1e-3)
    assert found.error_rel is not None
    assert abs(found.energy_j - true_j) <= found.error_rel * found.energy_j


@pytest.mark.parametrize("period_s", [0.01, 0.05, 0.1, 0.5, 2.0])
def test_counter_and_polled_tool_of_one_card_agree(
    simulated_meters: ModuleType, period_s: float
) -> None:
    curve = simulated_meters.pulses(0, 70, period_s=period_s, duty=0.4, high_w=400.0, low_w=60.0)
    counter = Sensor("counter", 0.02, phase=0.3, gain=0.02, read_period_s=0.005)
    polled = Sensor("watts", 0.1, 0.1, gain=-0.03, resolution=1.0, read_period_s=0.025, drawn=True)
    found = [
        window_energy(
            PowerSamples(*s.readings(curve, 4, 66)),
            simulated_meters.info(s, cap_w=420.0),
            5.0,
            65.0,
        )
        for s in (counter, polled)
    ]
    low, high = [], []
    for one in found:
        assert one.energy_j is not None
        assert one.error_rel is not None
        low.append(one.energy_j * (1 - one.error_rel))
        high.append(one.energy_j * (1 + one.error_rel))
    assert max(low) <= min(high)


def in_step(meters: ModuleType, sensor: Sensor) -> tuple[float, float, PowerSamples]:
    """(true joules, joules by its mean reading, readings) of a load that is low wherever a sensor
    on the grid of 0.1 s looks."""
    curve = meters.pulses(0, 70, period_s=0.1, duty=0.5, high_w=400.0, low_w=60.0, phase=0.02)
    samples = PowerSamples(*sensor.readings(curve, 4.0, 66.0))
    true_j = float(np.diff(curve.energy(np.array([5.0, 65.0])))[0])
    return true_j, float(np.nanmean(samples.power_w)) * 60, samples


def test_a_load_in_step_with_a_sensor_is_in_the_bound(simulated_meters: ModuleType) -> None:
    sensor = Sensor("watts", 0.1, 0.0, phase=0.99, read_period_s=0.025, drawn=True)
    true_j, seen_j, samples = in_step(simulated_meters, sensor)
    assert seen_j == pytest.approx(60 * 60)
    assert true_j > 3 * seen_j
    # Moments of reading are drawn, and yet every reading is of a moment of the sensor's own.
    for averaging_s in (None, 0.0, 0.025):
        found = window_energy(
            samples, simulated_meters.info(sensor, averaging_s=averaging_s), 5.0, 65.0, 60.0
        )
        assert (found.error_rel, found.error_reason) == (None, "error_without_cap")
        capped = simulated_meters.info(sensor, averaging_s=averaging_s, cap_w=420.0)
        found = window_energy(samples, capped, 5.0, 65.0, 60.0)
        assert (found.error_rel, found.error_reason) == (None, "error_over_100")


def test_scatter_bounds_only_what_is_read_at_drawn_moments(simulated_meters: ModuleType) -> None:
    sensor = Sensor("watts", 0.0, read_period_s=0.01, drawn=True, key=5)
    true_j, seen_j, samples = in_step(simulated_meters, sensor)
    meter = simulated_meters.info(sensor, cap_w=420.0)
    found = window_energy(samples, meter, 5.0, 65.0, 60.0)
    assert found.energy_j == pytest.approx(true_j, rel=0.05)
    assert found.error_rel is not None
    assert abs(true_j / found.energy_j - 1) < found.error_rel < 0.2
    even = window_energy(samples, replace(meter, jittered=False), 5.0, 65.0, 60.0)
    assert even.error_rel is not None
    assert even.error_rel > 0.7
    assert seen_j > 0


def test_idle_power_narrows_what_was_not_seen(simulated_meters: ModuleType) -> None:
    sensor = Sensor("watts", 0.1, 0.0, read_period_s=0.025)
    curve = steps([0, 70], [100.0])
    samples = PowerSamples(*sensor.readings(curve, 4.0, 66.0))
    meter = simulated_meters.info(sensor, averaging_s=None, cap_w=150.0)
    assert window_energy(samples, meter, 5.0, 65.0).error_rel == pytest.approx(1.0)
    assert window_energy(samples, meter, 5.0, 65.0, 80.0).error_rel == pytest.approx(0.5)


def test_watts_that_are_all_rounded_one_way(simulated_meters: ModuleType) -> None:
    sensor = Sensor("watts", 0.1, 0.1, resolution=1.0, read_period_s=0.025)
    curve = steps([0, 70], [100.49])
    samples = PowerSamples(*sensor.readings(curve, 4.0, 66.0))
    found = window_energy(samples, simulated_meters.info(sensor), 5.0, 65.0, 100.0)
    assert found.energy_j == pytest.approx(6000.0)
    assert found.error_rel == pytest.approx(0.005, rel=0.1)


def test_a_coarse_counter_is_off_by_a_step(simulated_meters: ModuleType) -> None:
    sensor = Sensor("counter", 0.02, resolution=20.0, read_period_s=0.005)
    curve = steps([0, 70], [100.0])
    samples = PowerSamples(*sensor.readings(curve, 4.0, 36.0))
    ratios = []
    for start_s in np.arange(5.0, 5.5, 0.03):
        found = window_energy(samples, simulated_meters.info(sensor), start_s, start_s + 25.97)
        assert found.energy_j is not None
        assert found.error_rel is not None
        ratios.append(abs(2597 / found.energy_j - 1) / found.error_rel)
    assert 0.5 < max(ratios) <= 1


def test_updates_that_are_always_read_early_or_late(simulated_meters: ModuleType) -> None:
    # Nine updates in ten readings: where watts rise late in the span between two readings and
    # fall early, the trapezoid is too high each time.
    sensor = Sensor("watts", 0.1, 0.1, read_period_s=0.09, read_phase=0.05)
    ratios = []
    for high in range(1, 9):
        for shift in range(9):
            curve = simulated_meters.pulses(
                0, 70, period_s=0.9, duty=high / 9, high_w=400.0, low_w=60.0, phase=shift / 9
            )
            samples = PowerSamples(*sensor.readings(curve, 4.0, 66.0))
            found = window_energy(samples, simulated_meters.info(sensor), 5.0, 65.0, 60.0)
            true_j = float(np.diff(curve.energy(np.array([5.0, 65.0])))[0])
            assert found.energy_j is not None
            assert found.error_rel is not None
            ratios.append(abs(true_j / found.energy_j - 1) / found.error_rel)
    assert 0.5 < max(ratios) <= 1


def test_what_a_gap_hides_may_be_all_that_the_cap_allows(simulated_meters: ModuleType) -> None:
    # A card that draws its limit in every gap, and next to nothing where it is read.
    gaps = tuple((at, at + 0.5) for at in np.arange(7.0, 63.0, 5.0))
    sensor = Sensor("watts", 0.01, 0.01, read_period_s=0.005, gaps=gaps)
    knots = np.array([0.0, *[edge for a, b in gaps for edge in (a + 0.01, b - 0.02)], 70.0])
    curve = steps(knots, np.resize([70.0, 400.0], len(knots) - 1))
    samples = PowerSamples(*sensor.readings(curve, 4.0, 66.0))
    found = window_energy(samples, simulated_meters.info(sensor, cap_w=400.0), 5.0, 65.0, 70.0)
    true_j = float(np.diff(curve.energy(np.array([5.0, 65.0])))[0])
    assert found.energy_j is not None
    assert found.error_rel is not None
    assert 0.9 < (true_j / found.energy_j - 1) / found.error_rel <= 1


@pytest.mark.parametrize(("watts", "step"), [(65.0, 1.0), (65.3, 0.1), (65.25, 0.01)])
def test_a_value_that_never_changes_is_rounded_to_its_last_decimal(
    watts: float, step: float
) -> None:
    time_s = np.arange(0.0, 30.0, 0.1)
    samples = PowerSamples(time_s, np.full(len(time_s), np.nan), np.full(len(time_s), watts))
    meter = MeterInfo(
        "tool", "polled", "board", "typed", 0.1, averaging_s=0.1, error_rel=0.0, cap_w=400.0
    )
    found = window_energy(samples, meter, 1.0, 29.0, 60.0)
    at_edges = 2 * 0.15 * (watts - 60) / (28 * watts)
    assert found.error_rel is not None
    assert step / 2 / watts <= found.error_rel <= step / 2 / watts + 2 * at_edges


def whole_seconds(ahead_s: float) -> PowerSamples:
    """A wall meter's counter, each reading taken so long after the moment that it is dated
    by: 500 W from 0 to 30 s, 50 W before and after."""
    curve = steps([-60, 0, 30, 90], [50.0, 500.0, 50.0])
    at_s = np.arange(-20.0, 60.0)
    joules = curve.energy(at_s + ahead_s)
    return PowerSamples(at_s, joules, np.full(len(at_s), np.nan))


@pytest.mark.parametrize("ahead_s", [-1.9, -0.9, 0.9, 1.9])
def test_another_clock_is_in_the_bound(ahead_s: float) -> None:
    meter = MeterInfo("csv", "wall", "wall", "rows", 1.0, error_rel=0.01, reading_period_s=1.0)
    found = window_energy(whole_seconds(ahead_s), replace(meter, clock_s=abs(ahead_s)), 0.0, 30.0)
    assert found.energy_j is not None
    assert found.error_rel is not None
    assert abs(15000 - found.energy_j) <= found.error_rel * found.energy_j
    blind = window_energy(whole_seconds(1.9), meter, 0.0, 30.0)
    assert blind.energy_j is not None
    assert abs(15000 - blind.energy_j) > (blind.error_rel or 0) * blind.energy_j
    unknown = window_energy(whole_seconds(ahead_s), replace(meter, clock_s=None), 0.0, 30.0)
    assert (unknown.error_rel, unknown.error_reason) == (None, "error_clock_unknown")


@pytest.mark.parametrize("ahead_s", [-2.0, -0.9, 0.9, 2.0])
def test_watts_by_another_clock_are_in_the_bound(ahead_s: float) -> None:
    curve = steps([-60, 0, 30, 90], [50.0, 500.0, 50.0])
    at_s = np.arange(-20.0, 60.0)
    watts = np.diff(curve.energy(np.append(at_s, 60.0) + ahead_s - 1))
    samples = PowerSamples(at_s, np.full(len(at_s), np.nan), watts)
    meter = MeterInfo(
        "csv", "wall", "wall", "rows", 1.0, 1.0, 0.0, reading_period_s=1.0, cap_w=600.0,
        clock_s=abs(ahead_s),
    )  # fmt: skip
    for start_s, end_s in ((0.0, 30.0), (-10.0, 20.0), (5.0, 40.0)):
        true_j = float(np.diff(curve.energy(np.array([start_s, end_s])))[0])
        found = window_energy(samples, meter, start_s, end_s, 50.0)
        assert found.energy_j is not None
        assert found.error_rel is not None
        assert abs(true_j - found.energy_j) <= found.error_rel * found.energy_j
    unknown = window_energy(samples, replace(meter, clock_s=None), 0.0, 30.0)
    assert (unknown.error_rel, unknown.error_reason) == (None, "error_clock_unknown")


def test_one_value_alone_may_be_rounded_by_its_unit(simulated_meters: ModuleType) -> None:
    sensor = Sensor("watts", 0.1, 0.1, resolution=1.0, read_period_s=0.025)
    samples = PowerSamples(*sensor.readings(steps([0, 70], [100.49]), 4.0, 66.0))
    assert set(samples.power_w) == {100.0}
    meter = simulated_meters.info(sensor, resolution_w=None)
    found = window_energy(samples, meter, 5.0, 65.0, 100.0)
    assert found.error_rel == pytest.approx(0.005, rel=0.1)
