"""How weights and KV are stored, as kernels, models and backends all take them. Imports nothing."""

from __future__ import annotations

PAGE_TOKENS = 16
"""Tokens of a page of keys and values."""

E4M3_MAX = 448.0
"""Largest value of float8 e4m3, the finite kind."""

SCALE_GROUPS = (128, 64, 32)
"""Weights along k that may share a scale in w8 and w4, preferred first. The last divides all."""


def scale_group(k: int) -> int:
    """The group of a matrix of `k` columns; ValueError where none of SCALE_GROUPS divides it."""
    for size in SCALE_GROUPS:
        if k % size == 0:
            return size
    raise ValueError(f"no group of {', '.join(map(str, SCALE_GROUPS))} divides {k}")
