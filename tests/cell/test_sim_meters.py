"""The meters of a simulated device, and options of power that cannot reach it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import chipmark
from chipmark.cell.prepare import sim_meters


def test_it_has_meters_of_its_own() -> None:
    picked = sim_meters("pulsed", ())
    assert picked.meter is not None
    assert [meter.info.name for meter in (picked.meter, *picked.beside)] == ["sim", "sim-counter"]
    assert picked.remarks == ()
    assert sim_meters("golden", ()).beside == ()


@pytest.mark.parametrize(
    ("option", "given"),
    [("--power-w", {"power_w": 50.0}), ("--meter", {"meters": ["rapl"]})],
    ids=["power", "meter"],
)
def test_an_option_that_it_cannot_use_is_said_in_the_row(
    tmp_path: Path, option: str, given: dict[str, Any]
) -> None:
    (record,) = chipmark.run("quick", ["sim:golden"], out=tmp_path, repeats=1, **given)
    texts = [note.text for note in record.notes]
    assert f"{option} is not used: a simulated device has a meter of its own" in texts
