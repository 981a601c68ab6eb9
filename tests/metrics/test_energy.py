from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from types import ModuleType

import numpy as np
import pytest

from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.metrics.attribution import attribute
from chipmark.metrics.energy import (
    IdlePower,
    energy_at,
    idle_power,
    net_energy,
    window_energy,
)
from chipmark.metrics.events import view
from chipmark.metrics.rawcell import CellFacts, SloLimits
from chipmark_models.config import ModelConfig

COUNTER = MeterInfo("c", "counter", "board", "", update_period_s=0.1, error_rel=0.05)
POLLED = MeterInfo("p", "polled", "board", "", update_period_s=0.1, averaging_s=0.1, error_rel=0.05)


def power(time: np.ndarray, watts: np.ndarray) -> PowerSamples:
    return PowerSamples(time, np.full(len(time), np.nan), watts)


def ramp(start_s: float, end_s: float, n: int = 101) -> PowerSamples:
    time = np.linspace(start_s, end_s, n)
    return power(time, 10.0 * time)


def test_counter_difference_is_interpolated_at_the_edges() -> None:
    time = np.arange(0.0, 11.0)
    samples = PowerSamples(time, 100.0 * time, np.full(11, np.nan))
    found = window_energy(samples, COUNTER, 2.5, 7.25)
    assert found.method == "counter"
    assert found.energy_j == pytest.approx(475.0)
    assert found.error_rel == pytest.approx(0.05 + 2 * 0.1 / 4.75)


def test_trapezoid_is_exact_for_a_ramp_and_its_edges() -> None:
    found = window_energy(ramp(0.0, 10.0), POLLED, 2.05, 7.33)
    assert found.method == "trapezoid"
    assert found.energy_j == pytest.approx(5 * (7.33**2 - 2.05**2))
    assert found.error_rel is not None
    assert found.error_rel > 0.05


def test_declared_and_assumed_power_are_constants_times_the_window() -> None:
    for source in ("declared", "assumed"):
        meter = MeterInfo("d", source, "cpu-share", "", 0.0)  # type: ignore[arg-type]
        samples = power(np.array([0.0, 9.0]), np.array([30.0, 30.0]))
        assert window_energy(samples, meter, 1.0, 5.0).energy_j == pytest.approx(120.0)


@pytest.mark.parametrize(
    ("samples", "meter", "reason"),
    [
        (ramp(0.0, 10.0, 12), POLLED, "power_too_few_updates"),
        (power(np.linspace(0, 10, 101), np.full(101, 50.0)), POLLED, "power_too_few_updates"),
        (
            power(np.r_[np.linspace(0, 5, 60), 9.5, 10.0], np.arange(62.0)),
            POLLED,
            "power_gaps",
        ),
        (ramp(3.0, 10.0), POLLED, "power_gaps"),
        (
            PowerSamples(np.linspace(0, 10, 50), np.linspace(0, 1, 50), np.full(50, np.nan)),
            replace(COUNTER, update_period_s=1.0),
            "counter_too_coarse",
        ),
        (
            PowerSamples(np.linspace(3, 10, 50), np.linspace(0, 1, 50), np.full(50, np.nan)),
            COUNTER,
            "power_gaps",
        ),
        (
            PowerSamples(np.array([0.0, 5, 10]), np.array([0.0, 9, 3]), np.full(3, np.nan)),
            COUNTER,
            "counter_backwards",
        ),
        (None, COUNTER, "not_measured"),
        (ramp(0.0, 10.0), None, "not_measured"),
    ],
)
def test_thin_samples_are_refused(
    samples: PowerSamples | None, meter: MeterInfo | None, reason: str
) -> None:
    found = window_energy(samples, meter, 0.5, 9.9)
    assert found.energy_j is None
    assert found.reason == reason


def test_a_bound_is_unknown_where_the_sensor_class_is() -> None:
    found = window_energy(ramp(0, 10), replace(POLLED, error_rel=None), 1.0, 9.0)
    assert found.energy_j is not None
    assert found.error_rel is None


def idle(watts: float, seconds: float = 31.0) -> PowerSamples:
    time = np.linspace(0, seconds, 400)
    return PowerSamples(time, watts * time, np.full(400, np.nan))


def test_idle_needs_30_s_on_both_sides_and_a_drift_is_a_range() -> None:
    assert idle_power(idle(50), idle(51), COUNTER) == IdlePower(
        pytest.approx(50.5), pytest.approx(50.5)
    )
    drifted = idle_power(idle(50), idle(60), COUNTER)
    assert (drifted.low_w, drifted.high_w) == (pytest.approx(50), pytest.approx(60))
    assert idle_power(idle(50, 29.0), idle(50), COUNTER).reason == "idle_too_short"
    assert idle_power(None, idle(50), COUNTER).reason == "idle_missing"


def test_net_is_a_range_and_never_negative() -> None:
    assert net_energy(1000.0, IdlePower(50.0, 60.0), 10.0) == (400.0, 500.0)
    assert net_energy(500.0, IdlePower(60.0, 60.0), 10.0) is None


def test_energy_at_sums_over_any_partition() -> None:
    samples = ramp(0.0, 10.0, 37)
    cuts = np.sort(np.random.default_rng(3).uniform(0.5, 9.5, 50))
    whole = energy_at(samples, POLLED, np.array([cuts[0], cuts[-1]]))
    parts = np.diff(energy_at(samples, POLLED, cuts))
    assert parts.sum() == pytest.approx(whole[1] - whole[0])


def facts(rawcells: ModuleType, config: bool = True) -> CellFacts:
    return CellFacts(
        "equal_n", 1, SloLimits(), (Fraction(1), Fraction(1), Fraction(1)), "closed", COUNTER,
        "card", 1, 1, ModelConfig.from_dict(rawcells.TINY) if config else None, "fp32", "fp32",
    )  # fmt: skip


@pytest.mark.parametrize("config", [True, False])
def test_shares_and_unallocated_sum_to_the_window(rawcells: ModuleType, config: bool) -> None:
    joined = view(rawcells.tables())
    samples = rawcells.counter(20.0, joined.start_s, joined.end_s)
    parts = attribute(joined, samples, COUNTER, facts(rawcells, config))
    assert parts.energy_j.sum() + parts.unallocated_j == pytest.approx(5.6)
    # One at a time: each session has the energy of its own steps, host time included.
    spans = np.array([0.166, 0.114]) * 20.0
    assert parts.energy_j == pytest.approx(spans)


def test_idle_energy_goes_to_the_sessions_in_a_tool_gap(rawcells: ModuleType) -> None:
    tables = rawcells.tables()
    # Session 0's tool runs for 40 ms after its first turn; everything later moves.
    gap = 0.040
    moved = float(tables["turns"]["last_token_s"][0])
    for name in ("steps", "launches", "turns", "sessions", "window"):
        for column, values in tables[name].items():
            if column in ("engine_s", "host_s") or not column.endswith("_s"):
                continue
            late = values > moved + 1e-9
            if column in ("intended_s", "admitted_s"):
                late |= np.isclose(values, moved, atol=1e-9)
            values[late] += gap
    joined = view(tables)
    assert joined.window_s == pytest.approx(0.320)
    samples = rawcells.counter(20.0, joined.start_s, joined.end_s)
    parts = attribute(joined, samples, COUNTER, facts(rawcells))
    assert parts.energy_j == pytest.approx(np.array([0.166 + gap, 0.114]) * 20.0)
    assert parts.unallocated_j == pytest.approx(0.0, abs=1e-9)


def test_nobody_in_a_gap_is_unallocated(rawcells: ModuleType) -> None:
    tables = rawcells.tables()
    tables["window"]["end_s"] += 0.050
    joined = view(tables)
    samples = rawcells.counter(20.0, joined.start_s, joined.end_s)
    parts = attribute(joined, samples, COUNTER, facts(rawcells))
    assert parts.unallocated_j == pytest.approx(1.0)
    assert parts.energy_j.sum() + parts.unallocated_j == pytest.approx(0.330 * 20)
