"""FP8 (e4m3) GEMM with a scale a row of x and a scale a row of the weight, and the quantiser.

Hopper's fp8 matrix units accumulate with about 14 bits, so the running sum is promoted to fp32
every `exact_every` products (the rule that DeepGEMM published).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from chipmark_kernels.dtypes import (
    dtype_name,
    next_power_of_2,
    require_unit_stride,
)
from chipmark_kernels.formats import E4M3_MAX
from chipmark_kernels.gemm import plan_gemm, store_tile
from chipmark_kernels.launch import MAX_GRID, device_facts, launch
from chipmark_kernels.skinny_gemm import load_weight
from chipmark_kernels.tiles import Tile, choose


@triton.jit(do_not_specialize=["n_rows"])
def _fp8_gemm_kernel(
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
    x_scales_ptr,
    w_ptr,
    w_scales_ptr,
    w_stride,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    EVEN_K: tl.constexpr,
    EXACT_EVERY: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    GLU: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_NORM: tl.constexpr,
):
    # Blocks in bands of GROUP_M rows, so that neighbours share weights in the second-level cache.
    blocks_m = (n_rows + BLOCK_M - 1) // BLOCK_M
    blocks_n = (n_cols + BLOCK_N - 1) // BLOCK_N
    band = tl.program_id(0) // (GROUP_M * blocks_n)
    band_m = tl.minimum(blocks_m - band * GROUP_M, GROUP_M)
    within = tl.program_id(0) % (GROUP_M * blocks_n)
    m = (band * GROUP_M + within % band_m) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = within // band_m * BLOCK_N + tl.arange(0, BLOCK_N)
    k_in = tl.arange(0, BLOCK_K)
    x_row = tl.minimum(m, n_rows - 1)
    w_row = tl.minimum(n, n_cols - 1)
    x_at = x_ptr + x_row.to(tl.int64)[:, None] * x_stride + k_in[None, :]
    w_at = w_ptr + w_row.to(tl.int64)[None, :] * w_stride + k_in[:, None]
    skip = tl.cast(n_cols, tl.int64) * w_stride
    first = tl.full([BLOCK_M, BLOCK_N], 0.0, tl.float32)
    up = first
    for k0 in range(0, k_size, BLOCK_K):
        k = k0 + k_in
        if EVEN_K:
            x = tl.load(x_at + k0)
        else:
            x = tl.load(x_at + k0, mask=(k < k_size)[None, :], other=0.0)
        w = load_weight(w_at + k0, k, k_size, BLOCK_M, EVEN_K)
        first = tl.dot(x, w, first, max_num_imprecise_acc=EXACT_EVERY, input_precision="ieee")
        if GLU:
            w_up = load_weight(w_at + skip + k0, k, k_size, BLOCK_M, EVEN_K)
            up = tl.dot(x, w_up, up, max_num_imprecise_acc=EXACT_EVERY, input_precision="ieee")
    x_scale = tl.load(x_scales_ptr + x_row)[:, None]
    first *= x_scale * tl.load(w_scales_ptr + w_row)[None, :]
    if GLU:
        up *= x_scale * tl.load(w_scales_ptr + n_cols + w_row)[None, :]
    store_tile(
        first, up, x_scale, out_ptr, bias_ptr, residual_ptr, partial_ptr, m, n,
        n_rows, n_cols, k_size, out_stride, residual_stride, eps, 0,
        IS_SPLIT, GLU, HAS_BIAS, HAS_RESIDUAL, HAS_NORM,
    )  # fmt: skip


def fp8_gemm(
    x: torch.Tensor,
    x_scales: torch.Tensor,
    weight: torch.Tensor,
    w_scales: torch.Tensor,
    out_dtype: torch.dtype = torch.bfloat16,
    bias: torch.Tensor | None = None,
    *,
    swiglu: bool = False,
    residual: torch.Tensor | None = None,
    exact_every: int = 128,
    out: torch.Tensor | None = None,
    tile: Tile | None = None,
) -> torch.Tensor:
    """(x * x_scales[:, None]) @ (weight * w_scales[:, None]).T and an epilogue, in out_dtype.

    x: (rows, k), weight: (n, k), both float8_e4m3fn. x_scales: (rows,), w_scales: (n,) fp32.
    bias, swiglu, residual: as `skinny_gemm`.
    """
    require_unit_stride(weight=weight, x_scales=x_scales, w_scales=w_scales)
    gemm = plan_gemm(
        "fp8_gemm",
        x,
        weight.shape[0],
        bias=bias,
        residual=residual,
        swiglu=swiglu,
        out=out,
        out_dtype=out_dtype,
        tile=tile,
    )
    tile = gemm.tile
    return gemm.run(
        _fp8_gemm_kernel,
        x_scales,
        weight,
        w_scales,
        weight.stride(0),
        blocks_in_a_row=True,
        BLOCK_K=tile.k,
        GROUP_M=8,
        EVEN_K=x.shape[1] % tile.k == 0,
        EXACT_EVERY=min(exact_every, tile.k),
    )


@triton.jit(do_not_specialize=["n_rows"])
def _quantize_rows_fp8_kernel(
    x_ptr,
    norm_ptr,
    out_ptr,
    scales_ptr,
    n_rows,
    n_cols,
    x_stride,
    out_stride,
    eps,
    TOP: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_NORM: tl.constexpr,
):
    cols = tl.arange(0, BLOCK)
    inside = cols < n_cols
    for row in range(tl.program_id(0), n_rows, tl.num_programs(0)):
        at = tl.cast(row, tl.int64)
        x = tl.load(x_ptr + at * x_stride + cols, mask=inside, other=0.0).to(tl.float32)
        if HAS_NORM:
            gain = tl.load(norm_ptr + cols, mask=inside, other=0.0).to(tl.float32)
            x *= tl.rsqrt(tl.sum(x * x, axis=0) / n_cols + eps) * gain
        top = tl.max(tl.abs(x), axis=0)
        scale = tl.where(top > 0.0, top / TOP, 1.0)
        y = tl.minimum(tl.maximum(x / scale, -TOP), TOP)
        tl.store(out_ptr + at * out_stride + cols, y.to(tl.float8e4nv), mask=inside)
        tl.store(scales_ptr + at, scale)


def quantize_rows_fp8(
    x: torch.Tensor,
    norm_weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    *,
    out: torch.Tensor | None = None,
    scales: torch.Tensor | None = None,
    tile: Tile | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """x (rows, cols) as float8_e4m3fn and the fp32 scale of each row, its largest value / 448.

    norm_weight: (cols,) of an RMS norm before it, which is not rounded in between.
    """
    require_unit_stride(x=x, norm_weight=norm_weight, out=out)
    n_rows, n_cols = x.shape
    out = torch.empty_like(x, dtype=torch.float8_e4m3fn) if out is None else out
    scales = x.new_empty((n_rows,), dtype=torch.float32) if scales is None else scales
    tile = tile or choose("quantize_rows_fp8", dtype_name(x.dtype), device_facts(x), cols=n_cols)
    launch(
        _quantize_rows_fp8_kernel,
        (min(n_rows, MAX_GRID),),
        tile,
        x,
        norm_weight,
        out,
        scales,
        n_rows,
        n_cols,
        x.stride(0),
        out.stride(0),
        eps,
        TOP=E4M3_MAX,
        BLOCK=next_power_of_2(n_cols),
        HAS_NORM=norm_weight is not None,
    )
    return out, scales
