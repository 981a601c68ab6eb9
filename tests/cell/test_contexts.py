from __future__ import annotations

import numpy as np
import pytest

from chipmark.cell.contexts import (
    context_of,
    sampled_positions,
    stream_flops,
    streams,
    turn_keys,
    turn_of,
)
from chipmark.cell.parity import all_turns, parity_trace
from chipmark.errors import UsageError
from chipmark.workload.generate import generate
from chipmark.workload.passes import run_id
from chipmark.workload.profile import profile
from chipmark.workload.scale import SCALES
from chipmark_models.presets import preset


def test_all_places_of_an_appending_session_share_one_stream() -> None:
    trace = parity_trace(512)
    work = streams(trace, turn_keys(trace, all_turns(trace)))
    assert len(work) == 3
    assert sum(len(stream.keys) for stream in work) == trace.totals.n_out
    for session, stream in zip(trace.sessions, work, strict=True):
        assert np.array_equal(stream.tokens, session.tokens[:-1])
        assert stream.keys[0, 2] == session.turns[0].prompt_tokens - 1
        assert stream.keys[-1, 2] == len(stream.tokens) - 1


def test_a_turn_after_a_reset_has_a_stream_of_its_own() -> None:
    trace = generate(profile("agent-code-128k"), SCALES["quick"], 0, 30, 512)
    session, turn = next((s, t) for s, t in trace.walk() if t.reset)
    keys = turn_keys(trace, ((session.id, 0), (session.id, turn.index)))
    work = streams(trace, keys)
    assert len(work) == 2
    assert np.array_equal(work[1].tokens[: turn.prompt_tokens], session.prompt(turn))
    assert work[1].keys[:, 2].tolist() == sampled_positions(turn).tolist()


def test_a_stream_ends_at_its_last_place() -> None:
    trace = parity_trace(512)
    (stream,) = streams(trace, np.array([(2, 1, 240), (2, 0, 100)], np.int32))
    assert len(stream.tokens) == 241
    assert np.array_equal(stream.tokens, context_of(trace, 2, 1)[:241])
    config = preset("tiny")
    (shorter,) = streams(trace, np.array([(2, 1, 120)], np.int32))
    assert stream_flops(config, [stream]) > 2 * stream_flops(config, [shorter])


def test_places_that_are_not_there_are_refused() -> None:
    trace = parity_trace(512)
    with pytest.raises(UsageError, match="no session 0 with a turn 9"):
        turn_of(trace, 0, 9)
    with pytest.raises(UsageError, match="run id -1"):
        turn_of(trace, -1, 0)
    with pytest.raises(UsageError, match="no position 9000"):
        streams(trace, np.array([(0, 0, 9000)], np.int32))


def test_a_place_of_a_later_pass_has_the_ids_that_it_was_run_with() -> None:
    trace = parity_trace(512)
    later = run_id(trace, 1, pass_number=2)
    again = context_of(trace, later, 1)
    first = context_of(trace, 1, 1)
    assert len(again) == len(first)
    assert not np.array_equal(again, first)
    shift = (again.astype(np.int64) - first) % trace.vocab_size
    assert len(np.unique(shift)) == 1
    (stream,) = streams(trace, turn_keys(trace, ((later, 0), (later, 1))))
    assert np.array_equal(stream.tokens, again[: len(stream.tokens)])
