"""The simulated KV: every cell holds its token and the hash of its whole context.

As in a real model, the content of a cell depends on all tokens before it, so a wrong page, a
stale slot or a wrong start changes what is sampled; and with `verify` it is found at once.
The hash is h(p) = h(p-1) * B + id(p) + 1 modulo 2^64, which vectorises because B is odd and so
has an inverse.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from chipmark.engine.contract import F32, I32, Caps, Rows
from chipmark.errors import ContractError

U64 = NDArray[np.uint64]
Address = NDArray[np.int64]

FACTOR = 6364136223846793005
"""B: the multiplier of Knuth's MMIX generator; any odd number would do."""

_MASK = (1 << 64) - 1
_MIX = 0xD1342543DE82EF95
_20_BITS = (1 << 20) - 1


def context_hashes(tokens: I32) -> Iterator[int]:
    """Hash of the context up to each token; plain Python, apart from what computes it in cells."""
    value = 0
    for token in tokens.tolist():
        value = (value * FACTOR + token + 1) & _MASK
        yield value


def context_hash(tokens: I32) -> int:
    """Hash of a whole context, as its last cell holds it; 0 of an empty one."""
    return [0, *context_hashes(tokens)][-1]


def expected_ids(tokens: I32, vocab_size: int) -> I32:
    """The id that is sampled after each token (n,): `(context_hash >> 33) % vocab_size`."""
    ids = [(value >> 33) % vocab_size for value in context_hashes(tokens)]
    return np.array(ids, dtype=np.int32)


def sampled_ids(hashes: U64, vocab_size: int) -> I32:
    """Ids (n,) that contexts with these hashes sample."""
    return ((hashes >> np.uint64(33)) % np.uint64(vocab_size)).astype(np.int32)


def two_largest(hashes: U64) -> F32:
    """The two largest logits (n, 2) of contexts with these hashes: the sampled id's in [2, 3), that
    of the id after it in [1, 2), in steps of 2^-20. All others are below 1."""
    mixed = (hashes ^ (hashes >> np.uint64(29))) * np.uint64(_MIX)
    bits = np.stack([mixed >> np.uint64(44), mixed >> np.uint64(24)], axis=1) & np.uint64(_20_BITS)
    best: F32 = (bits / np.float64(1 << 20) + np.array([2.0, 1.0])).astype(np.float32)
    return best


class Cells:
    """KV of a simulated device: `places` pages or slots of `size` tokens."""

    def __init__(self, caps: Caps, verify: bool) -> None:
        paged = caps.kv == "paged"
        self._paged, self._verify = paged, verify
        self._size = caps.page_tokens if paged else caps.max_context
        self._places = caps.n_pages if paged else caps.n_slots
        cells = self._places * self._size
        self._token = np.zeros(cells, dtype=np.int32)
        self._hash = np.zeros(cells, dtype=np.uint64)
        self._written = np.zeros(cells, dtype=np.bool_)
        longest = caps.max_context + 1
        self._powers = _powers(FACTOR, longest)
        self._inverses = _powers(pow(FACTOR, -1, 1 << 64), longest)

    def copy(self, src: int, dst: int, length: int) -> None:
        """The first `length` tokens of slot `src` to slot `dst`."""
        if self._paged:
            raise ContractError("a copy of slots on a paged backend")
        for slot in (src, dst):
            if not 0 <= slot < self._places:
                raise ContractError(f"slot {slot} of {self._places}")
        a, b = src * self._size, dst * self._size
        if src == dst or not self._written[a : a + length].all():
            raise ContractError(f"slot {src} does not hold the {length} tokens to be copied")
        for column in (self._token, self._hash, self._written):
            column[b : b + length] = column[a : a + length]

    def drop(self, slot: int) -> None:
        """The slot holds nothing any more."""
        self._written[slot * self._size : (slot + 1) * self._size] = False

    def compute(self, rows: Rows) -> U64:
        """Write the rows' tokens; the hash of each row's context up to its last token."""
        self._check_shape(rows)
        if rows.seq.size and int(rows.length.max()) == 1 and not self._verify:
            return self._compute_single(rows)
        ends = np.cumsum(rows.length)
        last = np.zeros(rows.seq.size, dtype=np.uint64)
        written: list[Address] = []
        for row in range(rows.seq.size):
            start, length = int(rows.start[row]), int(rows.length[row])
            tokens = rows.tokens[ends[row] - length : ends[row]]
            cells = self._addresses(rows, row, start + length)
            if self._verify:
                self._check_context(int(rows.seq[row]), cells[:start])
            before = self._hash[cells[start - 1 : start]] if start else np.zeros(1, np.uint64)
            terms = (tokens.astype(np.uint64) + np.uint64(1)) * self._inverses[1 : length + 1]
            new = (before + np.cumsum(terms, dtype=np.uint64)) * self._powers[1 : length + 1]
            here = cells[start:]
            self._token[here], self._hash[here], self._written[here] = tokens, new, True
            last[row] = new[-1]
            written.append(here)
        if self._verify:
            self._check_writes(rows, written)
        return last

    def _compute_single(self, rows: Rows) -> U64:
        """One token a row, nothing checked: a few operations for all rows."""
        n = np.arange(rows.seq.size)
        place = rows.slot if rows.pages is None else rows.pages[n, rows.start // self._size]
        here = place.astype(np.int64) * self._size + rows.start % self._size
        self._token[here] = rows.tokens
        self._hash[here] = rows.tokens.astype(np.uint64) * np.uint64(FACTOR)
        self._written[here] = True
        last: U64 = self._hash[here]
        return last

    def _check_shape(self, rows: Rows) -> None:
        n = rows.seq.size
        columns = (rows.slot, rows.start, rows.length, rows.sample)
        if n == 0 or any(column.size != n for column in columns):
            raise ContractError("a launch without rows, or columns of different lengths")
        if int(rows.length.min()) < 1 or int(rows.start.min()) < 0:
            raise ContractError("a row without tokens, or with a negative start")
        if rows.tokens.size != int(rows.length.sum()):
            raise ContractError(f"{rows.tokens.size} tokens for {rows.length.sum()} positions")
        if (rows.pages is None) == self._paged:
            raise ContractError("page tables where there are slots, or none where pages are")
        if np.unique(rows.seq).size != n:
            raise ContractError("two rows of one sequence in a launch")

    def _addresses(self, rows: Rows, row: int, end: int) -> Address:
        if rows.pages is None:
            slot = int(rows.slot[row])
            if not 0 <= slot < self._places or end > self._size:
                raise ContractError(f"slot {slot} of {self._places}, {end} of {self._size}")
            return np.arange(slot * self._size, slot * self._size + end)
        n = -(-end // self._size)
        pages = rows.pages[row, :n].astype(np.int64)
        if pages.size < n or int(pages.min()) < 0 or int(pages.max()) >= self._places:
            raise ContractError(f"sequence {rows.seq[row]}: pages do not cover {end} tokens")
        if self._verify and np.unique(pages).size != n:
            raise ContractError(f"sequence {rows.seq[row]}: one page twice")
        if (rows.pages[row, n:] >= 0).any():
            raise ContractError(f"sequence {rows.seq[row]}: pages beyond {end} tokens")
        cells: Address = (pages[:, None] * self._size + np.arange(self._size)).reshape(-1)[:end]
        return cells

    def _check_context(self, seq: int, cells: Address) -> None:
        """Every cell below the start is written and continues the one before it."""
        if not self._written[cells].all():
            raise ContractError(f"sequence {seq}: reads a cell that was never written")
        value = self._hash[cells]
        before = np.concatenate([np.zeros(1, np.uint64), value[:-1]])[: value.size]
        expected = before * np.uint64(FACTOR) + self._token[cells].astype(np.uint64) + np.uint64(1)
        if (value != expected).any():
            raise ContractError(f"sequence {seq}: its context holds another's cells")

    def _check_writes(self, rows: Rows, written: list[Address]) -> None:
        """Nobody writes what another row of the launch reads or writes."""
        cells = np.concatenate(written)
        if np.unique(cells).size != cells.size:
            raise ContractError("two rows of a launch write the same cell")
        if rows.pages is None:
            return
        held, owners = np.unique(rows.pages[rows.pages >= 0], return_counts=True)
        if np.isin(np.unique(cells // self._size), held[owners > 1]).any():
            raise ContractError("a row writes into a page that another row shares")


def _powers(base: int, n: int) -> U64:
    values = [1]
    for _ in range(n):
        values.append(values[-1] * base & _MASK)
    return np.array(values, dtype=np.uint64)
