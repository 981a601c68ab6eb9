"""The logit below which a row's nucleus (top-p) ends, by pivot search instead of a sort.

The pivots are keys: fp32 bits in an order where integers compare as the floats do. Each pass over
the row tries three of them, so the search ends after at most 17 passes, with an exact answer.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from chipmark_kernels.dtypes import dtype_name, require_unit_stride
from chipmark_kernels.launch import device_facts, launch
from chipmark_kernels.tiles import Tile, choose


@triton.jit
def _key(x):
    """Order-preserving int32 of fp32 x; its own inverse on the bits."""
    # Adding zero makes -0.0 and 0.0 one value.
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _nucleus_cutoff_kernel(
    logits_ptr,
    temperatures_ptr,
    top_ps_ptr,
    out_ptr,
    n_vocab,
    logits_stride,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0)
    x_ptr = logits_ptr + row.to(tl.int64) * logits_stride
    in_block = tl.arange(0, BLOCK)
    temperature = tl.load(temperatures_ptr + row)
    inverse = 1.0 / tl.where(temperature > 0.0, temperature, 1.0)
    highest = tl.full([BLOCK], float("-inf"), tl.float32)
    lowest = tl.full([BLOCK], float("inf"), tl.float32)
    for start in range(0, n_vocab, BLOCK):
        inside = start + in_block < n_vocab
        x = tl.load(x_ptr + start + in_block, mask=inside, other=float("-inf")).to(tl.float32)
        highest = tl.maximum(highest, x)
        lowest = tl.minimum(lowest, tl.where(inside, x, float("inf")))
    top = tl.max(highest, axis=0)
    # Invariant: the mass of keys >= low reaches the target, that of keys >= high does not.
    low = _key(tl.min(lowest, axis=0)).to(tl.int64)
    high = _key(top).to(tl.int64) + 1
    total = tl.full([BLOCK], 0.0, tl.float32)
    for start in range(0, n_vocab, BLOCK):
        inside = start + in_block < n_vocab
        x = tl.load(x_ptr + start + in_block, mask=inside, other=float("-inf")).to(tl.float32)
        total += tl.exp((x - top) * inverse)
    target = tl.load(top_ps_ptr + row) * tl.sum(total, axis=0)
    while high - low > 1:
        step = tl.maximum((high - low) // 4, 1)
        pivot1 = low + step
        pivot2 = tl.minimum(low + 2 * step, high)
        pivot3 = tl.minimum(low + 3 * step, high)
        mass1 = tl.full([BLOCK], 0.0, tl.float32)
        mass2 = tl.full([BLOCK], 0.0, tl.float32)
        mass3 = tl.full([BLOCK], 0.0, tl.float32)
        for start in range(0, n_vocab, BLOCK):
            inside = start + in_block < n_vocab
            x = tl.load(x_ptr + start + in_block, mask=inside, other=float("-inf")).to(tl.float32)
            mass = tl.exp((x - top) * inverse)
            key = _key(x).to(tl.int64)
            mass1 += tl.where(key >= pivot1, mass, 0.0)
            mass2 += tl.where(key >= pivot2, mass, 0.0)
            mass3 += tl.where(key >= pivot3, mass, 0.0)
        reached1 = tl.sum(mass1, axis=0) >= target
        reached2 = tl.sum(mass2, axis=0) >= target
        reached3 = tl.sum(mass3, axis=0) >= target
        base = low
        low = tl.where(reached1, pivot1, base)
        low = tl.where(reached2 & (pivot2 < high), pivot2, low)
        low = tl.where(reached3 & (pivot3 < high), pivot3, low)
        high = tl.where(reached3, high, pivot3)
        high = tl.where(reached2, high, tl.minimum(high, pivot2))
        high = tl.where(reached1, high, tl.minimum(high, pivot1))
    found = low.to(tl.int32)
    cutoff = (found ^ ((found >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    tl.store(out_ptr + row, cutoff)


def nucleus_cutoff(
    logits: torch.Tensor,
    temperatures: torch.Tensor,
    top_ps: torch.Tensor,
    *,
    out: torch.Tensor | None = None,
    tile: Tile | None = None,
) -> torch.Tensor:
    """(rows,) fp32: the greatest logit whose set {logit >= cutoff} holds top_p of the mass.

    logits: (rows, vocabulary), finite or -inf. temperatures, top_ps: (rows,) fp32 on the device.
    Tokens whose logits equal the cutoff are all kept. Masses are summed in fp32.
    """
    require_unit_stride(logits=logits, temperatures=temperatures, top_ps=top_ps, out=out)
    n_rows, n_vocab = logits.shape
    out = logits.new_empty((n_rows,), dtype=torch.float32) if out is None else out
    tile = tile or choose(
        "nucleus_cutoff", dtype_name(logits.dtype), device_facts(logits), vocab=n_vocab
    )
    launch(
        _nucleus_cutoff_kernel,
        (n_rows,),
        tile,
        logits,
        temperatures,
        top_ps,
        out,
        n_vocab,
        logits.stride(0),
        BLOCK=tile.n,
    )
    return out
