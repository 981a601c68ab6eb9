"""Runs launches on sessions: feeds, bindings, rows of the cache, and the logits that come out.

A launch of several rows covers the smallest range of slots that holds them; slots between that
do not take part ride along masked. What stays the same from step to step stays bound.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from chipmark.backends.ort.binding import Way
from chipmark.backends.ort.slot_cache import SlotCache
from chipmark_models.config import ModelConfig
from chipmark_models.onnx_graphs.emitter import IN_PLACE, Level

Array = npt.NDArray[Any]
SessionKey = tuple[int | None, int | None, int | None]
_STAGE_BELOW = 0.75
"""A prefill reads a compact copy of its slot when less of the capacity than this is in use."""


@dataclass(frozen=True, slots=True)
class LaunchRows:
    """Rows of one launch: slots (n,), start (n,), length (n,), tokens concatenated, sample (n,)."""

    slot: Array
    start: Array
    length: Array
    tokens: Array
    sample: Array


@dataclass(slots=True)
class Traffic:
    """Bytes moved since it was last taken."""

    h2d_bytes: int = 0
    d2h_bytes: int = 0
    kv_copied_bytes: int = 0


@dataclass(slots=True)
class _Bound:
    """A binding of one session with its feeds and outputs."""

    session: Any
    io: Any
    feeds: dict[str, Array]
    logits: Array
    new_rows: Array | None


@dataclass(slots=True)
class Runner:
    """Executes launches against a SlotCache.

    session_of: the session for (batch, chunk, context), None where that dimension is free.
    `static` names the dimensions that are fixed; `way` how KV is bound. `slot_rows`: rows of the
    cache that a slot may come to need.
    """

    config: ModelConfig
    level: Level
    dtype: str
    cache: SlotCache
    session_of: Callable[[SessionKey], Any]
    static: frozenset[str]
    chunk_buckets: tuple[int, ...]
    context_buckets: tuple[int, ...]
    slot_rows: int
    way: Way
    empty_head: bool
    host_device: bool
    traffic: Traffic = field(default_factory=Traffic)
    run_s: float = 0.0
    """Seconds inside the sessions' runs since loading."""
    positions: int = 0
    """Positions that the last launch computed: padding, and slots that rode along, included."""
    _decode: dict[tuple[int, int], _Bound] = field(default_factory=dict)

    @property
    def in_place(self) -> bool:
        """Whether the graph writes the new rows into the cache itself."""
        return self.level in IN_PLACE

    def rows_needed(self, rows: LaunchRows) -> int:
        """Rows that a slot must have for a launch. A graph that writes them itself writes those of
        padding too, and one behind what a slot that rides along holds."""
        if not self.in_place:
            return int((rows.start + rows.length).max())
        first, last = self._range(rows.slot)
        chunk = self._padded(int(rows.length.max()), self.chunk_buckets)
        riding = int(self.cache.held[first:last].max()) + 1 if last - first > 1 else 0
        return max(int(rows.start.max()) + chunk, riding)

    def ensure_capacity(self, rows: int) -> int:
        """Grow the cache to hold `rows` rows a slot; returns the bytes copied (0: it fits)."""
        if rows <= self.cache.capacity:
            return 0
        copied = self.cache.grow(
            self.cache.next_capacity(rows, self.slot_rows, self.context_buckets)
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
        taken, self.traffic = self.traffic, Traffic()
        return taken

    def run(self, rows: LaunchRows) -> Array:
        """Run one launch; returns float32 logits (sampled rows, vocab) in the order of rows.

        The array is valid until the next launch.
        """
        first, last = self._range(rows.slot)
        chunk = self._padded(int(rows.length.max()), self.chunk_buckets)
        if int(rows.length.max()) > 1 and len(rows.slot) > 1:
            raise ValueError("several new tokens of several sequences: caps.prefill_rows is 1")
        self.positions = (last - first) * chunk
        bound = self._bind(rows, first, last, chunk)
        self._fill(bound, rows, first, last - first, chunk)
        started = time.perf_counter()
        bound.session.run_with_iobinding(bound.io)
        self.run_s += time.perf_counter() - started
        self._keep_rows(bound, rows, first)
        logits = bound.logits
        if not self.host_device:
            self.traffic.d2h_bytes += logits.nbytes
            self.traffic.d2h_bytes += 0 if bound.new_rows is None else bound.new_rows.nbytes
        if chunk > 1:
            return logits[: int(rows.sample.sum())]
        picked = (rows.slot - first)[rows.sample]
        in_order = len(picked) == len(logits) and bool((picked == np.arange(len(picked))).all())
        return logits if in_order else logits[picked]

    def _range(self, slots: Array) -> tuple[int, int]:
        if len(slots) > 1 and "batch" in self.static:
            return 0, self.cache.n_slots
        return int(slots.min()), int(slots.max()) + 1

    @staticmethod
    def _padded(size: int, buckets: tuple[int, ...]) -> int:
        if size == 1:
            return 1
        return next((b for b in buckets if b >= size), size)

    def _bind(self, rows: LaunchRows, first: int, last: int, chunk: int) -> _Bound:
        batch = last - first
        if chunk == 1:
            key = (first, batch)
            if key not in self._decode:
                self._decode[key] = self._new_binding(batch, chunk, batch, self.cache.capacity)
                self._bind_cache(self._decode[key], first, last)
            bound = self._decode[key]
            if self.way == "rebind":
                self._bind_cache(bound, first, last)
            return bound
        n_rows = int(rows.sample.sum()) if self.empty_head else batch
        start = int(rows.start[0])
        context = self._staged_context(start)
        bound = self._new_binding(batch, chunk, n_rows, context or self.cache.capacity)
        if context is None:
            self._bind_cache(bound, first, last)
        else:
            self.traffic.kv_copied_bytes += self.cache.bind_staged(bound.io, first, start, context)
            self._count_rebind(start)
        return bound

    def _staged_context(self, start: int) -> int | None:
        """Rows of a compact copy for a prefill, or None to read the slot in place."""
        if self.in_place:
            return None  # what it writes has to stay
        context = max(1, start)
        if "context" in self.static or self.context_buckets:
            context = next((b for b in (1, *self.context_buckets) if b >= context), context)
            if "context" in self.static:
                context = max(context, self.context_buckets[0])
        return context if context < _STAGE_BELOW * self.cache.capacity else None

    def _bind_cache(self, bound: _Bound, first: int, last: int) -> None:
        self.cache.bind(bound.io, first, last)
        self._count_rebind((last - first) * self.cache.capacity)
        if self.in_place:
            for layer in range(self.config.n_layers):
                for index, kind in enumerate(("key", "value")):
                    part = self.cache.host[layer, index, first:last]
                    _bind_output(bound.io, f"present_{kind}_{layer}", part)

    def _count_rebind(self, n_rows: int) -> None:
        if self.way == "rebind":
            self.traffic.h2d_bytes += n_rows * self.cache.token_bytes

    def _new_binding(self, batch: int, chunk: int, n_rows: int, context: int) -> _Bound:
        c = self.config
        session = self.session_of(self._key_of(batch, chunk, context))
        io = session.io_binding()
        feeds: dict[str, Array] = {
            "tokens": np.zeros((batch, chunk), np.int64),
            "rows": np.zeros(n_rows, np.int64),
        }
        if self.level == "contrib":
            feeds["past_length"] = np.zeros(batch, np.int32)
            feeds["total_length"] = np.zeros((), np.int32)
        else:
            feeds["start"] = np.zeros(batch, np.int64)
        logits = np.empty((n_rows, c.vocab_size), np.float32)
        _bind_output(io, "logits", logits)
        new_rows = None
        if not self.in_place:
            shape = (c.n_layers, 2, batch, c.n_kv_heads, chunk, c.head_dim)
            new_rows = np.empty(shape, self.dtype)
            for layer in range(c.n_layers):
                for index, kind in enumerate(("key", "value")):
                    _bind_output(io, f"new_{kind}_{layer}", new_rows[layer, index])
        for name, array in feeds.items():
            _bind_input(io, name, array)
        return _Bound(session, io, feeds, logits, new_rows)

    def _key_of(self, batch: int, chunk: int, context: int) -> SessionKey:
        sizes = {"batch": batch, "chunk": chunk, "context": context}
        values = [sizes[name] if name in self.static else None for name in sizes]
        return (values[0], values[1], values[2])

    def _fill(self, bound: _Bound, rows: LaunchRows, first: int, batch: int, chunk: int) -> None:
        index = rows.slot - first
        tokens, feeds = bound.feeds["tokens"], bound.feeds
        if chunk == 1:
            tokens[:, 0] = 0
            tokens[index, 0] = rows.tokens
        else:
            tokens[0] = 0
            tokens[0, : len(rows.tokens)] = rows.tokens
        last = np.zeros(batch, np.int64) if chunk > 1 else np.arange(batch)
        last[index] = index * chunk + rows.length - 1
        feeds["rows"][...] = last[: len(feeds["rows"])]
        # Where the graph writes, a slot that rides along gets one row behind what it holds, where
        # it is not read.
        riding = self.cache.held[first : first + batch] if self.in_place else 0
        if self.level == "contrib":
            ends = feeds["past_length"]
            ends[...] = riding
            ends[index] = rows.start + rows.length - 1
            feeds["total_length"][...] = ends.max() + 1
        else:
            feeds["start"][...] = riding
            feeds["start"][index] = rows.start
        if (
            self.way != "shared"
        ):  # small feeds are host memory: bound anew, or they stay as they were
            for name in ("tokens", "rows", "start", "past_length", "total_length"):
                if name in feeds:
                    _bind_input(bound.io, name, feeds[name])
                    self.traffic.h2d_bytes += feeds[name].nbytes

    def _keep_rows(self, bound: _Bound, rows: LaunchRows, first: int) -> None:
        for slot, start, length in zip(
            rows.slot.tolist(), rows.start.tolist(), rows.length.tolist(), strict=True
        ):
            if bound.new_rows is None:
                self.cache.mark(slot, start + length)
            else:
                self.cache.write(bound.new_rows, slot - first, slot, start, length)


def _bind_input(io: Any, name: str, array: Array) -> None:
    io.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def _bind_output(io: Any, name: str, array: Array) -> None:
    io.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
