from __future__ import annotations

import logging
import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from chipmark.chips import amd
from chipmark.chips.amd import AmdCard
from chipmark.chips.contract import DeviceKey
from chipmark.codes import NullReason
from chipmark.errors import ChipmarkError
from chipmark.meters.amd import AmdMeter
from chipmark.meters.request import MeterRequest
from chipmark.metrics.energy import window_energy

CARD = MeterRequest("AMD", "card", "cuda:0")
OLD = {"average_socket_power": None}
NEWEST = {"socket_power": None, "current_socket_power": "N/A", "average_socket_power": None}


def meter_of(paper_amdsmi: ModuleType, at: Any, card: Any) -> AmdMeter:
    fake = paper_amdsmi.FakeAmdSmi(card, clock=at.clock)
    return AmdMeter(AmdCard(fake, card), at.clock, at.sleep)


@pytest.mark.parametrize("key", ["energy_accumulator", "power"])
def test_the_accumulator_is_joules_by_its_unit(paper_amdsmi: ModuleType, at: Any, key: str) -> None:
    meter = meter_of(paper_amdsmi, at, paper_amdsmi.PaperCard(energy_key=key, counter_s=0.01))
    info = meter.info
    assert (info.source, info.scope, info.name) == ("counter", "package", "amdsmi")
    assert info.update_period_s == pytest.approx(0.01, rel=0.01)
    assert info.cap_w == 750.0
    assert info.covers == "one card, 0000:05:00.0"
    assert not info.verified
    assert info.jittered
    meter.start()
    at.now += 10.0
    samples = meter.stop()
    assert np.ptp(samples.energy_j) == pytest.approx(1400.0, rel=0.001)
    assert samples.power_w == pytest.approx(np.full(len(samples.power_w), 140.0), abs=2.0)


@pytest.mark.parametrize(
    ("power", "method"),
    [
        ({"current_socket_power": None, "average_socket_power": "N/A"}, "current_socket_power"),
        (OLD, "average_socket_power"),
        (NEWEST, "socket_power of"),
        ({"current_socket_power": 65535, "average_socket_power": None}, "average_socket_power"),
        ({"current_socket_power": 0, "average_socket_power": None}, "average_socket_power"),
        ({"socket_power": 2**32 - 1, "average_socket_power": None}, "average_socket_power"),
    ],
)
def test_power_goes_by_the_name_that_the_generation_gives(
    paper_amdsmi: ModuleType, at: Any, power: dict[str, Any], method: str
) -> None:
    meter = meter_of(paper_amdsmi, at, paper_amdsmi.PaperCard(counter_s=None, power=power))
    assert meter.info.source == "polled"
    assert meter.info.method.startswith(method)
    assert meter.info.update_period_s == pytest.approx(0.05, rel=0.02)
    assert meter.info.resolution_w == 1.0
    meter.start()
    samples = meter.stop()
    assert np.isnan(samples.energy_j).all()
    assert samples.power_w == pytest.approx(np.full(len(samples.power_w), 140.0), abs=2.0)


def test_a_card_without_any_sensor_is_an_error(paper_amdsmi: ModuleType, at: Any) -> None:
    for power in (None, {"average_socket_power": "N/A"}):
        with pytest.raises(ChipmarkError, match="neither energy nor power"):
            meter_of(paper_amdsmi, at, paper_amdsmi.PaperCard(counter_s=None, power=power))


@pytest.mark.parametrize("resolution", ["N/A", 0.0, -1.0, None])
def test_an_accumulator_without_its_unit_is_none(
    paper_amdsmi: ModuleType, at: Any, resolution: Any
) -> None:
    card = paper_amdsmi.PaperCard()
    fake = paper_amdsmi.FakeAmdSmi(card, clock=at.clock)
    fake.amdsmi_get_energy_count = lambda card: {"power": 7, "counter_resolution": resolution}
    assert AmdCard(fake, card).energy_j() is None
    fake.amdsmi_get_energy_count = lambda card: {"power": 2**64 - 1, "counter_resolution": 15.3}
    assert AmdCard(fake, card).energy_j() is None


def test_a_counter_that_stands_still_at_idle_is_left_for_the_power(
    paper_amdsmi: ModuleType, at: Any
) -> None:
    meter = meter_of(paper_amdsmi, at, paper_amdsmi.PaperCard(counter_s=0.0))
    assert meter.info.source == "polled"
    assert any("it stood still" in note for note in meter.info.notes)
    meter.start()
    assert np.isnan(meter.stop().energy_j).all()
    alone = meter_of(paper_amdsmi, at, paper_amdsmi.PaperCard(counter_s=0.0, power=None))
    assert alone.info.source == "counter"
    assert not alone.info.period_known


@pytest.mark.parametrize(("counted", "used"), [(0.01, False), (100.0, False), (0.8, True)])
def test_a_counter_far_from_the_power_is_not_believed(
    paper_amdsmi: ModuleType, at: Any, counted: float, used: bool
) -> None:
    meter = meter_of(paper_amdsmi, at, paper_amdsmi.PaperCard(counted=counted))
    assert meter.info.source == ("counter" if used else "polled")
    assert any("the energy counter is not used" in note for note in meter.info.notes) != used


def test_a_counter_that_goes_back_is_refused(paper_amdsmi: ModuleType, at: Any) -> None:
    meter = meter_of(paper_amdsmi, at, paper_amdsmi.PaperCard(resets_s=5.0))
    at.now = 104.0
    meter.start()
    at.now = 106.0
    samples = meter.stop()
    begin, end = float(samples.time_s[0]), float(samples.time_s[-1])
    found = window_energy(samples, meter.info, begin, end)
    assert (found.energy_j, found.reason) == (None, NullReason.COUNTER_BACKWARDS)


def test_a_split_card_is_not_charged_to_one_part(paper_amdsmi: ModuleType, at: Any) -> None:
    with pytest.raises(ChipmarkError, match="is split \\(CPX\\)"):
        meter_of(paper_amdsmi, at, paper_amdsmi.PaperCard(partition="CPX"))


def test_amdsmi_is_asked_for_cards_of_amd_alone(
    monkeypatch: pytest.MonkeyPatch, paper_amdsmi: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(amd, "_opened", [])
    fake = paper_amdsmi.FakeAmdSmi(paper_amdsmi.PaperCard(power_s=0.005), broken="no driver")
    monkeypatch.setitem(sys.modules, "amdsmi", fake)
    for request in (
        MeterRequest("AMD", "package", "cpu"),
        MeterRequest("AMD", "cpu-share", "cpu"),
        MeterRequest("Hygon", "card", "cuda"),
        MeterRequest("NVIDIA", "card", "cuda"),
        replace(CARD, metered="host"),
        replace(CARD, metered="node"),
    ):
        assert AmdMeter.for_request(request) is None
    assert fake.opened == 0
    with caplog.at_level(logging.INFO, logger="chipmark.meters"):
        assert AmdMeter.for_request(CARD) is None
    assert "no driver" in caplog.text
    fake.broken = ""
    meter = AmdMeter.for_request(replace(CARD, key=DeviceKey(pci="00000000:05:00.0")))
    assert meter is not None
    assert meter.info.source == "counter"
