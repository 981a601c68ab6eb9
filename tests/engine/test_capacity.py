"""The capacity scenario on simulated devices: its window, its ids, and its rate against the long
run of the same scenario."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from chipmark.engine.lanes import endless_passes
from chipmark.engine.trial import SessionShape, TurnShape, trial_trace
from chipmark.engine.window import CapacityWindow, WorkDone, spread
from chipmark.metrics.consistency import inconsistencies
from chipmark.metrics.events import DONE, view
from chipmark.metrics.latency import capacity_estimates, capacity_rate, completed_sessions
from chipmark.metrics.phases import prefix_hits, recomputed_tokens, work
from chipmark.workload.generate import generate
from chipmark.workload.passes import pass_numbers, run_session, trace_ids
from chipmark.workload.profile import profile
from chipmark.workload.scale import Scale
from chipmark.workload.session import Session, Turn
from chipmark.workload.trace import Trace


def agents(sessions: int, scale: Scale, seed: int = 0) -> Trace:
    return generate(profile("agent-code-32k"), scale, seed, sessions, vocab_size=4096)


SMALL = Scale("1/16", "1/16", "1")


@dataclass(frozen=True)
class Rates:
    """Of one run: X per hour, joules a session, work tokens a second."""

    per_hour: float
    joules: float
    tokens_s: float

    @staticmethod
    def of(driven) -> Rates:
        seen = view(driven.result.tables)
        time_s, energy_j, _ = driven.backend.power_samples()
        joules = np.diff(np.interp([seen.start_s, seen.end_s], time_s, energy_j))[0]
        rate = capacity_rate(seen, driven.trace).value
        assert rate is not None
        return Rates(rate, joules / completed_sessions(seen), work(seen).tokens / seen.window_s)


def long_run(driven) -> Rates:
    """Rates by plain counting of tokens over the last whole passes of a run, the first quarter of
    a long one left out."""
    tables, trace = driven.result.tables, driven.trace
    starts, size = np.sort(tables["sessions"]["start_s"]), len(trace.sessions)
    begin = starts[-max(1, len(starts) * 3 // 4 // size) * size]
    end = float(tables["window"]["end_s"][0])
    tables = {**tables, "window": {**tables["window"], "start_s": np.array([begin])}}
    seen = view(tables)
    totals = trace.totals
    tokens_s = work(seen).tokens / seen.window_s
    per_session = (totals.n_new + totals.n_out) / totals.sessions
    time_s, energy_j, _ = driven.backend.power_samples()
    joules = np.diff(np.interp([begin, end], time_s, energy_j))[0]
    n = tokens_s * seen.window_s / per_session
    return Rates(3600 * tokens_s / per_session, joules / n, tokens_s)


def check_against_the_long_run(drive, trace: Trace, n: int, least: int, **device) -> None:
    options = {"concurrency": n, "scenario": "capacity", "max_chunk": 256, **device}
    short, long = drive(trace, **options), drive(trace, sessions_per_lane=least, **options)
    assert short.result.complete
    assert long.result.complete
    lanes = long.result.tables["sessions"]
    assert np.bincount(lanes["lane"][lanes["status"] == DONE], minlength=n).min() >= least
    mine, its = Rates.of(short), long_run(long)
    assert mine.per_hour == pytest.approx(its.per_hour, rel=0.02)
    assert mine.joules == pytest.approx(its.joules, rel=0.02)
    totals = trace.totals
    priced = mine.per_hour / 3600 * (totals.n_new + totals.n_out) / totals.sessions
    assert priced == pytest.approx(mine.tokens_s, rel=0.02)


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_the_rate_is_that_of_the_long_run_at_every_n(drive, n: int) -> None:
    slow = {"decode_s": 0.02, "prefill_s": 5e-4, "verify": False}
    check_against_the_long_run(drive, agents(8, SMALL), n, 20, spec=slow)


@pytest.mark.parametrize("name", ["golden-slots", "golden-mixed", "golden-buckets"])
def test_the_rate_is_that_of_the_long_run_on_every_kind_of_device(drive, name: str) -> None:
    check_against_the_long_run(drive, agents(8, SMALL), 4, 20, name=name, spec={"verify": False})


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 4, 8, 16])
def test_the_rate_is_that_of_the_long_run_at_a_quarter_of_full_length(drive, n: int) -> None:
    trace = agents(16, Scale("1/4", "1/4", "1"))
    check_against_the_long_run(drive, trace, n, 10, spec={"verify": False})


@pytest.mark.parametrize(("n", "sessions"), [(1, 5), (3, 5), (5, 5), (12, 5)])
def test_the_window_is_whole_passes_with_every_lane_busy(
    drive, sampled_ids, n: int, sessions: int
) -> None:
    driven = drive(agents(sessions, SMALL), concurrency=n, scenario="capacity", max_chunk=256)
    assert driven.result.complete
    seen, table = view(driven.result.tables), driven.result.tables["sessions"]
    starts = (table["start_s"] >= seen.start_s) & (table["start_s"] < seen.end_s)
    assert starts.sum() == completed_sessions(seen)
    passes, rest = divmod(int(starts.sum()), sessions)
    assert rest == 0
    assert passes >= max(1, n // sessions)
    used = np.bincount(trace_ids(driven.trace, table["session"][starts]), minlength=sessions)
    assert (used == passes).all()
    for lane in range(n):
        mine = table["lane"] == lane
        begins = np.sort(table["start_s"][mine])
        ends = np.sort(table["end_s"][mine & (table["status"] == DONE)])
        assert begins[0] < seen.start_s
        assert (begins[1:] == ends[: begins.size - 1]).all()
        assert ends.size == begins.size - 1 or ends[-1] == seen.end_s
    assert spread(capacity_estimates(seen, driven.trace)) <= 0.02
    assert sampled_ids(driven) > 0
    assert inconsistencies(driven.result.tables, driven.trace, "capacity") == []


def test_passes_find_nothing_of_each_other_and_all_that_the_trace_shares(drive) -> None:
    trace = agents(4, SMALL)
    driven = drive(trace, concurrency=2, scenario="capacity", sessions_per_lane=8)
    turns = driven.turns
    whole = pass_numbers(trace, turns["session"]) > 0
    by_id = {session.id: session for session in trace.sessions}
    first = whole & (turns["turn"] == 0) & (turns["status"] == DONE)
    assert first.sum() > 8
    for at in np.flatnonzero(first):
        session = by_id[int(trace_ids(trace, turns["session"][at : at + 1])[0])]
        shared = session.turns[0].n_cached
        assert turns["reused_tokens"][at] == shared - shared % driven.caps.page_tokens
    hit, ideal = prefix_hits(view(driven.result.tables))
    assert hit.value <= ideal.value


def test_what_entering_computes_again_is_in_no_metric_of_the_window(drive) -> None:
    driven = drive(agents(4, SMALL), concurrency=4, scenario="capacity", max_chunk=256)
    assert driven.turns["refilled_tokens"].sum() > 1000
    seen, turns = view(driven.result.tables), driven.turns
    done = seen.turn_in & (turns["status"] == DONE)
    assert turns["refilled_tokens"][done].sum() == 0
    # What a prefix has beyond whole pages is all that is computed again.
    first = done & (turns["turn"] == 0)
    beyond = (turns["n_cached"] - turns["reused_tokens"])[first].sum()
    assert 0 < recomputed_tokens(seen) == beyond


def test_pass_0_holds_the_longest_turn_of_every_session_under_the_traces_ids(drive) -> None:
    trace = agents(6, SMALL)
    for n in (1, 4, 9):
        driven = drive(trace, concurrency=n, scenario="capacity", max_chunk=256)
        for session in trace.sessions:
            longest = max(session.turns, key=lambda turn: turn.context_tokens)
            assert driven.turn(session.id, longest.index)["status"] == DONE


def test_a_captured_turn_is_that_of_pass_0(drive) -> None:
    trace = agents(3, SMALL)
    longest = max(trace.walk(), key=lambda pair: pair[1].context_tokens)
    session, turn = longest
    driven = drive(
        trace, concurrency=3, scenario="capacity", max_chunk=256, capture=(session.id, turn.index)
    )
    assert [(c.session, c.turn) for c in driven.result.logits] == [
        (session.id, turn.index)
    ] * turn.n_out


def test_entrants_have_mixed_ages_and_later_ones_begin_at_their_first_turn() -> None:
    trace = agents(8, SMALL)
    stream = endless_passes(trace, trace.sessions, 4)
    entrants = [next(stream) for _ in range(20)]
    ages = [e.first / len(e.session.turns) for e in entrants[:4]]
    assert ages == sorted(ages, reverse=True)
    assert ages[0] > 0.5
    assert all(entrant.first == 0 for entrant in entrants[4:])
    assert [e.session.id for e in entrants] == list(range(20))
    assert (entrants[9].session.tokens == run_session(trace, 9).tokens).all()


def test_a_run_cut_by_its_time_limit_is_incomplete_and_has_no_rate(drive) -> None:
    driven = drive(agents(4, SMALL), concurrency=2, scenario="capacity", deadline_s=60.0)
    assert not driven.result.complete
    seen = view(driven.result.tables)
    assert seen.end_s <= 61.0
    assert capacity_rate(seen, driven.trace).null_reason == "w_too_short"


def test_a_session_that_does_not_fit_ends_the_run(drive) -> None:
    shapes = [SessionShape((TurnShape(own, 4),)) for own in (10, 200, 10)]
    driven = drive(trial_trace(shapes, 50), concurrency=1, scenario="capacity", max_context=100)
    assert not driven.result.complete
    assert (driven.result.tables["sessions"]["status"] == 1).sum() == 1


def test_a_trace_of_equal_sessions_in_step_still_ends(drive) -> None:
    shapes = [SessionShape((TurnShape(20, 6, 0.05), TurnShape(5, 9)))] * 2
    driven = drive(trial_trace(shapes, 50), concurrency=2, scenario="capacity", deadline_s=60.0)
    assert driven.result.complete


def one_pass(*, tool_s: float = 0.0) -> list[Session]:
    turn = Turn(0, 10, 10, 0, 4, 0, 10)
    turns = (replace(turn, tool_time_s=tool_s), replace(turn, index=1))
    return [Session(0, 0, 0, None, np.zeros(28, np.int32), turns)] * 2


def test_a_window_ends_where_work_tool_time_and_sessions_agree() -> None:
    window = CapacityWindow(one_pass(tool_s=3.0), 1)
    marks = [(0.0, 0, 0.0), (5.0, 20, 3.0), (9.0, 30, 5.0), (12.0, 60, 9.0), (15.0, 71, 11.0)]
    found = [
        window.started(time_s, WorkDone(n, n * 4 // 10, tool_s), alone=True)
        for time_s, n, tool_s in marks
    ]
    assert found[0] is found[1] is found[2] is None
    # From 5 s: 40 new tokens and 6 tool seconds are what a pass of two sessions has.
    assert (found[3].start_s, found[3].end_s, found[3].passes) == (5.0, 12.0, 1)
    assert found[4] is None
    assert window.begins_s == 0.0


def test_a_window_neither_begins_nor_ends_where_two_sessions_start() -> None:
    window = CapacityWindow(one_pass(), 1)
    done = [WorkDone(20 * k, 8 * k, 0.0) for k in range(6)]
    assert window.started(1.0, done[0], alone=False) is None
    assert window.started(1.0, done[1], alone=False) is None
    assert window.started(2.0, done[2], alone=True) is None
    assert window.started(3.0, done[3], alone=False) is None
    found = window.started(4.0, done[4], alone=True)
    assert found is not None
    assert (found.start_s, found.end_s) == (2.0, 4.0)


def test_a_window_lasts_at_least_a_session_of_every_lane() -> None:
    window = CapacityWindow(one_pass(), 5)
    done = [WorkDone(20 * k, 8 * k, 0.0) for k in range(7)]
    found = [window.started(float(k), d, alone=True) for k, d in enumerate(done)]
    assert found[:6] == [None] * 6
    assert found[6] is not None
    assert found[6].passes == 3
