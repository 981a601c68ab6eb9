"""The meter on a file of our own: `pytest`."""

import time
from dataclasses import replace

import pytest
from chipmark_hwmon import VARIABLE, HwmonMeter

from chipmark.errors import ChipmarkError, UnknownNameError
from chipmark.meters.choice import MeterChoice, parse_choice
from chipmark.meters.request import MeterRequest

CARD = MeterRequest(vendor="MyVendor", unit="card", device="mychip:0")


def test_it_reads_microwatts(tmp_path, monkeypatch):
    sensor = tmp_path / "power1_input"
    sensor.write_text("250000000\n")
    monkeypatch.setenv(VARIABLE, str(sensor))
    meter = HwmonMeter.for_request(CARD)
    meter.start()
    time.sleep(0.01)
    samples = meter.stop()
    assert set(samples.power_w) == {250.0}
    assert (meter.info.source, meter.info.scope) == ("polled", "board")


def test_it_leaves_other_units_alone(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert HwmonMeter.for_request(CARD) is None


def test_the_users_own_word_goes_first(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "missing"))
    sensor = tmp_path / "power2_input"
    sensor.write_text("75000000\n")
    meter = HwmonMeter.for_request(replace(CARD, choices=(MeterChoice("hwmon", str(sensor)),)))
    assert meter.info.method.startswith("power2_input")
    with pytest.raises(UnknownNameError, match="scale"):
        HwmonMeter.for_request(replace(CARD, choices=(parse_choice("hwmon,scale=2"),)))


def test_it_meters_boards_and_not_what_is_around_them(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert HwmonMeter.for_request(replace(CARD, metered="host")) is None
    assert HwmonMeter.for_request(replace(CARD, metered="node")) is None


def test_it_says_what_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "missing"))
    with pytest.raises(ChipmarkError, match="cannot be read"):
        HwmonMeter.for_request(CARD)
