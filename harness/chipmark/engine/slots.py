"""Slot KV: one contiguous slot a sequence; prefixes are reused in place or copied.

A free slot keeps its content. A new session takes the free slot whose content shares the longest
exact prefix with its prompt and truncates it in place, which costs nothing. Where a live slot or
a reserved prefix slot shares a longer one, that is copied, counted, and charged to the turn.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from chipmark.engine.contract import I32, Caps, KvOp
from chipmark.engine.live import LiveRows


class SlotKv:
    """`KvStore` over slots. Slots beyond one a lane are reserved for prefixes (prefix `copy`)."""

    pages: I32 | None = None

    def __init__(self, caps: Caps, live: LiveRows) -> None:
        self._live = live
        self._room = caps.max_context
        self._reuse = caps.prefix == "copy"
        n_reserved = max(0, caps.n_slots - live.n_rows) if self._reuse else 0
        self._lane_slots = range(caps.n_slots - n_reserved)
        self._free: list[int] = list(self._lane_slots)
        self._reserved: OrderedDict[int, None] = OrderedDict(
            (slot, None) for slot in range(len(self._lane_slots), caps.n_slots)
        )
        nothing = np.zeros(0, dtype=np.int32)
        self._held: list[I32] = [nothing] * caps.n_slots
        live.slot[:] = -1
        live.capacity[:] = 0

    def attach(self, row: int, limit: int, ops: list[KvOp]) -> bool:
        """Give the row a slot, with the longest prefix that is cached in any."""
        live = self._live
        if live.slot[row] >= 0:
            return True
        if not self._free:
            return False
        seq = int(live.session[row])
        slot, shared = self._free[0], 0
        if self._reuse:
            prompt = live.ids[row, :limit]
            for candidate in self._free:
                match = common_prefix(self._held[candidate], prompt)
                if match > shared:
                    slot, shared = candidate, match
            source, longest = self._longest_source(prompt)
            if longest > shared:
                slot, shared = self._free[0], longest
                ops.append(KvOp("copy", source, slot, longest, seq))
                live.copied[row] += longest
                if source in self._reserved:
                    self._reserved.move_to_end(source)
        elif self._held[slot].size:
            ops.append(KvOp("drop", slot, -1, 0, seq))
        self._free.remove(slot)
        live.slot[row] = slot
        live.capacity[row] = self._room
        live.kv_len[row] = shared
        return True

    def grow(self, row: int, upto: int) -> int:
        """A slot has room for every context that fits at all."""
        return int(self._live.capacity[row])

    def shrink(self, row: int) -> int:
        """Give up the whole slot: a slot has no smaller piece that another could use."""
        self.end(row)
        self._live.kv_len[row] = 0
        return 0

    def truncate(self, row: int, length: int) -> int:
        """Cut in place."""
        kept = min(length, int(self._live.kv_len[row]))
        self._live.kv_len[row] = kept
        return kept

    def seal(self, row: int) -> None:
        """Nothing to do: the content of live slots is compared as it is."""

    def keep_prefix(self, row: int, length: int, ops: list[KvOp]) -> None:
        """Copy the prefix to the least recently used reserved slot, unless one holds it."""
        live = self._live
        prefix = live.ids[row, :length]
        if not self._reserved or not length:
            return
        for slot in self._reserved:
            if common_prefix(self._held[slot], prefix) == length:
                self._reserved.move_to_end(slot)
                return
        slot = next(iter(self._reserved))
        self._reserved.move_to_end(slot)
        self._held[slot] = prefix.copy()
        ops.append(KvOp("copy", int(live.slot[row]), slot, length, int(live.session[row])))
        live.copied[row] += length

    def end(self, row: int) -> None:
        """The slot is free and keeps its content."""
        live = self._live
        slot = int(live.slot[row])
        if slot < 0:
            return
        self._held[slot] = live.ids[row, : live.kv_len[row]].copy()
        self._free.append(slot)
        live.slot[row] = -1
        live.capacity[row] = 0

    def holds(self, row: int) -> bool:
        """Whether the row has a slot."""
        return bool(self._live.slot[row] >= 0)

    def whole(self) -> bool:
        """Every lane slot is free, each once."""
        return sorted(self._free) == list(self._lane_slots)

    def _longest_source(self, prompt: I32) -> tuple[int, int]:
        live = self._live
        source, longest = -1, 0
        for row in np.flatnonzero(live.slot >= 0).tolist():
            match = common_prefix(live.ids[row, : live.kv_len[row]], prompt)
            if match > longest:
                source, longest = int(live.slot[row]), match
        for slot in self._reserved:
            match = common_prefix(self._held[slot], prompt)
            if match > longest:
                source, longest = slot, match
        return source, longest


def common_prefix(a: I32, b: I32) -> int:
    """Leading ids that `a` and `b` share."""
    n = min(a.size, b.size)
    if not n:
        return 0
    differ = a[:n] != b[:n]
    first = int(differ.argmax())
    return first if differ[first] else n
