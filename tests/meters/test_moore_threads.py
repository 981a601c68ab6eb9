from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chipmark.chips.contract import DeviceKey
from chipmark.errors import ChipmarkError
from chipmark.meters import moore_threads
from chipmark.meters.choice import MeterChoice
from chipmark.meters.moore_threads import MtmlMeter, open_mtml
from chipmark.meters.pick import pick_meters
from chipmark.meters.request import MeterRequest


class MTMLError(Exception):
    """As the package has it: it is no OSError."""


class FakeMtml:
    """The functions of pymtml that the meter calls, over cards on paper."""

    MTMLError = MTMLError

    def __init__(self, *cards: dict[str, Any], driver: bool = True) -> None:
        self.cards, self.driver, self.inits = cards, driver, 0

    def mtmlLibraryInit(self) -> None:
        self.inits += 1
        if not self.driver:
            raise OSError("Failed to load MTML library on Linux. Tried: libmtml.so.2, libmtml.so")

    def mtmlLibraryCountDevice(self) -> int:
        return len(self.cards)

    def mtmlLibraryInitDeviceByIndex(self, index: int) -> dict[str, Any]:
        return self.cards[index]

    def mtmlDeviceGetName(self, device: dict[str, Any]) -> str:
        return "MTT S5000"

    def mtmlDeviceGetUUID(self, device: dict[str, Any]) -> str:
        return str(device["uuid"])

    def mtmlDeviceGetPciInfo(self, device: dict[str, Any]) -> SimpleNamespace:
        return SimpleNamespace(sbdf=device["pci"].encode())

    def mtmlDeviceGetProperty(self, device: dict[str, Any]) -> SimpleNamespace:
        return SimpleNamespace(virtRole=device.get("role", 0), mpcType=device.get("mpc", 0))

    def mtmlDeviceGetPowerUsage(self, device: dict[str, Any]) -> int:
        if device["mw"] is None:
            raise MTMLError("Not Supported")
        return int(device["mw"])


def card(number: int, **more: Any) -> dict[str, Any]:
    return {"uuid": f"uuid-{number}", "pci": f"0000:{number:02x}:00.0", "mw": 43_090, **more}


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(moore_threads, "_opened", [])
    monkeypatch.setattr(moore_threads, "infer_period", lambda read: None)
    monkeypatch.delenv("MUSA_VISIBLE_DEVICES", raising=False)

    def over(*cards: dict[str, Any], driver: bool = True) -> FakeMtml:
        fake = FakeMtml(*cards, driver=driver)
        monkeypatch.setitem(sys.modules, "pymtml", fake)
        return fake

    return over


def request(**more: Any) -> MeterRequest:
    return MeterRequest("Moore Threads", "card", "musa:0", **more)


def test_power_is_read_as_milliwatts_and_said_to_be_unverified(install: Any) -> None:
    install(card(1))
    meter = MtmlMeter.for_request(request())
    assert meter is not None
    assert (meter.info.source, meter.info.scope, meter.info.verified) == ("polled", "board", False)
    assert any("milliwatts" in note for note in meter.info.notes)
    assert "uuid-1" in meter.info.covers
    meter.start()
    samples = meter.stop()
    assert samples.power_w == pytest.approx(np.full(len(samples.power_w), 43.09))
    assert np.isnan(samples.energy_j).all()


def test_missing_driver_is_no_error_of_the_library_and_no_meter(install: Any) -> None:
    install(card(1), driver=False)
    assert MtmlMeter.for_request(request()) is None


def test_library_is_opened_once(install: Any) -> None:
    fake = install(card(1))
    assert open_mtml() is open_mtml()
    assert fake.inits == 1


def test_the_card_that_computes_is_metered(install: Any) -> None:
    install(card(1), card(2, mw=400_000))
    meter = MtmlMeter.for_request(request(key=DeviceKey(uuid="uuid-2")))
    assert meter is not None
    assert "uuid-2" in meter.info.covers
    named = MtmlMeter.for_request(request(choices=(MeterChoice("mtml", "1"),)))
    assert named is not None
    assert "uuid-2" in named.info.covers


@pytest.mark.parametrize(("part", "words"), [({"role": 2}, "vGPU"), ({"mpc": 2}, "MPC instance")])
def test_part_of_a_card_is_refused(install: Any, part: dict[str, int], words: str) -> None:
    install(card(1, **part))
    with pytest.raises(ChipmarkError, match=words):
        MtmlMeter.for_request(request())


@pytest.mark.parametrize("milliwatts", [0, 43, 2**32 - 1])
def test_power_that_cannot_be_milliwatts_is_refused(install: Any, milliwatts: int) -> None:
    install(card(1, mw=milliwatts))
    with pytest.raises(ChipmarkError, match="which no card draws"):
        MtmlMeter.for_request(request())


def test_power_that_fails_midway_is_a_gap(install: Any) -> None:
    fake = install(card(1))
    meter = MtmlMeter.for_request(request())
    assert meter is not None
    meter.start()
    fake.cards[0]["mw"] = None
    samples = meter.stop()
    assert (samples.power_w > 1).all()
    assert any("gives no power" in remark for remark in samples.remarks)


def test_the_tool_is_asked_where_the_library_refuses(install: Any) -> None:
    install(card(1, mw=None))
    remarks = pick_meters(request()).remarks
    assert any(r.startswith("mtml: ") and "--meter mthreads-gmi" in r for r in remarks)


def test_other_chips_and_the_host_are_not_its(install: Any) -> None:
    install(card(1))
    assert MtmlMeter.for_request(MeterRequest("NVIDIA", "card", "cuda:0")) is None
    assert MtmlMeter.for_request(request(metered="host")) is None
