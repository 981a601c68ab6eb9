"""A backend under test: the runs that the conformance suite makes on it, and how they compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from chipmark.engine.contract import Backend, Caps, Clock, Done, Loaded, LoadSpec, Step
from chipmark.engine.loop import run
from chipmark.engine.plan import RunPlan, RunResult
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


class Recorder:
    """Passes everything on and keeps steps with their answers."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._steps: list[Step] = []
        self.finished: list[tuple[Step, Done]] = []

    def submit(self, step: Step) -> None:
        """Keep the step, and pass it on."""
        self._steps.append(step)
        self._backend.submit(step)

    def wait(self) -> Done:
        """Pass the answer on, and keep it with its step."""
        done = self._backend.wait()
        self.finished.append((self._steps[len(self.finished)], done))
        return done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def agents(subject: Subject) -> Trace:
    """Four agents of two groups: ragged prompts, three turns, a prefix that they share."""
    shapes = [
        SessionShape((TurnShape(5, 4), TurnShape(12, 5), TurnShape(30, 3)), group=0, shared=48),
        SessionShape((TurnShape(21, 3), TurnShape(3, 6), TurnShape(17, 4)), group=0, shared=48),
        SessionShape((TurnShape(2, 7), TurnShape(33, 2), TurnShape(1, 5)), group=1, shared=34),
        SessionShape((TurnShape(37, 1), TurnShape(8, 8), TurnShape(25, 2)), group=1, shared=34),
    ]
    return trial_trace(shapes, subject.vocab_size, seed=11)


def run_trace(
    subject: Subject, trace: Trace, recorder: Recorder | None = None, **plan: Any
) -> RunResult:
    """Run the trace through the engine, with the logits of every sampled row."""
    plan.setdefault("caps", subject.caps)
    plan.setdefault("concurrency", SEQUENCES)
    backend: Any = recorder or subject.backend
    return run(backend, trace, RunPlan(logits_of_all=True, clock=subject.clock, **plan))


def by_key(result: RunResult) -> dict[Key, Any]:
    """Logits of a run by session, turn and position."""
    return {(c.session, c.turn, c.position): c.logits for c in result.logits}


def same(subject: Subject, expected: RunResult, found: RunResult, what: str) -> None:
    """Require that two runs sampled the same tokens with the same logits."""
    compare(subject, by_key(expected), by_key(found), what)


def compare(subject: Subject, expected: dict[Key, Any], found: dict[Key, Any], what: str) -> None:
    """Require that logits of the same tokens are the same, within the subject's tolerance."""
    require(bool(expected), f"{what}: nothing to compare")
    require(expected.keys() == found.keys(), f"{what}: other tokens were sampled")
    for key, logits in expected.items():
        worst = float(np.abs(found[key] - logits).max()) / scale(logits)
        require(
            worst <= subject.tolerance,
            f"{what}: session {key[0]}, turn {key[1]}, position {key[2]}: logits differ by "
            f"{worst:.2e} of their spread, {subject.tolerance:.0e} is allowed",
        )


def scale(logits: Any) -> float:
    """The spread of logits, in which differences are expressed."""
    return max(float(np.std(logits.astype(np.float64))), 1e-12)


def forbidden(call: Callable[[], object], what: str) -> None:
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


def require(holds: bool, message: str) -> None:
    """Raise ConformanceError unless it holds."""
    if not holds:
        raise ConformanceError(message)
