from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from types import ModuleType

import numpy as np
import pytest

from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.metrics.attribution import attribute
from chipmark.metrics.energy import energy_at, window_energy
from chipmark.metrics.energy_idle import IdlePower, idle_power, net_energy
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
    # The window begins between 200 J and 300 J and ends between 700 J and 800 J, so that it may be
    # 75 + 50 J more; and a counter that only ever rises by 100 J may show as much too little.
    assert found.error_rel == pytest.approx(0.05 + 1.05 * (75 + 50 + 100) / 475)


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
        (
            power(np.linspace(0, 10, 101), np.full(101, 50.0)),
            replace(POLLED, period_known=False),
            "power_too_few_updates",
        ),
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


def test_steady_device_repeats_its_watts_and_is_accepted() -> None:
    steady = power(np.linspace(0, 10, 101), np.full(101, 50.0))
    found = window_energy(steady, POLLED, 0.5, 9.5)
    assert (found.energy_j, found.updates) == (pytest.approx(450.0), 90)


def test_readings_that_are_fewer_than_updates_count_themselves() -> None:
    thin = power(np.linspace(0, 10, 12), np.full(12, 50.0))
    assert window_energy(thin, POLLED, 0.0, 10.0).reason == "power_too_few_updates"


def bursts(gap_s: float) -> PowerSamples:
    """Five bursts of readings of 100 W, one every 20 ms, over 10 s with gaps between them."""
    starts = np.arange(5) * 2.0
    burst = np.arange(0.0, 2.0 - gap_s, 0.02)
    time = np.append((starts[:, None] + burst).ravel(), 10.0)
    return power(time, np.full(len(time), 100.0))


def test_gaps_sum_over_the_window() -> None:
    # The largest of them is 18 % of the window, all of them 90 %.
    found = window_energy(bursts(1.8), replace(POLLED, update_period_s=0.02), 0.0, 10.0)
    assert (found.energy_j, found.reason) == (None, "power_gaps")
    assert found.gap_s == pytest.approx(9.0, abs=0.2)
    assert found.largest_gap_s < 0.2 * 10.0


def test_bound_holds_what_a_gap_may_hide() -> None:
    meter = replace(POLLED, update_period_s=0.02, averaging_s=0.02, cap_w=285.0, resolution_w=0.0)
    samples = bursts(0.3)
    samples = power(
        np.r_[-0.1, -0.08, samples.time_s, 10.02, 10.04], np.full(len(samples.time_s) + 4, 100.0)
    )
    found = window_energy(samples, meter, 0.0, 10.0)
    assert found.energy_j == pytest.approx(1000.0)
    assert found.gap_s == pytest.approx(1.6, abs=0.2)
    # A cap of 285 W shows as 300 W at most. The lag before an edge is worth 30 ms of the range.
    hidden_j = found.gap_s * (300 - 100)
    assert found.error_rel == pytest.approx(0.05 + 1.05 * (hidden_j + 300 * 0.03) / 1000)
    unlimited = window_energy(samples, replace(meter, cap_w=None), 0.0, 10.0)
    assert unlimited.energy_j == pytest.approx(1000.0)
    assert (unlimited.error_rel, unlimited.error_reason) == (None, "error_without_cap")


def test_gap_is_three_of_the_slower_of_sensor_and_reader() -> None:
    time = np.arange(0.0, 10.01, 0.25)
    slow = power(time, np.full(len(time), 100.0))
    assert window_energy(slow, POLLED, 0.0, 10.0).gap_s == 0.0
    asked = replace(POLLED, reading_period_s=0.05)
    assert window_energy(slow, asked, 0.0, 10.0).gap_s == 0.0
    starved = replace(POLLED, update_period_s=0.02, reading_period_s=0.05)
    assert window_energy(slow, starved, 0.0, 10.0).reason == "power_gaps"


@pytest.mark.parametrize(
    ("moves_until_s", "reason"), [(0.0, "counter_stuck"), (6.0, "counter_stuck"), (9.0, None)]
)
def test_counter_that_stands_still_is_no_energy(moves_until_s: float, reason: str) -> None:
    time = np.arange(0.0, 10.01, 0.05)
    joules = 100.0 * np.minimum(np.floor(time * 10) / 10, moves_until_s)
    samples = PowerSamples(time, joules, np.full(len(time), 300.0))
    assert window_energy(samples, COUNTER, 0.0, 10.0).reason == reason


def test_counter_of_unknown_period_counts_its_own_changes() -> None:
    time = np.arange(0.0, 10.01, 0.05)
    seldom = PowerSamples(time, np.floor(time), np.full(len(time), np.nan))
    unknown = replace(COUNTER, update_period_s=0.6, period_known=False)
    assert window_energy(seldom, unknown, 0.0, 10.0).reason == "counter_too_coarse"
    constant = replace(COUNTER, update_period_s=0.0)
    flat = PowerSamples(time, np.full(len(time), 7.0), np.full(len(time), np.nan))
    assert window_energy(flat, constant, 0.0, 10.0).reason == "counter_stuck"
    assert window_energy(seldom, constant, 0.0, 10.0).reason == "counter_too_coarse"


def test_bound_holds_the_gap_between_the_readings_at_an_edge() -> None:
    # 50 W before the window, 500 W inside; the reading before it is 6 s old, the next 1 s late.
    time = np.concatenate(([-6.0], np.arange(1.0, 36.0, 0.1)))
    joules = np.concatenate(([0.0], 300.0 + 500.0 * time[1:]))
    samples = PowerSamples(time, joules, np.full(len(time), np.nan))
    true_j = 500.0 * 30.0
    found = window_energy(samples, COUNTER, 0.0, 30.0)
    assert found.energy_j is not None
    assert found.error_rel is not None
    assert abs(found.energy_j - true_j) / found.energy_j < found.error_rel - 0.05
    assert found.energy_j != pytest.approx(true_j, rel=0.01)


def test_edges_that_were_not_read_for_a_fifth_of_the_window_are_refused() -> None:
    time = np.concatenate(([-60.0], np.arange(6.0, 36.0, 0.1)))
    samples = PowerSamples(time, 100.0 * (time + 60), np.full(len(time), np.nan))
    assert window_energy(samples, COUNTER, 0.0, 25.0).reason == "power_gaps"
    assert window_energy(samples, COUNTER, 0.0, 35.0).gap_s == pytest.approx(6.0)


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
    # Once for a loaded model and device: before alone.
    assert idle_power(idle(50), None, COUNTER).low_w == pytest.approx(50)
    assert idle_power(idle(50, 29.0), None, COUNTER).reason == "idle_too_short"
    assert idle_power(None, None, COUNTER).reason == "idle_missing"


def test_idle_by_a_counter_needs_its_updates() -> None:
    time = np.linspace(0, 31, 400)
    once = PowerSamples(time, np.where(time < 15, 0.0, 40.0), np.full(400, np.nan))
    never = PowerSamples(time, np.full(400, 9.0), np.full(400, np.nan))
    assert idle_power(once, once, COUNTER).reason == "counter_stuck"
    assert idle_power(never, never, COUNTER).reason == "counter_stuck"
    slow = replace(COUNTER, update_period_s=2.0)
    assert idle_power(idle(50), idle(50), slow).reason == "idle_too_short"


def test_note_of_a_range_is_there_where_the_ends_differ() -> None:
    assert idle_power(idle(50), idle(51), COUNTER).note == ""
    assert "50 W to 60 W" in idle_power(idle(50), idle(60), COUNTER).note


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
