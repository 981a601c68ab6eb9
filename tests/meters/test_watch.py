from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from chipmark.engine.clock import MonotonicClock, VirtualClock
from chipmark.errors import ChipmarkError
from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.meters.poll import Reading, Sampler
from chipmark.meters.simulated_sensor import SensorSpec, SimulatedSensor
from chipmark.meters.watch import Watch, least_look_s

INFO = MeterInfo(
    name="hwmon",
    source="polled",
    scope="board",
    method="a file",
    update_period_s=0.02,
    covers="one board",
    cap_w=400.0,
    verified=False,
)


class FileMeter:
    """Microwatts in a file, as hwmon's `power1_average`."""

    def __init__(self, path: Path) -> None:
        self.info = INFO
        self._path = path
        self._sampler = Sampler(self._read, 0.01)

    def start(self) -> None:
        self._sampler.start()

    def stop(self) -> PowerSamples:
        return self._sampler.stop()

    def _read(self) -> Reading:
        return math.nan, int(self._path.read_text()) / 1e6


def test_watts_of_a_file_with_what_the_meter_says_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "power1_average"
    path.write_text("123456789\n")
    (reading,) = Watch([FileMeter(path)], MonotonicClock()).look(0.05)
    assert reading.power_w == pytest.approx(123.456789)
    assert (reading.energy_j, reading.cap_w, reading.verified) == (None, 400.0, False)
    assert reading.age_s is not None
    assert reading.problem == ""


def test_a_meter_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    path = tmp_path / "power1_average"
    path.write_text("50000000\n")
    good, bad = FileMeter(path), FileMeter(tmp_path / "absent")
    first, second = Watch([bad, good], MonotonicClock()).look(0.03)
    assert first.power_w is None
    assert "cannot be read" in first.problem
    assert second.power_w == 50.0


def test_a_counter_gives_mean_watts_between_its_changes() -> None:
    spec = SensorSpec(update_period_s=0.05, counter_j=0.001, reading_period_s=0.01, idle_w=80.0)
    sensor = SimulatedSensor("test", spec, VirtualClock(3.3))
    counter = _Only(sensor)
    (reading,) = Watch([counter], sensor.clock).look(1.0)
    assert reading.power_w == pytest.approx(80.0, rel=0.001)
    assert reading.energy_j is not None
    (short,) = Watch([counter], sensor.clock).look(0.02)
    assert short.power_w is None
    assert "no watts" in short.problem
    assert least_look_s([counter]) == pytest.approx(0.125)


class _Only:
    """The counter of a sensor, without its watts."""

    def __init__(self, sensor: SimulatedSensor) -> None:
        self._sensor, self.info = sensor, sensor.info

    def start(self) -> None:
        self._sensor.start()

    def stop(self) -> PowerSamples:
        samples = self._sensor.stop()
        return PowerSamples(samples.time_s, samples.energy_j, np.full(len(samples.time_s), np.nan))


def test_looks_end_after_the_seconds_and_there_is_one_at_least() -> None:
    sensor = SimulatedSensor("test", SensorSpec(), VirtualClock())
    watch = Watch([sensor], sensor.clock, [lambda: 41.0])
    assert len(list(watch.looks(0.5, 2.0))) == 4
    (look,) = watch.looks(0.5, 0.1)
    assert look[0].temperature_c == 41.0


def test_what_was_started_is_stopped_when_a_look_is_interrupted() -> None:
    class Ended(VirtualClock):
        def sleep_until(self, time_s: float) -> None:
            raise ChipmarkError("enough")

    stopped = []

    class Watched(SimulatedSensor):
        def stop(self) -> PowerSamples:
            stopped.append(True)
            return super().stop()

    with pytest.raises(ChipmarkError, match="enough"):
        Watch([Watched("test", SensorSpec(), VirtualClock())], Ended()).look(1.0)
    assert stopped == [True]
