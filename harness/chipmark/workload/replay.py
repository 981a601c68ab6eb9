"""Replay of public request traces: Mooncake's JSON Lines and Azure's CSV, in an open loop.

Such a trace knows requests and not sessions: each request becomes a session of one turn, and
what an endless cache holds of its prompt may come from any request before it. Arrivals are the
file's timestamps, from the first on, times the tool-time scale.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from chipmark.errors import BadInputError, DoesNotFitError, UsageError
from chipmark.workload.draws import DrawStream
from chipmark.workload.generate import RESERVED_IDS
from chipmark.workload.replay_files import MOONCAKE_BLOCK, Request, read_requests
from chipmark.workload.scale import Scale, scaled_tokens
from chipmark.workload.session import Ids, Session, Turn
from chipmark.workload.trace import Trace


def replay(
    path: str | os.PathLike[str],
    scale: Scale,
    seed: int,
    vocab_size: int,
    *,
    n_requests: int | None = None,
    max_context: int | None = None,
    reserved_ids: int = RESERVED_IDS,
    block_tokens: int = MOONCAKE_BLOCK,
) -> Trace:
    """The trace of a Mooncake `.jsonl` or an Azure `.csv` file, either also with `.gz`.

    Ids are seeded, in `reserved_ids..vocab_size-1`; equal `hash_ids` give equal ids. The context
    scale shrinks prompts and blocks alike. `n_requests` takes the first requests of the file.
    `block_tokens` are the prompt tokens of one hash id in the file; a size other than Mooncake's
    is in the trace's name.

    Raises `BadInputError` with file, line and field for bad input (`replay_files`),
    `DoesNotFitError` for a request longer than `max_context`, with a scale that fits.
    """
    if vocab_size - reserved_ids < 2:
        raise UsageError(f"a vocabulary of {vocab_size} ids leaves none to draw from")
    if block_tokens < 1:
        raise UsageError(f"blocks of {block_tokens} tokens hold nothing", "give 1 or more")
    maker = _Maker(scale, seed, reserved_ids, vocab_size, block_tokens)
    sessions = []
    longest: tuple[int, Request] | None = None
    for request in read_requests(path, n_requests, block_tokens=block_tokens):
        session = maker.session(request)
        context = session.turns[0].context_tokens
        if longest is None or context > longest[0]:
            longest = (context, request)
        sessions.append(session)
    if longest is None:
        raise BadInputError(path, "holds no request")
    if max_context is not None and longest[0] > max_context:
        raise DoesNotFitError(
            f"{path}:{longest[1].line}: the request needs a context of {longest[0]} tokens at "
            f"scale {scale}; the model holds {max_context}",
            f"context and output scales of {_fitting(longest[1], max_context)} fit",
        )
    stem = Path(path).name.removesuffix(".gz").rsplit(".", 1)[0]
    return Trace(
        sessions=tuple(sessions),
        vocab_size=vocab_size,
        name=f"replay:{stem}" + (f"@{block_tokens}" if block_tokens != MOONCAKE_BLOCK else ""),
        scale=scale,
        seed=seed,
        loop="open",
    )


@dataclass
class _Node:
    """A block in the tree of all prompts so far: the longest that was seen of it, what follows."""

    tokens: int = 0
    children: dict[int, _Node] = field(default_factory=dict)


@dataclass
class _Maker:
    scale: Scale
    seed: int
    low: int
    high: int
    block_tokens: int
    _root: _Node = field(default_factory=_Node)
    _groups: dict[int, int] = field(default_factory=dict)
    _made: int = 0

    def __post_init__(self) -> None:
        self._own_ids = DrawStream(self.seed, "replay", "request")
        self._block_ids = DrawStream(self.seed, "replay", "block")

    def session(self, request: Request) -> Session:
        factor = self.scale.context_factor
        length = scaled_tokens(request.input_tokens, factor)
        out = scaled_tokens(request.output_tokens, self.scale.output_factor)
        block = _block_tokens(factor, self.block_tokens)
        held = self._known(request.hash_ids, length, block)
        cached = min(held, length - 1)
        number, self._made = self._made, self._made + 1
        # Requests without hash ids share nothing: each is a group of its own.
        first = request.hash_ids[0] if request.hash_ids else -1 - number
        group = self._groups.setdefault(first, len(self._groups))
        self._own_ids.seek(number)
        if request.hash_ids:
            output = self._own_ids.token_ids(out, self.low, self.high)
            blocks = [self._block(hash_id, block) for hash_id in request.hash_ids]
            tokens = np.concatenate([np.concatenate(blocks)[:length], output])
        else:
            tokens = self._own_ids.token_ids(length + out, self.low, self.high)
        turn = Turn(0, length, length - cached, cached, out, 0, length)
        arrival = Fraction(request.arrival_us, 1_000_000) * self.scale.tool_time_factor
        return Session(number, group, held, float(arrival), tokens, (turn,))

    def _known(self, hash_ids: tuple[int, ...], length: int, block: int) -> int:
        """Leading tokens of a prompt that earlier prompts hold; enters the prompt itself."""
        node, held, unbroken = self._root, 0, True
        for index, hash_id in enumerate(hash_ids):
            wanted = max(0, min(block, length - index * block))
            node = node.children.setdefault(hash_id, _Node())
            if unbroken:
                held += min(wanted, node.tokens)
                unbroken = node.tokens >= wanted
            node.tokens = max(node.tokens, wanted)
        return held

    def _block(self, hash_id: int, block: int) -> Ids:
        self._block_ids.seek(hash_id)
        ids = self._block_ids.token_ids(block, self.low, self.high)
        # Different blocks differ at once, so that they are not equal in part by accident.
        ids[0] = self.low + hash_id % (self.high - self.low)
        return ids


def _block_tokens(factor: Fraction, block_tokens: int) -> int:
    """Tokens of a scaled block, rounded up, so that a prompt's blocks always cover it."""
    return max(1, -(-block_tokens * factor.numerator // factor.denominator))


def _fitting(request: Request, max_context: int) -> str:
    for power in range(31):
        factor = Fraction(1, 1 << power)
        tokens = scaled_tokens(request.input_tokens, factor)
        if tokens + scaled_tokens(request.output_tokens, factor) <= max_context:
            return str(factor)
    return "none"
