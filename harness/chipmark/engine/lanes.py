"""Which session runs in which lane, and when its next turn is meant to be sent.

Closed loop: N lanes, each runs one session after another, in the order of the trace; the first
turn of a session is sent when its lane is free, each later one when the last token of the turn
before was visible and its tool has taken its time. Open loop: a session's first turn is meant to
be sent at its arrival, whether a lane is free or not. Times are intended ones: what comes late
is not forgiven (the wait counts into the time to first token).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from chipmark.errors import UsageError
from chipmark.workload.session import Session, Turn
from chipmark.workload.trace import Trace


@dataclass(frozen=True, slots=True)
class Send:
    """A turn to be sent. `order`: position of its session among all that were started."""

    lane: int
    session: Session
    turn: Turn
    intended_s: float
    order: int


def chosen_sessions(trace: Trace, ids: Sequence[int] | None) -> tuple[Session, ...]:
    """The sessions of a plan in trace order. UsageError for an id that the trace lacks."""
    if ids is None:
        return trace.sessions
    wanted = set(ids)
    lacking = wanted - {session.id for session in trace.sessions}
    if lacking:
        raise UsageError(f"trace {trace.name!r} has no session {min(lacking)}")
    return tuple(session for session in trace.sessions if session.id in wanted)


class Lanes:
    """Feeds sessions to `n` lanes from `start_s` on. With `recycle`, sessions are used again
    from the first, never one that is alive."""

    def __init__(
        self, sessions: Sequence[Session], n: int, *, start_s: float, recycle: bool = False
    ) -> None:
        if recycle and len(sessions) < n:
            raise UsageError(
                f"{n} lanes need at least {n} sessions, the trace has {len(sessions)}",
                "ask for more sessions or fewer lanes",
            )
        self._queue = list(sessions)
        self._start_s = start_s
        self._recycle = recycle
        self._open = any(session.arrival_s is not None for session in sessions)
        if self._open:
            self._queue.sort(key=lambda session: session.arrival_s or 0.0)
        self._next = 0
        self._orders: dict[int, int] = {}
        self._alive: set[int] = set()
        self._free: list[tuple[float, int]] = [(start_s, lane) for lane in range(n)]
        self._timers: list[tuple[float, int, int, Session, Turn]] = []
        self.completed = [0] * n

    def due(self, now_s: float) -> list[Send]:
        """Turns whose intended time has come, in the order in which they were to be sent."""
        sends = []
        while self._free and (start := self._peek()) is not None:
            session, arrival = start
            freed, lane = self._free[0]
            intended = max(freed, arrival) if not self._open else arrival
            if max(freed, arrival) > now_s:
                break
            heapq.heappop(self._free)
            self._take(session)
            order = self._orders[lane] = self._next
            self._next += 1
            sends.append(Send(lane, session, session.turns[0], intended, order))
        while self._timers and self._timers[0][0] <= now_s:
            time_s, order, lane, session, turn = heapq.heappop(self._timers)
            sends.append(Send(lane, session, turn, time_s, order))
        return sends

    def next_s(self) -> float | None:
        """When something will be due; None where nothing will without a turn's end."""
        times = [self._timers[0][0]] if self._timers else []
        if self._free and (start := self._peek()) is not None:
            times.append(max(self._free[0][0], start[1]))
        return min(times, default=None)

    def turn_done(self, lane: int, session: Session, turn: Turn, visible_s: float) -> bool:
        """A turn's last token is visible. True where that was the session's last turn."""
        if turn.index + 1 == len(session.turns):
            self.session_over(lane, session, visible_s)
            self.completed[lane] += 1
            return True
        after = session.turns[turn.index + 1]
        heapq.heappush(
            self._timers,
            (visible_s + turn.tool_time_s, self._orders[lane], lane, session, after),
        )
        return False

    def session_over(
        self, lane: int, session: Session, time_s: float, *, failed: bool = False
    ) -> None:
        """The lane is free for another session. One that failed is not used again: it would
        fail at once, for ever."""
        self._alive.discard(session.id)
        if failed and session in self._queue:
            self._queue.remove(session)
        heapq.heappush(self._free, (time_s, lane))

    def not_started(self) -> list[Session]:
        """Sessions that no lane has taken yet (none where they recycle)."""
        return [] if self._recycle else self._queue

    def waiting_turns(self) -> list[Send]:
        """Turns whose tool has not ended yet."""
        return [Send(lane, s, turn, t, order) for t, order, lane, s, turn in sorted(self._timers)]

    def _peek(self) -> tuple[Session, float] | None:
        for session in self._queue:
            if session.id not in self._alive:
                return session, self._start_s + (session.arrival_s or 0.0)
        return None

    def _take(self, session: Session) -> None:
        self._queue.remove(session)
        if self._recycle:
            self._queue.append(session)
        self._alive.add(session.id)
