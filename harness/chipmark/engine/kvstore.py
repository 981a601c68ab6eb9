"""Logical KV behind one face: paged or slots, whatever the backend's bytes look like."""

from __future__ import annotations

from typing import Protocol

from chipmark.engine.contract import I32, Caps, KvOp
from chipmark.engine.live import LiveRows
from chipmark.engine.paged import PagedKv
from chipmark.engine.slots import SlotKv


class KvStore(Protocol):
    """What the scheduler asks of logical KV. Rows are lanes of `LiveRows`, lengths are tokens."""

    pages: I32 | None

    def attach(self, row: int, limit: int, ops: list[KvOp]) -> bool:
        """Bring as many leading tokens of the row's context into its KV as are cached anywhere,
        at most `limit`, and set `kv_len` (never below what it holds). False: no place for it."""
        ...

    def grow(self, row: int, upto: int) -> int:
        """Make room for `upto` tokens out of what is free; the room there is now, in tokens."""
        ...

    def shrink(self, row: int) -> int:
        """Take the smallest piece off the row's tail; the tokens it still has in KV."""
        ...

    def truncate(self, row: int, length: int) -> int:
        """Forget all but the first `length` tokens; the tokens that could be kept."""
        ...

    def seal(self, row: int) -> None:
        """What the row has in KV may be found by others from now on."""
        ...

    def keep_prefix(self, row: int, length: int, ops: list[KvOp]) -> None:
        """Keep the row's first `length` tokens for later sessions, where that needs a place."""
        ...

    def end(self, row: int) -> None:
        """The row's session has ended; its KV is free, and cached until reuse."""
        ...

    def holds(self, row: int) -> bool:
        """Whether taking from this row could free anything."""
        ...

    def whole(self) -> bool:
        """With no session alive: whether every block or slot is free and uncounted."""
        ...


def context_limit(caps: Caps) -> int:
    """The most tokens of KV that one sequence can have."""
    limits = [caps.max_context]
    if caps.context_buckets:
        limits.append(caps.context_buckets[-1])
    if caps.kv == "paged":
        limits.append(caps.n_pages * caps.page_tokens)
    return min(limits)


def make_store(caps: Caps, live: LiveRows) -> KvStore:
    """The store that fits the backend's addressing."""
    return PagedKv(caps, live) if caps.kv == "paged" else SlotKv(caps, live)
