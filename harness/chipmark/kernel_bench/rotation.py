"""How many copies of its inputs a timed call goes round in, so that it finds none in a cache."""

from __future__ import annotations

import math

COLD_FACTOR = 5
"""Inputs rotate over copies that total this many times the cache (FlashInfer's rule)."""

MOST_COPIES = 1024
MOST_COPIES_BYTES = 8 * 2**30


def n_copies(
    touched_bytes: int,
    input_bytes: int,
    cache_bytes: int,
    *,
    most: int = MOST_COPIES,
    most_bytes: int = MOST_COPIES_BYTES,
) -> int:
    """Copies whose touched bytes total COLD_FACTOR times the cache; at least 2.

    input_bytes: memory of one copy; `most_bytes` and `most` bound what is made.
    """
    wanted = max(math.ceil(COLD_FACTOR * cache_bytes / max(touched_bytes, 1)), 2)
    return min(wanted, most, max(most_bytes // max(input_bytes, 1), 2))
