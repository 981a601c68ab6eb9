from __future__ import annotations

import sys
import time
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from chipmark.chips.contract import DeviceKey
from chipmark.chips.nvml import Card
from chipmark.errors import ChipmarkError
from chipmark.meters.nvml import NvmlMeter
from chipmark.meters.pick import pick_meters
from chipmark.meters.request import MeterRequest


@pytest.fixture
def over(monkeypatch: pytest.MonkeyPatch, paper_nvml: ModuleType) -> Any:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)

    def install(*cards: Any) -> Any:
        fake = paper_nvml.FakeNvml(*cards)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return install


def meter_of(over: Any, card: Any) -> NvmlMeter:
    return NvmlMeter(Card(over(card), card))


def test_counter_is_used_where_the_card_has_one(over: Any, paper_nvml: ModuleType) -> None:
    meter = meter_of(over, paper_nvml.PaperCard())
    assert (meter.info.source, meter.info.scope) == ("counter", "board")
    assert meter.info.update_period_s == pytest.approx(0.02, rel=0.6)
    assert meter.info.cap_w == 700.0
    meter.start()
    time.sleep(0.25)
    samples = meter.stop()
    assert np.isfinite(samples.energy_j).all()
    assert samples.power_w == pytest.approx(np.full(len(samples.power_w), 200.0), abs=0.01)
    mean_w = np.ptp(samples.energy_j) / np.ptp(samples.time_s)
    assert mean_w == pytest.approx(200.0, rel=0.2)


def test_period_is_the_counters_own_and_not_the_powers(over: Any, paper_nvml: ModuleType) -> None:
    meter = meter_of(over, paper_nvml.PaperCard(counter_s=0.1, power_s=0.01))
    assert meter.info.update_period_s == pytest.approx(0.1, rel=0.3)
    polled = meter_of(over, paper_nvml.PaperCard(counter_s=None, power_s=0.05))
    assert polled.info.update_period_s == pytest.approx(0.05, rel=0.3)


def test_power_is_polled_where_the_query_of_fields_is_refused(
    over: Any, paper_nvml: ModuleType
) -> None:
    meter = meter_of(over, paper_nvml.PaperCard(counter_s=None, fields=False))
    assert meter.info.source == "polled"
    meter.start()
    samples = meter.stop()
    assert np.isnan(samples.energy_j).all()
    assert samples.power_w == pytest.approx(np.full(len(samples.power_w), 200.0), abs=0.01)
    # That call is a mean over a second, which smears the edges of a window.
    assert meter.info.averaging_s == 1.0
    assert meter_of(over, paper_nvml.PaperCard(counter_s=None)).info.averaging_s is None


def test_period_that_idle_hides_is_said_to_be_taken(over: Any, paper_nvml: ModuleType) -> None:
    meter = meter_of(over, paper_nvml.PaperCard(counter_s=None, power_s=0.0))
    assert any("was not seen at idle" in note for note in meter.info.notes)
    assert not meter.info.period_known


def test_card_without_any_sensor_is_an_error(over: Any, paper_nvml: ModuleType) -> None:
    card = paper_nvml.PaperCard(counter_s=None, fields=False, usage=False)
    with pytest.raises(ChipmarkError, match="neither energy nor power"):
        meter_of(over, card)


def test_route_that_never_met_a_card_says_so(over: Any, paper_nvml: ModuleType) -> None:
    meter = meter_of(over, paper_nvml.PaperCard())
    assert not meter.info.verified
    assert any("unverified on hardware" in note for note in meter.info.notes)


def test_the_card_that_computes_is_metered(over: Any, paper_nvml: ModuleType) -> None:
    slow = paper_nvml.PaperCard(name="NVIDIA T400", uuid="GPU-01", pci="0:1:0.0", watts=20.0)
    fast = paper_nvml.PaperCard(uuid="GPU-02", pci="0:2:0.0", watts=400.0)
    over(slow, fast)
    told = MeterRequest("NVIDIA", "card", "cuda:0", key=DeviceKey(uuid="02"))
    picked = pick_meters(told)
    assert picked.meter is not None
    assert picked.meter.info.covers == "one card, GPU-02"
    assert not any(remark.startswith("nvml") for remark in picked.remarks)
    picked = pick_meters(MeterRequest("NVIDIA", "card", "cuda:0"))
    assert picked.meter is None
    assert any("any of 2 cards" in remark for remark in picked.remarks)


def test_slice_is_not_charged_with_its_card(
    over: Any, paper_nvml: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, part = paper_nvml.split_card()
    over(card)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", part.uuid)
    for request in (
        MeterRequest("NVIDIA", "card", "cuda"),
        MeterRequest("NVIDIA", "card", "cuda", key=DeviceKey(uuid=part.uuid)),
        MeterRequest("NVIDIA", "card", "cuda", key=DeviceKey(uuid=card.uuid)),
    ):
        picked = pick_meters(request)
        assert picked.meter is None
        assert any("1 of 7 parts" in remark for remark in picked.remarks)
