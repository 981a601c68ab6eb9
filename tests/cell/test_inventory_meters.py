from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from chipmark.cell import inventory
from chipmark.chips.contract import ChipIdentity
from chipmark.meters.calibration import Calibration, Figure, driver_of, store_calibrations
from chipmark.meters.rapl import RaplMeter
from chipmark.meters.request import AssumedPower, MeterRequest
from chipmark.meters.simulated_sensor import SensorSpec, SimulatedSensor


@pytest.mark.parametrize(("days", "words"), [(1, "calibrated on"), (40, "calibration not used")])
def test_doctor_names_the_calibration_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, words: str
) -> None:
    monkeypatch.setenv("CHIPMARK_CACHE", str(tmp_path))
    sensor = SimulatedSensor("test", SensorSpec())
    monkeypatch.setattr(RaplMeter, "for_request", classmethod(lambda cls, request: sensor))
    nothing = SimpleNamespace(for_request=lambda request: None)
    monkeypatch.setattr(
        "chipmark.meters.calibration.meter_factory",
        lambda name: RaplMeter if name == "rapl" else nothing,
    )
    unseen = Figure(reason="not looked for")
    store_calibrations([
        Calibration(
            meter=sensor.info.name,
            covers=sensor.info.covers,
            scope="package",
            source="polled",
            driver=driver_of("AMD"),
            made_unix_s=time.time() - days * 86_400,
            load="",
            idle_w=unseen,
            load_w=unseen,
            update_period_s=Figure(value=0.25),
            averaging_s=unseen,
            lag_s=unseen,
            resolution_w=unseen,
        )
    ])  # fmt: skip
    chip = ChipIdentity("an-epyc", "AMD", "EPYC", "package", 1, 1)
    texts = [item.text for item in inventory._meters(chip) if item.name == "rapl"]
    assert any(words in text for text in texts)
    assert any("0.25 s" in text for text in texts) == (days == 1)


def test_a_power_that_is_only_assumed_is_no_meter_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assumed = AssumedPower(7.5, "cpu-share", "2 vCPUs", "TDP by threads")
    request = MeterRequest("AMD", "cpu-share", "", assumed=assumed)
    monkeypatch.setattr(inventory, "meter_request", lambda chip, device, power_w: request)
    monkeypatch.setattr(inventory, "meter_answers", lambda request: ())
    (item,) = inventory._meters(ChipIdentity("an-epyc", "AMD", "EPYC", "cpu-share", 2, 2))
    assert not item.here
    assert item.text.startswith("no power is measured; assumed, scope cpu-share: TDP")
    assert "--power-w" in item.remedy
