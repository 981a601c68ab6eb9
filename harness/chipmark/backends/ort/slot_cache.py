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

from chipmark.backends.ort.binding import Array, Memory, Way, bind_output
from chipmark.backends.ort.launch_rows import LaunchRows
from chipmark.backends.ort.traffic import Traffic
from chipmark_models.config import ModelConfig


class SlotCache:
    """Bytes of KV; `held[slot]` is the number of rows that were written since it was dropped.

    way: how sessions see it. in_place: the graph writes the new rows itself. off_host: new rows
    come from another device.
    """

    any_range = True

    def __init__(
        self,
        config: ModelConfig,
        n_slots: int,
        capacity: int,
        dtype: npt.DTypeLike,
        allocate: Callable[[tuple[int, ...], npt.DTypeLike], Memory],
        *,
        way: Way = "shared",
        in_place: bool = False,
        off_host: bool = False,
    ) -> None:
        self.n_slots = self.batch_slots = n_slots
        self.held = np.zeros(n_slots, np.int64)
        self.traffic = Traffic()
        self._config, self._dtype, self._allocate = config, np.dtype(dtype), allocate
        self._way, self._in_place, self._off_host = way, in_place, off_host
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

    def copy(self, src: int, dst: int, length: int) -> int:
        """Copy the first rows of a slot to another; returns the bytes copied."""
        self.host[:, :, dst, :, :length] = self.host[:, :, src, :, :length]
        self.held[dst] = max(int(self.held[dst]), length)
        return length * self.token_bytes

    def drop(self, slot: int) -> None:
        """Forget what a slot holds."""
        self.held[slot] = 0

    def synchronize(self) -> None:
        """A copy has ended when it returns."""

    def bind(self, io: Any, first: int, last: int) -> None:
        """Bind slots first..last as `past_key_L` and `past_value_L` of all layers, and as what a
        graph that writes them gives back."""
        self._bind(io, self._memory, first, last)
        self._count_rebind((last - first) * self.capacity)
        if self._in_place:
            for layer in range(self._config.n_layers):
                for index, kind in enumerate(("key", "value")):
                    bind_output(io, f"present_{kind}_{layer}", self.host[layer, index, first:last])

    def _count_rebind(self, n_rows: int) -> None:
        if self._way == "rebind":
            self.traffic.h2d_bytes += n_rows * self.token_bytes

    def staged_rows(self, start: int, length: int) -> int:
        """The rows that are held: any number is as good as another."""
        return max(1, start)

    def bind_staged(self, io: Any, slot: int, length: int, rows: int) -> int:
        """Bind a compact copy of one slot with `rows` rows; returns the bytes copied.

        For prefill with much capacity unused: scores against rows that hold nothing would cost
        more than the copy.
        """
        shape = self._shape(1, rows)
        n = int(np.prod(shape))
        if self._staging is None or self._staging.host.size < n:
            most = int(np.prod(self._shape(1, self.capacity)))
            self._staging = self._allocate((max(n, most),), self._dtype)
        part = self._staging.host[:n].reshape(shape)
        part[:, :, 0, :, :length] = self.host[:, :, slot, :, :length]
        part[:, :, 0, :, length:] = 0  # finite, whatever was staged before
        self._bind(io, self._staging.view(part), 0, 1)
        self._count_rebind(rows)
        return length * self.token_bytes

    def _bind(self, io: Any, memory: Memory, first: int, last: int) -> None:
        for layer in range(self._config.n_layers):
            for index, kind in enumerate(("key", "value")):
                part = memory.view(memory.host[layer, index])
                part.bind(io, f"past_{kind}_{layer}", first, last)

    def new_rows(self, io: Any, batch: int, chunk: int) -> Array | None:
        """Bind host memory (layers, 2, batch, kv_heads, chunk, head_dim) for the new rows."""
        if self._in_place:
            return None
        c = self._config
        rows = np.empty((c.n_layers, 2, batch, c.n_kv_heads, chunk, c.head_dim), self._dtype)
        for layer in range(c.n_layers):
            for index, kind in enumerate(("key", "value")):
                bind_output(io, f"new_{kind}_{layer}", rows[layer, index])
        return rows

    def keep(self, new_rows: Array | None, rows: LaunchRows, first: int) -> None:
        """Write the new rows of a launch into the cache, and remember them (an engine truncates
        without telling)."""
        slots, ends = rows.slot, rows.start + rows.length
        if new_rows is not None:
            if self._off_host:
                self.traffic.d2h_bytes += new_rows.nbytes
            self._write(new_rows, rows, first)
        self.held[slots] = np.maximum(self.held[slots], ends)

    def _write(self, new_rows: Array, rows: LaunchRows, first: int) -> None:
        for slot, start, length in zip(
            rows.slot.tolist(), rows.start.tolist(), rows.length.tolist(), strict=True
        ):
            new = new_rows[:, :, slot - first, :, :length]
            self.host[:, :, slot, :, start : start + length] = new
