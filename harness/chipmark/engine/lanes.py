"""Which session runs in which lane, and when its next turn is meant to be sent.

Closed loop: N lanes, each runs one session after another, in the order of the trace; the first
turn of a session is sent when its lane is free, each later one when the last token of the turn
before was visible and its tool has taken its time. Open loop: a session's first turn is meant to
be sent at its arrival, whether a lane is free or not. Times are intended ones: what comes late
is not forgiven (the wait counts into the time to first token).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from chipmark.errors import UsageError
from chipmark.workload.passes import pass_session
from chipmark.workload.session import Session, Turn
from chipmark.workload.trace import Trace


@dataclass(frozen=True, slots=True)
class Entrant:
    """A session that is to be run from turn `first` on."""

    session: Session
    first: int = 0


@dataclass(frozen=True, slots=True)
class Send:
    """A turn to be sent. `order`: position of its session among all that were started; `starts`:
    it is the first turn that its session runs here."""

    lane: int
    session: Session
    turn: Turn
    intended_s: float
    order: int
    starts: bool


def chosen_sessions(trace: Trace, ids: Sequence[int] | None) -> tuple[Session, ...]:
    """The sessions of a plan in trace order. UsageError for an id that the trace lacks."""
    if ids is None:
        return trace.sessions
    wanted = set(ids)
    lacking = wanted - {session.id for session in trace.sessions}
    if lacking:
        raise UsageError(f"trace {trace.name!r} has no session {min(lacking)}")
    return tuple(session for session in trace.sessions if session.id in wanted)


def check_closed_loop(trace: Trace) -> None:
    """UsageError for a trace that the capacity scenario cannot measure: an open loop, whose load
    is its arrival rate and not a number of sessions."""
    if trace.loop == "open":
        raise UsageError(
            f"workload {trace.name!r} has an open loop: its load is an arrival rate, which the "
            "capacity scenario does not search yet",
            "measure it with --scenario equal_n, or choose a workload with a closed loop",
        )


def endless_passes(trace: Trace, sessions: Sequence[Session], n: int) -> Iterator[Entrant]:
    """Passes over `sessions` without end, as `n` lanes of the capacity scenario take them.

    The first `n` entrants look like sessions of a run that has been going on for long: the first
    is nearly over and the last has just begun, so that neither their prompts nor their ends fall
    together. An entrant never skips its longest turn, so pass 0 holds the longest turn of every
    session with the trace's own ids.
    """
    number = 0
    while True:
        for index, session in enumerate(sessions):
            position = number * len(sessions) + index
            first = 0
            if position < n:
                turns = session.turns
                longest = max(range(len(turns)), key=lambda at: turns[at].context_tokens)
                age = (n - position - 0.5) / n
                first = min(int(age * len(turns)), longest)
            yield Entrant(pass_session(trace, session, number), first)
        number += 1


class Lanes:
    """Feeds sessions, in the order given, to `n` lanes from `start_s` on. `entrants` may be
    endless, unless their sessions have arrivals."""

    def __init__(self, entrants: Iterable[Entrant], n: int, *, start_s: float) -> None:
        self._entrants = iter(entrants)
        self._start_s = start_s
        self._head = next(self._entrants, None)
        self._open = self._head is not None and self._head.session.arrival_s is not None
        if self._open:
            rest = [*([self._head] if self._head else []), *self._entrants]
            rest.sort(key=lambda entrant: entrant.session.arrival_s or 0.0)
            self._entrants = iter(rest)
            self._head = next(self._entrants, None)
        self._next = 0
        self._orders: dict[int, int] = {}
        self._free: list[tuple[float, int]] = [(start_s, lane) for lane in range(n)]
        self._timers: list[tuple[float, int, int, Session, Turn]] = []
        self.completed = [0] * n

    def due(self, now_s: float) -> list[Send]:
        """Turns whose intended time has come, in the order in which they were to be sent."""
        sends = []
        while self._free and (head := self._head) is not None:
            freed, lane = self._free[0]
            arrival = self._arrival_s(head)
            intended = arrival if self._open else max(freed, arrival)
            if max(freed, arrival) > now_s:
                break
            heapq.heappop(self._free)
            self._head = next(self._entrants, None)
            order = self._orders[lane] = self._next
            self._next += 1
            turn = head.session.turns[head.first]
            sends.append(Send(lane, head.session, turn, intended, order, starts=True))
        while self._timers and self._timers[0][0] <= now_s:
            time_s, order, lane, session, turn = heapq.heappop(self._timers)
            sends.append(Send(lane, session, turn, time_s, order, starts=False))
        return sends

    def next_s(self) -> float | None:
        """When something will be due; None where nothing will without a turn's end."""
        times = [self._timers[0][0]] if self._timers else []
        if self._free and self._head is not None:
            times.append(max(self._free[0][0], self._arrival_s(self._head)))
        return min(times, default=None)

    def turn_done(self, lane: int, session: Session, turn: Turn, visible_s: float) -> bool:
        """A turn's last token is visible. True where that was the session's last turn."""
        if turn.index + 1 == len(session.turns):
            self.session_over(lane, visible_s)
            self.completed[lane] += 1
            return True
        after = session.turns[turn.index + 1]
        heapq.heappush(
            self._timers,
            (visible_s + turn.tool_time_s, self._orders[lane], lane, session, after),
        )
        return False

    def session_over(self, lane: int, time_s: float) -> None:
        """The lane is free for another session."""
        heapq.heappush(self._free, (time_s, lane))

    def not_started(self) -> list[Session]:
        """Sessions that no lane has taken yet; of an endless stream, never to be asked."""
        rest = [] if self._head is None else [self._head]
        return [entrant.session for entrant in (*rest, *self._entrants)]

    def waiting_turns(self) -> list[Send]:
        """Turns whose tool has not ended yet."""
        return [
            Send(lane, s, turn, t, order, starts=False)
            for t, order, lane, s, turn in sorted(self._timers)
        ]

    def tool_left_s(self, now_s: float) -> float:
        """Seconds that the tools which run now still take, of all lanes together."""
        return sum(max(0.0, time_s - now_s) for time_s, *_ in self._timers)

    def _arrival_s(self, entrant: Entrant) -> float:
        return self._start_s + (entrant.session.arrival_s or 0.0)
