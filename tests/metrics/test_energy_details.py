"""Joules by unit of work and by phase in a record's details, of a cell worked by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from chipmark.meters.contract import PowerSamples
from chipmark.metrics.derive import derive
from chipmark.metrics.rawcell import RawCell, SloLimits

Cell = Callable[..., RawCell]


def idle(watts: float) -> PowerSamples:
    time = np.linspace(0.0, 31.0, 3100)
    return PowerSamples(time, watts * time, np.full(len(time), np.nan))


def energy_of(raw: RawCell) -> dict[str, Any]:
    found = derive(raw).details["energy"]
    assert isinstance(found, dict)
    return found


def test_gross_and_net_of_every_unit_of_work(cell: Cell) -> None:
    # 20 W over 0.280 s; 5 W of them at idle. Two sessions, 32 work tokens, 10 outputs, 4 turns.
    raw = replace(cell((1.0, 1.0)), idle_before=idle(5.0), idle_after=idle(5.0))
    energy = energy_of(raw)
    assert energy["energy_j"] == pytest.approx(2 * 5.6)
    assert energy["net_energy_j"] == pytest.approx([2 * 4.2] * 2)
    assert energy["net_power_w"] == pytest.approx([15.0] * 2)
    units = {"session": 2, "work_token": 32, "output_token": 10, "turn_in_slo": 4}
    assert set(energy["per"]) == {f"joule_per_{unit}" for unit in units}
    for unit, count in units.items():
        found = energy["per"][f"joule_per_{unit}"]
        assert found["gross"] == pytest.approx(5.6 / count)
        assert found["net"] == pytest.approx([4.2 / count] * 2)
        assert found["null_reason"] is None
        assert found["net_null_reason"] is None


def test_net_is_a_range_where_idle_moved_and_null_where_it_was_not_measured(cell: Cell) -> None:
    moved = replace(cell(), idle_before=idle(5.0), idle_after=idle(10.0))
    assert energy_of(moved)["per"]["joule_per_session"]["net"] == pytest.approx([1.4, 2.1])
    found = energy_of(cell())["per"]["joule_per_session"]
    assert (found["net"], found["net_null_reason"]) == (None, "idle_missing")
    hot = replace(cell(), idle_before=idle(30.0), idle_after=idle(30.0))
    found = energy_of(hot)["per"]["joule_per_session"]
    assert (found["net"], found["net_null_reason"]) == (None, "negative_net")
    assert found["gross"] == pytest.approx(2.8)


def test_turns_that_missed_the_objective_earn_no_joules(cell: Cell) -> None:
    found = energy_of(cell(slo=SloLimits(1e-6, 1e-6, 1e-6)))["per"]["joule_per_turn_in_slo"]
    assert found == {
        "gross": None, "net": None, "null_reason": "slo_not_met", "net_null_reason": "slo_not_met",
    }  # fmt: skip


def test_phases_idle_and_harness_are_the_energy_of_w(cell: Cell) -> None:
    energy = energy_of(cell())
    phases = energy["phases"]
    assert set(phases) == {"prefill_cold", "prefill_append", "decode", "harness"}
    assert energy["phases_null_reason"] is None
    seconds = {"prefill_cold": 0.14, "prefill_append": 0.10, "decode": 0.03, "harness": 0.01}
    for name, length in seconds.items():
        assert phases[name]["seconds"] == pytest.approx(length)
        assert phases[name]["energy_j"] == pytest.approx(20.0 * length, rel=0.01)
        assert phases[name]["interval"] is not None
        assert phases[name]["method"] == "regressed"


def test_one_meter_of_several_devices_tells_no_phases(cell: Cell) -> None:
    raw = cell()
    two = replace(raw.repeats[0], others=(replace(raw.repeats[0], power=None),))
    both = replace(raw, repeats=(two,), facts=replace(raw.facts, replicas=2))
    energy = energy_of(both)
    assert (energy["phases"], energy["phases_null_reason"]) == (None, "several_devices")


def test_a_declared_power_has_no_phases(cell: Cell, rawcells: ModuleType) -> None:
    raw = cell(power=lambda a, b: rawcells.constant_power(20.0, a, b))
    assert raw.facts.meter is not None
    declared = replace(raw.facts, meter=replace(raw.facts.meter, source="declared"))
    energy = energy_of(replace(raw, facts=declared))
    assert (energy["phases"], energy["phases_null_reason"]) == (None, "not_measured")
