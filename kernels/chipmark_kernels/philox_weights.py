"""Seeded weights on the device: sums of four bytes of a Philox stream, looked up in a table.

The stream is Philox 4x64-10 (J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
2011) as numpy has it: the counter goes up before each block, and a block of four 64-bit words,
lowest byte first, makes eight weights. All is integer arithmetic, so the bits are the host's.

By the machine code for sm_90 a weight takes 33 instructions, of which 15 are wide products at half
rate: 8.2e9 weights fill 132 multiprocessors of 128 lanes at 1.7 GHz for 0.02 s, and the memory with
16 GB for 0.004 s (arithmetic; unverified on hardware).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from chipmark_kernels.dtypes import ceil_div
from chipmark_kernels.launch import MAX_GRID, launch
from chipmark_kernels.reference.philox_weights import BLOCK_WEIGHTS, check_table, key_words
from chipmark_kernels.tile import Tile

TILE = Tile(n=256, num_warps=4, num_stages=1)
"""n: counts a block of threads takes at once; two a thread."""

_M0, _M1 = tl.constexpr(0xD2E7470EE14C6C93), tl.constexpr(0xCA5A826395121157)
_W0, _W1 = tl.constexpr(0x9E3779B97F4A7C15), tl.constexpr(0xBB67AE8584CAA73B)


@triton.jit
def _byte_sum(words):
    """Sum of the four bytes of each 32-bit word."""
    pairs = (words & 0x00FF00FF) + ((words >> 8) & 0x00FF00FF)
    return ((pairs & 0xFFFF) + (pairs >> 16)).to(tl.int32)


@triton.jit
def _two_sums(words):
    """Byte sums of the low and of the high half of 64-bit words."""
    low = (words & 0xFFFFFFFF).to(tl.uint32)
    high = (words >> 32).to(tl.uint32)
    return _byte_sum(low), _byte_sum(high)


@triton.jit(do_not_specialize=["n_blocks"])
def _philox_weights_kernel(key_ptr, table_ptr, out_ptr, n_blocks, BLOCK: tl.constexpr):
    first_key = tl.load(key_ptr).to(tl.uint64)
    second_key = tl.load(key_ptr + 1).to(tl.uint64)
    m0 = tl.full([BLOCK], _M0, tl.uint64)
    m1 = tl.full([BLOCK], _M1, tl.uint64)
    step0 = tl.full([], _W0, tl.uint64)
    step1 = tl.full([], _W1, tl.uint64)
    for block in range(tl.program_id(0), n_blocks, tl.num_programs(0)):
        count = tl.cast(block, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        a = (count + 1).to(tl.uint64)
        b = tl.zeros([BLOCK], tl.uint64)
        c = tl.zeros([BLOCK], tl.uint64)
        d = tl.zeros([BLOCK], tl.uint64)
        k0 = first_key
        k1 = second_key
        for _ in tl.static_range(10):
            high0 = tl.umulhi(m0, a)
            low0 = m0 * a
            high1 = tl.umulhi(m1, c)
            low1 = m1 * c
            a = high1 ^ b ^ k0
            b = low1
            c = high0 ^ d ^ k1
            d = low0
            k0 = k0 + step0
            k1 = k1 + step1
        s0, s1 = _two_sums(a)
        s2, s3 = _two_sums(b)
        s4, s5 = _two_sums(c)
        s6, s7 = _two_sums(d)
        even = tl.interleave(tl.interleave(s0, s4), tl.interleave(s2, s6))
        odd = tl.interleave(tl.interleave(s1, s5), tl.interleave(s3, s7))
        sums = tl.interleave(even, odd)
        at = tl.cast(block, tl.int64) * (8 * BLOCK) + tl.arange(0, 8 * BLOCK)
        tl.store(out_ptr + at, tl.load(table_ptr + sums))


def philox_weights(table: torch.Tensor, key: int, n_weights: int) -> torch.Tensor:
    """`table[s]` (n_weights,) on the table's device and in its dtype; s: sums of four bytes, in
    order, of the stream with the 128-bit `key`.

    table: (1021,), contiguous. Raises ValueError for another.
    """
    check_table(table)
    width = BLOCK_WEIGHTS * TILE.n
    n_blocks = ceil_div(n_weights, width)
    # Whole blocks, for a mask would keep the compiler from storing 16 bytes at once.
    out = table.new_empty(n_blocks * width)
    words = torch.tensor(key_words(key), dtype=torch.int64, device=table.device)
    launch(
        _philox_weights_kernel,
        (min(n_blocks, MAX_GRID),),
        TILE,
        words,
        table,
        out,
        n_blocks,
        BLOCK=TILE.n,
    )
    return out[:n_weights]
