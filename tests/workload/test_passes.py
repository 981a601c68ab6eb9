"""Passes over a trace: the same work under other ids, and back from run ids to contexts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from chipmark.errors import UsageError
from chipmark.workload.generate import generate
from chipmark.workload.passes import (
    pass_numbers,
    pass_session,
    run_id,
    run_session,
    salt,
    salted,
    stride,
    trace_ids,
)
from chipmark.workload.profile import profile
from chipmark.workload.scale import SCALES
from chipmark.workload.session import check_session
from chipmark.workload.trace import Trace


@pytest.fixture(scope="module")
def trace() -> Trace:
    return generate(profile("agent-code-32k"), SCALES["quick"], 3, 6, vocab_size=2048)


@pytest.mark.parametrize("vocab_size", [2, 50, 512, 49_152, 151_936])
def test_passes_have_different_salts_and_pass_0_has_none(vocab_size: int) -> None:
    salts = [salt(number, vocab_size) for number in range(min(vocab_size, 500))]
    assert salts[0] == 0
    assert len(set(salts)) == len(salts)
    assert min(salts) >= 0
    assert max(salts) < vocab_size


def test_pass_0_is_the_trace_and_a_pass_is_a_valid_session(trace: Trace) -> None:
    for session in trace.sessions:
        assert salted(session, 0, trace.vocab_size) is session
        for number in (1, 2, 700):
            again = salted(session, number, trace.vocab_size)
            check_session(again, trace.vocab_size, trace.loop)
            assert (again.id, again.turns) == (session.id, session.turns)
            assert not (again.tokens == session.tokens).any()
            assert not again.tokens.flags.writeable


def test_no_two_passes_share_the_first_token_of_a_context(trace: Trace) -> None:
    first = trace.sessions[0]
    starts = [int(salted(first, number, trace.vocab_size).tokens[0]) for number in range(300)]
    assert len(set(starts)) == len(starts)


def test_sessions_of_a_pass_share_what_those_of_the_trace_share(trace: Trace) -> None:
    def shared(a: np.ndarray, b: np.ndarray) -> int:
        n = min(len(a), len(b))
        same = a[:n] == b[:n]
        return n if same.all() else int(same.argmin())

    def firsts(number: int) -> list[np.ndarray]:
        found = [salted(s, number, trace.vocab_size) for s in trace.sessions]
        return [s.prompt(s.turns[0]) for s in found]

    expected = [shared(a, b) for a, b in pairwise(firsts(0))]
    assert max(expected) > 100
    assert [shared(a, b) for a, b in pairwise(firsts(4))] == expected


def test_run_ids_lead_back_to_session_pass_and_contexts(trace: Trace) -> None:
    runs = np.array([run_id(trace, s.id, p) for p in range(4) for s in trace.sessions])
    assert len(set(runs.tolist())) == len(runs)
    assert trace_ids(trace, runs).tolist() == [s.id for s in trace.sessions] * 4
    assert pass_numbers(trace, runs).tolist() == np.repeat(range(4), len(trace.sessions)).tolist()
    assert runs[: len(trace.sessions)].tolist() == [s.id for s in trace.sessions]
    third = run_session(trace, int(runs[3 * len(trace.sessions) + 2]))
    expected = salted(trace.sessions[2], 3, trace.vocab_size)
    assert (third.tokens == expected.tokens).all()
    groups = {(p, pass_session(trace, s, p).group) for p in range(4) for s in trace.sessions}
    assert len({group for _, group in groups}) == len(groups)


def test_a_run_id_of_no_session_is_refused(trace: Trace) -> None:
    gap = Trace(trace.sessions[1:2], trace.vocab_size, "one", trace.scale, 0, trace.loop)
    assert stride(gap) == 2
    with pytest.raises(UsageError, match="no session 0"):
        run_session(gap, 4)
    with pytest.raises(UsageError, match="no session"):
        run_session(trace, -1)
