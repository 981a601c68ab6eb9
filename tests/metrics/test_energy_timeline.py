"""Watts over time from readings: gaps, counters, phases."""

from __future__ import annotations

import itertools
from types import ModuleType

import numpy as np
import pytest

from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.metrics.energy_timeline import phase_marks, power_series, power_timeline
from chipmark.metrics.events import view

POLLED = MeterInfo("p", "polled", "board", "", update_period_s=0.1, reading_period_s=0.1)


def test_a_gap_is_a_gap_and_no_line() -> None:
    time = np.array([10.0, 10.1, 10.2, 11.2, 11.3])
    watts = np.array([50.0, 60, 70, 80, 90])
    series = power_series("p", PowerSamples(time, np.full(5, np.nan), watts), POLLED, 10.0)
    assert series.time_s == pytest.approx([0.0, 0.1, 0.2, 0.7, 1.2, 1.3])
    assert np.isnan(series.power_w).tolist() == [False, False, False, True, False, False]
    # Nothing is known of the meter: its usual spacing is taken.
    series = power_series("p", PowerSamples(time, np.full(5, np.nan), watts), None, 10.0)
    assert int(np.isnan(series.power_w).sum()) == 1


def test_a_counter_draws_what_it_rose_by_between_its_updates() -> None:
    time = np.arange(6.0)
    energy = np.array([0.0, 0.0, 100.0, 100.0, 400.0, 400.0])
    samples = PowerSamples(time, energy, np.full(6, np.nan))
    series = power_series("c", samples, None, 0.0)
    assert series.time_s.tolist() == [0.0, 2.0, 2.0, 4.0]
    assert series.power_w.tolist() == [50.0, 50.0, 150.0, 150.0]


def test_phases_are_stretches_from_the_start_of_w(rawcells: ModuleType) -> None:
    joined = view(rawcells.tables())
    marks = phase_marks(joined, joined.start_s)
    assert [mark.phase for mark in marks] == [
        "prefill_cold", "decode", "prefill_append", "decode", "prefill_cold", "decode",
        "prefill_append",
    ]  # fmt: skip
    assert marks[0].start_s == pytest.approx(0.001)
    assert marks[-1].end_s == pytest.approx(joined.window_s)
    assert all(a.end_s <= b.start_s for a, b in itertools.pairwise(marks))
    samples = rawcells.counter(20.0, joined.start_s, joined.end_s)
    window = (joined.start_s, joined.end_s)
    line = power_timeline(2, joined, window, {"a": (samples, None)}, (5.0, 6.0))
    assert (line.repeat, line.window_s) == (2, pytest.approx(0.28))
    assert line.series[0].power_w == pytest.approx(20.0)
    assert line.series[0].time_s[0] < 0
