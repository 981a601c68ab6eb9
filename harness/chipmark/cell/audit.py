"""Which places an audit looks at: drawn after the run, so that no backend can know them before.

The longest turn's stream is always in. Other sessions join in a random order, one of each quarter
of the trace in turn, as long as the oracle's time allows; half of the places of every session lie
in the last quarter of its context, where a window, a stale page or a scaled position shows.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from chipmark.cell.contexts import Keys, sampled_positions, turn_of
from chipmark.workload.trace import Trace

PLACES = 256
"""Places drawn, where there are so many: rows of the head cost little, forwards do not."""

ROWS_OF_LONGEST = 64
"""Rows of the captured turn that are compared whole."""

SHARE_OF_BUDGET = 0.25
"""Sessions beyond the longest turn's join while they cost less than this share of the time that
the audit may take."""

_QUARTERS = 4

TurnKey = tuple[int, int]
"""(session, turn)."""


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """What is looked at. keys (n, 3): places, no one twice. longest (m, 3): rows of the captured
    turn that are compared whole. flops: of one forward over all of it."""

    seed: bytes
    keys: Keys
    longest: Keys
    flops: float


def longest_turn(trace: Trace) -> TurnKey | None:
    """The turn with the longest context, the first of equals: the one whose logits are captured."""
    found = max(trace.walk(), key=lambda pair: pair[1].context_tokens, default=None)
    return None if found is None else (found[0].id, found[1].index)


def draw(
    trace: Trace,
    done: Sequence[TurnKey],
    captured: Keys,
    seed: bytes,
    flops_of: Callable[[Keys], float],
    budget_flops: float,
) -> Draw | None:
    """Places out of the turns that were done.

    captured (m, 3): rows of the longest turn whose logits were captured, none where it was not.
    flops_of: the cost of one forward of places. None where even the longest turn's stream costs
    more than the budget, or nothing was done.
    """
    dice = random.Random(seed)
    by_session: dict[int, list[int]] = defaultdict(list)
    for session, turn in done:
        by_session[session].append(turn)
    if not by_session:
        return None
    chosen: dict[int, list[int]] = {}
    rows = np.zeros((0, 3), np.int32)
    if len(captured):
        session, turn = captured[0, :2].tolist()
        chosen[session] = [t for t in by_session[session] if _same_stream(trace, session, t, turn)]
        rows = rows_of_longest(captured, dice)
    cost = flops_of(_last_keys(trace, chosen)) if chosen else 0.0
    if cost > budget_flops:
        return None
    n_places = _n_places(trace, chosen)
    for session in _order(list(by_session), set(chosen), dice):
        allowed = budget_flops * (SHARE_OF_BUDGET if n_places >= PLACES else 1.0)
        if cost >= allowed:
            break
        more = {session: by_session[session]}
        price = flops_of(_last_keys(trace, more))
        if cost + price <= allowed:
            chosen |= more
            cost += price
            n_places += _n_places(trace, more)
    if not chosen:  # nothing was captured, and no session fits the budget
        return None
    keys = _places(trace, chosen, dice)
    union = np.unique(np.concatenate([keys, rows]), axis=0)
    return Draw(seed, union, rows, flops_of(union))


def _same_stream(trace: Trace, session: int, turn: int, last: int) -> bool:
    """Whether a turn's context is a prefix of that of `last`, so that it costs nothing more."""
    owner, _ = turn_of(trace, session, turn)
    return turn <= last and not any(t.reset for t in owner.turns[turn + 1 : last + 1])


def rows_of_longest(captured: Keys, dice: random.Random) -> Keys:
    """The first, the last, and rows drawn between them."""
    inner = range(1, len(captured) - 1)
    picked = {0, len(captured) - 1}
    picked |= set(dice.sample(inner, min(len(inner), ROWS_OF_LONGEST - 2)))
    return captured[sorted(picked)]


def _order(sessions: list[int], taken: set[int], dice: random.Random) -> list[int]:
    """Sessions in a random order that takes one of every quarter of the trace in turn."""
    sessions = sorted(sessions)
    size = -(-len(sessions) // _QUARTERS)
    quarters = [sessions[at : at + size] for at in range(0, len(sessions), size)]
    for quarter in quarters:
        dice.shuffle(quarter)
    dice.shuffle(quarters)
    turns = [quarter[at] for at in range(size) for quarter in quarters if at < len(quarter)]
    return [session for session in turns if session not in taken]


def _n_places(trace: Trace, chosen: dict[int, list[int]]) -> int:
    return sum(turn_of(trace, s, turn)[1].n_out for s, turns in chosen.items() for turn in turns)


def _all_keys(trace: Trace, chosen: dict[int, list[int]]) -> list[tuple[int, int, int]]:
    return [
        (session, turn, position)
        for session, turns in chosen.items()
        for turn in turns
        for position in sampled_positions(turn_of(trace, session, turn)[1]).tolist()
    ]


def _last_keys(trace: Trace, chosen: dict[int, list[int]]) -> Keys:
    """The last place of every turn: what the forwards over the chosen turns cost."""
    return np.array(
        [
            (session, turn, int(sampled_positions(turn_of(trace, session, turn)[1])[-1]))
            for session, turns in chosen.items()
            for turn in turns
        ],
        np.int32,
    ).reshape(-1, 3)


def _places(trace: Trace, chosen: dict[int, list[int]], dice: random.Random) -> Keys:
    """PLACES of the chosen turns, alike many of each session, half of them late in its context."""
    pools = []
    for session, turns in chosen.items():
        pool = sorted(_all_keys(trace, {session: turns}), key=lambda key: key[2])
        edge = pool[-1][2] * 3 // 4
        late = [key for key in pool if key[2] >= edge]
        early = [key for key in pool if key[2] < edge]
        dice.shuffle(late)
        dice.shuffle(early)
        # One late, one early, one late: a prefix of the list is stratified as the whole is.
        paired = [key for pair in zip(late, early, strict=False) for key in pair]
        shorter = min(len(late), len(early))
        pools.append(paired + late[shorter:] + early[shorter:])
    picked: list[tuple[int, int, int]] = []
    at = 0
    while len(picked) < PLACES and any(at < len(pool) for pool in pools):
        picked += [pool[at] for pool in pools if at < len(pool)]
        at += 1
    return np.unique(np.array(picked[:PLACES], np.int32).reshape(-1, 3), axis=0)
