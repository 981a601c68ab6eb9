"""Parity: the small trace that goes through the timed path, and what it must contain.

Sessions of unequal lengths run together (a ragged batch of as many rows as the cell has sessions,
up to PARITY_ROWS, so that its decode launches are as wide as the cell's own). The first two share
a prefix that is longer than one chunk (a copy or shared pages); each session has two turns (KV
kept between them); one crosses a context bucket while it decodes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chipmark.cell.contexts import sampled_positions
from chipmark.cell.logits import LogitRows
from chipmark.engine.plugins import simulated_factory
from chipmark.workload.scale import Scale
from chipmark.workload.session import Session, Turn
from chipmark.workload.trace import Trace

PARITY_ROWS = 16
"""Most sessions of the trace: the oracle's time grows with them."""

_MIN_ROWS = 3
_DEFAULT_CROSSING = 256
_LARGEST_CROSSING = 1024  # the oracle's time grows with it; a bucket beyond is not crossed
_PAST_CHUNK = 21  # tokens of the shared prefix beyond its first chunk: no page ends there
_LARGEST_PREFIX = 2048 + _PAST_CHUNK
_SMALLEST_PREFIX = 20

Wanted = tuple[tuple[int, int], ...]
"""(session, turn) pairs whose sampled rows are compared."""

Shape = tuple[int, int, int, int]
"""Tokens of the first input, its output, the second input, its output."""


def parity_trace(
    vocab_size: int,
    context_buckets: Sequence[int] = (),
    max_context: int | None = None,
    *,
    rows: int = _MIN_ROWS,
    chunk: int = 256,
) -> Trace:
    """The trace of this module for a vocabulary, crossing the first bucket that it can.

    rows: sessions that the cell runs at once. chunk: most prompt tokens of a launch. Token ids are
    raw bits of a counter-based generator. With `max_context` under the crossing the trace crosses
    nothing and stays inside it; the prefix is then shorter too.
    """
    limit = max_context or 1 << 30
    fits = [b for b in context_buckets if 96 <= b <= _LARGEST_CROSSING and b + 16 <= limit]
    crossing = min(fits, default=_DEFAULT_CROSSING)
    longest = min(crossing, limit - 16)
    prefix = min(chunk + _PAST_CHUNK, _LARGEST_PREFIX)
    if prefix + 96 > limit:
        prefix = _SMALLEST_PREFIX
    shapes = _shapes(prefix, longest, max(_MIN_ROWS, min(rows, PARITY_ROWS)))
    generator = np.random.Philox(key=20_260_101)
    raw = generator.random_raw(sum(sum(shape) for shape in shapes))
    ids = ((raw >> np.uint64(20)) % np.uint64(vocab_size - vocab_size // 16)).astype(np.int32)
    ids += np.int32(vocab_size // 16)
    sessions, at = [], 0
    for number, (new0, out0, new1, out1) in enumerate(shapes):
        total = new0 + out0 + new1 + out1
        tokens = ids[at : at + total].copy()
        at += total
        shared = prefix if number < 2 else 0
        tokens[:shared] = ids[:shared]
        cached = prefix if number == 1 else 0
        context = new0 + out0
        turns = (
            Turn(0, new0, new0 - cached, cached, out0, 0, new0),
            Turn(1, context + new1, new1, context, out1, context, context + new1),
        )
        group = 0 if shared else number
        sessions.append(Session(number, group, shared, None, tokens, turns))
    return Trace(tuple(sessions), vocab_size, "parity", Scale(), 0, "closed")


def _shapes(prefix: int, longest: int, rows: int) -> list[Shape]:
    """The first two share a prefix, the third decodes over the crossing, the others are short and
    unlike in every length."""
    shapes: list[Shape] = [
        (prefix + 17, 4, 9, 3),
        (prefix + 33, 3, 21, 4),
        (max(48, longest - 26), 3, 20, 8),
    ]
    shapes += [(7 + 3 * n, 6 + n % 3, 3 + n % 5, 4) for n in range(rows - _MIN_ROWS)]
    return shapes


def all_turns(trace: Trace) -> Wanted:
    """Every (session, turn) of a trace."""
    return tuple((session.id, turn.index) for session, turn in trace.walk())


def closed_rule_errors(trace: Trace, measured: LogitRows) -> str:
    """What contradicts the closed rule of a simulated device: at every sampled position the id
    that it gives has the largest logit. "" where nothing does."""
    best = {
        tuple(key): int(row.argmax())
        for key, row in zip(measured.keys.tolist(), measured.logits, strict=True)
    }
    rule, wrong = simulated_factory().expected_ids, 0
    for session, turn in trace.walk():
        context = np.concatenate([session.prompt(turn), session.output(turn)])
        expected = rule(context.astype(np.int32), trace.vocab_size)
        for position in sampled_positions(turn).tolist():
            wrong += best.get((session.id, turn.index, position)) != expected[position]
    return f"{wrong} sampled ids are not those of their contexts" if wrong else ""
