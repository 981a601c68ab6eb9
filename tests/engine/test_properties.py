"""What holds for every trace, backend and memory size."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chipmark.backends.sim.spec import SPECS
from chipmark.engine.trial import SessionShape, TurnShape, trial_trace

TURNS = st.builds(
    TurnShape,
    own=st.integers(1, 40),
    n_out=st.integers(1, 12),
    tool_time_s=st.sampled_from([0.0, 0.0, 0.003, 0.05]),
    keep=st.sampled_from([None, None, None, 7, 20]),
)
SESSIONS = st.lists(
    st.builds(
        SessionShape,
        turns=st.lists(TURNS, min_size=1, max_size=3).map(tuple),
        group=st.integers(0, 1),
        shared=st.integers(0, 40),
    ),
    min_size=1,
    max_size=6,
)
VARIANTS = [name for name, spec in SPECS.items() if spec.verify]


@pytest.mark.parametrize("name", VARIANTS)
@settings(max_examples=25, deadline=None)
@given(
    shapes=SESSIONS,
    concurrency=st.integers(1, 4),
    extra=st.integers(0, 40),
    spare=st.integers(0, 30),
    seed=st.integers(0, 3),
)
@example(  # a preempted turn that finds all of its KV again, with nothing else to run
    shapes=[
        SessionShape((TurnShape(22, 10, 0.003), TurnShape(22, 4)), 0, 0),
        SessionShape((TurnShape(10, 1, 0.003), TurnShape(10, 10)), 0, 27),
    ],
    concurrency=2,
    extra=4,
    spare=13,
    seed=0,
)
def test_no_token_is_lost_and_no_session_starves(
    name, drive, accounts, sampled_ids, shapes, concurrency, extra, spare, seed
):
    trace = trial_trace(shapes, vocab_size=50, seed=seed)
    longest = trace.max_context_tokens
    driven = drive(
        trace,
        name,
        spec={"page_tokens": 4},
        concurrency=concurrency,
        kv_tokens=longest + 4 + spare * 4,
        token_budget=concurrency + extra,
    )
    assert driven.result.complete
    assert driven.whole
    assert (driven.turns["status"] == 0).all()
    assert driven.turns["turn"].size == trace.totals.turns
    assert sampled_ids(driven) == trace.totals.n_out
    accounts(driven)


@settings(max_examples=25, deadline=None)
@given(
    shapes=SESSIONS,
    slots=st.integers(1, 3),
    name=st.sampled_from(["golden-slots", "golden-slots-none"]),
)
def test_fewer_slots_than_lanes_evict_waiting_sessions(
    name, drive, accounts, sampled_ids, shapes, slots
):
    trace = trial_trace(shapes, vocab_size=50)
    driven = drive(trace, name, caps={"n_slots": slots}, concurrency=3)
    assert driven.result.complete
    assert driven.whole
    assert sampled_ids(driven) == trace.totals.n_out
    accounts(driven)


@settings(max_examples=20, deadline=None)
@given(shapes=SESSIONS, concurrency=st.integers(1, 4))
def test_two_steps_in_flight_compute_what_one_computes(drive, shapes, concurrency):
    trace = trial_trace(shapes, vocab_size=50)
    seen = []
    for in_flight in (1, 2):
        driven = drive(
            trace, "golden-paged", caps={"in_flight": in_flight}, concurrency=concurrency
        )
        rows = driven.result.tables["rows"]
        seen.append(
            sorted(
                zip(
                    *(rows[c].tolist() for c in ("session", "turn", "start", "sampled")),
                    strict=True,
                )
            )
        )
    decoded = [[row for row in rows if row[3] >= 0] for rows in seen]
    assert [row[:2] + row[3:] for row in decoded[0]] == [row[:2] + row[3:] for row in decoded[1]]
