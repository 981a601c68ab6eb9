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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from chipmark.engine.contract import PHASES, Backend, Caps, Clock, Done, Loaded, LoadSpec, Step
from chipmark.engine.loop import run
from chipmark.engine.plan import RunPlan, RunResult
from chipmark.engine.shapes import check_caps
from chipmark.engine.times import slack_s
from chipmark.engine.trial import SessionShape, TurnShape, trial_trace
from chipmark.errors import ContractError
from chipmark.workload.trace import Trace

SEQUENCES, CONTEXT, CHUNK = 4, 192, 64
"""What the suite needs a backend to be loaded for."""


class ConformanceError(AssertionError):
    """A backend does not keep the contract; the message says how it showed."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A loaded backend under test. tolerance: largest allowed difference of two logits of the
    same token, over the root mean square of the centred logits. clock: the virtual one of a
    simulated device; None for every other, which is timed by the host's clock."""

    backend: Backend
    loaded: Loaded
    vocab_size: int
    tolerance: float = 1e-3
    clock: Clock | None = None

    @property
    def caps(self) -> Caps:
        """Capabilities as loaded."""
        return self.loaded.caps


def conformance_load(model: Mapping[str, Any], precision: str = "fp32", **more: Any) -> LoadSpec:
    """The LoadSpec that the suite needs."""
    spec = LoadSpec(
        model=model,
        precision=precision,
        n_seqs=SEQUENCES,
        max_context=CONTEXT,
        kv_tokens=2 * SEQUENCES * CONTEXT,
        max_chunk=CHUNK,
    )
    return replace(spec, **more)


Key = tuple[int, int, int]
"""Session, turn, position of the token whose logits these are."""


def check_capabilities(subject: Subject) -> None:
    """Capabilities agree with each other and with what was asked."""
    caps = subject.caps
    try:
        check_caps(caps)
    except ValueError as error:
        raise ConformanceError(str(error)) from error
    _require(caps.max_context >= CONTEXT, f"max_context {caps.max_context} is under {CONTEXT}")
    _require(caps.max_chunk >= 1, f"max_chunk is {caps.max_chunk}")
    if caps.kv == "slots":
        _require(caps.n_slots >= SEQUENCES, f"{caps.n_slots} slots for {SEQUENCES} sequences")
    else:
        held = caps.n_pages * caps.page_tokens
        _require(held >= SEQUENCES * CONTEXT, f"pages hold {held} tokens")
    named = {"weights", "activation", "kv", "accumulate"}
    _require(named <= set(subject.loaded.precision), "precision does not say all of what it is")
    coverage = subject.loaded.ep_coverage
    _require(coverage is None or 0.0 <= coverage <= 1.0, "ep_coverage is not a share")


def check_times(subject: Subject) -> None:
    """One launch reported for each planned, in order; each inside its step as the engine's clock
    saw it, behind the one before, none backwards."""
    recorder = _Recorder(subject.backend)
    result = _run(subject, _agents(subject), recorder, concurrency=3, token_budget=24)
    steps = result.tables["steps"]
    before = -np.inf
    for at, (step, done) in enumerate(recorder.finished):
        plans = [launch.plan for launch in done.launches if launch.plan >= 0]
        _require(done.step == step.id, f"step {step.id} was answered as {done.step}")
        _require(plans == list(range(len(step.launches))), f"step {step.id}: launches {plans}")
        first, last = float(steps["submit_s"][at]), float(steps["visible_s"][at])
        for launch in done.launches:
            _require(launch.phase in PHASES, f"no phase is called {launch.phase!r}")
            ran = f"step {step.id}: a launch runs {launch.start_s} to {launch.end_s}"
            slack = float(
                slack_s(subject.loaded.clock, np.array([launch.end_s - launch.start_s]))[0]
            )
            _require(launch.start_s <= launch.end_s, ran)
            _require(launch.start_s >= before - slack, f"{ran}, the one before it to {before}")
            inside = first - slack <= launch.start_s and launch.end_s <= last + slack
            _require(inside, f"{ran}, the engine saw the step from {first} to {last}")
            _require(launch.host_s >= 0.0, f"step {step.id}: host_s is {launch.host_s}")
            _require(launch.positions >= 0, f"step {step.id}: {launch.positions} positions")
            before = launch.end_s
    turns = result.tables["turns"]
    _require(bool((turns["status"] == 0).all()), "turns are not done")
    _require(
        bool((turns["first_token_s"] <= turns["last_token_s"]).all()), "last token before first"
    )


def check_sampling(subject: Subject) -> None:
    """Greedy: the sampled id is the first largest logit, up to a tie within the tolerance."""
    recorder = _Recorder(subject.backend)
    _run(subject, _agents(subject), recorder, concurrency=3)
    seen = 0
    for step, done in recorder.finished:
        if done.sampled is None or done.logits is None:
            continue
        sessions = [
            session
            for launch in step.launches
            for session in launch.rows.seq[launch.rows.sample].tolist()
        ]
        _require(done.sampled.size == len(sessions), f"step {step.id}: {done.sampled.size} ids")
        for session, token in zip(sessions, done.sampled.tolist(), strict=True):
            logits = done.logits[session]
            _require(0 <= token < logits.size, f"step {step.id}: id {token} of {logits.size}")
            slack = subject.tolerance * _scale(logits)
            _require(
                float(logits[token]) >= float(logits.max()) - slack,
                f"step {step.id}: id {token} was sampled, {int(logits.argmax())} is the largest",
            )
            seen += 1
    if subject.loaded.sampling == "device" and not seen:
        raise ConformanceError("no sampled id could be seen")


def check_two_largest(subject: Subject) -> None:
    """The two largest logits that come with each sampled id are those of its row, in order."""
    recorder = _Recorder(subject.backend)
    _run(subject, _agents(subject), recorder, concurrency=3)
    for step, done in recorder.finished:
        if done.sampled is None:
            continue
        sessions = [int(s) for x in step.launches for s in x.rows.seq[x.rows.sample]]
        best = done.top2
        _require(best is not None, f"step {step.id}: ids without their two largest logits")
        assert best is not None
        _require(best.shape == (len(sessions), 2), f"step {step.id}: top2 has shape {best.shape}")
        for session, pair in zip(sessions, best, strict=True):
            logits = (done.logits or {})[session]
            expected = np.sort(logits)[-1:-3:-1]
            slack = subject.tolerance * _scale(logits)
            _require(
                bool((np.abs(pair - expected) <= slack).all()),
                f"step {step.id}: top2 of session {session} is {pair}, its logits have {expected}",
            )


def check_logits_form(subject: Subject) -> None:
    """Logits are float32, finite, one for each id of the vocabulary, and not all the same."""
    for captured in _run(subject, _agents(subject)).logits:
        logits = captured.logits
        _require(logits.dtype == np.float32, f"logits are {logits.dtype}")
        _require(logits.shape == (subject.vocab_size,), f"logits have the shape {logits.shape}")
        _require(bool(np.isfinite(logits).all()), "logits are not finite")
        _require(float(logits.std()) > 0, "all logits are the same")


def check_chunks(subject: Subject) -> None:
    """A prompt in one chunk or in many: the same logits. Crosses chunk and context buckets."""
    trace = _agents(subject)
    whole = _run(subject, trace, concurrency=1)
    for budget in (7, 24):
        _same(subject, whole, _run(subject, trace, concurrency=1, token_budget=budget), "chunks")


def check_ragged_batch(subject: Subject) -> None:
    """Sequences of different lengths side by side or one after another: the same logits."""
    trace = _agents(subject)
    alone = _run(subject, trace, concurrency=1)
    _same(subject, alone, _run(subject, trace, concurrency=SEQUENCES), "a ragged batch")
    _same(subject, alone, _run(subject, trace, concurrency=3, token_budget=16), "mixed steps")


def check_prefix_reuse(subject: Subject) -> None:
    """A prefix out of another session or computed again: the same logits."""
    trace = _agents(subject)
    reused = _run(subject, trace, concurrency=2)
    fresh = _run(subject, trace, concurrency=2, caps=replace(subject.caps, prefix="none"))
    found = int(reused.tables["turns"]["reused_tokens"].sum())
    without = int(fresh.tables["turns"]["reused_tokens"].sum())
    if subject.caps.prefix != "none":
        _require(found > without, "no prefix was reused across sessions")
    _same(subject, fresh, reused, "a reused prefix")


def check_kept_context(subject: Subject) -> None:
    """A later turn on kept KV or from nothing: the same logits."""
    trace = _agents(subject)
    kept = _run(subject, trace, concurrency=1)
    last = [session.turns[-1] for session in trace.sessions]
    shapes = [SessionShape((TurnShape(turn.prompt_tokens, turn.n_out),), group=99) for turn in last]
    bare = trial_trace(shapes, subject.vocab_size)
    sessions = []
    for session, turn, empty in zip(trace.sessions, last, bare.sessions, strict=True):
        ids = np.concatenate([session.prompt(turn), session.output(turn)]).astype(np.int32)
        sessions.append(replace(empty, tokens=ids))
    again = _run(subject, replace(bare, sessions=tuple(sessions)), concurrency=1)
    expected = {
        (key[0], 0, key[2]): logits
        for key, logits in _by_key(kept).items()
        if key[1] == trace.sessions[key[0]].turns[-1].index
    }
    _compare(subject, expected, _by_key(again), "a kept context")


def check_reset(subject: Subject) -> None:
    """After a context was cut back, what was cut has no influence."""
    turns = (TurnShape(40, 5), TurnShape(9, 4), TurnShape(11, 6, keep=40))
    trace = trial_trace([SessionShape(turns)], subject.vocab_size, seed=3)
    whole = _run(subject, trace, concurrency=1)
    session = trace.sessions[0]
    ids = np.concatenate([session.prompt(session.turns[2]), session.output(session.turns[2])])
    bare = trial_trace([SessionShape((TurnShape(51, 6),))], subject.vocab_size)
    bare = replace(bare, sessions=(replace(bare.sessions[0], tokens=ids.astype(np.int32)),))
    fresh = _by_key(_run(subject, bare, concurrency=1))
    after = {(0, 0, key[2]): value for key, value in _by_key(whole).items() if key[1] == 2}
    _compare(subject, fresh, after, "a reset context")


def check_sampled_feedback(subject: Subject) -> None:
    """Fed with its own ids, the backend computes what it computes when they are the trace's."""
    trace = _agents(subject)
    own = _run(subject, trace, concurrency=2, feedback="sampled")
    sessions = []
    for session in trace.sessions:
        ids = session.tokens.copy()
        for turn in session.turns:
            produced = own.produced[session.id, turn.index]
            _require(produced.size == turn.n_out, f"{produced.size} ids for {turn.n_out}")
            ids[turn.tokens_stop : turn.tokens_stop + turn.n_out] = produced
        sessions.append(replace(session, tokens=ids))
    forced = _run(subject, replace(trace, sessions=tuple(sessions)), concurrency=2)
    _same(subject, forced, own, "sampled feedback")


def check_deterministic(subject: Subject) -> None:
    """The same run twice on the same device: the same logits."""
    trace = _agents(subject)
    _same(
        subject, _run(subject, trace, concurrency=3), _run(subject, trace, concurrency=3), "again"
    )


def check_in_flight(subject: Subject) -> None:
    """As many steps in flight as the backend says it takes: the same logits as with one."""
    trace = _agents(subject)
    one = _run(subject, trace, concurrency=3, caps=replace(subject.caps, in_flight=1))
    _same(subject, one, _run(subject, trace, concurrency=3), "steps in flight")


def check_misuse(subject: Subject) -> None:
    """ContractError for a `wait` without a step and for a step too many; the steps that were in
    flight are finished all the same."""
    recorder = _Recorder(subject.backend)
    _run(subject, _agents(subject), recorder, concurrency=1)
    first = recorder.finished[0][0]
    _forbidden(subject.backend.wait, "wait() without a step")
    for _ in range(subject.caps.in_flight):
        subject.backend.submit(first)
    _forbidden(lambda: subject.backend.submit(first), "one step more than fit in flight")
    for _ in range(subject.caps.in_flight):
        done = subject.backend.wait()
        _require(done.step == first.id, f"step {first.id} was answered as {done.step}")


def check_description(subject: Subject) -> None:
    """What the backend says of itself survives JSON; synchronize may come at any time."""
    described = subject.backend.describe()
    _require(json.loads(json.dumps(described)) is not None, "describe() says nothing")
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


class _Recorder:
    """Passes everything on and keeps steps with their answers."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._steps: list[Step] = []
        self.finished: list[tuple[Step, Done]] = []

    def submit(self, step: Step) -> None:
        self._steps.append(step)
        self._backend.submit(step)

    def wait(self) -> Done:
        done = self._backend.wait()
        self.finished.append((self._steps[len(self.finished)], done))
        return done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def _agents(subject: Subject) -> Trace:
    """Four agents of two groups: ragged prompts, three turns, a prefix that they share."""
    shapes = [
        SessionShape((TurnShape(5, 4), TurnShape(12, 5), TurnShape(30, 3)), group=0, shared=48),
        SessionShape((TurnShape(21, 3), TurnShape(3, 6), TurnShape(17, 4)), group=0, shared=48),
        SessionShape((TurnShape(2, 7), TurnShape(33, 2), TurnShape(1, 5)), group=1, shared=34),
        SessionShape((TurnShape(37, 1), TurnShape(8, 8), TurnShape(25, 2)), group=1, shared=34),
    ]
    return trial_trace(shapes, subject.vocab_size, seed=11)


def _run(
    subject: Subject, trace: Trace, recorder: _Recorder | None = None, **plan: Any
) -> RunResult:
    plan.setdefault("caps", subject.caps)
    plan.setdefault("concurrency", SEQUENCES)
    backend: Any = recorder or subject.backend
    return run(backend, trace, RunPlan(logits_of_all=True, clock=subject.clock, **plan))


def _by_key(result: RunResult) -> dict[Key, Any]:
    return {(c.session, c.turn, c.position): c.logits for c in result.logits}


def _same(subject: Subject, expected: RunResult, found: RunResult, what: str) -> None:
    _compare(subject, _by_key(expected), _by_key(found), what)


def _compare(subject: Subject, expected: dict[Key, Any], found: dict[Key, Any], what: str) -> None:
    _require(bool(expected), f"{what}: nothing to compare")
    _require(expected.keys() == found.keys(), f"{what}: other tokens were sampled")
    for key, logits in expected.items():
        worst = float(np.abs(found[key] - logits).max()) / _scale(logits)
        _require(
            worst <= subject.tolerance,
            f"{what}: session {key[0]}, turn {key[1]}, position {key[2]}: logits differ by "
            f"{worst:.2e} of their spread, {subject.tolerance:.0e} is allowed",
        )


def _scale(logits: Any) -> float:
    return max(float(np.std(logits.astype(np.float64))), 1e-12)


def _forbidden(call: Callable[[], object], what: str) -> None:
    """Require that `call` raises ContractError."""
    try:
        call()
    except ContractError:
        return
    except Exception as error:  # whatever a backend raises in its place is the finding
        raise ConformanceError(
            f"{what} raised {type(error).__name__}, not ContractError"
        ) from error
    raise ConformanceError(f"{what} was taken")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConformanceError(message)
