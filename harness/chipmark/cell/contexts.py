"""The contexts whose logits are compared, and the forwards of the oracle that they can share.

A place is (session, turn, position): the row of a turn's context at whose position a token was
sampled. As an agent only appends, all places of a session lie in one stream until its context is
reset, so the oracle computes one forward a stream and not one a turn.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from chipmark.errors import UsageError
from chipmark.workload.passes import run_session
from chipmark.workload.session import Session, Turn
from chipmark.workload.trace import Trace
from chipmark_models.config import ModelConfig
from chipmark_models.costs import causal_context_sum, prefill_flops

Keys = NDArray[np.int32]
"""Places, int32 (n, 3): session, turn, position."""


def turn_of(trace: Trace, session: int, turn: int) -> tuple[Session, Turn]:
    """The session and turn of a place; the session of a later pass over the trace has the ids
    that it was run with. UsageError where the trace does not have them."""
    found = _session(trace, session)
    if not 0 <= turn < len(found.turns):
        raise UsageError(f"trace {trace.name!r} has no session {session} with a turn {turn}")
    return found, found.turns[turn]


@lru_cache(maxsize=256)
def _session(trace: Trace, run_id: int) -> Session:
    return run_session(trace, run_id)


def context_of(trace: Trace, session: int, turn: int) -> NDArray[np.int32]:
    """Ids of the whole context of a turn: its prompt, then its teacher-forced output."""
    owner, asked = turn_of(trace, session, turn)
    return np.concatenate([owner.prompt(asked), owner.output(asked)])


def sampled_positions(turn: Turn) -> NDArray[np.int64]:
    """Positions of a turn's context whose logits are sampled: the prompt's last to the last but
    one output token."""
    return np.arange(turn.prompt_tokens - 1, turn.prompt_tokens - 1 + turn.n_out)


def turn_keys(trace: Trace, turns: tuple[tuple[int, int], ...]) -> Keys:
    """Every sampled place of these (session, turn) pairs."""
    parts = [np.zeros((0, 3), np.int32)]
    for session, index in turns:
        where = sampled_positions(turn_of(trace, session, index)[1])
        columns = (np.full(len(where), session), np.full(len(where), index), where)
        parts.append(np.stack(columns, 1).astype(np.int32))
    return np.concatenate(parts)


@dataclass(frozen=True, slots=True, eq=False)
class TokenStream:
    """One forward: token ids (T,), and places in it; `keys[i]` is at row `keys[i, 2]`."""

    tokens: NDArray[np.int32]
    keys: Keys


def streams(trace: Trace, keys: Keys) -> list[TokenStream]:
    """Places as few forwards: a turn whose context starts with the stream before continues it."""
    by_session: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for session, turn, position in keys.tolist():
        by_session[session][turn].append(position)
    found: list[TokenStream] = []
    for session, turns in by_session.items():
        open_stream: TokenStream | None = None
        for turn in sorted(turns):
            positions = sorted(set(turns[turn]))
            context = context_of(trace, session, turn)
            if positions[0] < 0 or positions[-1] >= len(context):
                raise UsageError(
                    f"session {session}, turn {turn} has no position {positions[-1]}: "
                    f"its context has {len(context)} tokens"
                )
            tokens = context[: positions[-1] + 1]
            rows = np.array([(session, turn, p) for p in positions], np.int32)
            if open_stream is not None and _continues(open_stream.tokens, tokens):
                merged = np.concatenate([open_stream.keys, rows])
                open_stream = found[-1] = TokenStream(tokens, merged)
            else:
                open_stream = TokenStream(tokens, rows)
                found.append(open_stream)
    return found


def stream_flops(config: ModelConfig, work: list[TokenStream]) -> float:
    """FLOPs of the oracle's forwards over these streams, its head at their places only."""
    return float(
        sum(
            prefill_flops(config, n, causal_context_sum(0, n), len(stream.keys))
            for stream in work
            for n in [len(stream.tokens)]
        )
    )


def _continues(before: NDArray[np.int32], after: NDArray[np.int32]) -> bool:
    return len(after) >= len(before) and bool(np.array_equal(after[: len(before)], before))
