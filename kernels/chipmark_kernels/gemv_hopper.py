"""weight @ x for one row, in a chain of dependent launches: NVIDIA's from compute capability 9.0.

The first tile of the weights is on its way before the launch before has ended, for weights depend
on nothing; and the next tile is loaded before the present one is multiplied. Each lane holds 16
bytes along k of every row of the tile, so that x needs no other layout. Weights are read once, and
are the first to leave the cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from chipmark_kernels.dependent_launch import (
    gdc_launch_dependents,
    gdc_wait,
    launches_early,
)
from chipmark_kernels.dtypes import require_unit_stride
from chipmark_kernels.gemm import plan_gemm, store_tile
from chipmark_kernels.launch import device_facts
from chipmark_kernels.tiles import Tile


@triton.jit
def _once(at, k, k_size, EVEN_K: tl.constexpr):
    """Weights (N, K) at pointers, zero from k_size on; what reads them does so once."""
    if EVEN_K:
        w = tl.load(at, eviction_policy="evict_first")
    else:
        w = tl.load(at, mask=(k < k_size)[None, :], other=0.0, eviction_policy="evict_first")
    return w


@triton.jit
def _row_of(x_ptr, norm_ptr, k, k_size, EVEN_K: tl.constexpr, HAS_NORM: tl.constexpr):
    """fp32 (x, x with the norm's gain) at k, zero from k_size on."""
    if EVEN_K:
        x = tl.load(x_ptr + k).to(tl.float32)
    else:
        x = tl.load(x_ptr + k, mask=k < k_size, other=0.0).to(tl.float32)
    scaled = x
    if HAS_NORM:
        if EVEN_K:
            gain = tl.load(norm_ptr + k)
        else:
            gain = tl.load(norm_ptr + k, mask=k < k_size, other=0.0)
        scaled = x * gain.to(tl.float32)
    return x, scaled


@triton.jit
def _dot_runs(w, scaled, RUN: tl.constexpr):
    """w (N, K) times scaled (K,) in fp32, summed over runs of RUN along k: (N, K / RUN).

    A run is what one lane loads at once, so its sum stays in that lane, in one register and not
    in RUN of them.
    """
    p = w.to(tl.float32) * scaled[None, :]
    return tl.sum(tl.reshape(p, [w.shape[0], w.shape[1] // RUN, RUN]), axis=2)


@triton.jit(do_not_specialize=["n_rows"])
def _gemv_kernel(
    x_ptr,
    out_ptr,
    bias_ptr,
    residual_ptr,
    norm_ptr,
    partial_ptr,
    n_rows,
    n_cols,
    k_size,
    x_stride,
    out_stride,
    residual_stride,
    eps,
    w_ptr,
    w_scales_ptr,
    W_STRIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_N: tl.constexpr,
    EVEN_K: tl.constexpr,
    HAS_SCALES: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    GLU: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_NORM: tl.constexpr,
    PDL: tl.constexpr,
):
    n0 = tl.program_id(0) * BLOCK_N
    n_in = tl.arange(0, BLOCK_N)
    n = n0 + n_in
    k_in = tl.arange(0, BLOCK_K)
    if EVEN_N:
        column = n
    else:
        column = tl.minimum(n, n_cols - 1)
        n_in = column - n0
    # The rows of a block at constant distances from one pointer, which takes two registers.
    block = w_ptr + n0.to(tl.int64) * W_STRIDE
    within = n_in[:, None] * W_STRIDE + k_in[None, :]
    w_at = block + within
    up_at = block + tl.cast(n_cols, tl.int64) * W_STRIDE + within
    w = _once(w_at, k_in, k_size, EVEN_K)
    w_up = w
    if GLU:
        w_up = _once(up_at, k_in, k_size, EVEN_K)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    # Values in the 16 bytes that a lane loads of x at once.
    RUN: tl.constexpr = 128 // x_ptr.dtype.element_ty.primitive_bitwidth
    first = tl.full([BLOCK_N, BLOCK_K // RUN], 0.0, tl.float32)
    up = first
    squares = tl.full([BLOCK_K], 0.0, tl.float32)
    for k0 in range(0, k_size - BLOCK_K, BLOCK_K):
        k = k0 + k_in
        ahead = k + BLOCK_K
        w_next = _once(w_at + (k0 + BLOCK_K), ahead, k_size, EVEN_K)
        up_next = w_next
        if GLU:
            up_next = _once(up_at + (k0 + BLOCK_K), ahead, k_size, EVEN_K)
        x, scaled = _row_of(x_ptr, norm_ptr, k, k_size, True, HAS_NORM)
        if HAS_NORM:
            squares += x * x
        first += _dot_runs(w, scaled, RUN)
        if GLU:
            up += _dot_runs(w_up, scaled, RUN)
        w = w_next
        w_up = up_next
    # The last tile, of which alone a part may lie beyond the end.
    k = (tl.maximum(k_size - 1, 0) // BLOCK_K) * BLOCK_K + k_in
    x, scaled = _row_of(x_ptr, norm_ptr, k, k_size, EVEN_K, HAS_NORM)
    if HAS_NORM:
        squares += x * x
    first += _dot_runs(w, scaled, RUN)
    if GLU:
        up += _dot_runs(w_up, scaled, RUN)
    y = tl.sum(first, axis=1)[None, :]
    y_up = tl.sum(up, axis=1)[None, :] if GLU else y
    if HAS_SCALES:
        y *= tl.load(w_scales_ptr + column)[None, :]
        if GLU:
            y_up *= tl.load(w_scales_ptr + n_cols + column)[None, :]
    m = tl.arange(0, BLOCK_M)
    store_tile(
        y, y_up, tl.sum(squares, axis=0), out_ptr, bias_ptr, residual_ptr, partial_ptr, m, n,
        n_rows, n_cols, k_size, out_stride, residual_stride, eps, 0,
        IS_SPLIT, GLU, HAS_BIAS, HAS_RESIDUAL, HAS_NORM,
    )  # fmt: skip


def gemv_hopper(
    x: torch.Tensor,
    weight: torch.Tensor,
    w_scales: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    norm_weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    swiglu: bool = False,
    residual: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    tile: Tile | None = None,
    pdl: bool = True,
) -> torch.Tensor:
    """As `skinny_gemm` (with w_scales (n,) fp32 as `fp8a16_gemm`) for one row of x, (1, k).

    pdl: launched as `dependent_launch` says. Raises ValueError for more rows, for a tile that
    splits k, and with `pdl` for a device that knows no such launches.
    """
    require_unit_stride(weight=weight, w_scales=w_scales)
    facts = device_facts(x)
    if pdl and not launches_early(facts):
        raise ValueError(f"gemv_hopper: {facts.name} launches no kernel early; take skinny_gemm")
    if x.shape[0] != 1:
        raise ValueError(f"x: must be one row, not {x.shape[0]}; take skinny_gemm")
    gemm = plan_gemm(
        "gemv_hopper",
        x,
        weight.shape[0],
        bias=bias,
        norm_weight=norm_weight,
        eps=eps,
        swiglu=swiglu,
        residual=residual,
        out=out,
        tile=tile,
    )
    if gemm.partial is not None:
        raise ValueError(f"tile: k cannot be split, not into {gemm.tile.split}")
    return gemm.run(
        _gemv_kernel,
        weight,
        w_scales,
        W_STRIDE=weight.stride(0),
        BLOCK_K=gemm.tile.k,
        EVEN_N=gemm.n_cols % gemm.tile.n == 0,
        EVEN_K=x.shape[1] % gemm.tile.k == 0,
        HAS_SCALES=w_scales is not None,
        PDL=pdl,
    )
