from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chipmark.errors import ChipmarkError
from chipmark.meters.nvml import NvmlMeter


class FakeNvml:
    """NVML's functions over a card that draws 200 W; the counter moves every 20 ms."""

    class NVMLError(Exception):
        pass

    NVML_FI_DEV_POWER_INSTANT = 186

    def __init__(self, *, counter: bool = True, instant: bool = True, power: bool = True) -> None:
        self.counter, self.instant, self.power = counter, instant, power
        self.start = time.perf_counter()

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int:
        if not self.counter:
            raise self.NVMLError("not supported")
        ticks = int((time.perf_counter() - self.start) / 0.02)
        return ticks * 4000

    def nvmlDeviceGetFieldValues(self, handle: Any, fields: list[int]) -> list[Any]:
        assert fields == [186]
        code = 0 if self.instant else 3
        return [SimpleNamespace(nvmlReturn=code, value=SimpleNamespace(uiVal=200_000))]

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:
        if not self.power:
            raise self.NVMLError("not supported")
        return 190_000


def test_counter_is_used_where_the_card_has_one() -> None:
    meter = NvmlMeter(FakeNvml(), object())
    assert (meter.info.source, meter.info.scope) == ("counter", "board")
    assert meter.info.update_period_s == pytest.approx(0.02, rel=0.6)
    meter.start()
    time.sleep(0.25)
    samples = meter.stop()
    assert np.isfinite(samples.energy_j).all()
    assert samples.power_w == pytest.approx(np.full(len(samples.power_w), 200.0))
    mean_w = np.ptp(samples.energy_j) / np.ptp(samples.time_s)
    assert mean_w == pytest.approx(200.0, rel=0.2)


def test_power_is_polled_where_there_is_no_counter() -> None:
    meter = NvmlMeter(FakeNvml(counter=False, instant=False), object())
    assert meter.info.source == "polled"
    meter.start()
    samples = meter.stop()
    assert np.isnan(samples.energy_j).all()
    assert set(samples.power_w.tolist()) == {190.0}


def test_period_that_idle_hides_is_said_to_be_taken() -> None:
    meter = NvmlMeter(FakeNvml(counter=False), object())
    assert any("was not seen at idle" in note for note in meter.info.notes)


def test_card_without_any_sensor_is_an_error() -> None:
    with pytest.raises(ChipmarkError, match="neither energy nor power"):
        NvmlMeter(FakeNvml(counter=False, instant=False, power=False), object())


def test_route_that_never_met_a_card_says_so() -> None:
    meter = NvmlMeter(FakeNvml(), object())
    assert not meter.info.verified
    assert any("unverified on hardware" in note for note in meter.info.notes)
