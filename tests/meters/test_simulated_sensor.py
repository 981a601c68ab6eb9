from __future__ import annotations

import numpy as np
import pytest

from chipmark.engine.clock import VirtualClock
from chipmark.errors import UnknownNameError, UsageError
from chipmark.meters.simulated_sensor import SENSORS, SensorSpec, SimulatedSensor, simulated_sensor

EXACT = SensorSpec(noise_w=0.0, resolution_w=0.0, idle_w=100.0, load_w=300.0, reading_period_s=0.01)


def step(spec: SensorSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seconds after the start, watts and joules: rest for 2 s, work for 3 s, rest for 2 s."""
    sensor = SimulatedSensor("test", spec, VirtualClock(10.0))
    sensor.start()
    sensor.clock.sleep_until(12.0)
    assert sensor.load.work(3.0) == (12.0, 15.0)
    sensor.clock.sleep_until(17.0)
    samples = sensor.stop()
    return samples.time_s - 10.0, samples.power_w, samples.energy_j


def test_watts_of_the_moment_hold_until_the_next_update() -> None:
    time_s, power_w, energy_j = step(SensorSpec(**{**_fields(EXACT), "update_period_s": 0.5}))
    assert set(power_w.tolist()) == {100.0, 300.0}
    assert np.isnan(energy_j).all()
    moved = time_s[1:][np.diff(power_w) != 0]
    assert moved == pytest.approx([2.0, 5.0], abs=0.011)


def test_an_averaging_sensor_rises_on_a_line() -> None:
    spec = SensorSpec(**{**_fields(EXACT), "update_period_s": 0.01, "averaging_s": 1.0})
    time_s, power_w, _ = step(spec)
    at = {round(float(t), 2): float(p) for t, p in zip(time_s, power_w, strict=True)}
    assert at[2.25] == pytest.approx(150.0, abs=2.1)
    assert at[2.5] == pytest.approx(200.0, abs=2.1)
    assert at[3.1] == pytest.approx(300.0)
    assert at[5.5] == pytest.approx(200.0, abs=2.1)


def test_a_lag_moves_the_answer() -> None:
    spec = SensorSpec(**{**_fields(EXACT), "update_period_s": 0.01, "lag_s": 0.4})
    time_s, power_w, _ = step(spec)
    assert float(time_s[power_w > 200][0]) == pytest.approx(2.4, abs=0.021)


def test_a_counter_holds_all_joules() -> None:
    spec = SensorSpec(**{**_fields(EXACT), "update_period_s": 0.05, "counter_j": 0.01})
    _, _, energy_j = step(spec)
    assert energy_j[-1] - energy_j[0] == pytest.approx(7 * 100 + 3 * 200, abs=300 * 0.06)
    assert (np.diff(energy_j) >= 0).all()


def test_an_update_is_the_same_in_every_call() -> None:
    spec = SensorSpec(noise_w=3.0, resolution_w=0.1, reading_period_s=0.05)
    sensor = SimulatedSensor("test", spec, VirtualClock())
    sensor.start()
    sensor.clock.sleep_until(5.0)
    first, second = sensor.stop(), sensor.stop()
    assert (first.power_w == second.power_w).all()
    assert 2.0 < np.unique(first.power_w).std() < 6.0


def test_watts_are_on_the_grid_of_the_resolution() -> None:
    spec = SensorSpec(noise_w=3.0, resolution_w=2.5)
    sensor = SimulatedSensor("test", spec, VirtualClock())
    sensor.start()
    sensor.clock.sleep_until(20.0)
    steps = sensor.stop().power_w / 2.5
    assert np.abs(steps - np.round(steps)).max() < 1e-9


def test_options_change_a_sensor_and_unknown_ones_are_named() -> None:
    made = simulated_sensor("pulsed", {"update_period_s": "0.25", "seed": "4"})
    assert made.info.update_period_s == 0.25
    assert not made.info.period_known
    with pytest.raises(UnknownNameError, match="pulsed"):
        simulated_sensor("pulsd", {})
    with pytest.raises(UnknownNameError, match="update_period_s"):
        simulated_sensor("pulsed", {"update_period": "1"})
    with pytest.raises(UsageError, match="not a number"):
        simulated_sensor("pulsed", {"idle_w": "many"})
    for wrong in ("0", "-1", "nan", "inf"):
        with pytest.raises(UsageError, match="update_period_s"):
            simulated_sensor("pulsed", {"update_period_s": wrong})
    assert set(SENSORS) >= {"pulsed", "averaged", "counter"}


def _fields(spec: SensorSpec) -> dict[str, float]:
    return {name: getattr(spec, name) for name in SensorSpec.__dataclass_fields__}
