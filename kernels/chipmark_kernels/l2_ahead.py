"""Memory that is asked into the L2 cache before it is read: NVIDIA's, by an instruction of PTX."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

LINE_BYTES = 128
MOST_AHEAD_BYTES = 16 * 2**20
"""Of the weights of later launches; an H100's L2 has 50 MB in two halves."""


@triton.jit
def l2_prefetch(at):
    """Ask for the 128-byte line of each pointer."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;",
        "=r,l",
        [at],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def l2_prefetch_share(base, LINES: tl.constexpr, WIDE: tl.constexpr):
    """This program's share of the first LINES lines behind `base`, a pointer to bytes."""
    place = (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(2)
    place += tl.program_id(2)
    programs = tl.num_programs(0) * tl.num_programs(1) * tl.num_programs(2)
    for first in range(place * WIDE, LINES, programs * WIDE):
        line = tl.minimum(first + tl.arange(0, WIDE), LINES - 1)
        l2_prefetch(base + line * 128)


def lines_of(weight: torch.Tensor | None, room_bytes: int) -> int:
    """Whole lines of a weight, or of its first `room_bytes`; 0 where there is no weight."""
    if weight is None:
        return 0
    return min(weight.numel() * weight.element_size(), room_bytes) // LINE_BYTES
