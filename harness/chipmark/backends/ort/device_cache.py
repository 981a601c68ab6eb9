"""KV of all slots in memory of the device, written and copied there; the host sees none of it.

A tensor (slots, kv_heads, capacity, head_dim) for each layer's K and V. Slots that launches run on
lie in one group of tensors, those reserved for prefixes in another, so that these never ride along.
Where the device's memory has addresses, any range of slots is bound; elsewhere a launch of one
token a sequence takes all slots of the group, and a prompt's chunk reads a copy of its slot.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from chipmark.backends.ort.device_memory import DeviceMemory, DeviceTensors
from chipmark.backends.ort.launch_rows import LaunchRows
from chipmark.backends.ort.row_mover import RowMover, Rows
from chipmark_models.config import ModelConfig

_SMALLEST_COPY = 64


def kv_names(n_layers: int) -> tuple[str, ...]:
    """`key_0`, `value_0`, `key_1` and so on: the ends of the names of a graph's cache."""
    return tuple(f"{kind}_{layer}" for layer in range(n_layers) for kind in ("key", "value"))


class DeviceCache:
    """As SlotCache, in memory of the device; `held[slot]` rows were written since it was dropped.

    n_seqs: slots that launches run on, the first ones. in_place: the graph writes the new rows
    itself.
    """

    def __init__(
        self,
        config: ModelConfig,
        n_slots: int,
        n_seqs: int,
        capacity: int,
        dtype: npt.DTypeLike,
        memory: DeviceMemory,
        mover: RowMover,
        in_place: bool,
    ) -> None:
        self.n_slots, self.batch_slots = n_slots, n_seqs
        self.held = np.zeros(n_slots, np.int64)
        self.any_range = memory.addresses is not None
        self.traffic = mover.traffic
        self._config, self._dtype = config, np.dtype(dtype)
        self._memory, self._mover, self._in_place = memory, mover, in_place
        self._names = kv_names(config.n_layers)
        self._groups: list[DeviceTensors] = []
        self._copies: dict[int, DeviceTensors] = {}
        self._new: dict[tuple[int, int], DeviceTensors] = {}
        self._staged: tuple[DeviceTensors, int] | None = None
        self._allocate(capacity)
        self._fence = memory.tensors(("fence",), (1, 1, 1, 1), self._dtype)

    def _allocate(self, capacity: int) -> None:
        reserved = self.n_slots - self.batch_slots
        self._groups = [self._zeros(n, capacity) for n in (self.batch_slots, reserved) if n]

    def _zeros(self, slots: int, rows: int) -> DeviceTensors:
        made = self._uninitialised(slots, rows)
        self._mover.fill(made)  # rows that hold nothing are masked, and have to be finite
        return made

    def _uninitialised(self, slots: int, rows: int) -> DeviceTensors:
        c = self._config
        shape = (slots, c.n_kv_heads, rows, c.head_dim)
        return self._memory.tensors(self._names, shape, self._dtype)

    @property
    def capacity(self) -> int:
        """Rows of every slot."""
        return self._groups[0].rows

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's K and V over all layers."""
        c = self._config
        return 2 * c.n_layers * c.n_kv_heads * c.head_dim * self._dtype.itemsize

    def _place(self, slot: int) -> tuple[DeviceTensors, int]:
        if slot < self.batch_slots:
            return self._groups[0], slot
        return self._groups[1], slot - self.batch_slots

    def grow(self, capacity: int) -> int:
        """Allocate `capacity` rows a slot and copy what is held; returns the bytes copied."""
        old = self._groups
        self._copies.clear()
        self._mover.forget()
        self._allocate(capacity)
        for slot, held in enumerate(self.held.tolist()):
            if held:
                group, index = self._place(slot)
                source = old[0 if slot < self.batch_slots else 1]
                rows = Rows(index, 0, held)
                self._mover.copy(source, group, rows, rows)
        self._mover.forget()
        return int(self.held.sum()) * self.token_bytes

    def synchronize(self) -> None:
        """Return when copies have ended: a value that is read back comes after them."""
        self._fence.values[0].numpy()

    def mark(self, slot: int, end: int) -> None:
        """Remember that rows up to `end` are written (an engine truncates without telling)."""
        self.held[slot] = max(int(self.held[slot]), end)

    def drop(self, slot: int) -> None:
        """Forget what a slot holds."""
        self.held[slot] = 0

    def copy(self, src: int, dst: int, length: int) -> int:
        """Copy the first rows of a slot to another; returns the bytes copied."""
        (source, a), (target, b) = self._place(src), self._place(dst)
        self._mover.copy(source, target, Rows(a, 0, length), Rows(b, 0, length))
        self.mark(dst, length)
        return length * self.token_bytes

    def bind(self, io: Any, first: int, last: int) -> None:
        """Bind slots first..last as the graph's cache."""
        self._bind(io, self._groups[0], first, last)

    def _bind(self, io: Any, tensors: DeviceTensors, first: int, last: int) -> None:
        tensors.bind(io, "past_", first, last)
        if self._in_place:
            tensors.bind(io, "present_", first, last, output=True)

    def staged_rows(self, start: int, length: int) -> int:
        """Rows of a copy of one slot that holds `start` rows and gets `length` more, where a graph
        takes any number: few different ones, since each is a shape that is met for the first time.
        """
        needed, rows = start + (length if self._in_place else 0), _SMALLEST_COPY
        while rows < needed:
            rows *= 2
        return min(rows, self.capacity)

    def bind_staged(self, io: Any, slot: int, length: int, rows: int) -> int:
        """Bind a copy of one slot with `rows` rows; returns the bytes copied."""
        if rows not in self._copies:
            self._copies[rows] = self._zeros(1, rows)
        part = self._copies[rows]
        group, index = self._place(slot)
        self._mover.copy(group, part, Rows(index, 0, length), Rows(0, 0, length))
        self._bind(io, part, 0, 1)
        self._staged = (part, slot)
        return length * self.token_bytes

    def new_rows(self, io: Any, batch: int, chunk: int) -> DeviceTensors | None:
        """Bind memory for the new rows of a graph that hands them out."""
        if self._in_place:
            return None
        if (batch, chunk) not in self._new:
            if not self._mover.static:
                # Prompts come in any length there; only one of them is kept.
                for key in [key for key in self._new if key[1] > 1 and chunk > 1]:
                    self._mover.forget(self._new.pop(key))
            self._new[batch, chunk] = self._uninitialised(batch, chunk)
        out = self._new[batch, chunk]
        out.bind(io, "new_", 0, batch, output=True)
        return out

    def keep(self, new_rows: DeviceTensors | None, rows: LaunchRows, first: int) -> None:
        """Write the new rows of a launch into the cache, on the device, and remember them."""
        staged, self._staged = self._staged, None
        if new_rows is not None:
            self._write(new_rows, rows, first)
        elif staged is not None:
            part, slot = staged
            group, index = self._place(slot)
            start, length = int(rows.start[0]), int(rows.length[0])
            self._mover.copy(part, group, Rows(0, start, length), Rows(index, start, length))
        for slot, end in zip(rows.slot.tolist(), (rows.start + rows.length).tolist(), strict=True):
            self.mark(slot, end)

    def _write(self, new_rows: DeviceTensors, rows: LaunchRows, first: int) -> None:
        index = rows.slot - first
        if new_rows.rows == 1:
            nought = np.zeros_like(index)
            read, written = (index, nought), (rows.slot, rows.start)
        else:
            (length,), (start,) = rows.length, rows.start
            steps = np.arange(length)
            read = (np.broadcast_to(index, steps.shape), steps)
            written = (np.broadcast_to(rows.slot, steps.shape), start + steps)
        size = new_rows.slots * new_rows.rows if self._mover.static else len(read[0])
        self._mover.move(new_rows, self._groups[0], read, written, size)
