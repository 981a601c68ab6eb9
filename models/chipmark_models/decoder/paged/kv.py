"""Keys and values of cached tokens in pages that sequences share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

I32 = npt.NDArray[np.int32]


class PagedKv:
    """`k[layer]`, `v[layer]`: (n_pages, page_tokens, n_kv_heads, head_dim), zeroed at start."""

    def __init__(
        self,
        n_layers: int,
        n_pages: int,
        page_tokens: int,
        n_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (n_pages, page_tokens, n_kv_heads, head_dim)
        self.page_tokens = page_tokens
        self.k = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(n_layers)]
        self.v = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(n_layers)]

    @property
    def n_bytes(self) -> int:
        """Bytes allocated."""
        return sum(t.numel() * t.element_size() for t in (*self.k, *self.v))


def token_places(
    start: I32, length: I32, pages: I32, page_tokens: int
) -> tuple[I32, npt.NDArray[np.int64]]:
    """Position (int32) and slot (int64: page * page_tokens + offset) of every new token of rows.

    start, length: (rows,). pages: (rows, width). Slots are 64-bit: large caches pass 2^31.
    """
    row = np.repeat(np.arange(length.size), length)
    first = np.cumsum(length) - length
    positions = (np.arange(row.size) - first[row] + start[row]).astype(np.int32)
    page = pages[row, positions // page_tokens].astype(np.int64)
    return positions, page * page_tokens + positions % page_tokens
