"""The window W of the capacity scenario: when it begins, and when it has been long enough.

All N lanes are busy all the time, so W may begin and end anywhere. It begins and ends where a
session is started, with a whole number of passes over the sessions between: then the work that
begins in W, and so on average the work that is done in it, is that of whole passes at every N.
What is done can still differ from what begins by the sessions that are alive at either end. So
three estimates of the rate of sessions are compared: of sessions that end, of new prompt tokens
and of output tokens, each over what a session has on average. W ends when they agree.

Candidates begin once every lane has ended the turn that it was entered with, as those prompts
(whole contexts, all sent at once) belong to no steady state. Where two sessions start at one
moment the edge cannot tell them apart, so W neither begins nor ends there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from chipmark.workload.session import Session

AGREEMENT = 0.01
"""Largest spread of the three estimates, relative to their mean, at which W may end. Metrics ask
for 0.02 (DEFINITIONS, sessions_per_hour); the engine counts up to `in_flight` steps ahead of what
is visible, which this leaves room for."""


@dataclass(frozen=True, slots=True)
class WorkDone:
    """What a run has done by some moment, over all sessions: work tokens, and seconds of tools."""

    n_new: int
    n_out: int
    tool_s: float


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment at which a session was started, alone or with others."""

    time_s: float
    done: WorkDone
    alone: bool


@dataclass(frozen=True, slots=True)
class Found:
    """W, and how far the three estimates are apart in it (relative to their mean)."""

    start_s: float
    end_s: float
    passes: int
    spread: float


def spread(estimates: Sequence[float]) -> float:
    """Largest minus smallest over the mean; infinite where the mean is not positive."""
    mean = sum(estimates) / len(estimates)
    return (max(estimates) - min(estimates)) / mean if mean > 0 else float("inf")


class CapacityWindow:
    """Is told every start of a session, and finds W."""

    def __init__(self, sessions: Sequence[Session], n_lanes: int) -> None:
        """`sessions`: those of one pass."""
        turns = [turn for session in sessions for turn in session.turns]
        self._size = len(sessions)
        # A session's last tool time is not counted: nothing waits for it.
        tools = [turn.tool_time_s for session in sessions for turn in session.turns[:-1]]
        self._pass = WorkDone(
            sum(turn.n_new for turn in turns), sum(turn.n_out for turn in turns), sum(tools)
        )
        # A window in which lanes start less than a session each would see a part of its turns.
        self._least_passes = -(-n_lanes // self._size)
        self._marks: list[Mark] = []

    def started(self, time_s: float, done: WorkDone, *, alone: bool) -> Found | None:
        """A session starts at `time_s`, by when `done` was done; `alone`: no other one starts at
        that moment. The longest window that ends here and whose estimates agree, or None."""
        self._marks.append(Mark(time_s, done, alone))
        end = len(self._marks) - 1
        if not alone:
            return None
        for passes in range(end // self._size, self._least_passes - 1, -1):
            begin = end - passes * self._size
            if self._marks[begin].alone:
                found = self._window(begin, end, passes)
                if found.spread <= AGREEMENT:
                    return found
        return None

    @property
    def begins_s(self) -> float | None:
        """The first moment at which W could begin; None where it was not reached."""
        return self._marks[0].time_s if self._marks else None

    def _window(self, begin: int, end: int, passes: int) -> Found:
        first, last = self._marks[begin], self._marks[end]
        estimates = [float(passes)] + [
            (after - before) / whole
            for before, after, whole in zip(
                astuple(first.done), astuple(last.done), astuple(self._pass), strict=True
            )
            if whole > 0
        ]
        return Found(first.time_s, last.time_s, passes, spread(estimates))
