"""Turns and sessions: how token ids are laid out, and how work is counted.

How ids are laid out. `Session.tokens` is the session's stream in the order of time: input 0,
output 0, input 1, output 1, and so on; every id of it stands there once. A turn is asked with
a *context*: the first `kept_tokens` of the context before (its prompt and its output), then
the turn's own input. As long as an agent only appends, a prompt is simply a prefix of the
stream; after a reset it is the kept prefix and what came since.

How work is counted. `n_new` is what an engine with an endless cache at token grain must
compute to answer a turn, `n_cached` is the rest of its prompt, and `prompt_tokens` is their
sum. The last output token of a turn is part of the next turn's prompt; it counts as cached
there, because its computation is accounted to `n_out`. So the sum of `n_new + n_out` over a
session is what an endless cache computes, to within one token. At least one token of every
prompt is new, because a model must be run once to answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from chipmark.errors import UsageError

Loop = Literal["closed", "open"]
Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Turn:
    """One model call.

    `tokens_start:tokens_stop` are the turn's own input ids in `Session.tokens`; the `n_out`
    teacher-forced ids follow at `tokens_stop`. `n_cached` is what an endless cache holds of the
    prompt: this session's earlier context, or the prefix shared with an earlier session (of its
    group in generated traces, of the whole trace in replayed ones). `tool_time_s` is the gap
    after this turn before the next one is sent, already scaled. `reset` says that the context
    was cut back to its first `kept_tokens` before this turn.
    """

    index: int
    prompt_tokens: int
    n_new: int
    n_cached: int
    n_out: int
    tokens_start: int
    tokens_stop: int
    tool_time_s: float = 0.0
    reset: bool = False

    @property
    def own_tokens(self) -> int:
        """Input ids that this turn adds to the context."""
        return self.tokens_stop - self.tokens_start

    @property
    def kept_tokens(self) -> int:
        """Leading tokens of the context before that this turn's prompt starts with."""
        return self.prompt_tokens - self.own_tokens

    @property
    def context_tokens(self) -> int:
        """Length of the context when the turn has ended: prompt and output."""
        return self.prompt_tokens + self.n_out


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """One agent on one task.

    `group` numbers the shared prefix (tools and system prompt) that the session starts with and
    `shared_prefix_tokens` says how long it is here; `arrival_s` is the intended start in an open
    loop, from the start of the trace, and None in a closed one. `tokens` is int32, read-only.
    """

    id: int
    group: int
    shared_prefix_tokens: int
    arrival_s: float | None
    tokens: Ids
    turns: tuple[Turn, ...]

    def prompt(self, turn: Turn) -> Ids:
        """The whole prompt of a turn: int32 ids, `turn.prompt_tokens` of them."""
        pieces = [self.tokens[turn.tokens_start : turn.tokens_stop]]
        wanted = turn.kept_tokens
        index = turn.index - 1
        while wanted > 0:
            before = self.turns[index]
            inherited = before.kept_tokens
            if wanted > inherited:
                begin = before.tokens_start
                pieces.append(self.tokens[begin : begin + wanted - inherited])
                wanted = inherited
            index -= 1
        return np.concatenate(pieces[::-1]) if len(pieces) > 1 else pieces[0]

    def output(self, turn: Turn) -> Ids:
        """The teacher-forced output of a turn: int32 ids, `turn.n_out` of them."""
        return self.tokens[turn.tokens_stop : turn.tokens_stop + turn.n_out]


def check_session(session: Session, vocab_size: int, loop: Loop) -> None:
    """Raise `UsageError` unless counts, layout, ids and times of a session agree."""

    def fail(problem: str) -> UsageError:
        return UsageError(f"session {session.id}: {problem}")

    ids = session.tokens
    if ids.dtype != np.int32 or ids.ndim != 1:
        raise fail(f"tokens are {ids.dtype} with {ids.ndim} dimensions, not int32 with one")
    if not session.turns:
        raise fail("no turns")
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= vocab_size):
        raise fail(f"token ids outside 0..{vocab_size - 1}")
    if (session.arrival_s is None) != (loop == "closed"):
        raise fail(f"arrival_s is {session.arrival_s} in a trace with a {loop} loop")
    if session.arrival_s is not None and not 0.0 <= session.arrival_s < float("inf"):
        raise fail(f"arrival_s is {session.arrival_s}")
    context, position = 0, 0
    for index, turn in enumerate(session.turns):
        where = f"turn {index}"
        if turn.index != index:
            raise fail(f"{where} has index {turn.index}")
        if turn.tokens_start != position or turn.own_tokens < 0:
            raise fail(f"{where}: input ids at {turn.tokens_start}:{turn.tokens_stop}")
        if turn.n_new < 1 or turn.n_cached < 0 or turn.n_out < 1:
            raise fail(f"{where}: n_new {turn.n_new}, n_cached {turn.n_cached}, n_out {turn.n_out}")
        if turn.n_new + turn.n_cached != turn.prompt_tokens:
            raise fail(f"{where}: {turn.prompt_tokens} prompt tokens are not new plus cached")
        if not 0 <= turn.kept_tokens <= context:
            raise fail(f"{where}: keeps {turn.kept_tokens} tokens of a context of {context}")
        if turn.reset != (turn.kept_tokens < context):
            raise fail(f"{where}: reset is {turn.reset}, {turn.kept_tokens} of {context} are kept")
        if not 0.0 <= turn.tool_time_s < float("inf"):
            raise fail(f"{where}: tool_time_s is {turn.tool_time_s}")
        context = turn.context_tokens
        position = turn.tokens_stop + turn.n_out
    if position != ids.size:
        raise fail(f"{ids.size} tokens, but the turns use {position}")
    if not 0 <= session.shared_prefix_tokens <= session.turns[0].prompt_tokens:
        raise fail(f"shared_prefix_tokens is {session.shared_prefix_tokens}")
