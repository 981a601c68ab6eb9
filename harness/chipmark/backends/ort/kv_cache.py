"""What launches need of a KV cache, wherever its bytes lie: see SlotCache and DeviceCache."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from chipmark.backends.ort.launch_rows import LaunchRows
from chipmark.backends.ort.traffic import Traffic

_STEP = 128


class KvCache(Protocol):
    """KV in slots; `held[slot]` is the number of rows written since it was dropped."""

    n_slots: int
    batch_slots: int
    """Slots of a launch that takes them all."""
    any_range: bool
    """Any range of slots can be bound; else all of them, or a copy of one."""
    held: npt.NDArray[np.int64]
    traffic: Traffic

    @property
    def capacity(self) -> int:
        """Rows of every slot."""

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's K and V over all layers."""

    def grow(self, capacity: int) -> int:
        """Allocate `capacity` rows a slot and copy what is held; returns the bytes copied."""

    def copy(self, src: int, dst: int, length: int) -> int:
        """Copy the first rows of a slot to another; returns the bytes copied."""

    def drop(self, slot: int) -> None:
        """Forget what a slot holds."""

    def bind(self, io: Any, first: int, last: int) -> None:
        """Bind slots first..last as `past_key_L` and `past_value_L` of all layers, and as what a
        graph that writes them gives back."""

    def staged_rows(self, start: int, length: int) -> int:
        """Rows of a copy of one slot that holds `start` rows and gets `length` more, where a graph
        takes any number of them."""

    def bind_staged(self, io: Any, slot: int, length: int, rows: int) -> int:
        """Bind a copy of one slot with `rows` rows; returns the bytes copied."""

    def new_rows(self, io: Any, batch: int, chunk: int) -> Any:
        """Bind memory for the new rows of a graph that hands them out; None for others."""

    def keep(self, new_rows: Any, rows: LaunchRows, first: int) -> None:
        """Write the new rows of a launch into the cache, and remember them."""

    def synchronize(self) -> None:
        """Return when copies have ended."""


def next_capacity(now: int, needed: int, limit: int, buckets: tuple[int, ...]) -> int:
    """A capacity of at least `needed`: the next bucket, or a quarter more than now."""
    if buckets:
        return next((b for b in buckets if b >= needed), limit)
    wanted = max(needed, now + now // 4)
    return max(needed, min(limit, -(-wanted // _STEP) * _STEP))
