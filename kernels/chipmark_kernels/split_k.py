"""How a GEMM tile ends: bias, SwiGLU and cast at once, or fp32 partials that a second pass sums.

Partials and a second pass instead of atomics: the same bits on every run.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from chipmark_kernels.dtypes import ceil_div
from chipmark_kernels.launch import device_facts, launch
from chipmark_kernels.swiglu import silu_times
from chipmark_kernels.tiles import choose


@triton.jit
def store_tile(
    first,
    up,
    bias_ptr,
    out_ptr,
    partial_ptr,
    m,
    n,
    n_rows,
    n_cols,
    out_stride,
    split,
    GLU: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    IS_SPLIT: tl.constexpr,
):
    """Store accumulators `first` (and `up` for GLU), fp32 (len(m), len(n)).

    With IS_SPLIT they go to partial (splits, rows, cols or 2 * cols) as they are.
    """
    mask = (m < n_rows)[:, None] & (n < n_cols)[None, :]
    if IS_SPLIT:
        width = 2 * n_cols if GLU else n_cols
        at = (split * n_rows + m).to(tl.int64) * width
        tl.store(partial_ptr + at[:, None] + n[None, :], first, mask=mask)
        if GLU:
            tl.store(partial_ptr + at[:, None] + (n_cols + n)[None, :], up, mask=mask)
    else:
        y = first
        if HAS_BIAS:
            y += tl.load(bias_ptr + n, mask=n < n_cols, other=0.0).to(tl.float32)[None, :]
        if GLU:
            if HAS_BIAS:
                bias_up = tl.load(bias_ptr + n_cols + n, mask=n < n_cols, other=0.0)
                up += bias_up.to(tl.float32)[None, :]
            y = silu_times(y, up)
        at = m.to(tl.int64) * out_stride
        tl.store(out_ptr + at[:, None] + n[None, :], y.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n_rows"])
def _sum_splits_kernel(
    partial_ptr,
    bias_ptr,
    out_ptr,
    n_rows,
    n_cols,
    out_stride,
    BLOCK: tl.constexpr,
    GLU: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SPLIT_K: tl.constexpr,
):
    row = tl.program_id(1)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = n < n_cols
    width = 2 * n_cols if GLU else n_cols
    first = tl.full([BLOCK], 0.0, tl.float32)
    up = tl.full([BLOCK], 0.0, tl.float32)
    for split in tl.static_range(SPLIT_K):
        at = partial_ptr + (split * n_rows + row).to(tl.int64) * width + n
        first += tl.load(at, mask=inside, other=0.0)
        if GLU:
            up += tl.load(at + n_cols, mask=inside, other=0.0)
    if HAS_BIAS:
        first += tl.load(bias_ptr + n, mask=inside, other=0.0).to(tl.float32)
    if GLU:
        if HAS_BIAS:
            up += tl.load(bias_ptr + n_cols + n, mask=inside, other=0.0).to(tl.float32)
        first = silu_times(first, up)
    at_out = out_ptr + row.to(tl.int64) * out_stride + n
    tl.store(at_out, first.to(out_ptr.dtype.element_ty), mask=inside)


def sum_splits(
    partial: torch.Tensor, out: torch.Tensor, bias: torch.Tensor | None, *, swiglu: bool
) -> None:
    """Sum partial (splits, rows, width) fp32 into out (rows, cols) with bias and SwiGLU after.

    width is cols, or 2 * cols for swiglu.
    """
    tile = choose("sum_splits", "fp32", device_facts(out), cols=out.shape[1])
    launch(
        _sum_splits_kernel,
        (ceil_div(out.shape[1], tile.n), out.shape[0]),
        tile,
        partial,
        bias,
        out,
        out.shape[0],
        out.shape[1],
        out.stride(0),
        BLOCK=tile.n,
        GLU=swiglu,
        HAS_BIAS=bias is not None,
        SPLIT_K=partial.shape[0],
    )
