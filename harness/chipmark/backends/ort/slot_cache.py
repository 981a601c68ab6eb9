"""KV of all slots in one array, written by the host, read in place by sessions.

Layout (layers, 2, slots, kv_heads, capacity, head_dim): a range of slots of one layer is one
block of memory, so that any range is bound by its address. Capacity grows with the longest
sequence in steps of a quarter, so that the copies of growing are amortised; they are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from chipmark.backends.ort.binding import Array, Memory
from chipmark_models.config import ModelConfig

_STEP = 128


class SlotCache:
    """Bytes of KV; `held[slot]` is the number of rows that were written since it was dropped."""

    def __init__(
        self,
        config: ModelConfig,
        n_slots: int,
        capacity: int,
        dtype: npt.DTypeLike,
        allocate: Callable[[tuple[int, ...], npt.DTypeLike], Memory],
    ) -> None:
        self.n_slots = n_slots
        self.held = np.zeros(n_slots, np.int64)
        self._config, self._dtype, self._allocate = config, np.dtype(dtype), allocate
        self._staging: Memory | None = None
        self._memory = allocate(self._shape(n_slots, capacity), self._dtype)

    def _shape(self, n_slots: int, capacity: int) -> tuple[int, ...]:
        c = self._config
        return (c.n_layers, 2, n_slots, c.n_kv_heads, capacity, c.head_dim)

    @property
    def host(self) -> Array:
        """The whole array as the host sees it."""
        return self._memory.host

    @property
    def capacity(self) -> int:
        """Rows of every slot."""
        return int(self._memory.host.shape[4])

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's K and V over all layers."""
        c = self._config
        return 2 * c.n_layers * c.n_kv_heads * c.head_dim * self._dtype.itemsize

    def grow(self, capacity: int) -> int:
        """Allocate `capacity` rows a slot and copy what is held; returns the bytes copied."""
        old = self.host
        self._memory = self._allocate(self._shape(self.n_slots, capacity), self._dtype)
        for slot, n in enumerate(self.held):
            self.host[:, :, slot, :, :n] = old[:, :, slot, :, :n]
        self._staging = None
        return int(self.held.sum()) * self.token_bytes

    def next_capacity(self, needed: int, limit: int, buckets: tuple[int, ...]) -> int:
        """A capacity of at least `needed`: the next bucket, or a quarter more than now."""
        if buckets:
            return next((b for b in buckets if b >= needed), limit)
        wanted = max(needed, self.capacity + self.capacity // 4)
        return max(needed, min(limit, -(-wanted // _STEP) * _STEP))

    def write(self, rows: Array, index: int, slot: int, start: int, length: int) -> None:
        """Store `rows` (layers, 2, batch, kv_heads, chunk, head_dim) of batch row `index`."""
        self.host[:, :, slot, :, start : start + length] = rows[:, :, index, :, :length]
        self.mark(slot, start + length)

    def mark(self, slot: int, end: int) -> None:
        """Remember that rows up to `end` are written (an engine truncates without telling)."""
        self.held[slot] = max(int(self.held[slot]), end)

    def copy(self, src: int, dst: int, length: int) -> int:
        """Copy the first rows of a slot to another; returns the bytes copied."""
        self.host[:, :, dst, :, :length] = self.host[:, :, src, :, :length]
        self.mark(dst, length)
        return length * self.token_bytes

    def drop(self, slot: int) -> None:
        """Forget what a slot holds."""
        self.held[slot] = 0

    def bind(self, io: Any, first: int, last: int) -> None:
        """Bind slots first..last as `past_key_L` and `past_value_L` of all layers."""
        self._bind(io, self._memory, first, last)

    def bind_staged(self, io: Any, slot: int, length: int, rows: int) -> int:
        """Bind a compact copy of one slot with `rows` rows; returns the bytes copied.

        For prefill with much capacity unused: scores against rows that hold nothing would cost
        more than the copy.
        """
        c = self._config
        shape = self._shape(1, rows)
        n = int(np.prod(shape))
        if self._staging is None or self._staging.host.size < n:
            most = int(np.prod(self._shape(1, self.capacity)))
            self._staging = self._allocate((max(n, most),), self._dtype)
        part = self._staging.host[:n].reshape(shape)
        part[:, :, 0, :, :length] = self.host[:, :, slot, :, :length]
        part[:, :, 0, :, length:] = 0  # finite, whatever was staged before
        self._bind(io, self._staging.view(part), 0, 1)
        return length * c.n_layers * 2 * c.kv_size * self._dtype.itemsize

    def _bind(self, io: Any, memory: Memory, first: int, last: int) -> None:
        for layer in range(self._config.n_layers):
            for index, kind in enumerate(("key", "value")):
                part = memory.view(memory.host[layer, index])
                part.bind(io, f"past_{kind}_{layer}", first, last)
