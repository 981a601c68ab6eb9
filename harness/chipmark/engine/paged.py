"""Paged KV: page tables over a pool of blocks, prefixes shared by the hash of whole blocks."""

from __future__ import annotations

import numpy as np

from chipmark.engine.blocks import ROOT, BlockPool, chain
from chipmark.engine.contract import I32, Caps, KvOp
from chipmark.engine.live import LiveRows


class PagedKv:
    """`KvStore` over pages. `pages` is int32 (rows, width), -1 beyond a row's last page.

    Only full blocks are shared, so a sharer never writes into a block that somebody else reads,
    and no copy is ever needed. A session keeps its blocks between turns.
    """

    def __init__(self, caps: Caps, live: LiveRows) -> None:
        self._live = live
        self._page_tokens = caps.page_tokens
        self._share = caps.prefix == "share"
        self.pool = BlockPool(caps.n_pages)
        width = -(-live.ids.shape[1] // caps.page_tokens)
        self.pages: I32 | None = np.full((live.n_rows, width), -1, dtype=np.int32)
        self._table: I32 = self.pages
        self._blocks: list[list[int]] = [[] for _ in range(live.n_rows)]
        self._digests: list[list[bytes]] = [[] for _ in range(live.n_rows)]

    def attach(self, row: int, limit: int, ops: list[KvOp]) -> bool:
        """Extend the row by shared blocks that continue its context; pages need no operation."""
        size, blocks = self._page_tokens, self._blocks[row]
        if not self._share or int(self._live.kv_len[row]) != len(blocks) * size:
            return True
        self.seal(row)
        digests = self._digests[row]
        ids = self._live.ids[row]
        while (len(blocks) + 1) * size <= limit:
            start = len(blocks) * size
            digest = chain(digests[-1] if digests else ROOT, ids[start : start + size])
            block = self.pool.share(digest)
            if block is None:
                break
            self._append(row, block)
            digests.append(digest)
        self._live.kv_len[row] = self._live.capacity[row] = len(blocks) * size
        return True

    def grow(self, row: int, upto: int) -> int:
        """Allocate blocks until the row has room for `upto` tokens or none is free."""
        size = self._page_tokens
        while len(self._blocks[row]) * size < upto:
            block = self.pool.allocate()
            if block is None:
                break
            self._append(row, block)
        room = len(self._blocks[row]) * size
        self._live.capacity[row] = room
        return room

    def shrink(self, row: int) -> int:
        """Release the last block; its content stays cached until the block is reused."""
        self.seal(row)
        return self._cut(row, len(self._blocks[row]) - 1)

    def truncate(self, row: int, length: int) -> int:
        """Cut to `length` tokens. Inside a block that others hold, cut to the block before it:
        a shared block cannot be written, and copying pages is not in the contract."""
        if length >= int(self._live.kv_len[row]):
            return int(self._live.kv_len[row])
        self.seal(row)
        keep, part = divmod(length, self._page_tokens)
        if part and len(self._digests[row]) > keep:
            tail = self._blocks[row][keep]
            if self.pool.owners(tail) > 1:
                length, part = keep * self._page_tokens, 0
            else:
                self.pool.unseal(tail)
                del self._digests[row][keep:]
        self._cut(row, keep + bool(part))
        self._live.kv_len[row] = length
        return length

    def seal(self, row: int) -> None:
        """Hash the row's blocks that became full; others may share them from now on."""
        if not self._share:
            return
        size, digests, blocks = self._page_tokens, self._digests[row], self._blocks[row]
        full = int(self._live.kv_len[row]) // size
        ids = self._live.ids[row]
        for index in range(len(digests), full):
            before = digests[-1] if digests else ROOT
            digests.append(chain(before, ids[index * size : (index + 1) * size]))
            self.pool.seal(blocks[index], digests[-1])

    def keep_prefix(self, row: int, length: int, ops: list[KvOp]) -> None:
        """Nothing to do: sealed blocks are found until they are reused."""

    def end(self, row: int) -> None:
        """Release every block, the tail first, so that prefixes are the last to be reused."""
        self.seal(row)
        self._cut(row, 0)

    def holds(self, row: int) -> bool:
        """Whether the row has a block."""
        return bool(self._blocks[row])

    def whole(self) -> bool:
        """Every block is free."""
        return self.pool.n_free == self.pool.n_blocks

    def _append(self, row: int, block: int) -> None:
        self._table[row, len(self._blocks[row])] = block
        self._blocks[row].append(block)

    def _cut(self, row: int, n_blocks: int) -> int:
        blocks = self._blocks[row]
        for block in reversed(blocks[n_blocks:]):
            self.pool.release(block)
        self._table[row, n_blocks : len(blocks)] = -1
        del blocks[n_blocks:], self._digests[row][n_blocks:]
        room = n_blocks * self._page_tokens
        self._live.capacity[row] = room
        left = min(int(self._live.kv_len[row]), room)
        self._live.kv_len[row] = left
        return left
