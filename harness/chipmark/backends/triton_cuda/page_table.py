"""The page table of a launch in device memory, kept up to date by what changed."""

from __future__ import annotations

import numpy as np
import torch

from chipmark.backends.triton_cuda.streams import LaunchStream
from chipmark.engine.contract import I32

_WORDS_A_CHANGE = 3
"""32-bit words of one changed entry: its place in the table, which has 64 bits, and its page."""


class PageTable:
    """(rows, width) int32 at one address, as a graph needs, with what the host has sent of it.

    A row of 32k tokens has 2,048 pages, and of 16 decode steps it begins a new one in one: entries
    that changed go to the device with their places and are scattered there. Entries behind a row's
    last page keep what they held: no launch reads them.
    """

    def __init__(self, rows: int, width: int, device: torch.device) -> None:
        self.on_device = torch.zeros((rows, width), dtype=torch.int32, device=device)
        self._sent = np.zeros((rows, width), np.int32)

    def send(self, pages: I32, stream: LaunchStream) -> int:
        """Queue what makes the first rows hold `pages` (n, at most width; -1 behind a row's end);
        bytes sent.

        The whole of these rows goes where that is less than the changes with their places.
        """
        n, used = pages.shape
        held = self._sent[:n, :used]
        changed = pages != held
        changed &= pages >= 0
        row, column = np.nonzero(changed)
        if not row.size:
            return 0
        new = pages[row, column]
        held[row, column] = new
        width = self._sent.shape[1]
        if _WORDS_A_CHANGE * row.size >= n * width:
            whole = self._sent[:n].reshape(-1)
            stream.upload(whole, self.on_device[:n].view(-1))
            return whole.nbytes
        words = np.empty(_WORDS_A_CHANGE * row.size, np.int32)
        words[: 2 * row.size].view(np.int64)[:] = row * width + column
        words[2 * row.size :] = new
        sent = torch.empty(words.size, dtype=torch.int32, device=self.on_device.device)
        stream.upload(words, sent)
        places = sent[: 2 * row.size].view(torch.int64)
        self.on_device.view(-1).index_copy_(0, places, sent[2 * row.size :])
        return words.nbytes
