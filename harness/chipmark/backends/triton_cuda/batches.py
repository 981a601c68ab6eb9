"""From the rows of a launch plan to what the decoder reads on the device.

Everything of a launch goes there in one copy of 32-bit words; 64-bit slots are pairs of them.
"""

from __future__ import annotations

import numpy as np
import torch

from chipmark.backends.triton_cuda.page_table import PageTable
from chipmark.backends.triton_cuda.streams import LaunchStream
from chipmark.engine.contract import I32, LaunchPlan, Rows
from chipmark_models.decoder.paged.decoder import ColdRows, PagedBatch
from chipmark_models.decoder.paged.kv import token_places

ALIGN = 16
"""Pages that a table's width is a multiple of, and words that each part begins at a multiple of:
kernels are compiled for such strides and pointers, and others would be compiled in mid-run."""


def aligned(n: int) -> int:
    """The multiple of ALIGN that holds n, at least one."""
    return max(-(-n // ALIGN), 1) * ALIGN


class DecodeInputs:
    """The memory that decode launches read, at the same addresses each time, as a graph needs.

    Of the page tables goes there what changed.
    """

    def __init__(self, rows: int, max_context: int, page_tokens: int, device: torch.device) -> None:
        self._rows = aligned(rows)
        self._page_tokens = page_tokens
        width = aligned(-(-max_context // page_tokens))
        self._columns = torch.zeros(5 * self._rows, dtype=torch.int32, device=device)
        self._table = PageTable(self._rows, width, device)

    def batch(self, n_rows: int) -> PagedBatch:
        """A decode launch of the first rows."""
        r, columns = self._rows, self._columns
        ids, positions, lens = (columns[i * r : i * r + n_rows] for i in (2, 3, 4))
        slots = columns[: 2 * r].view(torch.int64)[:n_rows]
        return PagedBatch(ids, positions, slots, self._table.on_device[:n_rows], lens)

    def fill(self, rows: Rows, stream: LaunchStream) -> int:
        """Queue the copies of these rows, the others as padding; bytes sent."""
        assert rows.pages is not None
        r, n, size = self._rows, rows.seq.size, self._page_tokens
        words = np.zeros(5 * r, np.int32)
        slots = words[: 2 * r].view(np.int64)
        slots[:] = -1
        page = rows.pages[np.arange(n), rows.start // size].astype(np.int64)
        slots[:n] = page * size + rows.start % size
        words[2 * r : 2 * r + n] = rows.tokens
        words[3 * r : 3 * r + n] = rows.start
        words[4 * r : 4 * r + n] = rows.start + 1
        stream.upload(words, self._columns)
        return words.nbytes + self._table.send(rows.pages, stream)


def ragged_batch(
    plan: LaunchPlan,
    page_tokens: int,
    device: torch.device,
    stream: LaunchStream,
    *,
    cold: bool = False,
) -> tuple[PagedBatch, int]:
    """A prefill launch, its rows one behind another, and bytes sent. cold: all begin at 0, and may
    attend to themselves alone."""
    rows = plan.rows
    assert rows.pages is not None
    positions, slots = token_places(rows.start, rows.length, rows.pages, page_tokens)
    ends = np.cumsum(rows.length, dtype=np.int32)
    table = np.zeros((rows.seq.size, aligned(rows.pages.shape[1])), np.int32)
    table[:, : rows.pages.shape[1]] = rows.pages
    parts: list[I32] = [
        slots.view(np.int32),
        rows.tokens,
        positions,
        rows.start + rows.length,
        np.concatenate([np.zeros(1, np.int32), ends]),
        ends[rows.sample] - 1,
        table.reshape(-1),
    ]
    offsets = np.concatenate([[0], np.cumsum([aligned(part.size) for part in parts])]).tolist()
    words = np.zeros(offsets[-1], np.int32)
    for part, offset in zip(parts, offsets[:-1], strict=True):
        words[offset : offset + part.size] = part
    sent = torch.empty(words.size, dtype=torch.int32, device=device)
    stream.upload(words, sent)
    on_device = [
        sent[offset : offset + part.size] for part, offset in zip(parts, offsets[:-1], strict=True)
    ]
    where, ids, at, lens, cu_q, last, pages = on_device
    slots_sent = where.view(torch.int64)
    themselves = ColdRows(tuple(rows.length.tolist()), slots_sent) if cold else None
    batch = PagedBatch(ids, at, slots_sent, pages.view(table.shape), lens, cu_q, last, themselves)
    return batch, words.nbytes


class PrefillInputs:
    """The memory that captured prefill launches read, at the same addresses each time.

    A launch has a bucket of tokens and of rows: tokens behind its own write nothing (slot -1) and
    rows behind its own have none, so what is computed for them reaches no other.
    """

    def __init__(
        self, tokens: int, rows: int, max_context: int, page_tokens: int, device: torch.device
    ) -> None:
        self._page_tokens = page_tokens
        size = self._offsets(tokens, rows)[-1]
        self._words = torch.zeros(size, dtype=torch.int32, device=device)
        self._table = PageTable(rows, aligned(-(-max_context // page_tokens)), device)

    @staticmethod
    def _sizes(tokens: int, rows: int) -> tuple[int, ...]:
        """Words of slots, places, ids, positions, lengths, begins and last tokens."""
        return (2 * tokens, 2 * tokens, tokens, tokens, rows, rows + 1, rows)

    def _offsets(self, tokens: int, rows: int) -> list[int]:
        sizes = [aligned(size) for size in self._sizes(tokens, rows)]
        offsets: list[int] = np.concatenate([[0], np.cumsum(sizes)]).tolist()
        return offsets

    def batch(self, tokens: int, rows: int, *, cold: bool, sampled: bool) -> PagedBatch:
        """A launch of a bucket. cold: of one row, which attends to itself alone."""
        offsets = self._offsets(tokens, rows)
        parts = zip(offsets, self._sizes(tokens, rows), strict=False)
        where, at, ids, positions, lens, cu_q, last = (
            self._words[offset : offset + size] for offset, size in parts
        )
        places = at.view(torch.int64)
        return PagedBatch(
            ids, positions, where.view(torch.int64), self._table.on_device[:rows], lens, cu_q,
            last if sampled else last[:0], ColdRows((tokens,), places) if cold else None,
        )  # fmt: skip

    def fill(self, launch: Rows, tokens: int, rows: int, stream: LaunchStream) -> int:
        """Queue the copies of these rows into a bucket that holds them; bytes sent."""
        assert launch.pages is not None
        n, n_rows = launch.tokens.size, launch.seq.size
        positions, slots = token_places(
            launch.start, launch.length, launch.pages, self._page_tokens
        )
        ends = np.cumsum(launch.length, dtype=np.int32)
        offsets = self._offsets(tokens, rows)
        words = np.zeros(offsets[-1], np.int32)
        where, places = (words[o : o + 2 * tokens].view(np.int64) for o in offsets[:2])
        where[:n], where[n:] = slots, -1
        places[:n], places[n:] = slots, slots[-1]
        of_ids, of_positions, of_lens, of_ends, of_last = offsets[2:7]
        words[of_ids : of_ids + n] = launch.tokens
        words[of_positions : of_positions + n] = positions
        words[of_lens : of_lens + n_rows] = launch.start + launch.length
        words[of_ends + 1 : of_ends + 1 + n_rows] = ends
        words[of_ends + 1 + n_rows : of_ends + 1 + rows] = n
        words[of_last : of_last + n_rows] = ends - 1
        stream.upload(words, self._words[: words.size])
        return words.nbytes + self._table.send(launch.pages, stream)
