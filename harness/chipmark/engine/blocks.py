"""The pool of KV blocks: reference counts, content hashes, and one list that is both the free
list and the cache.

A block whose last owner lets go keeps its hash until it is handed out again, least recently
freed first. So a cached prefix and a free block are the same thing, and evicting is allocating.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from chipmark.engine.contract import I32

ROOT = b""
"""The digest before the first block of a sequence."""


def chain(before: bytes, tokens: I32) -> bytes:
    """Digest of a full block: blake2b over the digest before it and its int32 ids, 16 bytes.

    Equal digests mean equal ids from the start of the sequence, not of this block alone.
    """
    return hashlib.blake2b(before + tokens.tobytes(), digest_size=16).digest()


class BlockPool:
    """`n_blocks` blocks, each owned by any number of sequences.

    Raises ValueError on a release or seal of a block without an owner.
    """

    def __init__(self, n_blocks: int) -> None:
        self.n_blocks = n_blocks
        self._owners = [0] * n_blocks
        self._digest: list[bytes | None] = [None] * n_blocks
        self._by_digest: dict[bytes, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict((b, None) for b in range(n_blocks))

    @property
    def n_free(self) -> int:
        """Blocks without an owner, cached content or not."""
        return len(self._free)

    def owners(self, block: int) -> int:
        """How many sequences hold the block."""
        return self._owners[block]

    def allocate(self) -> int | None:
        """The least recently freed block for one owner, its content forgotten; None if all are
        held."""
        if not self._free:
            return None
        block, _ = self._free.popitem(last=False)
        self.unseal(block)
        self._owners[block] = 1
        return block

    def share(self, digest: bytes) -> int | None:
        """One more owner for the block with this content; None if there is none."""
        block = self._by_digest.get(digest)
        if block is None:
            return None
        if not self._owners[block]:
            del self._free[block]
        self._owners[block] += 1
        return block

    def seal(self, block: int, digest: bytes) -> None:
        """The block is full and will not be written again; it can be found by its digest.

        Where another block has that content already, this one stays private.
        """
        if not self._owners[block]:
            raise ValueError(f"block {block} has no owner and cannot be sealed")
        if digest not in self._by_digest:
            self._by_digest[digest] = block
            self._digest[block] = digest

    def unseal(self, block: int) -> None:
        """The block's content is about to change: it is no longer found."""
        digest = self._digest[block]
        if digest is not None:
            del self._by_digest[digest]
            self._digest[block] = None

    def release(self, block: int) -> None:
        """One owner less; with the last one the block is free, its content found until reuse."""
        if self._owners[block] < 1:
            raise ValueError(f"block {block} is released but has no owner")
        self._owners[block] -= 1
        if not self._owners[block]:
            self._free[block] = None
            if self._digest[block] is None:
                self._free.move_to_end(block, last=False)
