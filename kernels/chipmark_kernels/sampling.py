"""Greedy and Gumbel-max sampling in two stages, so that one row of 150,000 logits fills a device.

Ties go to the lowest token id. The noise comes from Philox-4x32-10 (Salmon et al. 2011), keyed by
the row's seed and counted by the token id, so a row's sample depends on nothing else.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from chipmark_kernels.dependent_launch import gdc_launch_dependents, gdc_wait
from chipmark_kernels.dtypes import (
    ceil_div,
    dtype_name,
    next_power_of_2,
    require_elements,
    require_unit_stride,
)
from chipmark_kernels.launch import device_facts, launch
from chipmark_kernels.tiles import Tile, choose


@triton.jit
def _philox_first_word(counter, key0, key1):
    """First 32-bit word of Philox-4x32-10 for counter (counter, 0, 0, 0); all uint32."""
    c0 = counter
    c1 = counter ^ counter
    c2 = c1
    c3 = c1
    k0 = key0 + c1
    k1 = key1 + c1
    for _ in tl.static_range(10):
        product0 = c0.to(tl.uint64) * 0xD2511F53
        product1 = c2.to(tl.uint64) * 0xCD9E8D57
        high0 = (product0 >> 32).to(tl.uint32)
        high1 = (product1 >> 32).to(tl.uint32)
        c0 = high1 ^ c1 ^ k0
        c2 = high0 ^ c3 ^ k1
        c1 = (product1 & 0xFFFFFFFF).to(tl.uint32)
        c3 = (product0 & 0xFFFFFFFF).to(tl.uint32)
        k0 = k0 + 0x9E3779B9
        k1 = k1 + 0xBB67AE85
    return c0


@triton.jit
def _log_exponential(word):
    """log of an exponential variate from 32 random bits, fp32; a Gumbel variate is its negative.

    The smallest variates decide a maximum over a vocabulary, so they keep full relative precision:
    -log(1 - v) by its series where v is small.
    """
    # Ascend's compiler converts no uint32 to fp32. The halves are exact, so only their sum is
    # rounded: the same bits as the conversion.
    high = (word >> 16).to(tl.int32).to(tl.float32)
    low = (word & 0xFFFF).to(tl.int32).to(tl.float32)
    v = (high * 65536.0 + low + 0.5) * 2.3283064365386963e-10
    v = tl.minimum(v, 0.99999994)
    exponential = tl.where(v < 0.001, v * (1.0 + v * (0.5 + v / 3.0)), -tl.log(1.0 - v))
    return tl.log(exponential)


@triton.jit
def _best_of_blocks_kernel(
    logits_ptr,
    temperatures_ptr,
    seeds_ptr,
    cutoffs_ptr,
    best_ptr,
    index_ptr,
    n_vocab,
    logits_stride,
    BLOCK: tl.constexpr,
    GUMBEL: tl.constexpr,
    HAS_CUTOFF: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    row = tl.program_id(0)
    block = tl.program_id(1)
    token = block * BLOCK + tl.arange(0, BLOCK)
    inside = token < n_vocab
    at = logits_ptr + row.to(tl.int64) * logits_stride + token
    x = tl.load(at, mask=inside, other=float("-inf")).to(tl.float32)
    if HAS_CUTOFF:
        x = tl.where(x >= tl.load(cutoffs_ptr + row), x, float("-inf"))
    if GUMBEL:
        temperature = tl.load(temperatures_ptr + row)
        seed = tl.load(seeds_ptr + row).to(tl.uint64)
        key0 = (seed & 0xFFFFFFFF).to(tl.uint32)
        key1 = (seed >> 32).to(tl.uint32)
        noise = _log_exponential(_philox_first_word(token.to(tl.uint32), key0, key1))
        warm = temperature > 0.0
        noisy = x / tl.where(warm, temperature, 1.0) - noise
        x = tl.where(warm, noisy, x)
    best = tl.max(x, axis=0)
    # The lowest id among the equals, and an id inside the vocabulary if every logit is -inf.
    index = tl.min(tl.where((x == best) & inside, token, n_vocab), axis=0)
    at_out = row * tl.num_programs(1) + block
    tl.store(best_ptr + at_out, best)
    tl.store(index_ptr + at_out, tl.minimum(index, n_vocab - 1))


@triton.jit
def _best_of_row_kernel(
    best_ptr, index_ptr, out_ptr, n_blocks, BLOCK_BLOCKS: tl.constexpr, PDL: tl.constexpr
):
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    row = tl.program_id(0)
    block = tl.arange(0, BLOCK_BLOCKS)
    inside = block < n_blocks
    best = tl.load(best_ptr + row * n_blocks + block, mask=inside, other=float("-inf"))
    first = tl.where((best == tl.max(best, axis=0)) & inside, block, BLOCK_BLOCKS)
    first = tl.minimum(tl.min(first, axis=0), n_blocks - 1)
    index = tl.load(index_ptr + row * n_blocks + first)
    tl.store(out_ptr + row, index.to(out_ptr.dtype.element_ty))


def sample(
    logits: torch.Tensor,
    *,
    temperatures: torch.Tensor | None = None,
    seeds: torch.Tensor | None = None,
    cutoffs: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    workspace: tuple[torch.Tensor, torch.Tensor] | None = None,
    tile: Tile | None = None,
    pdl: bool = False,
) -> torch.Tensor:
    """One token id a row, (rows,) int32: the greatest logit, or a draw from softmax(logits / T).

    logits: (rows, vocabulary), never NaN. temperatures: (rows,) fp32, 0 for greedy; seeds: (rows,)
    int64, a new one for every draw; both or none, read on the device. cutoffs: (rows,) fp32, logits
    below which nothing is drawn (`top_p.nucleus_cutoff`). workspace: fp32 and int32, contiguous,
    rows * blocks elements or more. pdl: both launches as `dependent_launch` says.
    """
    require_unit_stride(logits=logits, out=out)
    require_unit_stride(temperatures=temperatures, seeds=seeds, cutoffs=cutoffs)
    if (temperatures is None) != (seeds is None):
        raise ValueError("temperatures and seeds go together: give both or none")
    n_rows, n_vocab = logits.shape
    tile = tile or choose(
        "sample", dtype_name(logits.dtype), device_facts(logits), rows=n_rows, vocab=n_vocab
    )
    n_blocks = ceil_div(n_vocab, tile.n)
    if workspace is None:
        workspace = (
            logits.new_empty((n_rows, n_blocks), dtype=torch.float32),
            logits.new_empty((n_rows, n_blocks), dtype=torch.int32),
        )
    best, index = workspace
    for tensor in workspace:
        require_elements("workspace", tensor, n_rows * n_blocks)
    out = logits.new_empty((n_rows,), dtype=torch.int32) if out is None else out
    launch(
        _best_of_blocks_kernel,
        (n_rows, n_blocks),
        tile,
        logits,
        temperatures,
        seeds,
        cutoffs,
        best,
        index,
        n_vocab,
        logits.stride(0),
        BLOCK=tile.n,
        GUMBEL=temperatures is not None,
        HAS_CUTOFF=cutoffs is not None,
        PDL=pdl,
    )
    block_blocks = next_power_of_2(n_blocks)
    second = choose("best_of_row", "fp32", device_facts(logits), cols=block_blocks)
    launch(
        _best_of_row_kernel,
        (n_rows,),
        second,
        best,
        index,
        out,
        n_blocks,
        BLOCK_BLOCKS=block_blocks,
        PDL=pdl,
    )
    return out
