"""x @ weight.T for few rows: bound by reading the weights once, with SwiGLU as an epilogue."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from chipmark_kernels.dtypes import ceil_div, dtype_name, require_unit_stride
from chipmark_kernels.launch import device_facts, launch
from chipmark_kernels.split_k import store_tile, sum_splits
from chipmark_kernels.tiles import Tile, choose


@triton.jit
def _dot_rows(
    x_ptr,
    w_ptr,
    m,
    n,
    n_rows,
    n_cols,
    k_start,
    k_end,
    x_stride,
    w_stride,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
):
    """sum over k of x[m, k] * w[n, k], fp32 (BLOCK_M, BLOCK_N); BLOCK_M 1 uses no matrix unit."""
    k_in = tl.arange(0, BLOCK_K)
    # Rows beyond the weight read its last row: a mask along n would split the vector loads.
    w_rows = tl.minimum(n, n_cols - 1).to(tl.int64) * w_stride
    if BLOCK_M == 1:
        lanes = tl.full([BLOCK_N, BLOCK_K], 0.0, tl.float32)
        for k0 in range(k_start, k_end, BLOCK_K):
            k = k0 + k_in
            x_at = x_ptr + m.to(tl.int64)[:, None] * x_stride + k[None, :]
            w_at = w_ptr + w_rows[:, None] + k[None, :]
            if EVEN_K:
                x = tl.load(x_at)
                w = tl.load(w_at)
            else:
                x = tl.load(x_at, mask=(k < k_end)[None, :], other=0.0)
                w = tl.load(w_at, mask=(k < k_end)[None, :], other=0.0)
            lanes += w.to(tl.float32) * x.to(tl.float32)
        acc = tl.sum(lanes, axis=1)[None, :]
    else:
        acc = tl.full([BLOCK_M, BLOCK_N], 0.0, tl.float32)
        x_rows = tl.minimum(m, n_rows - 1).to(tl.int64) * x_stride
        for k0 in range(k_start, k_end, BLOCK_K):
            k = k0 + k_in
            x_at = x_ptr + x_rows[:, None] + k[None, :]
            w_at = w_ptr + w_rows[None, :] + k[:, None]
            if EVEN_K:
                x = tl.load(x_at)
                w = tl.load(w_at)
            else:
                x = tl.load(x_at, mask=(k < k_end)[None, :], other=0.0)
                w = tl.load(w_at, mask=(k < k_end)[:, None], other=0.0)
            acc += tl.dot(x, w, input_precision=INPUT_PRECISION)
    return acc


@triton.jit(do_not_specialize=["n_rows"])
def _skinny_gemm_kernel(
    x_ptr,
    w_ptr,
    bias_ptr,
    out_ptr,
    partial_ptr,
    n_rows,
    n_cols,
    k_size,
    x_stride,
    w_stride,
    out_stride,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    EVEN_K: tl.constexpr,
    GLU: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
):
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1)
    m = tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)
    depth = tl.num_programs(1) * BLOCK_K
    per_split = (k_size + depth - 1) // depth * BLOCK_K
    k_start = split * per_split
    k_end = tl.minimum(k_start + per_split, k_size)
    first = _dot_rows(
        x_ptr, w_ptr, m, n, n_rows, n_cols, k_start, k_end, x_stride, w_stride,
        BLOCK_M, BLOCK_N, BLOCK_K, EVEN_K, INPUT_PRECISION,
    )  # fmt: skip
    up = first
    if GLU:
        up_ptr = w_ptr + tl.cast(n_cols, tl.int64) * w_stride
        up = _dot_rows(
            x_ptr, up_ptr, m, n, n_rows, n_cols, k_start, k_end, x_stride, w_stride,
            BLOCK_M, BLOCK_N, BLOCK_K, EVEN_K, INPUT_PRECISION,
        )  # fmt: skip
    store_tile(
        first, up, bias_ptr, out_ptr, partial_ptr, m, n, n_rows, n_cols, out_stride, split,
        GLU, HAS_BIAS, IS_SPLIT,
    )  # fmt: skip


def skinny_gemm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    swiglu: bool = False,
    input_precision: str = "ieee",
    out: torch.Tensor | None = None,
    workspace: torch.Tensor | None = None,
    tile: Tile | None = None,
) -> torch.Tensor:
    """x @ weight.T + bias in x's dtype, accumulated in fp32; made for 1 to 64 rows.

    x: (rows, k). weight: (n, k), both contiguous along k. With `swiglu` the weight holds the gate's
    rows and then the up projection's, and the result is silu(gate) * up, (rows, n / 2).
    workspace: fp32, at least tile.split * rows * n elements, used where tile.split > 1.
    """
    require_unit_stride(x=x, weight=weight, out=out)
    n_rows, k_size = x.shape
    n_cols = weight.shape[0] // 2 if swiglu else weight.shape[0]
    out = x.new_empty((n_rows, n_cols)) if out is None else out
    tile = tile or choose(
        "skinny_gemm", dtype_name(x.dtype), device_facts(x), rows=n_rows, n=n_cols, k=k_size
    )
    partial = split_partial(x, weight.shape[0], tile.split, workspace)
    launch(
        _skinny_gemm_kernel,
        (ceil_div(n_cols, tile.n), tile.split, ceil_div(n_rows, tile.m)),
        tile,
        x,
        weight,
        bias,
        out,
        partial,
        n_rows,
        n_cols,
        k_size,
        x.stride(0),
        weight.stride(0),
        out.stride(0),
        BLOCK_M=tile.m,
        BLOCK_N=tile.n,
        BLOCK_K=tile.k,
        IS_SPLIT=tile.split > 1,
        EVEN_K=k_size % tile.k == 0,
        GLU=swiglu,
        HAS_BIAS=bias is not None,
        INPUT_PRECISION=input_precision,
    )
    if partial is not None:
        sum_splits(partial, out, bias, swiglu=swiglu)
    return out


def split_partial(
    x: torch.Tensor, width: int, splits: int, workspace: torch.Tensor | None
) -> torch.Tensor | None:
    """The fp32 partials (splits, rows, width), inside `workspace` where given; None for one split.

    Raises ValueError where the workspace is too small.
    """
    if splits == 1:
        return None
    shape = (splits, x.shape[0], width)
    if workspace is None:
        return x.new_empty(shape, dtype=torch.float32)
    needed = splits * x.shape[0] * width
    if workspace.numel() < needed:
        raise ValueError(f"workspace has {workspace.numel()} elements, {needed} are needed")
    return workspace.view(-1)[:needed].view(shape)
