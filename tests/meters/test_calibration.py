from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from chipmark.errors import BadInputError
from chipmark.meters import calibration as stored
from chipmark.meters.calibration import (
    Calibration,
    Figure,
    calibrated,
    calibration_note,
    driver_of,
    forget_calibrations,
    informed,
    load_calibrations,
    machine_id,
    store_calibrations,
    why_not,
)
from chipmark.meters.contract import MeterInfo
from chipmark.meters.pick import pick_meters
from chipmark.meters.rapl import RaplMeter
from chipmark.meters.request import MeterRequest
from chipmark.meters.simulated_sensor import SensorSpec, SimulatedSensor

DAY_S = 86_400.0
MADE_S = 1_700_000_000.0

INFO = MeterInfo(
    name="nvml",
    source="polled",
    scope="board",
    method="NVML power",
    update_period_s=0.1,
    covers="one card, GPU-1",
    period_known=False,
    notes=("one",),
)
FOUND = Calibration(
    meter="nvml",
    covers="one card, GPU-1",
    scope="board",
    source="polled",
    driver="nvidia 570.1",
    made_unix_s=MADE_S,
    load="a load",
    idle_w=Figure(value=80.0, scatter=0.2),
    load_w=Figure(value=220.0),
    update_period_s=Figure(value=0.02, scatter=1e-4),
    averaging_s=Figure(value=1.0),
    lag_s=Figure(value=0.0),
    resolution_w=Figure(reason="finer than 0.001"),
)


def test_a_meter_takes_what_was_found_and_keeps_the_rest() -> None:
    made = calibrated(replace(INFO, resolution_w=0.5), FOUND)
    assert (made.update_period_s, made.period_known, made.averaging_s) == (0.02, True, 1.0)
    assert made.resolution_w == 0.5
    assert made.notes[0] == "one"
    assert made.notes[1] == "calibrated on 2023-11-14: period 0.02 s, averaging 1 s"
    nothing = FOUND.model_copy(
        update={"update_period_s": Figure(reason="x"), "averaging_s": Figure(reason="x")}
    )
    blind = calibrated(INFO, nothing)
    assert (blind.update_period_s, blind.period_known, blind.averaging_s) == (0.1, False, None)
    assert "nothing could be seen" in blind.notes[1]


@pytest.mark.parametrize(
    ("driver", "after_s", "word"),
    [
        ("nvidia 570.1", 29 * DAY_S, ""),
        ("nvidia 570.1", 31 * DAY_S, "31 days old"),
        ("nvidia 570.1", -2 * DAY_S, "-2 days old"),
        ("nvidia 580.2", DAY_S, "made with nvidia 570.1, and here is nvidia 580.2"),
    ],
)
def test_one_that_is_old_or_of_another_driver_is_named_and_not_used(
    driver: str, after_s: float, word: str
) -> None:
    assert word in why_not(FOUND, driver, MADE_S + after_s)
    store_calibrations([FOUND])
    made = informed(INFO, driver, MADE_S + after_s)
    assert (made.update_period_s == 0.02) == (word == "")
    assert word in calibration_note(made)
    assert calibration_note(made)


def test_another_card_or_meter_has_none() -> None:
    store_calibrations([FOUND])
    for other in (replace(INFO, covers="one card, GPU-2"), replace(INFO, name="nvml-power")):
        assert informed(other, "nvidia 570.1", MADE_S) is other
    assert calibration_note(INFO) == ""


def test_stored_ones_are_replaced_by_meter_and_forgotten_by_name() -> None:
    other = FOUND.model_copy(update={"covers": "one card, GPU-2"})
    rapl = FOUND.model_copy(update={"meter": "rapl", "covers": "2 packages"})
    store_calibrations([FOUND, other])
    again = FOUND.model_copy(update={"idle_w": Figure(value=81.0)})
    path = store_calibrations([again, rapl])
    assert path.parent.name == "meters"
    assert load_calibrations() == [other, again, rapl]
    assert forget_calibrations(["rapl"]) == 1
    assert load_calibrations() == [other, again]
    assert forget_calibrations() == 2
    assert not path.exists()
    assert forget_calibrations() == 0


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("{", "JSON"),
        ('{"schema": "chipmark.meters/2", "calibrations": []}', "schema"),
        ('{"schema": "chipmark.meters/1", "calibrations": [{"meter": 3}]}', "calibrations.0.meter"),
    ],
)
def test_a_broken_file_is_a_note_of_the_meter_and_no_failure(text: str, field: str) -> None:
    path = store_calibrations([FOUND])
    path.write_text(text)
    with pytest.raises(BadInputError, match=field):
        load_calibrations()
    made = informed(INFO, "nvidia 570.1", MADE_S)
    assert made.update_period_s == 0.1
    assert "--forget" in calibration_note(made)
    assert forget_calibrations() == 1


@pytest.mark.parametrize("value", ["-1.0", "NaN", "1e999"])
def test_a_stored_number_that_cannot_be_is_refused(value: str) -> None:
    path = store_calibrations([FOUND])
    path.write_text(path.read_text().replace("0.02", value))
    with pytest.raises(BadInputError, match="update_period_s"):
        load_calibrations()


def test_a_run_uses_the_calibration_of_its_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    sensor = SimulatedSensor("test", SensorSpec())
    monkeypatch.setattr(RaplMeter, "for_request", classmethod(lambda cls, request: sensor))
    request = MeterRequest("AMD", "package", "cpu")
    own = FOUND.model_copy(
        update={
            "meter": sensor.info.name,
            "covers": sensor.info.covers,
            "driver": driver_of("AMD"),
            "made_unix_s": stored.time.time(),
        }
    )
    store_calibrations([own])
    picked = pick_meters(request).meter
    assert picked is sensor
    assert (picked.info.update_period_s, picked.info.period_known) == (0.02, True)


def test_the_driver_is_that_of_the_vendors_pci_devices(tmp_path: Path) -> None:
    device = tmp_path / "sys/bus/pci/devices/0000:17:00.0"
    module = tmp_path / "sys/module/nvidia"
    driver = tmp_path / "sys/bus/pci/drivers/nvidia"
    for folder in (device, module, driver):
        folder.mkdir(parents=True)
    for name, text in (("vendor", "0x10de"), ("class", "0x030200"), ("device", "0x2330")):
        (device / name).write_text(f"{text}\n")
    (module / "version").write_text("570.86.15\n")
    (driver / "module").symlink_to(module)
    (device / "driver").symlink_to(driver)
    assert driver_of("NVIDIA", tmp_path) == "nvidia 570.86.15"
    assert driver_of("AMD", tmp_path).startswith("kernel ")
    assert driver_of("nobody", tmp_path).startswith("kernel ")


def test_a_machine_is_known_by_its_id_and_not_by_the_id_itself(tmp_path: Path) -> None:
    without = machine_id(tmp_path)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    assert machine_id(tmp_path) not in (without, "0123456789abcdef")
    assert len(machine_id(tmp_path)) == 16


def test_to_look_for_one_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIPMARK_CACHE", str(tmp_path / "a" / "cache"))
    assert load_calibrations() == []
    assert forget_calibrations() == 0
    assert list(tmp_path.iterdir()) == []
    store_calibrations([FOUND])
    assert load_calibrations() == [FOUND]
