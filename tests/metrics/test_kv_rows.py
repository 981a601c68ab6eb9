"""What several sessions share counts once, in traces whose branches share different amounts."""

from __future__ import annotations

import numpy as np

from chipmark.engine.contract import PHASES
from chipmark.engine.events import empty_table
from chipmark.metrics.events import view
from chipmark.metrics.kv_rows import SharedPrefixes, live_rows
from chipmark.workload.scale import Scale
from chipmark.workload.session import Session, Turn
from chipmark.workload.trace import Trace


def branching() -> Trace:
    """Four sessions of one group as a tree, and one of another: 0 and 1 share 6 tokens, 2 shares
    4 with both, 3 shares 2 with all; `held` is what sessions before them hold, as replays say."""
    contexts = {
        0: [1, 2, 3, 4, 5, 6, 10, 11],
        1: [1, 2, 3, 4, 5, 6, 20, 21],
        2: [1, 2, 3, 4, 30, 31, 32, 33],
        3: [1, 2, 40, 41, 42, 43, 44, 45],
        4: [1, 2, 3, 4, 5, 6, 10, 11],
    }
    held = {0: 0, 1: 6, 2: 4, 3: 2, 4: 0}
    return Trace(
        sessions=tuple(
            Session(
                number,
                9 if number == 4 else 0,
                held[number],
                None,
                np.array(tokens, dtype=np.int32),
                (Turn(0, 6, 6 - min(held[number], 5), min(held[number], 5), 2, 0, 6),),
            )
            for number, tokens in contexts.items()
        ),
        vocab_size=100,
        name="branching",
        scale=Scale("1", "1", "0"),
        seed=1,
        loop="closed",
    )


def launches_of(sets: list[dict[int, int]]) -> dict[str, dict[str, np.ndarray]]:
    """Events with one decode launch a set, of rows {session: start}."""
    n = len(sets)
    rows = [(i, session, start) for i, rows in enumerate(sets) for session, start in rows.items()]
    tables = {name: empty_table(name) for name in ("turns", "sessions")}
    tables["steps"] = empty_table("steps", n)
    tables["launches"] = empty_table("launches", n)
    tables["rows"] = empty_table("rows", len(rows))
    tables["window"] = empty_table("window", 1)
    for table, column in (("steps", "step"), ("launches", "launch"), ("launches", "step")):
        tables[table][column][:] = np.arange(n)
    tables["launches"]["phase"][:] = PHASES.index("decode")
    tables["launches"]["start_s"][:] = np.arange(n)
    tables["launches"]["end_s"][:] = np.arange(n) + 1
    tables["window"]["end_s"][:] = n
    for column, values in zip(("launch", "session", "start"), zip(*rows, strict=True), strict=True):
        tables["rows"][column][:] = values
    tables["rows"]["n_tokens"][:] = 1
    return tables


def nodes(trace: Trace, rows: dict[int, int]) -> int:
    """The same, counted: the set of (group, context up to a position)."""
    sessions = {s.id: s for s in trace.sessions}
    return len(
        {
            (sessions[number].group, tuple(sessions[number].tokens[: k + 1]))
            for number, start in rows.items()
            for k in range(start)
        }
    )


def test_branches_share_what_their_tokens_share() -> None:
    trace = branching()
    sets = [
        {0: 8, 1: 8},  # 6 in common
        {0: 8, 1: 8, 2: 8},  # and 4 with the third
        {0: 8, 1: 8, 2: 8, 3: 8},
        {1: 3, 0: 8},  # a context that ends inside what is shared
        {0: 8, 4: 8},  # equal tokens of another group are not the same rows
        {3: 8},
    ]
    live, written, counts = live_rows(view(launches_of(sets)), trace)
    assert live.tolist() == [10, 14, 20, 8, 16, 8]
    assert live.tolist() == [nodes(trace, rows) for rows in sets]
    assert written.tolist() == counts.tolist() == [len(rows) for rows in sets]


def test_any_set_of_contexts_counts_as_its_tree() -> None:
    trace = branching()
    draws = np.random.default_rng(4)
    sets = []
    for _ in range(60):
        chosen = draws.permutation(5)[: draws.integers(1, 6)]
        sets.append({int(s): int(draws.integers(1, 9)) for s in chosen})
    live, _, _ = live_rows(view(launches_of(sets)), trace)
    assert live.tolist() == [nodes(trace, rows) for rows in sets]


def test_passes_of_a_trace_share_nothing() -> None:
    trace = branching()
    shared = SharedPrefixes(trace).matrix(np.array([0, 1, 5, 6, 99]))
    # Ids 5 and 6 are sessions 0 and 1 of the second pass, 99 is session 4 of a late one.
    assert shared[0, 1] == shared[2, 3] == 6
    assert shared.sum() == 24
