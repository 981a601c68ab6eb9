"""The sessions that are alive, as persistent columns: a row is a lane and holds one session.

The work of a decode step is a few gathers and scatters over these arrays; Python runs for a row
only when something happens to it (a block is full, a turn begins or ends).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from chipmark.workload.session import Session, Turn


class LiveRows:
    """Columns of `n_rows` lanes whose contexts have up to `context_tokens` tokens.

    session, turn: int32 ids, -1 where the lane is empty. ids: int32 (n_rows, context_tokens), the
    context of each row, outputs of the running turn included. kv_len: tokens in KV once every
    planned step has run. computed: leading tokens of the present context that this session has
    computed before; below it, computing is refilling. capacity: tokens that KV has room for.
    target: tokens to have in KV before the row decodes. remaining: output tokens still to be
    sampled in this turn. Counters are those of `events.COLUMNS["turns"]`; times in seconds, NaN
    until known.
    """

    def __init__(self, n_rows: int, context_tokens: int) -> None:
        def column(value: int = 0) -> NDArray[np.int32]:
            return np.full(n_rows, value, dtype=np.int32)

        self.n_rows = n_rows
        self.session, self.turn, self.slot = column(-1), column(-1), column(-1)
        self.kv_len, self.computed, self.capacity = column(), column(), column()
        self.target, self.prompt, self.n_out = column(), column(), column()
        self.remaining = column()
        self.prefilled, self.reused, self.refilled, self.copied = (
            column(),
            column(),
            column(),
            column(),
        )
        self.intended_s = np.full(n_rows, np.nan)
        self.admitted_s = np.full(n_rows, np.nan)
        self.first_token_s = np.full(n_rows, np.nan)
        self.last_token_s = np.full(n_rows, np.nan)
        self.detached = np.zeros(n_rows, dtype=np.bool_)
        self.ids = np.zeros((n_rows, context_tokens), dtype=np.int32)
        self.flat = self.ids.reshape(-1)
        self.base = np.arange(n_rows, dtype=np.int64) * context_tokens
        self.order = [0] * n_rows
        self.sessions: list[Session | None] = [None] * n_rows

    def place(self, row: int, session: Session, order: int, turn: Turn) -> None:
        """A new session with nothing in KV; `order` breaks ties of age.

        One that does not begin with its first turn has lost all that it had computed before:
        what `turn` keeps of that context is written here, and computing it is refilling.
        """
        self.sessions[row] = session
        self.session[row] = session.id
        self.order[row] = order
        self.turn[row] = -1
        kept = turn.kept_tokens
        if kept:
            self.ids[row, :kept] = session.prompt(turn)[:kept]
        self.kv_len[row] = 0
        self.computed[row] = kept

    def clear(self, row: int) -> None:
        """The lane is empty."""
        self.sessions[row] = None
        self.session[row] = self.turn[row] = -1
        self.kv_len[row] = self.computed[row] = 0

    def write_turn(self, row: int, turn: Turn, intended_s: float) -> None:
        """Put the turn's input and its forced output behind what it keeps of the context, and
        reset the counters. KV is not touched."""
        session = self.live(row)
        kept, prompt = turn.kept_tokens, turn.prompt_tokens
        self.ids[row, kept:prompt] = session.tokens[turn.tokens_start : turn.tokens_stop]
        self.ids[row, prompt : turn.context_tokens] = session.output(turn)
        self.turn[row] = turn.index
        self.prompt[row] = self.target[row] = prompt
        self.n_out[row] = self.remaining[row] = turn.n_out
        for counter in (self.prefilled, self.reused, self.refilled, self.copied):
            counter[row] = 0
        self.intended_s[row] = intended_s
        self.admitted_s[row] = self.first_token_s[row] = self.last_token_s[row] = np.nan

    def live(self, row: int) -> Session:
        """The session of a row that is not empty."""
        session = self.sessions[row]
        if session is None:
            raise ValueError(f"lane {row} has no session")
        return session

    def turn_of(self, row: int) -> Turn:
        """The running turn of a row."""
        return self.live(row).turns[int(self.turn[row])]

    def work_done(self, rows: Iterable[int]) -> tuple[int, int]:
        """(n_new, n_out): work tokens that planned steps did of the turns running in `rows`."""
        new = out = 0
        for row in rows:
            turn = self.turn_of(row)
            computed = max(int(self.kv_len[row]), int(self.computed[row]))
            new += min(max(computed - turn.n_cached, 0), turn.n_new)
            out += turn.n_out - int(self.remaining[row])
        return new, out

    def age(self, row: int) -> tuple[float, int]:
        """Sort key: the turn that was to be sent first is the oldest."""
        return float(self.intended_s[row]), self.order[row]
