from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chipmark.errors import BadInputError, ChipmarkError, UsageError
from chipmark.meters import pick
from chipmark.meters.contract import PowerSamples
from chipmark.meters.declared import DeclaredMeter
from chipmark.meters.rapl import RaplMeter
from chipmark.meters.replay import SIM_INFO, ReplayMeter, load_samples, save_samples
from chipmark.meters.request import AssumedPower, MeterRequest

ASSUMED = AssumedPower(4.375, "cpu-share", "2 vCPUs", "TDP 280 W / 128 threads x 2 vCPUs")


def test_declared_power_goes_before_everything() -> None:
    request = MeterRequest("AMD", "cpu-share", "cpu", 65.0, ASSUMED, nameplate_w=4.375)
    picked = pick.pick_meters(request)
    meter = picked.meter
    assert meter is not None
    assert (meter.info.source, meter.info.scope) == ("declared", "cpu-share")
    assert not any("--power-w" in remark for remark in picked.remarks)
    meter.start()
    samples = meter.stop()
    assert samples.power_w.tolist() == [65.0, 65.0]
    assert np.isnan(samples.energy_j).all()


@pytest.mark.parametrize(
    ("power_w", "nameplate_w", "source", "word"),
    [
        (0.01, 700.0, "assumed", "below the unit's nameplate of 700 W"),
        (690.0, 700.0, "assumed", "below"),
        (700.0, 700.0, "declared", "at least"),
        (4.37, 4.375, "assumed", "below"),
        (4.3725, 4.375, "declared", "at least"),
        (700.0, None, "assumed", "no nameplate"),
    ],
)
def test_only_a_power_of_at_least_the_nameplate_is_a_bound(
    power_w: float, nameplate_w: float | None, source: str, word: str
) -> None:
    request = MeterRequest("NVIDIA", "card", "cuda", power_w, nameplate_w=nameplate_w)
    picked = pick.pick_meters(request)
    meter = picked.meter
    assert meter is not None
    assert meter.info.source == source
    assert word in meter.info.method
    assert any("--power-w" in remark for remark in picked.remarks) == (source == "assumed")


def test_nameplate_is_assumed_where_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RaplMeter, "for_request", classmethod(lambda cls, request: None))
    meter = pick.pick_meters(MeterRequest("AMD", "cpu-share", "cpu", None, ASSUMED)).meter
    assert meter is not None
    assert meter.info.source == "assumed"
    assert "128 threads" in meter.info.method


def test_measured_goes_before_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = ReplayMeter(SIM_INFO)
    monkeypatch.setattr(RaplMeter, "for_request", classmethod(lambda cls, request: measured))
    meter = pick.pick_meters(MeterRequest("AMD", "package", "cpu", None, ASSUMED)).meter
    assert meter is measured


def test_refused_sensor_leaves_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(cls: type[RaplMeter], request: MeterRequest) -> None:
        raise ChipmarkError("energy_uj is readable by root only", "sudo chmod a+r")

    monkeypatch.setattr(RaplMeter, "for_request", classmethod(refuse))
    picked = pick.pick_meters(MeterRequest("AMD", "package", "cpu", None, ASSUMED))
    meter, remarks = picked.meter, picked.remarks
    assert meter is not None
    assert meter.info.source == "assumed"
    assert any("chmod" in remark for remark in remarks)


def test_unknown_chip_has_no_meter_and_says_what_helps() -> None:
    picked = pick.pick_meters(MeterRequest("Kunlunxin", "card", "kunlun"))
    meter, remarks = picked.meter, picked.remarks
    assert meter is None
    assert any("--power-w" in remark for remark in remarks)


@pytest.mark.parametrize("power_w", [0.0, -1.0, float("nan"), float("inf")])
def test_declared_power_must_be_a_power(power_w: float) -> None:
    with pytest.raises(UsageError, match="not a power"):
        DeclaredMeter(power_w, "card")


def test_samples_round_trip_and_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "power.npz"
    samples = PowerSamples(np.array([0.0, 1.0]), np.array([0.0, 5.0]), np.array([np.nan, 5.0]))
    save_samples(path, samples)
    again = ReplayMeter(SIM_INFO, load_samples(path)).stop()
    assert again.energy_j.tolist() == [0.0, 5.0]
    save_samples(path, PowerSamples(np.array([1.0, 0.0]), np.zeros(2), np.zeros(2)))
    with pytest.raises(BadInputError, match="back in time"):
        load_samples(path)
    path.write_bytes(b"nothing")
    with pytest.raises(BadInputError, match="not a whole npz archive"):
        load_samples(path)


def test_a_meter_that_cannot_be_read_is_logged_and_remarked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(cls: object, request: MeterRequest) -> None:
        raise ChipmarkError("energy_uj needs root", "run as root")

    monkeypatch.setattr(RaplMeter, "for_request", classmethod(refused))
    with caplog.at_level("INFO", logger="chipmark.meters"):
        remarks = pick.pick_meters(MeterRequest("AMD", "package", "cpu", None)).remarks
    assert any("energy_uj needs root" in remark for remark in remarks)
    assert {r.name for r in caplog.records if "rapl" in r.getMessage()} == {"chipmark.meters.pick"}
    assert len([remark for remark in remarks if "energy_uj" in remark]) == 1
