"""The SLO's share: who counts, what can be claimed of it, and what is good of the throughput."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta, binomtest

from chipmark.codes import NoteCode
from chipmark.engine.events import empty_table
from chipmark.metrics.attainment import Attainment, attainment, lower_bound, slo_notes
from chipmark.metrics.derive import derive
from chipmark.metrics.events import RepeatView, view
from chipmark.metrics.latency import (
    capacity_estimates,
    goodput_tokens,
    goodput_turns,
    judged_turns,
    sessions_per_hour,
    slo_attainment,
    with_spread,
)
from chipmark.metrics.rawcell import CellFacts, SloLimits
from chipmark.results.manifest import Manifest, load_manifest
from chipmark.results.raw import facts_of, load_raw
from chipmark.workload.passes import stride
from chipmark.workload.scale import Scale
from chipmark.workload.session import Session, Turn
from chipmark.workload.trace import Trace

SLO = SloLimits(ttft_append_s=2.0, ttft_cold_s=10.0, tpot_s=0.05)
DONE, FAILED, DROPPED, UNFINISHED = range(4)


def events(turns: list[dict[str, Any]], window: tuple[float, float] = (0.0, 100.0)) -> RepeatView:
    """A repeat of turns without launches. By default a turn is an append turn that met the SLO."""
    tables = {
        name: empty_table(name) for name in ("steps", "launches", "rows", "turns", "sessions")
    }
    tables["window"] = empty_table("window", 1)
    tables["window"]["start_s"][0], tables["window"]["end_s"][0] = window
    tables["window"]["left_s"][0] = window[1]
    tables["turns"] = empty_table("turns", len(turns))
    defaults = {
        "status": DONE, "intended_s": 1.0, "first_token_s": 2.0, "last_token_s": 2.4, "n_out": 11,
        "n_new": 100,
    }  # fmt: skip
    for at, turn in enumerate(turns):
        for name, value in (defaults | {"session": at} | turn).items():
            tables["turns"][name][at] = value
    return view(tables)


NAN = float("nan")


@pytest.mark.parametrize("scenario", ["equal_n", "capacity"])
@pytest.mark.parametrize(
    ("turn", "counts", "meets"),
    [
        ({}, True, True),
        ({"first_token_s": 3.5, "last_token_s": 3.6}, True, False),
        ({"first_token_s": 9.0, "last_token_s": 9.2, "cold": 1}, True, True),
        ({"last_token_s": 2.6}, True, False),
        ({"n_out": 1, "last_token_s": 2.0}, True, True),
        ({"status": FAILED, "first_token_s": NAN, "last_token_s": NAN}, True, False),
        (
            {"status": DROPPED, "intended_s": NAN, "first_token_s": NAN, "last_token_s": NAN},
            True,
            False,
        ),
        # unfinished: waiting for too long, not yet too long, never sent
        ({"status": UNFINISHED, "first_token_s": NAN, "last_token_s": NAN}, True, False),
        (
            {
                "status": UNFINISHED,
                "intended_s": 98.5,
                "first_token_s": NAN,
                "last_token_s": NAN,
            },
            False,
            False,
        ),
        (
            {"status": UNFINISHED, "intended_s": NAN, "first_token_s": NAN, "last_token_s": NAN},
            False,
            False,
        ),
        # unfinished: first token late; decoding past all that its gaps may take; decoding in time
        ({"status": UNFINISHED, "first_token_s": 4.0, "last_token_s": NAN}, True, False),
        (
            {"status": UNFINISHED, "first_token_s": 2.0, "last_token_s": NAN, "n_out": 500},
            True,
            False,
        ),
        (
            {
                "status": UNFINISHED,
                "intended_s": 97.0,
                "first_token_s": 98.0,
                "last_token_s": NAN,
                "n_out": 500,
            },
            False,
            False,
        ),
        # what was sent before the window, and what ended after it
        ({"intended_s": -1.0, "first_token_s": 0.5, "last_token_s": 0.6}, False, False),
        ({"last_token_s": 100.5, "first_token_s": 100.4, "intended_s": 99.9}, False, False),
    ],
)
def test_who_counts_and_who_meets(
    turn: dict[str, Any], counts: bool, meets: bool, scenario: str
) -> None:
    judged = judged_turns(events([turn]), SLO, scenario)
    assert (judged.counted.tolist(), judged.met.tolist()) == ([counts], [meets])


def test_a_hung_run_is_judged_at_its_end_and_not_at_its_last_token() -> None:
    seen = events([{"status": UNFINISHED, "first_token_s": NAN, "last_token_s": NAN}], (0.0, 1.5))
    seen.tables["window"]["left_s"][0] = 3600.0
    assert slo_attainment(seen, SLO, "equal_n").value == 0.0
    seen.tables["window"]["left_s"][0] = NAN
    assert slo_attainment(seen, SLO, "equal_n").null_reason == "zero_denominator"


def test_goodput_is_of_the_turns_that_met() -> None:
    late = {"first_token_s": 9.0, "last_token_s": 9.1}
    seen = events([{}, {"n_new": 50, "n_out": 5, "last_token_s": 2.1}, late, {"status": FAILED}])
    assert slo_attainment(seen, SLO, "equal_n").value == 0.5
    assert goodput_turns(seen, SLO, "equal_n").value == pytest.approx(2 / 100)
    assert goodput_tokens(seen, SLO, "equal_n").value == pytest.approx((111 + 55) / 100)


@pytest.mark.parametrize(("inside", "n"), [(59, 59), (58, 58), (95, 100), (1, 1), (300, 310)])
def test_the_bound_is_that_of_clopper_and_pearson(inside: int, n: int) -> None:
    exact = binomtest(inside, n, alternative="greater").proportion_ci(0.95, "exact")
    assert lower_bound(inside / n, n) == pytest.approx(exact.low)
    assert lower_bound(inside / n, n) == pytest.approx(beta.ppf(0.05, inside, n - inside + 1))


def test_59_turns_that_all_meet_are_the_fewest_for_95_percent() -> None:
    assert lower_bound(1.0, 59) > 0.95 > lower_bound(1.0, 58)
    assert lower_bound(0.0, 100) == 0.0


def trace_of(sessions: int) -> Trace:
    turn = Turn(0, 10, 10, 0, 4, 0, 10)
    tokens = np.zeros(14, np.int32)
    made = [Session(at, at, 0, None, tokens.copy(), (turn,)) for at in range(sessions)]
    return Trace(tuple(made), 50, "trial", Scale(), 0, "closed")


def repeat(sessions: int, turns: int, misses: list[tuple[int, int]]) -> RepeatView:
    """`misses`: (session, turn)."""
    return events(
        [
            {"session": s, "turn": t, "last_token_s": 9.0 if (s, t) in misses else 2.4}
            for s in range(sessions)
            for t in range(turns)
        ]
    )


def test_copies_of_turns_are_no_evidence() -> None:
    trace = trace_of(4)
    one = attainment([repeat(4, 10, [])], SLO, "capacity", trace)
    three = attainment([repeat(4, 10, [])] * 3, SLO, "capacity", trace)
    assert one == three == Attainment(1.0, pytest.approx(0.05 ** (1 / 40)), 40, 40.0)
    assert not three.meets(0.95)
    assert three.seems_to_meet(0.95)
    again = events([{"session": 4 + at, "turn": 0} for at in range(4)])
    assert stride(trace) == 4
    both = attainment([repeat(4, 1, []), again], SLO, "capacity", trace)
    assert both.turns == 4


def test_misses_in_one_session_weigh_more_than_scattered_ones() -> None:
    trace = trace_of(20)
    scattered = attainment([repeat(20, 20, [(s, 0) for s in range(10)])], SLO, "capacity", trace)
    heaped = attainment([repeat(20, 20, [(3, t) for t in range(10)])], SLO, "capacity", trace)
    assert scattered.value == heaped.value == 0.975
    assert scattered.effective == 400
    # Of 20 shares, one is a half and the others are 1: variance of the mean over p (1 - p) / 400.
    variance = (np.var([0.5] + [1.0] * 19, ddof=1)) / 20
    assert heaped.effective == pytest.approx(400 / (variance * 400 / (0.975 * 0.025)))
    assert heaped.lower < 0.95 < scattered.lower
    assert scattered.meets(0.95)
    assert not heaped.seems_to_meet(0.95)


def test_one_session_with_hits_and_misses_proves_nothing() -> None:
    found = attainment([repeat(1, 200, [(0, 7)])], SLO, "capacity", trace_of(1))
    assert found.effective == 1
    assert not found.meets(0.95)


def facts(rawcells: Any, **changes: Any) -> CellFacts:
    return facts_of(Manifest.model_validate(rawcells.manifest(**changes)))


def test_repeats_that_miss_are_noted_whatever_the_sweep_has_seen(rawcells: Any) -> None:
    capacity, trace = facts(rawcells, scenario="capacity"), trace_of(20)
    every = [(s, t) for s in range(20) for t in range(20)]
    good, bad = repeat(20, 20, []), repeat(20, 20, every)

    def noted(views: list[RepeatView], trace: Trace = trace) -> list[tuple[NoteCode, str]]:
        found = attainment(views, capacity.slo, capacity.scenario, trace)
        return slo_notes(found, capacity.slo.share)

    assert noted([good] * 3) == []
    ((code, text),) = noted([bad] * 3)
    assert code == "slo_not_met"
    assert "0.0% of 400 turns" in text
    assert noted([events([])]) == [("slo_not_met", "no turn was measured")]
    ((_, text),) = noted([repeat(4, 10, [])], trace_of(4))
    assert "59 turns are the fewest" in text


def test_a_cell_in_the_capacity_scenario_carries_the_note_and_x(
    rawcells: Any, tmp_path: Path
) -> None:
    raw = rawcells.write_raw(tmp_path / "raw", scenario="capacity")
    found = derive(load_raw(raw, load_manifest(raw / "cell.json")))
    assert "slo_not_met" in {code for code, _ in found.notes}
    # W of the three repeats is 0.280 s times 1, 1.01 and 0.99; each is one pass of two sessions.
    assert found.metrics["sessions_per_hour"] == pytest.approx(3600 * 2 / 0.280)
    assert found.details["work_tokens_per_session"] == 16
    equal = rawcells.write_raw(tmp_path / "equal")
    equal = derive(load_raw(equal, load_manifest(equal / "cell.json")))
    assert "slo_not_met" not in {code for code, _ in equal.notes}


def test_sessions_per_hour_of_both_scenarios_and_where_it_is_null(rawcells: Any) -> None:
    seen, trace = view(rawcells.tables()), rawcells.trace()
    equal, capacity = facts(rawcells), facts(rawcells, scenario="capacity")
    assert sessions_per_hour(seen, equal, trace).value == pytest.approx(7200 / 0.280)
    assert sessions_per_hour(seen, capacity, trace).value == pytest.approx(7200 / 0.280)
    scaled = facts(rawcells, workload__scale=["1", "1", "1/10"], scenario="capacity")
    assert sessions_per_hour(seen, scaled, trace).null_reason == "tool_time_scaled"
    half = rawcells.tables()
    half["sessions"]["status"][1] = UNFINISHED
    assert sessions_per_hour(view(half), equal, trace).value == pytest.approx(3600 / 0.280)
    assert sessions_per_hour(view(half), capacity, trace).null_reason == "w_too_short"
    # The last token but one, and with it work, after the window: 9 of 10 output tokens in it.
    late = rawcells.tables()
    late["launches"]["end_s"][-1] += 1.0
    assert sessions_per_hour(view(late), capacity, trace).null_reason == "w_too_short"


def test_the_spread_of_the_estimates_widens_the_interval(rawcells: Any) -> None:
    trace = rawcells.trace()
    same, other = view(rawcells.tables()), rawcells.tables()
    assert with_spread((90.0, 110.0), [same], trace) == pytest.approx((90.0, 110.0))
    assert with_spread(None, [same], trace) is None
    other["launches"]["end_s"][-1] += 1.0
    estimates = capacity_estimates(view(other), trace)
    mean = sum(estimates) / 3
    low, high = with_spread((90.0, 110.0), [same, view(other)], trace)
    assert low < 90
    assert high > 110
    assert (low, high) == pytest.approx((90 * min(estimates) / mean, 110 * max(estimates) / mean))


def test_joules_a_session_are_null_where_the_window_is_not_whole_passes(
    rawcells: Any, tmp_path: Path
) -> None:
    folder = rawcells.write_raw(tmp_path / "raw", scenario="capacity")
    raw = load_raw(folder, load_manifest(folder / "cell.json"))
    assert derive(raw).metrics["joule_per_session"] == pytest.approx(20.0 * 0.280 / 2)
    for data in raw.repeats:
        data.events["sessions"]["status"][1] = UNFINISHED
    found = derive(raw)
    assert found.metrics["joule_per_session"] is None
    assert found.null_reasons["joule_per_session"] == "w_too_short"
    assert found.metrics["total_tok_s"] is not None
