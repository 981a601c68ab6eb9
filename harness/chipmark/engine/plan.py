"""What a run is asked to do, and what it leaves behind.

Standard library and NumPy only: this module runs in a vendor's container.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from chipmark.engine.contract import F32, I32, Caps, Clock
from chipmark.engine.events import Table
from chipmark.errors import UsageError

CACHE_POLICY: Mapping[str, str] = {
    "policy": "chipmark.cache/1",
    "between_turns": "kept",
    "across_sessions": "longest exact prefix, at most what an endless cache in trace order holds",
    "followers": "a prompt waits for an older prompt of its group that is computing their prefix",
    "eviction": "waiting sessions first, least recently used, tail first; refill is charged",
}
"""The engine's declared cache policy, the same for every backend. The grain at which it is
reached (token, page, not at all) is the backend's and shows as its prefix hit."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. Seconds of the engine's clock since the first intended send."""

    sessions_done: int
    sessions_total: int
    turns_done: int
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class RunPlan:
    """One run over a loaded backend.

    caps: `Loaded.caps`. concurrency: lanes, and so the most sessions that are alive at once (in
    an open loop too, where arrivals wait for a lane). sessions: ids out of the trace, None for
    all. token_budget: most tokens of one step, decode rows first; None is `caps.max_chunk` for
    prompts plus one token a lane. feedback `forced` feeds the trace's tokens, `sampled` the
    backend's own. capture: (session, turn) whose sampled rows' logits are returned;
    logits_of_all: those of every sampled row (for small traces). deadline_s: seconds after which
    no further step is submitted. clock: the virtual clock of a built-in simulated device; None for
    every other backend, which the engine times by the host's clock.

    The capacity scenario runs passes over the sessions (`workload.passes`; a captured turn is that
    of pass 0) and ends with its window W (`engine.window`). sessions_per_lane: it does not end
    before every lane has completed so many, for a run that is longer than W asks for.
    """

    caps: Caps
    concurrency: int
    scenario: Literal["equal_n", "capacity"] = "equal_n"
    sessions: tuple[int, ...] | None = None
    token_budget: int | None = None
    feedback: Literal["forced", "sampled"] = "forced"
    capture: tuple[int, int] | None = None
    logits_of_all: bool = False
    deadline_s: float | None = None
    sessions_per_lane: int = 0
    on_progress: Callable[[Progress], None] | None = None
    clock: Clock | None = None

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise UsageError(f"concurrency is {self.concurrency}; at least one session must run")
        if self.token_budget is not None and self.token_budget < self.concurrency:
            raise UsageError(
                f"token_budget {self.token_budget} is below the concurrency {self.concurrency}",
                "a step must be able to take one token of every session; raise the token budget",
            )
        if self.sessions_per_lane < 0:
            raise UsageError(f"sessions_per_lane is {self.sessions_per_lane}; at least 0")

    @property
    def budget(self) -> int:
        """Tokens of one step."""
        if self.token_budget is not None:
            return self.token_budget
        return self.caps.max_chunk + self.concurrency

    @property
    def prompt_budget(self) -> int:
        """Most prompt tokens of one step: by default those of one launch, so that a step's
        prompts do not spill a few tokens into a second launch that reads all weights again."""
        return self.caps.max_chunk if self.token_budget is None else self.token_budget


@dataclass(frozen=True, slots=True)
class CapturedLogits:
    """Logits of one sampled row: float32 of shape (vocab,), of the token after `position`."""

    session: int
    turn: int
    position: int
    logits: F32


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run leaves: tables as in `chipmark.engine.events`, and what else was asked for.

    produced: the ids that the backend sampled, by (session, turn), for feedback `sampled`.
    complete: every session of the plan ended (done or failed) before the deadline; in the
    capacity scenario, W was found before it.
    """

    tables: dict[str, Table]
    logits: tuple[CapturedLogits, ...]
    produced: Mapping[tuple[int, int], I32]
    complete: bool
