"""Unique live KV rows of decode launches: what several sessions share counts once.

Sessions of a trace share the leading tokens of their contexts, as a tree: those of a generated
profile one prefix a group, those of a replayed trace any number of leading blocks, more with one
neighbour than with another. So what is shared is looked up in the tokens, pair by pair.
"""

from __future__ import annotations

import numpy as np

from chipmark.metrics.events import DECODE, Ints, RepeatView
from chipmark.workload.passes import pass_numbers, trace_ids
from chipmark.workload.session import Session
from chipmark.workload.trace import Trace

_CHUNK = 1 << 22
"""Elements of the largest temporary array: launches x rows x rows."""


class SharedPrefixes:
    """Leading tokens that pairs of a trace's sessions have in common, looked up once a pair.

    Only what the trace means to be shared counts: sessions of one group, up to the longest prefix
    that one of the two is declared to share. Sessions of two passes have other tokens and share
    nothing, and neither do ids that the trace does not have.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._sessions = {session.id: session for session in trace.sessions}
        self._pairs: dict[tuple[int, int], int] = {}

    def matrix(self, ids: Ints) -> Ints:
        """Common leading tokens of every pair of run ids, 0 on the diagonal; shape (n, n)."""
        result = np.zeros((len(ids), len(ids)), dtype=np.int64)
        own = trace_ids(self._trace, ids).tolist()
        passes = pass_numbers(self._trace, ids).tolist()
        for i in range(len(own)):
            for j in range(i):
                if passes[i] == passes[j]:
                    result[i, j] = result[j, i] = self._pair(own[i], own[j])
        return result

    def _pair(self, a: int, b: int) -> int:
        key = (a, b) if a < b else (b, a)
        if key not in self._pairs:
            one, other = self._sessions.get(a), self._sessions.get(b)
            self._pairs[key] = 0
            if one is not None and other is not None and one.group == other.group and a != b:
                self._pairs[key] = _common(one, other)
        return self._pairs[key]


def live_rows(view: RepeatView, trace: Trace) -> tuple[Ints, Ints, Ints]:
    """Per decode-only launch in W: (unique live KV rows, rows written, launches' row counts).

    A decode row attends to `start` cached tokens and writes one. The live rows of a launch are
    the nodes of the tree of its contexts: each session adds what no session before it has.
    """
    launches, rows = view.tables["launches"], view.tables["rows"]
    n = len(launches["launch"])
    use = view.row_in & (view.row_phase == DECODE)
    order = np.lexsort((rows["session"][use], view.row_launch[use]))
    at = view.row_launch[use][order]
    session = rows["session"][use][order].astype(np.int64)
    start = rows["start"][use][order].astype(np.int64)
    live = np.bincount(at, weights=start, minlength=n)
    written = np.bincount(at, weights=rows["n_tokens"][use][order], minlength=n)
    counts = np.bincount(at, minlength=n)
    prefixes = SharedPrefixes(trace)
    for ids, which in _same_sessions(session, counts):
        shared = np.tril(prefixes.matrix(ids))
        if not shared.any():
            continue
        first = (np.cumsum(counts) - counts)[which]
        size = max(1, _CHUNK // len(ids) ** 2)
        for low in range(0, len(which), size):
            part = slice(low, low + size)
            own = start[first[part][:, None] + np.arange(len(ids))]
            common = np.minimum(shared, np.minimum(own[:, :, None], own[:, None, :]))
            live[which[part]] -= common.max(axis=2).sum(axis=1)
    decode = view.launch_in & (launches["phase"] == DECODE)
    return (
        live[decode].astype(np.int64),
        written[decode].astype(np.int64),
        counts[decode].astype(np.int64),
    )


def _same_sessions(session: Ints, counts: Ints) -> list[tuple[Ints, Ints]]:
    """(session ids, launches with just these rows) for launches of two rows or more."""
    found: dict[bytes, tuple[Ints, list[int]]] = {}
    ends = np.cumsum(counts)
    for launch in np.flatnonzero(counts > 1).tolist():
        ids = session[ends[launch] - counts[launch] : ends[launch]]
        found.setdefault(ids.tobytes(), (ids, []))[1].append(launch)
    return [(ids, np.array(which, dtype=np.int64)) for ids, which in found.values()]


def _common(one: Session, other: Session) -> int:
    most = max(one.shared_prefix_tokens, other.shared_prefix_tokens)
    most = min(most, len(one.tokens), len(other.tokens))
    differ = np.flatnonzero(one.tokens[:most] != other.tokens[:most])
    return int(differ[0]) if len(differ) else most
