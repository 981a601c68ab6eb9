"""From the rows of a launch plan to what the decoder reads on the device.

Everything of a launch goes there in one copy of 32-bit words; 64-bit slots are pairs of them.
"""

from __future__ import annotations

import numpy as np
import torch

from chipmark.backends.triton_cuda.page_table import PageTable
from chipmark.backends.triton_cuda.streams import LaunchStream
from chipmark.engine.contract import I32, LaunchPlan, Rows
from chipmark_models.decoder.paged.decoder import PagedBatch
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
    plan: LaunchPlan, page_tokens: int, device: torch.device, stream: LaunchStream
) -> tuple[PagedBatch, int]:
    """A prefill launch, its rows one behind another, and bytes sent."""
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
    batch = PagedBatch(ids, at, where.view(torch.int64), pages.view(table.shape), lens, cu_q, last)
    return batch, words.nbytes
