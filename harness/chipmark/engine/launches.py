"""From rows of the live columns to the launch plans that a backend gets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from chipmark.engine.contract import I32, Bool, LaunchPlan, Phase, Rows
from chipmark.engine.live import LiveRows
from chipmark.engine.shapes import Chunk, Limits, bucket

Index = NDArray[np.int64]


class DecodeSet:
    """The rows that decode, with the columns that stay as they are between events.

    Ordered by slot, then row, so that a slot backend finds neighbours in memory side by side.
    """

    def __init__(self, live: LiveRows) -> None:
        self._live = live
        self._members: set[int] = set()
        self._stale = True
        self.start: I32
        self.left: I32
        self.longest: int
        self._refresh()

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, row: int) -> bool:
        return row in self._members

    def __iter__(self) -> Iterator[int]:
        return iter(self._members)

    def add(self, row: int) -> None:
        """The row decodes from the next step on."""
        self._members.add(row)
        self._stale = True

    def remove(self, row: int) -> None:
        """The row no longer decodes."""
        self._members.discard(row)
        self._stale = True

    def refresh(self) -> Index:
        """Bring the columns up to date; the rows as an index."""
        if self._stale:
            self._refresh()
        return self.index

    def advance(self) -> I32:
        """Every row has one token more in KV and one less to sample; those left, as a column.

        Arrays that were handed out stay as they are.
        """
        live = self._live
        self.start = self.start + 1
        self.left = self.left - 1
        self.longest += 1
        live.kv_len[self.index] = self.start
        live.remaining[self.index] = self.left
        return self.left

    def _refresh(self) -> None:
        live = self._live
        index = np.array(sorted(self._members), dtype=np.int64)
        slot = live.slot[index]
        if (slot[1:] < slot[:-1]).any():
            index = index[slot.argsort()]
            slot = live.slot[index]
        self.index: Index = index
        self.slot: I32 = slot
        self.session: I32 = live.session[index]
        self.turn: I32 = live.turn[index]
        self.base: Index = live.base[index]
        self.start = live.kv_len[index]
        self.left = live.remaining[index]
        self.longest = int(self.start.max()) if index.size else 0
        self.ones: I32 = np.ones(index.size, dtype=np.int32)
        self.all: Bool = np.ones(index.size, dtype=np.bool_)
        self._stale = False


def gather_pages(table: I32 | None, index: Index, tokens: int, page_tokens: int) -> I32 | None:
    """The page tables of some rows, as wide as `tokens` tokens need; a copy."""
    if table is None:
        return None
    width = -(-tokens // page_tokens)
    if 2 * width > table.shape[1]:
        # taking whole rows is a plain copy of each, several times faster than picking columns too
        return table.take(index, axis=0)[:, :width]
    return table[index, :width]


def decode_rows(live: LiveRows, members: DecodeSet, pages: I32 | None) -> Rows:
    """One token of every decoding row, all sampled; `members` is up to date."""
    start = members.start
    return Rows(
        seq=members.session,
        slot=members.slot,
        start=start,
        length=members.ones,
        tokens=live.flat[members.base + start],
        pages=pages,
        sample=members.all,
    )


def chunk_rows(
    live: LiveRows, chunks: Sequence[Chunk], table: I32 | None, page_tokens: int
) -> tuple[Index, Rows]:
    """The rows of one prompt launch, and which live rows they are."""
    index = np.array([chunk.row for chunk in chunks], dtype=np.int64)
    start = np.array([chunk.start for chunk in chunks], dtype=np.int32)
    length = np.array([chunk.length for chunk in chunks], dtype=np.int32)
    pieces = [live.ids[c.row, c.start : c.start + c.length] for c in chunks]
    end = start + length
    pages = gather_pages(table, index, int(end.max()), page_tokens)
    if pages is not None and len(chunks) > 1:
        beyond = np.arange(pages.shape[1])[None, :] * page_tokens >= end[:, None]
        pages[beyond] = -1
    return index, Rows(
        seq=live.session[index],
        slot=live.slot[index],
        start=start,
        length=length,
        tokens=np.concatenate(pieces),
        pages=pages,
        sample=np.array([chunk.sample for chunk in chunks], dtype=np.bool_),
    )


def part(rows: Rows, which: slice) -> Rows:
    """Some rows of a decode launch, where every row has one token."""
    return Rows(
        seq=rows.seq[which],
        slot=rows.slot[which],
        start=rows.start[which],
        length=rows.length[which],
        tokens=rows.tokens[which],
        pages=None if rows.pages is None else rows.pages[which],
        sample=rows.sample[which],
    )


def join(first: Rows, second: Rows) -> Rows:
    """The rows of both, in order; page tables padded with -1 to one width."""

    def both(name: str) -> I32:
        joined: I32 = np.concatenate([getattr(first, name), getattr(second, name)])
        return joined

    pages = None
    if first.pages is not None and second.pages is not None:
        width = max(first.pages.shape[1], second.pages.shape[1])
        pages = np.full((first.seq.size + second.seq.size, width), -1, dtype=np.int32)
        pages[: first.seq.size, : first.pages.shape[1]] = first.pages
        pages[first.seq.size :, : second.pages.shape[1]] = second.pages
    return Rows(
        seq=both("seq"),
        slot=both("slot"),
        start=both("start"),
        length=both("length"),
        tokens=both("tokens"),
        pages=pages,
        sample=np.concatenate([first.sample, second.sample]),
    )


def padded(phase: Phase, rows: Rows, limits: Limits) -> LaunchPlan:
    """The launch with the smallest buckets that hold it. ValueError where none does."""
    return LaunchPlan(
        phase=phase,
        rows=rows,
        batch_bucket=bucket(rows.seq.size, limits.batch_buckets),
        chunk_bucket=bucket(int(rows.length.max()), limits.chunk_buckets),
        context_bucket=bucket(int((rows.start + rows.length).max()), limits.context_buckets),
    )


def padded_decode(rows: Rows, longest: int, limits: Limits) -> LaunchPlan:
    """The same for a decode launch whose longest row has `longest` tokens in KV already."""
    return LaunchPlan(
        phase="decode",
        rows=rows,
        batch_bucket=bucket(rows.seq.size, limits.batch_buckets),
        chunk_bucket=1,
        context_bucket=bucket(longest + 1, limits.context_buckets),
    )
