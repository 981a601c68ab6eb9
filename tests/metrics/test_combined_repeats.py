"""How repeats combine, which of them count, and what a row must say of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from chipmark.metrics import phases
from chipmark.metrics.derive import Derived, derive
from chipmark.metrics.events import view
from chipmark.metrics.names import METRICS
from chipmark.metrics.rawcell import (
    RawCell,
    Roofs,
    RunTiming,
)

MakeCell = Callable[..., RawCell]
DeriveCell = Callable[..., Derived]


def test_repeats_combine_as_ratios_of_sums(values: DeriveCell) -> None:
    m = values(slows=(1.0, 1.2)).metrics
    assert m["total_tok_s"] == pytest.approx(64 / (0.280 * 2.2))
    assert m["sessions"] == 4


def test_failed_and_dropped_turns_are_misses_and_earn_nothing(cell: MakeCell) -> None:
    raw = cell(slows=(1.0, 1.0))
    turns = raw.repeats[0].events["turns"]
    turns["status"][3] = 1
    turns["status"][1] = 2
    for name in ("intended_s", "first_token_s", "last_token_s"):
        turns[name][1] = np.nan
    d = derive(raw)
    assert d.metrics["slo_attainment"] == pytest.approx(6 / 8)
    assert phases.work(view(raw.repeats[0].events)).tokens == 10 + 4 + 4 + 3
    notes = dict(d.notes)
    assert notes["turns_lost"].startswith("2 turns")
    # The repeat that lost them is in no other number.
    assert d.metrics["total_tok_s"] == pytest.approx(32 / 0.280)
    assert notes["repeat_incomplete"].startswith("1 of 2")
    assert "total_tok_s" not in d.intervals
    assert [r["complete"] for r in d.per_repeat] == [0, 1]
    assert d.per_repeat[0]["total_tok_s"] is None


def test_without_a_complete_repeat_there_is_no_number(cell: MakeCell) -> None:
    raw = cell(slows=(1.0, 1.0))
    for repeat in raw.repeats:
        repeat.events["turns"]["status"][3] = 3
    d = derive(raw)
    kept = {name for name, value in d.metrics.items() if value is not None}
    assert kept == {"slo_attainment"}
    assert set(d.null_reasons.values()) == {"repeat_incomplete"}
    assert {"repeat_incomplete", "turns_lost", "few_repeats"} <= {code for code, _ in d.notes}
    assert set(METRICS) == set(d.metrics)


def test_the_engines_word_that_a_repeat_was_cut_is_taken(cell: MakeCell) -> None:
    raw = cell(slows=(1.0, 1.0, 1.0))
    cut = replace(raw.repeats[0], timing=RunTiming(0.0, 1.0, 2.0, 3.0, complete=False))
    d = derive(replace(raw, repeats=(cut, *raw.repeats[1:])))
    assert [r["complete"] for r in d.per_repeat] == [0, 1, 1]
    assert d.metrics["sessions"] == 4


def test_a_load_that_sets_the_rate_is_said(
    rawcells: ModuleType, cell: MakeCell, values: DeriveCell
) -> None:
    assert "load_bound" not in {c for c, _ in values().notes}
    assert "load_bound" in {c for c, _ in values(loop="open").notes}
    raw = cell()
    # Session 1 is sent later: 20 ms of tool time in W of 300 ms, and 60 ms of 340.
    for gap, bound in ((0.020, False), (0.060, True)):
        events = rawcells.tables()
        late = events["turns"]["session"] == 1
        for name in ("intended_s", "admitted_s", "first_token_s", "last_token_s"):
            events["turns"][name][late] += gap
        rows = events["rows"]["session"] == 1
        for name in ("start_s", "end_s"):
            events["launches"][name][rows] += gap
            events["sessions"][name][1] += gap
        for name in ("submit_s", "submitted_s", "wait_s", "visible_s"):
            events["steps"][name][rows] += gap
        events["window"]["end_s"] += gap
        repeat = replace(raw.repeats[0], events=events)
        d = derive(replace(raw, repeats=(repeat,)))
        assert ("load_bound" in {c for c, _ in d.notes}) == bound
        assert d.details["tool_time_share"] == pytest.approx(gap / (0.280 + gap))
        # Tool time is not idle time of a step.
        assert d.metrics["idle_s_per_step"] == pytest.approx(0.001)


def test_intervals_by_repeat_hold_the_combined_value(values: DeriveCell) -> None:
    d = values(slows=(1.0, 1.02, 0.98))
    low, high = d.intervals["total_tok_s"]
    assert low is not None
    assert high is not None
    assert low < d.metrics["total_tok_s"] < high  # type: ignore[operator]
    # t(2) = 4.303, s of the logs of 1, 1.02, 0.98 is 0.0200.
    assert np.log(high / low) / 2 == pytest.approx(4.303 * 0.0200 / 3**0.5, rel=1e-3)


def test_a_spread_never_bars_and_a_drift_does(values: DeriveCell) -> None:
    swings = values(slows=(1.0, 1.4, 0.8, 1.2, 1.0, 0.9))
    assert "not_steady" not in {c for c, _ in swings.notes}
    heats = values(slows=(1.0, 1.06, 1.10, 1.16, 1.20, 1.26))
    text = dict(heats.notes)["not_steady"]
    assert text.startswith("total_tok_s of the repeats")
    assert "few_repeats" not in {c for c, _ in heats.notes}


def test_where_the_load_sets_the_rate_the_ttft_must_not_drift(values: DeriveCell) -> None:
    d = values(loop="open", slows=(1.0, 1.06, 1.10, 1.16, 1.20, 1.26))
    assert dict(d.notes)["not_steady"].startswith("ttft_p50_s of the repeats")


def test_intervals_of_latencies_are_the_machines_noise(values: DeriveCell) -> None:
    assert "ttft_p50_s" not in values().intervals
    once = values(slows=(1.0, 1.02, 0.98)).intervals["ttft_p50_s"]
    low, high = once
    assert low is not None
    assert high is not None
    # t(2) = 4.303, s of the logs of 1, 1.02, 0.98 is 0.0200, as for rates.
    assert np.log(high / low) / 2 == pytest.approx(4.303 * 0.0200 / 3**0.5, rel=1e-3)


def test_a_session_that_did_not_end_takes_its_joules_away(cell: MakeCell) -> None:
    raw = cell()
    raw.repeats[0].events["sessions"]["status"][1] = 3
    d = derive(raw)
    assert d.metrics["joule_per_session"] is None
    assert d.null_reasons["joule_per_session"] == "session_unfinished"
    assert d.metrics["tok_per_joule"] is not None


def test_a_minority_of_repeats_may_lack_a_roof_and_it_is_said(cell: MakeCell) -> None:
    raw = cell(slows=(1.0, 1.0, 1.0))
    bad = replace(raw.repeats[0], roofs=Roofs(10**6, 1e6, 2e6, 1e6, 1e6, 1000))
    one = derive(replace(raw, repeats=(bad, *raw.repeats[1:])))
    assert one.metrics["mbu"] == pytest.approx(derive(raw).metrics["mbu"])
    assert any(c == "repeats_left_out" and t.startswith("mbu") for c, t in one.notes)
    two = derive(replace(raw, repeats=(bad, bad, raw.repeats[2])))
    assert two.null_reasons["mbu"] == "roof_unsteady"
