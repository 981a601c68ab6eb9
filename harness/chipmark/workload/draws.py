"""Draws that are the same bits on every machine: raw words of Philox, keyed by name.

Only `random_raw` of the counter-based generator is used; what a word means is decided here, in
integers. Each stream has a key of its own made from all that names it, so that adding a
session, a turn or a parameter never moves the draws of another.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import numpy.typing as npt

from chipmark.workload.quantile_tables import TABLE_BITS


class DrawStream:
    """An endless row of 64-bit words for one purpose.

    `Stream(seed, "agent-code-32k", 3, "append")` is keyed by the 128-bit blake2b digest of its
    JSON-encoded parts (integers and strings).
    """

    def __init__(self, *parts: int | str) -> None:
        name = json.dumps(parts, separators=(",", ":")).encode()
        key = hashlib.blake2b(name, digest_size=16).digest()
        self._bits = np.random.Philox(key=int.from_bytes(key, "little"))

    def word(self) -> int:
        """The next 64-bit word."""
        return int(self._bits.random_raw())

    def rank(self) -> int:
        """A uniform rank of a quantile table, 0..4095."""
        return self.word() >> (64 - TABLE_BITS)

    def below(self, limit: int) -> int:
        """A uniform integer in 0..limit-1 for `limit` up to 2^32 (bias under limit / 2^64)."""
        return (self.word() * limit) >> 64

    def seek(self, chapter: int) -> None:
        """Go to the start of one of 2^64 chapters of 2^66 words; a new stream is at chapter 0.

        The same words as `Philox(key, counter=chapter << 64)`, without the cost of a new one.
        """
        state = self._bits.state
        state["state"]["counter"] = np.array([0, chapter, 0, 0], dtype=np.uint64)
        state["buffer_pos"] = len(state["buffer"])  # nothing is left of the chapter before
        self._bits.state = state

    def token_ids(self, count: int, low: int, high: int) -> npt.NDArray[np.int32]:
        """`count` int32 ids, uniform in low..high-1."""
        words = np.asarray(self._bits.random_raw(count), dtype=np.uint64)
        # 32 bits times a span under 2^31 stays inside 64 bits.
        ids = ((words >> np.uint64(32)) * np.uint64(high - low)) >> np.uint64(32)
        return (ids + np.uint64(low)).astype(np.int32)
