"""Continuous batching with chunked prefill: what the next step computes.

Decode rows go first, one token each; prompts fill what is left of the token budget, the turn
that was to be sent first before all others. KV is kept between turns. Where memory is short, a
turn takes from waiting sessions, then from younger turns, never from an older one: so the oldest
turn always moves on, and none starves. What is lost is computed again as `prefill_refill`.
"""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np

from chipmark.engine.contract import I32, Caps, KvOp, LaunchPlan, Phase, Rows, Step
from chipmark.engine.kvstore import KvStore
from chipmark.engine.launches import (
    DecodeSet,
    Index,
    chunk_rows,
    decode_rows,
    gather_pages,
    join,
    padded,
    padded_decode,
    part,
)
from chipmark.engine.live import LiveRows
from chipmark.engine.shapes import Chunk, Limits, group_chunks, split_decode
from chipmark.workload.session import Turn

MIN_PARTIAL_CHUNK = 16
"""A prompt that is not the step's first starts no chunk smaller than this unless it ends there:
a launch that reads all weights for a handful of tokens costs more than it saves."""


NO_STEP = Step(-1, (), ())


@dataclass(slots=True)
class PlannedStep:
    """A step and what it means for the live rows.

    rows, turns: live row and turn of every row, an array a launch. firsts: rows whose first output
    token this step samples. lasts: rows whose turn it ends.
    """

    step: Step
    rows: list[Index]
    turns: list[I32]
    firsts: list[int] = field(default_factory=list)
    lasts: list[int] = field(default_factory=list)


class Scheduler:
    """Plans steps over the live rows; knows no time but the ages of turns."""

    def __init__(
        self,
        caps: Caps,
        live: LiveRows,
        kv: KvStore,
        budget: int,
        prompt_budget: int,
        wanted: Callable[[int, int], bool] | None = None,
    ) -> None:
        """Budgets are tokens a step, of all rows and of prompts. `wanted(session, turn)`: whether
        the logits of its sampled rows are asked for."""
        self._live, self._kv = live, kv
        self._budget, self._prompt_budget = budget, prompt_budget
        self._limits = Limits.of(caps)
        self._page_tokens = caps.page_tokens
        self._shares = caps.prefix != "none"
        self._wanted = wanted
        self._decoding = DecodeSet(live)
        self._waiting: list[tuple[tuple[float, int], int]] = []
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._ops: list[KvOp] = []
        self._next_step = 0

    @property
    def busy(self) -> bool:
        """Whether any turn waits for a step."""
        return bool(self._waiting) or bool(len(self._decoding))

    def begin_turn(self, row: int, turn: Turn, intended_s: float) -> None:
        """A turn was sent: cut the row's KV to what the turn keeps, and queue its prompt."""
        live = self._live
        self._idle.pop(row, None)
        keep = min(turn.kept_tokens, turn.n_cached, turn.prompt_tokens - 1)
        before = int(live.kv_len[row])
        kept = self._kv.truncate(row, keep)
        live.computed[row] = kept if before >= keep else min(int(live.computed[row]), keep)
        live.write_turn(row, turn, intended_s)
        live.detached[row] = True
        insort(self._waiting, (live.age(row), row))

    def end_turn(self, row: int) -> None:
        """The turn's last token is visible; the session waits for its tool, KV kept."""
        self._live.computed[row] = self._live.kv_len[row]
        self._idle[row] = None

    def end_session(self, row: int) -> None:
        """The session has ended; its KV is free."""
        self._idle.pop(row, None)
        self._kv.end(row)

    def plan(self, now_s: float) -> PlannedStep | None:
        """The next step, or None where nothing can run. The live columns are moved on to what
        holds once the step has run."""
        decode = self._plan_decode() if len(self._decoding) else None
        index = self._decoding.index if decode else None
        n_decode = decode.seq.size if decode else 0
        chunks: list[Chunk] = []
        if self._waiting:
            left = min(self._prompt_budget, self._budget - n_decode)
            chunks = self._plan_chunks(left, now_s, index)
        if decode is None and not chunks:
            # a turn that found all of its lost KV again decodes without a chunk before
            return self.plan(now_s) if len(self._decoding) else None
        planned = PlannedStep(NO_STEP, [], [])
        launches = self._launch(decode, index, chunks, planned)
        logits_of = self._logits_of(launches, planned) if self._wanted else ()
        planned.step = Step(self._next_step, tuple(self._ops), tuple(launches), logits_of)
        self._next_step += 1
        self._ops = []
        if decode is not None and index is not None:
            self._advance_decode(index, planned)
        self._advance_chunks(chunks, planned)
        return planned

    def _plan_decode(self) -> Rows | None:
        """A token of every decoding row that has, or can be given, room for it."""
        members = self._decoding
        index = members.refresh()
        full = members.start >= self._live.capacity[index]
        if np.count_nonzero(full):
            self._make_room(index[full].tolist(), members.start[full].tolist())
            index = members.refresh()
            if not index.size:
                return None
        pages = gather_pages(self._kv.pages, index, members.longest + 1, self._page_tokens)
        return decode_rows(self._live, members, pages)

    def _make_room(self, rows: list[int], starts: list[int]) -> None:
        """Room for one more token in each row, the oldest first; who gets none waits."""
        grow = self._kv.grow
        needs = {
            row: start + 1
            for row, start in zip(rows, starts, strict=True)
            if grow(row, start + 1) <= start
        }
        for row in sorted(needs, key=self._live.age):
            if row in self._decoding and self._room(row, needs[row], ()) < needs[row]:
                self._stop_decoding(row)

    def _plan_chunks(self, left: int, now_s: float, decoding: Index | None) -> list[Chunk]:
        """Prompt chunks of at most `left` tokens, from the oldest turn on."""
        live = self._live
        chunks: list[Chunk] = []
        taken = set() if decoding is None else set(decoding.tolist())
        leaders: dict[int, list[int]] = {}
        for _, row in list(self._waiting):
            if left <= 0:
                break
            if self._shares and self._follows(row, leaders):
                continue
            if live.detached[row] and not self._attach(row, now_s):
                continue
            start, goal = int(live.kv_len[row]), int(live.target[row])
            if start >= goal:
                if self._room(row, goal + 1, taken) <= goal:
                    break
                self._resume(row)
                continue
            mine = self._chunks_of(row, start, goal, left, taken, alone=not chunks)
            if not mine:
                break
            chunks += mine
            taken.add(row)
            left -= sum(chunk.length for chunk in mine)
        return chunks

    def _chunks_of(
        self, row: int, start: int, goal: int, left: int, taken: set[int], *, alone: bool
    ) -> list[Chunk]:
        """What one row gets of the budget; a chunk is either refill or new, never both."""
        live = self._live
        computed, remaining = int(live.computed[row]), int(live.remaining[row])
        asks = remaining == int(live.n_out[row])
        turn = live.turn_of(row)
        fresh: Phase = "prefill_cold" if is_cold(turn) else "prefill_append"
        mine: list[Chunk] = []
        while start < goal and left > 0:
            refill = start < computed
            stop = min(goal, computed) if refill else goal
            take = min(stop - start, left)
            if take < stop - start and take < MIN_PARTIAL_CHUNK and (mine or not alone):
                break
            take = min(take, self._room(row, start + take, taken) - start)
            if take <= 0:
                break
            last = start + take == goal
            mine.append(
                Chunk(row, start, take, "prefill_refill" if refill else fresh, last and asks)
            )
            start += take
            left -= take
            if start < stop:
                break
        return mine

    def _follows(self, row: int, leaders: dict[int, list[int]]) -> bool:
        """Whether an older prompt of the group is computing the prefix that this one will share.

        Waiting for it costs nothing: its chunks run first anyway, and then the prefix is there.
        """
        live = self._live
        session = live.live(row)
        mine = leaders.setdefault(session.group, [])
        if live.turn[row] == 0 and live.kv_len[row] == 0:
            wants = min(live.turn_of(row).n_cached, int(live.prompt[row]) - 1)
            for leader in mine:
                shared = min(wants, live.live(leader).shared_prefix_tokens)
                if live.kv_len[leader] < shared:
                    return True
        mine.append(row)
        return False

    def _attach(self, row: int, now_s: float) -> bool:
        live = self._live
        own = int(live.computed[row])
        ideal = min(live.turn_of(row).n_cached, int(live.prompt[row]) - 1)
        while not self._kv.attach(row, max(own, ideal), self._ops):
            victim = next((other for other in self._idle if self._kv.holds(other)), None)
            if victim is None:
                return False
            self._shrink(victim)
        live.detached[row] = False
        if np.isnan(live.admitted_s[row]):
            live.admitted_s[row] = now_s
            live.reused[row] = live.kv_len[row]
        return True

    def _room(self, row: int, upto: int, taken: Collection[int]) -> int:
        """Room for `upto` tokens, out of others' memory if it must be; the room that there is."""
        room = self._kv.grow(row, upto)
        while room < upto:
            victim = self._victim(row, taken)
            if victim is None:
                break
            self._shrink(victim)
            room = self._kv.grow(row, upto)
        return room

    def _victim(self, row: int, taken: Collection[int]) -> int | None:
        """Who gives memory to `row`: the session that waits longest for its tool, else the
        youngest turn that is younger than the row's and not in this step."""
        for other in self._idle:
            if self._kv.holds(other):
                return other
        mine = self._live.age(row)
        younger = [
            (self._live.age(other), other)
            for other in (*(row for _, row in self._waiting), *self._decoding)
            if other not in taken and self._kv.holds(other)
        ]
        age, other = max(younger, default=(mine, row))
        return other if age > mine else None

    def _shrink(self, row: int) -> None:
        """Take a piece of the row's KV; it will be computed again if it is not found again."""
        live = self._live
        if row in self._decoding:
            self._stop_decoding(row)
        live.computed[row] = max(live.computed[row], live.kv_len[row])
        self._kv.shrink(row)
        live.detached[row] = True

    def _stop_decoding(self, row: int) -> None:
        """The row waits in the queue until it has its KV, and room for one token, again."""
        live = self._live
        self._decoding.remove(row)
        live.target[row] = live.computed[row] = live.kv_len[row]
        insort(self._waiting, (live.age(row), row))

    def _resume(self, row: int) -> None:
        self._waiting.remove((self._live.age(row), row))
        self._decoding.add(row)

    def _launch(
        self, decode: Rows | None, index: Index | None, chunks: list[Chunk], planned: PlannedStep
    ) -> list[LaunchPlan]:
        live, limits = self._live, self._limits
        launches: list[LaunchPlan] = []

        def add(phase: Phase, which: Index, rows: Rows) -> None:
            launches.append(padded(phase, rows, limits))
            planned.rows.append(which)
            planned.turns.append(live.turn[which])

        n_decode = 0 if decode is None else decode.seq.size
        mixes = limits.mixed and 0 < n_decode < limits.decode_rows and bool(chunks)
        groups = group_chunks(chunks, limits, n_decode if mixes else 0)
        if decode is not None and index is not None:
            if mixes:
                which, rows = chunk_rows(live, groups.pop(0), self._kv.pages, self._page_tokens)
                add("mixed", np.concatenate([index, which]), join(decode, rows))
            elif n_decode <= limits.decode_rows:
                launches.append(padded_decode(decode, self._decoding.longest, limits))
                planned.rows.append(index)
                planned.turns.append(self._decoding.turn)
            else:
                for piece in split_decode(n_decode, limits):
                    some = part(decode, piece)
                    launches.append(padded_decode(some, int(some.start.max()), limits))
                    planned.rows.append(index[piece])
                    planned.turns.append(self._decoding.turn[piece])
        for group in groups:
            phases = {chunk.phase for chunk in group}
            which, rows = chunk_rows(live, group, self._kv.pages, self._page_tokens)
            add(phases.pop() if len(phases) == 1 else "mixed", which, rows)
        return launches

    def _logits_of(self, launches: list[LaunchPlan], planned: PlannedStep) -> tuple[int, ...]:
        assert self._wanted is not None
        return tuple(
            session
            for launch, turns in zip(launches, planned.turns, strict=True)
            for session, turn, sample in zip(
                launch.rows.seq.tolist(), turns.tolist(), launch.rows.sample.tolist(), strict=True
            )
            if sample and self._wanted(session, turn)
        )

    def _advance_decode(self, index: Index, planned: PlannedStep) -> None:
        left = self._decoding.advance()
        if np.count_nonzero(left) < left.size:
            planned.lasts = index[left == 0].tolist()
            for row in planned.lasts:
                self._decoding.remove(row)

    def _advance_chunks(self, chunks: list[Chunk], planned: PlannedStep) -> None:
        live = self._live
        for chunk in chunks:
            row, end = chunk.row, chunk.start + chunk.length
            live.kv_len[row] = end
            counter = live.refilled if chunk.phase == "prefill_refill" else live.prefilled
            counter[row] += chunk.length
            live.computed[row] = max(int(live.computed[row]), end)
            self._kv.seal(row)
            if end < live.target[row]:
                continue
            self._waiting.remove((live.age(row), row))
            if chunk.sample:
                planned.firsts.append(row)
                live.remaining[row] -= 1
                if chunk.phase == "prefill_cold":
                    prefix = live.live(row).shared_prefix_tokens
                    self._kv.keep_prefix(row, min(prefix, end), self._ops)
            if live.remaining[row]:
                self._decoding.add(row)
            else:
                planned.lasts.append(row)


def is_cold(turn: Turn) -> bool:
    """A session's first prompt, or the one after its context was reset."""
    return turn.index == 0 or turn.reset
