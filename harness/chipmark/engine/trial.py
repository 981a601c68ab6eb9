"""Small traces by shape, for checks of engine and backends (profiles are `chipmark.workload`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chipmark.workload.scale import Scale
from chipmark.workload.session import Loop, Session, Turn
from chipmark.workload.trace import Trace


@dataclass(frozen=True, slots=True)
class TurnShape:
    """`own` new input tokens, `n_out` output tokens, then a tool's seconds. `keep`: the context
    is cut back to so many tokens before the turn; None keeps all."""

    own: int
    n_out: int
    tool_time_s: float = 0.0
    keep: int | None = None


@dataclass(frozen=True, slots=True)
class SessionShape:
    """A session whose first `shared` tokens are its group's; its first turn has `own` beyond."""

    turns: tuple[TurnShape, ...]
    group: int = 0
    shared: int = 0
    arrival_s: float | None = None


def trial_trace(shapes: Sequence[SessionShape], vocab_size: int, seed: int = 0) -> Trace:
    """A trace with these shapes and seeded ids; open loop where sessions have arrivals.

    `n_cached` of a first turn is what an earlier session of the group shares with it.
    """
    longest: dict[int, int] = {}
    sessions = []
    for number, shape in enumerate(shapes):
        seen = min(longest.get(shape.group, 0), shape.shared)
        longest[shape.group] = max(longest.get(shape.group, 0), shape.shared)
        sessions.append(_session(number, shape, seen, vocab_size, seed))
    loop: Loop = "open" if any(shape.arrival_s is not None for shape in shapes) else "closed"
    return Trace(tuple(sessions), vocab_size, "trial", Scale(), seed, loop)


def _session(number: int, shape: SessionShape, seen: int, vocab_size: int, seed: int) -> Session:
    turns: list[Turn] = []
    context, position = 0, 0
    for index, turn in enumerate(shape.turns):
        own = turn.own + (shape.shared if index == 0 else 0)
        kept = context if turn.keep is None else min(turn.keep, context)
        prompt = kept + own
        cached = min(seen if index == 0 else kept, prompt - 1)
        turns.append(
            Turn(
                index=index,
                prompt_tokens=prompt,
                n_new=prompt - cached,
                n_cached=cached,
                n_out=turn.n_out,
                tokens_start=position,
                tokens_stop=position + own,
                tool_time_s=turn.tool_time_s,
                reset=kept < context,
            )
        )
        context, position = prompt + turn.n_out, position + own + turn.n_out
    prefix = _ids(seed, 2 * shape.group, shape.shared, vocab_size)
    rest = _ids(seed, 2 * number + 1, position - shape.shared, vocab_size)
    return Session(
        id=number,
        group=shape.group,
        shared_prefix_tokens=shape.shared,
        arrival_s=shape.arrival_s,
        tokens=np.concatenate([prefix, rest]),
        turns=tuple(turns),
    )


def _ids(
    seed: int, stream: int, n: int, vocab_size: int
) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    generator = np.random.Generator(np.random.Philox(key=[seed, stream]))
    return generator.integers(0, vocab_size, n, dtype=np.int32)
