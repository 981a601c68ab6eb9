"""Two meters of one thing that cannot both be right, and readings that are not of their meter."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from chipmark.meters.contract import PowerSamples
from chipmark.meters.replay import save_samples
from chipmark.results.validate import validate_record
from chipmark.results.write import record_raw

SECOND = {
    "name": "second", "source": "counter", "scope": "board", "method": "another",
    "update_period_s": 0.001, "error_rel": 0.02,
}  # fmt: skip
"""Of the scope of the cell's own meter, which reads 20 W and states 2 %."""


def findings(
    rawcells: ModuleType, folder: Path, watts: float, **changes: Any
) -> list[tuple[str, str, str]]:
    raw = rawcells.write_raw(folder / "raw", beside=[SECOND | changes], slows=(1.0,))
    with np.load(raw / "repeat-0/power.npz") as own:
        start_s, end_s = float(own["time_s"][0]), float(own["time_s"][-1])
    save_samples(raw / "repeat-0/power-second.npz", rawcells.counter(watts, start_s, end_s, 240))
    found = validate_record(record_raw(folder / "out", raw))
    return [(f.severity, f.code, f.text) for f in found]


@pytest.mark.parametrize("watts", [20.0, 20.7, 19.3])
def test_meters_within_their_bounds_agree(
    rawcells: ModuleType, tmp_path: Path, watts: float
) -> None:
    assert findings(rawcells, tmp_path, watts) == []


@pytest.mark.parametrize("watts", [22.0, 18.0])
def test_meters_of_one_thing_that_differ_are_an_error(
    rawcells: ModuleType, tmp_path: Path, watts: float
) -> None:
    ((severity, code, text),) = findings(rawcells, tmp_path, watts)
    assert (severity, code) == ("error", "meters")
    assert "hand read 5.6" in text
    assert "of the same scope (board)" in text


def test_what_may_be_a_part_of_the_other_is_a_warning(rawcells: ModuleType, tmp_path: Path) -> None:
    found = findings(rawcells, tmp_path, 10.0, covers="one of two boards")
    assert [(severity, code) for severity, code, _ in found] == [("warning", "meters")]


@pytest.mark.parametrize("changes", [{"scope": "wall"}, {"error_rel": None}, {"source": "assumed"}])
def test_what_nothing_says_must_agree_is_not_compared(
    rawcells: ModuleType, tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert findings(rawcells, tmp_path, 10.0, **changes) == []


def test_readings_of_another_kind_than_the_meter_are_an_error(
    rawcells: ModuleType, tmp_path: Path
) -> None:
    found = findings(rawcells, tmp_path, 20.0, source="polled")
    assert [(severity, code) for severity, code, _ in found] == [("error", "meters")]
    assert "its readings have no power_w" in found[0][2]

    def watts(start_s: float, end_s: float) -> PowerSamples:
        time_s = np.arange(start_s - 0.01, end_s + 0.01, 0.001)
        return PowerSamples(time_s, np.full(time_s.size, np.nan), np.full(time_s.size, 20.0))

    raw = rawcells.write_raw(tmp_path / "own", slows=(1.0,), power=watts)
    (own,) = validate_record(record_raw(tmp_path / "out-own", raw))
    assert (own.code, own.text.endswith("have no energy_j")) == ("meters", True)
