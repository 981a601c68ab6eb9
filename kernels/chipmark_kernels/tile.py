"""The tile of a launch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tile:
    """m, n, k: block sizes in the kernel's own rows, columns and depth; 0 where it has none.

    split: parts that one reduction is cut into. num_warps, num_stages: as Triton takes them.
    """

    m: int = 0
    n: int = 0
    k: int = 0
    split: int = 1
    num_warps: int = 4
    num_stages: int = 2
