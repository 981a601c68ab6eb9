"""Runs launches on sessions: feeds, bindings, rows of the cache, and the logits that come out.

A launch of several rows covers the smallest range of slots that holds them, or all slots where the
device's memory is bound whole; slots between that do not take part ride along masked. What stays
the same from step to step stays bound.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from chipmark.backends.ort.binding import Array, Way, bind_input
from chipmark.backends.ort.kv_cache import KvCache, next_capacity
from chipmark.backends.ort.launch_rows import LaunchRows
from chipmark.backends.ort.sampling import Sampler
from chipmark.backends.ort.traffic import Traffic
from chipmark.engine.contract import F32, I32
from chipmark.errors import ContractError
from chipmark_models.onnx_graphs.emitter import IN_PLACE, Level

SessionKey = tuple[int | None, int | None, int | None]
_STAGE_BELOW = 0.75
"""A prefill reads a compact copy of its slot when less of the capacity than this is in use."""


@dataclass(slots=True)
class _Bound:
    """A binding of one session with its feeds and outputs. `changing`: feeds that differ from run
    to run."""

    session: Any
    io: Any
    feeds: dict[str, Array]
    changing: tuple[str, ...]
    logits: Any
    new_rows: Any


class Ran(NamedTuple):
    """A launch that was run: its binding, and which rows of logits are sampled (None: all)."""

    bound: _Bound
    picked: Array | None


@dataclass(slots=True)
class Runner:
    """Executes launches against a KvCache.

    session_of: the session for (batch, chunk, context), None where that dimension is free.
    `static` names the dimensions that are fixed; `way` how KV is bound. `slot_rows`: rows of the
    cache that a slot may come to need. `still_there` raises where a session has left its provider.
    """

    level: Level
    cache: KvCache
    sampler: Sampler
    session_of: Callable[[SessionKey], Any]
    still_there: Callable[[Any], None]
    static: frozenset[str]
    chunk_buckets: tuple[int, ...]
    context_buckets: tuple[int, ...]
    slot_rows: int
    way: Way
    empty_head: bool
    run_s: float = 0.0
    """Seconds inside the sessions' runs since loading."""
    positions: int = 0
    """Positions that the last launch computed: padding, and slots that rode along, included."""
    shape: tuple[int, int, int] = (0, 0, 0)
    """Batch, chunk and context of the last launch, as its session saw them."""
    _decode: dict[tuple[int, int], _Bound] = field(default_factory=dict)

    @property
    def in_place(self) -> bool:
        """Whether the graph writes the new rows into the cache itself."""
        return self.level in IN_PLACE

    @property
    def traffic(self) -> Traffic:
        """Bytes moved since they were last taken; the cache and the sampler count there too."""
        return self.cache.traffic

    def rows_needed(self, rows: LaunchRows) -> int:
        """Rows that a slot must have for a launch. A graph that writes them itself writes those of
        padding too, and one behind what a slot that rides along holds."""
        if not self.in_place:
            return int((rows.start + rows.length).max())
        first, last = self._range(rows.slot)
        chunk = self._padded(int(rows.length.max()))
        riding = int(self.cache.held[first:last].max()) + 1 if last - first > 1 else 0
        return max(int(rows.start.max()) + chunk, riding)

    def ensure_capacity(self, rows: int) -> int:
        """Grow the cache to hold `rows` rows a slot; returns the bytes copied (0: it fits)."""
        cache, copied = self.cache, 0
        while rows > cache.capacity:
            # Fixed shapes: from a bucket to the next one only, so that there are few of them.
            below = min(rows, cache.capacity + 1) if "context" in self.static else rows
            copied += cache.grow(
                next_capacity(cache.capacity, below, self.slot_rows, self.context_buckets)
            )
            self._decode.clear()
        self.traffic.kv_copied_bytes += copied
        return copied

    def shrink(self, capacity: int) -> None:
        """Go back to an empty cache of `capacity` rows a slot."""
        if capacity != self.cache.capacity:
            self.cache.grow(capacity)
            self._decode.clear()

    def take_traffic(self) -> Traffic:
        """What moved since the last call."""
        traffic = self.traffic
        taken = replace(traffic)
        traffic.h2d_bytes = traffic.d2h_bytes = traffic.kv_copied_bytes = 0
        return taken

    def run(self, rows: LaunchRows) -> Ran:
        """Run one launch and keep its new rows. Its logits are valid until the next one, and are
        there once `sampled` returns: a device may still be at work."""
        longest = int(rows.length.max())
        if longest > 1 and len(rows.slot) > 1:
            raise ValueError("several new tokens of several sequences: caps.prefill_rows is 1")
        if rows.slot.max() >= self.cache.batch_slots:
            raise ContractError(f"a launch on slot {rows.slot.max()}, which is for prefixes alone")
        chunk = self._padded(longest)
        if chunk == 1:
            first, last = self._range(rows.slot)
        else:
            first, last = int(rows.slot[0]), int(rows.slot[0]) + 1
        self.positions = (last - first) * chunk
        bound = self._bind(rows, first, last, chunk)
        index = rows.slot - first
        self._fill(bound, rows, index, first, last - first, chunk)
        started = time.perf_counter()
        bound.session.run_with_iobinding(bound.io)
        self.run_s += time.perf_counter() - started
        self.still_there(bound.session)
        self.cache.keep(bound.new_rows, rows, first)
        if chunk > 1:
            return Ran(bound, None if rows.sample[0] or self.empty_head else index[:0])
        picked = index[rows.sample]
        n = last - first
        return Ran(bound, None if len(picked) == n and (picked[1:] > picked[:-1]).all() else picked)

    def sampled(self, ran: Ran) -> tuple[I32, F32]:
        """Ids (n,) of the sampled rows, and their two largest logits (n, 2)."""
        return self.sampler.read(ran.bound.logits, ran.picked)

    def logits(self, ran: Ran, row: int) -> F32:
        """Logits (vocab,) of a sampled row."""
        at = row if ran.picked is None else int(ran.picked[row])
        return self.sampler.logits(ran.bound.logits, at)

    def _range(self, slots: Array) -> tuple[int, int]:
        cache = self.cache
        if not cache.any_range or (len(slots) > 1 and "batch" in self.static):
            return 0, cache.batch_slots
        return int(slots.min()), int(slots.max()) + 1

    def _padded(self, size: int) -> int:
        if size == 1:
            return 1
        return next((b for b in self.chunk_buckets if b >= size), size)

    def _bind(self, rows: LaunchRows, first: int, last: int, chunk: int) -> _Bound:
        batch = last - first
        if chunk == 1:
            self.shape = (batch, 1, self.cache.capacity)
            key = (first, batch)
            if key not in self._decode:
                self._decode[key] = self._new_binding(batch, chunk, batch, self.cache.capacity)
                self.cache.bind(self._decode[key].io, first, last)
            elif self.way == "rebind":
                self.cache.bind(self._decode[key].io, first, last)
            return self._decode[key]
        n_rows = int(rows.sample.sum()) if self.empty_head else 1
        start = int(rows.start[0])
        context = self._staged_context(start, chunk)
        self.shape = (1, chunk, context or self.cache.capacity)
        bound = self._new_binding(1, chunk, n_rows, self.shape[2])
        if context is None:
            self.cache.bind(bound.io, first, last)
        else:
            self.traffic.kv_copied_bytes += self.cache.bind_staged(bound.io, first, start, context)
        return bound

    def prefill_shape(self, start: int, length: int) -> tuple[int, int, int]:
        """Batch, chunk and context that a prompt's chunk would be run at now."""
        chunk = self._padded(length)
        return 1, chunk, self._staged_context(start, chunk) or self.cache.capacity

    def _staged_context(self, start: int, chunk: int) -> int | None:
        """Rows of a compact copy for a prefill, or None to read the slot in place."""
        capacity = self.cache.capacity
        whole = not self.cache.any_range and self.cache.batch_slots > 1
        if self.in_place and not whole:
            return None  # what it writes has to stay
        needed = start + chunk if self.in_place else max(1, start)
        buckets = prefill_contexts(self.context_buckets)
        if not buckets:
            context = self.cache.staged_rows(start, chunk)
            return context if whole or context < _STAGE_BELOW * capacity else None
        if "context" not in self.static:
            buckets = (1, *buckets)
        context = next((b for b in buckets if b >= needed), buckets[-1])
        return context if whole or context != capacity else None

    def _new_binding(self, batch: int, chunk: int, n_rows: int, context: int) -> _Bound:
        session = self.session_of(self._key_of(batch, chunk, context))
        io = session.io_binding()
        feeds: dict[str, Array] = {
            "tokens": np.zeros((batch, chunk), np.int32),
            "rows": np.arange(n_rows, dtype=np.int32),
        }
        if self.level == "contrib":
            feeds["past_length"] = np.zeros(batch, np.int32)
            feeds["total_length"] = np.zeros((), np.int32)
        else:
            feeds["start"] = np.zeros(batch, np.int64 if self.in_place else np.int32)
        logits = self.sampler.bind(io, n_rows)
        new_rows = self.cache.new_rows(io, batch, chunk)
        for name, array in feeds.items():
            bind_input(io, name, array)
        # One row of logits a sequence in decode; a prompt's is the last of its tokens.
        changing = tuple(name for name in feeds if chunk > 1 or name != "rows")
        return _Bound(session, io, feeds, changing, logits, new_rows)

    def _key_of(self, batch: int, chunk: int, context: int) -> SessionKey:
        sizes = {"batch": batch, "chunk": chunk, "context": context}
        values = [sizes[name] if name in self.static else None for name in sizes]
        return (values[0], values[1], values[2])

    def _fill(
        self, bound: _Bound, rows: LaunchRows, index: Array, first: int, batch: int, chunk: int
    ) -> None:
        feeds = bound.feeds
        tokens = feeds["tokens"]
        if chunk == 1:
            if len(index) < batch:
                tokens[...] = 0
            tokens[index, 0] = rows.tokens
        else:
            tokens[0, : len(rows.tokens)] = rows.tokens
            tokens[0, len(rows.tokens) :] = 0
            feeds["rows"][...] = rows.length[0] - 1
        # Where the graph writes, a slot that rides along gets one row behind what it holds, where
        # it is not read.
        if self.level == "contrib":
            ends = feeds["past_length"]
            if len(index) < batch:
                ends[...] = self.cache.held[first : first + batch]
            ends[index] = rows.start + rows.length - 1
            feeds["total_length"][...] = ends.max() + 1
        else:
            start = feeds["start"]
            if len(index) < batch:
                start[...] = self.cache.held[first : first + batch] if self.in_place else 0
            start[index] = rows.start
        if self.way != "shared":
            # Small feeds are host memory: bound anew, or they stay as they were.
            for name in bound.changing:
                bind_input(bound.io, name, feeds[name])
                self.traffic.h2d_bytes += feeds[name].nbytes


def prefill_contexts(buckets: tuple[int, ...]) -> tuple[int, ...]:
    """Of the buckets, those at least twice the one before, and the last: what a prompt's chunk is
    run on, since every chunk on every context is a shape of its own."""
    chosen: list[int] = []
    for bucket in buckets:
        if not chosen or bucket >= 2 * chosen[-1] or bucket == buckets[-1]:
            chosen.append(bucket)
    return tuple(chosen)
