from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chipmark.errors import DoesNotFitError, UsageError
from chipmark.workload.generate import RESERVED_IDS, generate
from chipmark.workload.profile import Profile, load_profiles, profile
from chipmark.workload.scale import SCALES, Scale, scaled_tokens
from chipmark.workload.trace import Session, Trace

VOCAB = 49152
GOLDEN = {
    "agent-code-32k": "5f946e486243783d253f171e497909a56faf0c6eb325d16b01af6b1380f327cc",
    "agent-code-128k": "0bc61ddb727988bb6f275fbb2938c3bdcbc1c334e088617614caf291517a2d0e",
    "toolagent-api": "bd129a99cacdcfe3805ed1fb566f9f094661209ded95206a8f707468ef3dd39d",
    "func-call": "9c62afc97ccb10a16903d46c09447269088ec64e98613949238fcdb2a61c6478",
    "rag-longdoc": "d7dc2f43ff156fd874aa4b31927980db53f1f2bdbd4a98ef2f45a39d6bcc32e0",
    "chat-control": "12b2df8e5c343292ae3adcbfa924e722fc5132ce85968de8073cdfc19bded815",
}
"""sha256 of each profile's trace at quick scale, seed 0, 4 sessions, a vocabulary of 49,152."""

small_traces = st.builds(
    generate,
    st.sampled_from(list(load_profiles().values())),
    st.sampled_from([Scale("1/64", "1/16", "0"), Scale("1/100", "1/3", "1/10"), SCALES["quick"]]),
    st.integers(0, 2**64 - 1),
    st.integers(1, 7),
    st.sampled_from([64, 300, VOCAB]),
)
several = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def caps(trace: Trace) -> int:
    return scaled_tokens(profile(trace.name).context_cap, trace.scale.context_factor)


@pytest.mark.parametrize("name", sorted(load_profiles()))
def test_a_trace_is_the_same_bits_everywhere(name: str) -> None:
    assert generate(profile(name), SCALES["quick"], 0, 4, VOCAB).hash == GOLDEN[name]


def test_seed_and_vocabulary_change_the_trace() -> None:
    p = profile("func-call")
    base = generate(p, SCALES["quick"], 0, 2, VOCAB)
    assert generate(p, SCALES["quick"], 0, 2, VOCAB).hash == base.hash
    assert generate(p, SCALES["quick"], 1, 2, VOCAB).hash != base.hash
    assert generate(p, SCALES["quick"], 0, 2, VOCAB - 1).hash != base.hash


@several
@given(small_traces)
def test_counts_agree_and_contexts_grow_up_to_the_cap(trace: Trace) -> None:
    cap = caps(trace)
    for session in trace.sessions:
        context = 0
        for turn in session.turns:
            assert turn.prompt_tokens == turn.n_cached + turn.n_new
            assert turn.context_tokens <= cap
            if turn.index and not turn.reset:
                assert turn.n_cached == context
            if turn.reset:
                assert turn.n_cached == session.turns[0].prompt_tokens
            context = turn.context_tokens
            prompt = session.prompt(turn)
            assert prompt.size == turn.prompt_tokens
            assert int(session.tokens.min()) >= RESERVED_IDS
        assert session.turns[-1].tool_time_s == 0.0


@several
@given(small_traces)
def test_cached_tokens_are_exactly_what_an_endless_cache_at_token_grain_holds(trace: Trace) -> None:
    seen: list[np.ndarray] = []
    for session, turn in trace.walk():
        prompt = session.prompt(turn)
        held = max((shared_ids(prompt, context) for context in seen), default=0)
        assert turn.n_cached == min(held, prompt.size - 1)
        seen.append(np.concatenate([prompt, session.output(turn)]))


def shared_ids(a: np.ndarray, b: np.ndarray) -> int:
    size = min(a.size, b.size)
    return next(iter(np.flatnonzero(a[:size] != b[:size]).tolist()), size)


@several
@given(small_traces)
def test_new_and_output_tokens_are_what_an_endless_cache_computes(trace: Trace) -> None:
    for session in trace.sessions:
        work = sum(turn.n_new + turn.n_out for turn in session.turns)
        assert work == session.tokens.size - session.turns[0].n_cached


@pytest.mark.parametrize("name", sorted(load_profiles()))
def test_adding_sessions_changes_no_other(name: str) -> None:
    few = generate(profile(name), SCALES["quick"], 5, 3, VOCAB)
    many = generate(profile(name), SCALES["quick"], 5, 9, VOCAB)
    for a, b in zip(few.sessions, many.sessions, strict=False):
        assert a.turns == b.turns
        assert a.arrival_s == b.arrival_s
        assert np.array_equal(a.tokens, b.tokens)


def test_sessions_of_a_group_share_their_prefix_and_groups_do_not() -> None:
    trace = generate(profile("agent-code-32k"), SCALES["quick"], 0, 8, VOCAB)
    assert [s.group for s in trace.sessions] == [0] * 4 + [1] * 4
    for a, b in itertools.combinations(trace.sessions, 2):
        shared = shared_ids(a.tokens, b.tokens)
        same = min(a.shared_prefix_tokens, b.shared_prefix_tokens)
        assert shared == (same if a.group == b.group else 0)
        assert same > 500


def test_the_tool_time_scale_touches_nothing_but_time() -> None:
    p = profile("toolagent-api")
    zero, tenth, whole = (
        generate(p, Scale("1/16", "1/16", t), 0, 20, VOCAB) for t in ("0", "1/10", "1")
    )
    assert {t.tool_time_s for _, t in zero.walk()} == {0.0}
    assert {s.arrival_s for s in zero.sessions} == {0.0}
    for a, b in zip(tenth.sessions, whole.sessions, strict=True):
        assert np.array_equal(a.tokens, b.tokens)
        assert a.arrival_s == pytest.approx((b.arrival_s or 0.0) / 10, abs=1e-9)
        for s, t in zip(a.turns, b.turns, strict=True):
            assert s.tool_time_s == pytest.approx(t.tool_time_s / 10, abs=1e-9)


def test_turns_are_not_scaled() -> None:
    p = profile("func-call")
    counts = [
        [len(s.turns) for s in generate(p, SCALES[name], 0, 60, VOCAB).sessions]
        for name in ("quick", "standard", "full")
    ]
    assert counts[0] == counts[1] == counts[2]
    assert max(counts[0]) > 1


def test_resets_go_back_to_the_first_prompt_and_never_repeat_a_branch() -> None:
    trace = generate(profile("agent-code-128k"), Scale("1/64", "1/64", "0"), 1, 12, VOCAB)
    cut = [(s, t) for s, t in trace.walk() if t.reset]
    assert len(cut) >= 2
    session: Session
    for session, turn in cut:
        first = session.turns[0]
        assert turn.n_cached == first.prompt_tokens
        assert session.tokens[turn.tokens_start] != session.tokens[first.tokens_stop]


def test_open_loops_arrive_in_order_from_zero() -> None:
    trace = generate(profile("func-call"), SCALES["full"], 0, 50, VOCAB)
    arrivals = [s.arrival_s or 0.0 for s in trace.sessions]
    assert arrivals[0] == 0.0
    assert arrivals == sorted(arrivals)
    assert arrivals[-1] > 0.0


def test_a_context_that_does_not_fit_names_the_scale_that_does() -> None:
    p = profile("agent-code-128k")
    with pytest.raises(DoesNotFitError, match="1/16 fits") as caught:
        generate(p, SCALES["standard"], 0, 1, VOCAB, max_context=8192)
    assert "up to 32768 tokens; the model holds 8192" in caught.value.message
    fitting = generate(p, SCALES["quick"], 0, 1, VOCAB, max_context=8192)
    assert fitting.hash == generate(p, SCALES["quick"], 0, 1, VOCAB).hash


@pytest.mark.parametrize(
    ("seed", "n_sessions", "vocab", "says"),
    [
        (-1, 1, VOCAB, "seed must be"),
        (0, 0, VOCAB, "at least 1, not 0"),
        (0, 40, 100, "use at most 34 sessions"),
        (0, 1, 20, "a vocabulary of 20 ids"),
    ],
)
def test_wrong_numbers_are_refused(seed: int, n_sessions: int, vocab: int, says: str) -> None:
    p: Profile = profile("chat-control")
    with pytest.raises(UsageError, match=says):
        generate(p, SCALES["quick"], seed, n_sessions, vocab)
