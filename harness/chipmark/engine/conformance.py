"""The conformance suite: what every backend must do, as plain functions.

    for check in CHECKS:
        check(Subject(backend, loaded, vocab_size=..., tolerance=1e-3))

A check runs small traces through the real engine on a loaded backend and compares the backend
with itself: whatever the way a token is computed (alone or in a batch, in one chunk or several,
on a prefix that was computed, shared or copied), its logits are the same within the tolerance.
So no reference model is needed; that the logits are the right ones is the parity check's matter.
The subject must hold `SEQUENCES` sequences of `CONTEXT` tokens and take `CHUNK` prompt tokens a
launch (`conformance_load`). Failures raise ConformanceError. Standard library and NumPy only.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from chipmark.engine.computed import ComputedPrecision, linear_input_of
from chipmark.engine.conformance_subject import (
    CHUNK,
    CONTEXT,
    SEQUENCES,
    ConformanceError,
    Recorder,
    Subject,
    agents,
    by_key,
    compare,
    conformance_load,
    forbidden,
    require,
    run_trace,
    same,
    scale,
)
from chipmark.engine.contract import PHASES
from chipmark.engine.shapes import check_caps
from chipmark.engine.times import slack_s
from chipmark.engine.trial import SessionShape, TurnShape, trial_trace

__all__ = ["CHECKS", "CHUNK", "CONTEXT", "SEQUENCES", "ConformanceError", "Subject"]
__all__ += ["conformance_load"]


def check_capabilities(subject: Subject) -> None:
    """Capabilities agree with each other and with what was asked."""
    caps = subject.caps
    try:
        check_caps(caps)
    except ValueError as error:
        raise ConformanceError(str(error)) from error
    require(caps.max_context >= CONTEXT, f"max_context {caps.max_context} is under {CONTEXT}")
    require(caps.max_chunk >= 1, f"max_chunk is {caps.max_chunk}")
    if caps.kv == "slots":
        require(caps.n_slots >= SEQUENCES, f"{caps.n_slots} slots for {SEQUENCES} sequences")
    else:
        held = caps.n_pages * caps.page_tokens
        require(held >= SEQUENCES * CONTEXT, f"pages hold {held} tokens")
    simulated = subject.loaded.clock == "simulated"
    require(simulated == (subject.clock is not None), "only the built-in sim has a virtual clock")
    computed = subject.loaded.precision
    require(isinstance(computed, ComputedPrecision), f"precision is {computed!r}")
    told, taken = computed.words()["activation"], computed.linear_input
    require(linear_input_of(told) == taken, f"{told!r} does not say that products take {taken}")
    coverage = subject.loaded.ep_coverage
    require(coverage is None or 0.0 <= coverage <= 1.0, "ep_coverage is not a share")


def check_times(subject: Subject) -> None:
    """One launch reported for each planned, in order; each inside its step as the engine's clock
    saw it, behind the one before, none backwards."""
    recorder = Recorder(subject.backend)
    result = run_trace(subject, agents(subject), recorder, concurrency=3, token_budget=24)
    steps = result.tables["steps"]
    before = -np.inf
    for at, (step, done) in enumerate(recorder.finished):
        plans = [launch.plan for launch in done.launches if launch.plan >= 0]
        require(done.step == step.id, f"step {step.id} was answered as {done.step}")
        require(plans == list(range(len(step.launches))), f"step {step.id}: launches {plans}")
        first, last = float(steps["submit_s"][at]), float(steps["visible_s"][at])
        for launch in done.launches:
            require(launch.phase in PHASES, f"no phase is called {launch.phase!r}")
            ran = f"step {step.id}: a launch runs {launch.start_s} to {launch.end_s}"
            slack = float(
                slack_s(subject.loaded.clock, np.array([launch.end_s - launch.start_s]))[0]
            )
            require(launch.start_s <= launch.end_s, ran)
            require(launch.start_s >= before - slack, f"{ran}, the one before it to {before}")
            inside = first - slack <= launch.start_s and launch.end_s <= last + slack
            require(inside, f"{ran}, the engine saw the step from {first} to {last}")
            require(launch.host_s >= 0.0, f"step {step.id}: host_s is {launch.host_s}")
            require(launch.positions >= 0, f"step {step.id}: {launch.positions} positions")
            before = launch.end_s
    turns = result.tables["turns"]
    require(bool((turns["status"] == 0).all()), "turns are not done")
    require(
        bool((turns["first_token_s"] <= turns["last_token_s"]).all()), "last token before first"
    )


def check_sampling(subject: Subject) -> None:
    """Greedy: the sampled id is the first largest logit, up to a tie within the tolerance."""
    recorder = Recorder(subject.backend)
    run_trace(subject, agents(subject), recorder, concurrency=3)
    seen = 0
    for step, done in recorder.finished:
        if done.sampled is None or done.logits is None:
            continue
        sessions = [
            session
            for launch in step.launches
            for session in launch.rows.seq[launch.rows.sample].tolist()
        ]
        require(done.sampled.size == len(sessions), f"step {step.id}: {done.sampled.size} ids")
        for session, token in zip(sessions, done.sampled.tolist(), strict=True):
            logits = done.logits[session]
            require(0 <= token < logits.size, f"step {step.id}: id {token} of {logits.size}")
            slack = subject.tolerance * scale(logits)
            require(
                float(logits[token]) >= float(logits.max()) - slack,
                f"step {step.id}: id {token} was sampled, {int(logits.argmax())} is the largest",
            )
            seen += 1
    if subject.loaded.sampling == "device" and not seen:
        raise ConformanceError("no sampled id could be seen")


def check_two_largest(subject: Subject) -> None:
    """The two largest logits that come with each sampled id are those of its row, in order."""
    recorder = Recorder(subject.backend)
    run_trace(subject, agents(subject), recorder, concurrency=3)
    for step, done in recorder.finished:
        if done.sampled is None:
            continue
        sessions = [int(s) for x in step.launches for s in x.rows.seq[x.rows.sample]]
        best = done.top2
        require(best is not None, f"step {step.id}: ids without their two largest logits")
        assert best is not None
        require(best.shape == (len(sessions), 2), f"step {step.id}: top2 has shape {best.shape}")
        for session, pair in zip(sessions, best, strict=True):
            logits = (done.logits or {})[session]
            expected = np.sort(logits)[-1:-3:-1]
            slack = subject.tolerance * scale(logits)
            require(
                bool((np.abs(pair - expected) <= slack).all()),
                f"step {step.id}: top2 of session {session} is {pair}, its logits have {expected}",
            )


def check_logits_form(subject: Subject) -> None:
    """Logits are float32, finite, one for each id of the vocabulary, and not all the same."""
    for captured in run_trace(subject, agents(subject)).logits:
        logits = captured.logits
        require(logits.dtype == np.float32, f"logits are {logits.dtype}")
        require(logits.shape == (subject.vocab_size,), f"logits have the shape {logits.shape}")
        require(bool(np.isfinite(logits).all()), "logits are not finite")
        require(float(logits.std()) > 0, "all logits are the same")


def check_chunks(subject: Subject) -> None:
    """A prompt in one chunk or in many: the same logits. Crosses chunk and context buckets."""
    trace = agents(subject)
    whole = run_trace(subject, trace, concurrency=1)
    for budget in (7, 24):
        same(
            subject, whole, run_trace(subject, trace, concurrency=1, token_budget=budget), "chunks"
        )


def check_ragged_batch(subject: Subject) -> None:
    """Sequences of different lengths side by side or one after another: the same logits."""
    trace = agents(subject)
    alone = run_trace(subject, trace, concurrency=1)
    same(subject, alone, run_trace(subject, trace, concurrency=SEQUENCES), "a ragged batch")
    same(subject, alone, run_trace(subject, trace, concurrency=3, token_budget=16), "mixed steps")


def check_prefix_reuse(subject: Subject) -> None:
    """A prefix out of another session or computed again: the same logits."""
    trace = agents(subject)
    reused = run_trace(subject, trace, concurrency=2)
    fresh = run_trace(subject, trace, concurrency=2, caps=replace(subject.caps, prefix="none"))
    found = int(reused.tables["turns"]["reused_tokens"].sum())
    without = int(fresh.tables["turns"]["reused_tokens"].sum())
    if subject.caps.prefix != "none":
        require(found > without, "no prefix was reused across sessions")
    same(subject, fresh, reused, "a reused prefix")


def check_kept_context(subject: Subject) -> None:
    """A later turn on kept KV or from nothing: the same logits."""
    trace = agents(subject)
    kept = run_trace(subject, trace, concurrency=1)
    last = [session.turns[-1] for session in trace.sessions]
    shapes = [SessionShape((TurnShape(turn.prompt_tokens, turn.n_out),), group=99) for turn in last]
    bare = trial_trace(shapes, subject.vocab_size)
    sessions = []
    for session, turn, empty in zip(trace.sessions, last, bare.sessions, strict=True):
        ids = np.concatenate([session.prompt(turn), session.output(turn)]).astype(np.int32)
        sessions.append(replace(empty, tokens=ids))
    again = run_trace(subject, replace(bare, sessions=tuple(sessions)), concurrency=1)
    expected = {
        (key[0], 0, key[2]): logits
        for key, logits in by_key(kept).items()
        if key[1] == trace.sessions[key[0]].turns[-1].index
    }
    compare(subject, expected, by_key(again), "a kept context")


def check_reset(subject: Subject) -> None:
    """After a context was cut back, what was cut has no influence."""
    turns = (TurnShape(40, 5), TurnShape(9, 4), TurnShape(11, 6, keep=40))
    trace = trial_trace([SessionShape(turns)], subject.vocab_size, seed=3)
    whole = run_trace(subject, trace, concurrency=1)
    session = trace.sessions[0]
    ids = np.concatenate([session.prompt(session.turns[2]), session.output(session.turns[2])])
    bare = trial_trace([SessionShape((TurnShape(51, 6),))], subject.vocab_size)
    bare = replace(bare, sessions=(replace(bare.sessions[0], tokens=ids.astype(np.int32)),))
    fresh = by_key(run_trace(subject, bare, concurrency=1))
    after = {(0, 0, key[2]): value for key, value in by_key(whole).items() if key[1] == 2}
    compare(subject, fresh, after, "a reset context")


def check_sampled_feedback(subject: Subject) -> None:
    """Fed with its own ids, the backend computes what it computes when they are the trace's."""
    trace = agents(subject)
    own = run_trace(subject, trace, concurrency=2, feedback="sampled")
    sessions = []
    for session in trace.sessions:
        ids = session.tokens.copy()
        for turn in session.turns:
            produced = own.produced[session.id, turn.index]
            require(produced.size == turn.n_out, f"{produced.size} ids for {turn.n_out}")
            ids[turn.tokens_stop : turn.tokens_stop + turn.n_out] = produced
        sessions.append(replace(session, tokens=ids))
    forced = run_trace(subject, replace(trace, sessions=tuple(sessions)), concurrency=2)
    same(subject, forced, own, "sampled feedback")


def check_deterministic(subject: Subject) -> None:
    """The same run twice on the same device: the same logits."""
    trace = agents(subject)
    same(
        subject,
        run_trace(subject, trace, concurrency=3),
        run_trace(subject, trace, concurrency=3),
        "again",
    )


def check_in_flight(subject: Subject) -> None:
    """As many steps in flight as the backend claims to take: the same logits as with one."""
    trace = agents(subject)
    one = run_trace(subject, trace, concurrency=3, caps=replace(subject.caps, in_flight=1))
    same(subject, one, run_trace(subject, trace, concurrency=3), "steps in flight")


def check_misuse(subject: Subject) -> None:
    """ContractError for a `wait` without a step and for a step too many; the steps that were in
    flight are finished all the same."""
    recorder = Recorder(subject.backend)
    run_trace(subject, agents(subject), recorder, concurrency=1)
    first = recorder.finished[0][0]
    forbidden(subject.backend.wait, "wait() without a step")
    for _ in range(subject.caps.in_flight):
        subject.backend.submit(first)
    forbidden(lambda: subject.backend.submit(first), "one step more than fit in flight")
    for _ in range(subject.caps.in_flight):
        done = subject.backend.wait()
        require(done.step == first.id, f"step {first.id} was answered as {done.step}")


def check_description(subject: Subject) -> None:
    """What the backend says of itself survives JSON; synchronize may come at any time."""
    described = subject.backend.describe()
    require(json.loads(json.dumps(described)) is not None, "describe() says nothing")
    subject.backend.synchronize()


CHECKS = (
    check_capabilities,
    check_times,
    check_sampling,
    check_two_largest,
    check_logits_form,
    check_chunks,
    check_ragged_batch,
    check_prefix_reuse,
    check_kept_context,
    check_reset,
    check_sampled_feedback,
    check_deterministic,
    check_in_flight,
    check_misuse,
    check_description,
)
"""Every check, cheapest first."""
