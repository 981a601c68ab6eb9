"""Joules, watts and reading period of the meters next to a row's own, by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.metrics.derive import derive
from chipmark.metrics.rawcell import RawCell

WALL = MeterInfo(
    "pdu", "wall", "wall", "hand", update_period_s=0.001, averaging_s=0.001, error_rel=0.03,
    reading_period_s=0.001, cap_w=100.0, resolution_w=0.001,
)  # fmt: skip
MakeCell = Callable[..., RawCell]


def watts(value: float, start_s: float, end_s: float, step_s: float = 0.001) -> PowerSamples:
    time_s = np.arange(start_s - 2 * step_s, end_s + 2 * step_s, step_s)
    return PowerSamples(time_s, np.full(time_s.size, np.nan), np.full(time_s.size, value))


def with_wall(raw: RawCell, *readings: PowerSamples | None, **facts: Any) -> RawCell:
    """The cell with these readings at the wall, one a repeat."""
    repeats = tuple(
        replace(repeat, beside={} if samples is None else {"pdu": samples})
        for repeat, samples in zip(raw.repeats, readings, strict=True)
    )
    return replace(raw, facts=replace(raw.facts, beside=(WALL,), **facts), repeats=repeats)


def windows(raw: RawCell) -> list[tuple[float, float]]:
    return [
        (float(r.events["window"]["start_s"][0]), float(r.events["window"]["end_s"][0]))
        for r in raw.repeats
    ]


def entry(raw: RawCell) -> dict[str, Any]:
    (found,) = derive(raw).details["energy"]["beside"]
    return dict(found)


def test_joules_are_summed_over_the_repeats_that_were_read(cell: MakeCell) -> None:
    raw = cell((1.0, 2.0, 1.0))
    first, second, _ = windows(raw)
    found = entry(with_wall(raw, watts(30.0, *first), watts(60.0, *second), None))
    # W is 0.28 s and 0.56 s; 22 + 10 tokens a repeat.
    assert found["energy_j"] == pytest.approx(30 * 0.28 + 60 * 0.56)
    assert found["power_w"] == pytest.approx((30 * 0.28 + 60 * 0.56) / 0.84)
    assert found["tok_per_joule"] == pytest.approx(64 / (30 * 0.28 + 60 * 0.56))
    assert 0.03 <= found["error_rel"] < 0.06
    assert found["error_null_reason"] is None
    assert (found["repeats"], found["null_reason"]) == (2, None)
    assert (found["name"], found["source"], found["scope"]) == ("pdu", "wall", "wall")


def test_the_reading_period_is_the_one_that_was_reached(cell: MakeCell) -> None:
    raw = cell((1.0,))
    (window,) = windows(raw)
    samples = watts(30.0, *window, step_s=0.01)
    late = np.delete(np.arange(len(samples.time_s)), [10, 11])
    samples = PowerSamples(samples.time_s[late], samples.energy_j[late], samples.power_w[late])
    found = entry(with_wall(raw, samples))
    assert found["reading_period_s"]["median"] == pytest.approx(0.01)
    assert found["reading_period_s"]["largest"] == pytest.approx(0.03)
    own = derive(raw).details["energy"]["reading_period_s"]
    # 200 readings over the window and a tenth of it at each end.
    assert own["median"] == pytest.approx(1.2 * 0.28 / 199)
    assert own["largest"] == pytest.approx(1.2 * 0.28 / 199)


def test_readings_that_cannot_carry_a_number_are_null_with_the_reason(cell: MakeCell) -> None:
    raw = cell((1.0,))
    (window,) = windows(raw)
    missing = entry(with_wall(raw, None))
    assert (missing["power_w"], missing["null_reason"]) == (None, "not_measured")
    assert missing["reading_period_s"] is None
    few = entry(with_wall(raw, watts(30.0, *window, step_s=0.05)))
    assert (few["power_w"], few["null_reason"]) == (None, "power_too_few_updates")
    assert (few["energy_j"], few["tok_per_joule"], few["error_rel"]) == (None, None, None)


@pytest.mark.parametrize("facts", [{"unit": "cpu-share"}, {"used": 1, "of": 2}])
def test_a_meter_of_more_than_the_unit_gives_watts_and_no_tokens_a_joule(
    cell: MakeCell, facts: dict[str, Any]
) -> None:
    raw = cell((1.0,))
    (window,) = windows(raw)
    found = entry(with_wall(raw, watts(30.0, *window), **facts))
    assert found["power_w"] == pytest.approx(30.0)
    assert (found["tok_per_joule"], found["null_reason"]) == (None, "unit_partly_used")


def test_no_column_is_made_from_them(cell: MakeCell, rawcells: ModuleType) -> None:
    raw = cell((1.0,))
    (window,) = windows(raw)
    plain, both = derive(raw), derive(with_wall(raw, watts(30.0, *window)))
    assert both.metrics == plain.metrics
    assert both.intervals == plain.intervals
    assert both.notes == plain.notes
    assert "beside" not in plain.details["energy"]
