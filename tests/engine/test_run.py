"""What a run does, told by its events."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from chipmark.engine.contract import PHASES
from chipmark.engine.events import check_tables
from chipmark.engine.plan import RunPlan
from chipmark.engine.trial import SessionShape, TurnShape, trial_trace
from chipmark.errors import UsageError


def agents(n, *turns, group=0, shared=0):
    return [SessionShape(tuple(TurnShape(*t) for t in turns), group, shared) for _ in range(n)]


def test_context_is_kept_between_turns(drive):
    driven = drive(trial_trace(agents(1, (30, 5), (7, 4)), 50))
    check_tables(driven.result.tables)
    first, second = driven.turn(0, 0), driven.turn(0, 1)
    assert (first["prefilled_tokens"], first["reused_tokens"], first["cold"]) == (30, 0, 1)
    assert (second["prefilled_tokens"], second["reused_tokens"], second["cold"]) == (8, 34, 0)
    assert driven.phase_tokens("prefill_cold") == 30
    assert driven.phase_tokens("prefill_append") == 8
    assert driven.phase_tokens("decode") == 4 + 3


def test_a_prefix_is_computed_once_when_all_sessions_start_together(drive):
    trace = trial_trace(agents(4, (10, 3), shared=64), 50)
    for name, reused in (("golden-paged", 64), ("golden-slots", 64), ("golden-slots-none", 0)):
        driven = drive(trace, name, concurrency=4, max_chunk=512)
        got = sorted(driven.turns["reused_tokens"].tolist())
        assert got == [0, reused, reused, reused]


def test_a_session_finds_its_prefix_in_the_slot_it_takes(drive):
    trace = trial_trace(agents(3, (10, 3), shared=30), 50)
    driven = drive(trace, "golden-slots", reserved_slots=0)
    assert driven.turns["copied_tokens"].tolist() == [0, 0, 0]
    assert driven.turns["reused_tokens"].tolist() == [0, 30, 30]
    assert PHASES.index("kv") not in driven.result.tables["launches"]["phase"]


def test_prefixes_of_two_groups_are_kept_in_reserved_slots_and_charged(drive):
    shapes = [SessionShape((TurnShape(9, 2),), group, 40) for group in (0, 1, 0, 1)]
    driven = drive(trial_trace(shapes, 5000), "golden-slots", reserved_slots=2)
    assert driven.turns["reused_tokens"].tolist() == [0, 0, 40, 40]
    assert driven.turns["copied_tokens"].tolist() == [40, 40, 40, 40]
    steps = driven.result.tables["steps"]
    assert steps["kv_copied_bytes"].sum() == 160 * driven.backend.spec.kv_bytes_per_token
    kv = driven.result.tables["launches"]["phase"] == PHASES.index("kv")
    assert kv.sum() == 4


def test_what_was_evicted_is_computed_again_and_earns_nothing(drive, sampled_ids):
    trace = trial_trace(agents(3, (60, 4, 1.0), (10, 4)), 50)
    driven = drive(trace, concurrency=3, kv_tokens=160, spec={"prefix": "none"})
    assert driven.turns["refilled_tokens"].sum() > 0
    assert driven.phase_tokens("prefill_refill") == driven.turns["refilled_tokens"].sum()
    for session in range(3):
        turn = driven.turn(session, 1)
        found = turn["reused_tokens"] + turn["refilled_tokens"] + turn["prefilled_tokens"]
        assert found == turn["prompt_tokens"]
    assert sampled_ids(driven) == trace.totals.n_out
    assert driven.whole


def test_running_turns_give_way_to_older_ones(drive, sampled_ids):
    trace = trial_trace(agents(4, (20, 60)), 50)
    driven = drive(trace, concurrency=4, kv_tokens=112)
    assert driven.result.complete
    ends = [driven.turn(session, 0)["last_token_s"] for session in range(4)]
    assert ends[0] == min(ends)
    assert driven.turn(0, 0)["refilled_tokens"] == 0
    assert driven.turns["refilled_tokens"].sum() > 0
    assert sampled_ids(driven) == trace.totals.n_out


def test_blocks_that_were_not_reused_are_found_again(drive):
    trace = trial_trace(agents(2, (64, 1, 1.0), (16, 1)), 50)
    driven = drive(trace, concurrency=2, kv_tokens=160)
    assert driven.turns["refilled_tokens"].sum() < 64


def test_a_reset_keeps_the_first_tokens(drive, sampled_ids):
    shapes = [SessionShape((TurnShape(40, 4), TurnShape(9, 4), TurnShape(5, 3, keep=40)))]
    for name, kept in (("golden", 40), ("golden-slots", 40)):
        driven = drive(trial_trace(shapes, 50), name)
        turn = driven.turn(0, 2)
        assert (turn["cold"], turn["reused_tokens"], turn["prefilled_tokens"]) == (1, kept, 5)
        assert sampled_ids(driven) == 11


def test_a_reset_does_not_write_into_a_block_that_others_hold(drive, sampled_ids):
    shapes = [
        SessionShape((TurnShape(1, 40),), 0, 64),
        SessionShape((TurnShape(1, 2), TurnShape(9, 3, keep=40)), 0, 64),
    ]
    driven = drive(trial_trace(shapes, 50), concurrency=2)
    assert driven.turn(1, 1)["reused_tokens"] == 32
    assert sampled_ids(driven) == 45


def test_the_next_turn_is_sent_when_its_tool_has_ended(drive):
    driven = drive(trial_trace(agents(1, (10, 3, 2.5), (4, 2)), 50))
    first, second = driven.turn(0, 0), driven.turn(0, 1)
    assert second["intended_s"] == pytest.approx(first["last_token_s"] + 2.5)
    assert second["admitted_s"] == second["intended_s"]
    window = driven.result.tables["window"]
    assert window["end_s"][0] == second["last_token_s"]


def test_a_lane_takes_the_next_session_when_it_is_free(drive):
    driven = drive(trial_trace(agents(3, (10, 3)), 50), concurrency=2)
    third = driven.turn(2, 0)
    ends = {driven.turn(s, 0)["lane"]: driven.turn(s, 0)["last_token_s"] for s in (0, 1)}
    assert third["intended_s"] == min(ends.values())
    assert ends[third["lane"]] == third["intended_s"]


def test_in_an_open_loop_waiting_for_a_lane_counts(drive):
    shapes = [
        SessionShape((TurnShape(10, 50),), group=n, arrival_s=at)
        for n, at in enumerate((0.5, 0.5, 9.0))
    ]
    driven = drive(trial_trace(shapes, 50), concurrency=1)
    assert [driven.turn(n, 0)["intended_s"] for n in range(3)] == [0.5, 0.5, 9.0]
    late = driven.turn(1, 0)
    assert late["admitted_s"] == driven.turn(0, 0)["last_token_s"]
    assert late["first_token_s"] - late["intended_s"] > 0.04
    assert driven.result.tables["window"]["start_s"][0] == 0.5


def test_a_context_that_does_not_fit_ends_its_session(drive):
    shapes = [*agents(1, (20, 4), (60, 4), (5, 2)), *agents(1, (10, 2))]
    driven = drive(trial_trace(shapes, 50), max_context=64)
    assert [driven.turn(0, n)["status"] for n in range(3)] == [0, 1, 2]
    assert driven.turn(1, 0)["status"] == 0
    sessions = driven.result.tables["sessions"]
    assert dict(zip(sessions["session"].tolist(), sessions["status"].tolist(), strict=True)) == {
        0: 1,
        1: 0,
    }
    assert driven.whole


def test_a_context_of_exactly_the_limit_fits(drive):
    driven = drive(trial_trace(agents(1, (61, 4)), 50), max_context=64)
    assert driven.turn(0, 0)["status"] == 0


def test_at_the_deadline_what_is_left_is_marked_unfinished(drive):
    trace = trial_trace(agents(3, (10, 20, 1.0), (5, 2)), 50)
    driven = drive(trace, concurrency=1, deadline_s=0.01)
    assert not driven.result.complete
    assert (driven.turns["status"] == 3).sum() == driven.turns["status"].size == 6
    assert (driven.result.tables["sessions"]["status"] == 3).all()
    in_gap = drive(trace, concurrency=1, deadline_s=0.5)
    assert in_gap.turn(0, 0)["status"] == 0
    assert in_gap.turn(0, 1)["status"] == 3


def test_logits_of_one_turn_are_captured_through_the_same_path(drive):
    trace = trial_trace(agents(2, (10, 3), (4, 5)), 50)
    driven = drive(trace, concurrency=2, capture=(1, 1))
    assert [(c.session, c.turn, c.position) for c in driven.result.logits] == [
        (1, 1, position) for position in range(16, 21)
    ]
    every = drive(trace, concurrency=2, logits_of_all=True)
    assert len(every.result.logits) == trace.totals.n_out
    for captured in driven.result.logits:
        (same,) = (
            other
            for other in every.result.logits
            if (other.session, other.turn, other.position) == (1, 1, captured.position)
        )
        assert (same.logits == captured.logits).all()


def test_sampled_feedback_runs_on_what_the_backend_said(drive):
    trace = trial_trace(agents(1, (10, 3), (4, 5)), 50)
    driven = drive(trace, feedback="sampled")
    produced = driven.result.produced
    assert {key: ids.size for key, ids in produced.items()} == {(0, 0): 3, (0, 1): 5}
    rows = driven.result.tables["rows"]
    sampled = rows["sampled"][rows["sampled"] >= 0]
    assert sampled.tolist() == [*produced[0, 0], *produced[0, 1]]
    assert sampled.tolist() != [*trace.sessions[0].output(trace.sessions[0].turns[0])]


def test_decode_takes_no_more_launches_than_its_rows_force(drive):
    driven = drive(trial_trace(agents(7, (8, 10)), 50), caps={"max_batch": 3}, concurrency=7)
    launches = driven.result.tables["launches"]
    decode = launches["phase"] == PHASES.index("decode")
    rows = np.bincount(launches["step"][decode], launches["n_rows"][decode])
    count = np.bincount(launches["step"][decode])
    assert (count == np.ceil(rows / 3)).all()


def test_launches_have_one_phase_unless_the_backend_mixes(drive):
    trace = trial_trace(agents(4, (30, 10), (9, 3)), 50)
    plain = drive(trace, "golden-paged", concurrency=4, token_budget=16)
    assert PHASES.index("mixed") not in plain.result.tables["launches"]["phase"]
    mixed = drive(trace, "golden-mixed", concurrency=4, token_budget=16)
    assert PHASES.index("mixed") in mixed.result.tables["launches"]["phase"]


def test_padding_can_be_told_from_events(drive):
    driven = drive(trial_trace(agents(3, (30, 4)), 50), "golden-buckets", concurrency=3)
    launches = driven.result.tables["launches"]
    decode = launches["phase"] == PHASES.index("decode")
    assert set(launches["batch_bucket"][decode].tolist()) <= {1, 2, 4}
    assert set(launches["chunk_bucket"][~decode].tolist()) <= {16, 64}
    assert set(launches["context_bucket"].tolist()) == {128}


def test_chosen_sessions_and_progress(drive):
    seen = []
    driven = drive(trial_trace(agents(3, (10, 3)), 50), sessions=(0, 2), on_progress=seen.append)
    assert driven.result.tables["sessions"]["session"].tolist() == [0, 2]
    assert (seen[-1].sessions_done, seen[-1].sessions_total) == (2, 2)


def test_plans_that_cannot_be_run_are_refused(drive):
    trace = trial_trace(agents(2, (10, 3)), 50)
    with pytest.raises(UsageError, match="no session 7"):
        drive(trace, sessions=(0, 7))
    with pytest.raises(UsageError, match="token_budget 3"):
        drive(trace, concurrency=4, token_budget=3)
    arriving = [replace(shape, arrival_s=1.0 * at) for at, shape in enumerate(agents(2, (10, 3)))]
    with pytest.raises(UsageError, match="'trial' has an open loop"):
        drive(trial_trace(arriving, 50), concurrency=2, scenario="capacity")
    with pytest.raises(UsageError, match="concurrency is 0"):
        drive(trace, concurrency=0)


def test_a_backend_that_skips_a_launch_or_a_step_is_named(drive):
    driven = drive(trial_trace(agents(1, (10, 3)), 50))
    from chipmark.engine.conformance import conformance_load
    from chipmark.engine.loop import run

    backend = type(driven.backend)("golden")
    loaded = backend.load(conformance_load({"vocab_size": 50}))
    wait = backend.wait
    plan = RunPlan(caps=loaded.caps, concurrency=1, clock=backend.clock)
    backend.wait = lambda: replace(wait(), launches=())
    with pytest.raises(ValueError, match="1 launches planned, 0 reported"):
        run(backend, driven.trace, plan)
    backend.wait = lambda: replace(wait(), step=5)
    with pytest.raises(ValueError, match="step 5"):
        run(backend, driven.trace, plan)
