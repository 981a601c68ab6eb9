"""x @ weight.T for few rows: bound by reading the weights once, which are plain or e4m3.

The RMS norm before the product, SwiGLU and the residual after it cost no launch of their own.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from chipmark_kernels.dependent_launch import gdc_launch_dependents, gdc_wait
from chipmark_kernels.dtypes import require_unit_stride
from chipmark_kernels.gemm import plan_gemm, squares_of, store_tile
from chipmark_kernels.tiles import Tile


@triton.jit
def load_weight(at, k, k_end, BLOCK_M: tl.constexpr, EVEN_K: tl.constexpr):
    """Weights at pointers (N, K), or (K, N) where BLOCK_M > 1; zero from k_end on."""
    if EVEN_K:
        w = tl.load(at)
    elif BLOCK_M == 1:
        w = tl.load(at, mask=(k < k_end)[None, :], other=0.0)
    else:
        w = tl.load(at, mask=(k < k_end)[:, None], other=0.0)
    return w


@triton.jit
def _widened(w, dtype: tl.constexpr):
    """e4m3 in a wider type, all of which hold its every value; other weights as they are."""
    if w.dtype == tl.float8e4nv:
        w = w.to(tl.float16)
        if dtype == tl.bfloat16:
            # By fp32, as compilers pack those conversions in twos; from fp16 to bf16 they do not.
            w = w.to(tl.float32)
    return w.to(dtype)


@triton.jit(do_not_specialize=["n_rows"])
def _skinny_gemm_kernel(
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
    w_stride,
    w_scales_ptr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    HAS_SCALES: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    GLU: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_NORM: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
    PDL: tl.constexpr,
):
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1)
    m = tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)
    depth = tl.num_programs(1) * BLOCK_K
    per_split = (k_size + depth - 1) // depth * BLOCK_K
    k_start = split * per_split
    k_end = tl.minimum(k_start + per_split, k_size)
    k_in = tl.arange(0, BLOCK_K)
    # Rows beyond the end read the last row: a mask along them would split the vector loads.
    x_rows = x_ptr + tl.minimum(m, n_rows - 1).to(tl.int64)[:, None] * x_stride
    column = tl.minimum(n, n_cols - 1)
    w_row = column.to(tl.int64) * w_stride
    skip = tl.cast(n_cols, tl.int64) * w_stride
    if BLOCK_M == 1:
        # No matrix unit: products stay in fp32 lanes, summed once behind the loop.
        w_rows = w_ptr + w_row[:, None]
        first = tl.full([BLOCK_N, BLOCK_K], 0.0, tl.float32)
    else:
        w_rows = w_ptr + w_row[None, :]
        first = tl.full([BLOCK_M, BLOCK_N], 0.0, tl.float32)
    up = first
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    # Half of the 16 bytes that a thread loads at once; one row has registers for each value.
    RUN: tl.constexpr = 1 if BLOCK_M == 1 else 64 // x_ptr.dtype.element_ty.primitive_bitwidth
    squares = tl.full([BLOCK_M, BLOCK_K // RUN], 0.0, tl.float32)
    for k0 in range(k_start, k_end, BLOCK_K):
        k = k0 + k_in
        if EVEN_K:
            x = tl.load(x_rows + k[None, :])
        else:
            x = tl.load(x_rows + k[None, :], mask=(k < k_end)[None, :], other=0.0)
        if HAS_NORM:
            x32 = x.to(tl.float32)
            squares += squares_of(x32, RUN)
            if EVEN_K:
                gain = tl.load(norm_ptr + k)
            else:
                gain = tl.load(norm_ptr + k, mask=k < k_end, other=0.0)
            x32 *= gain.to(tl.float32)[None, :]
            x = x32 if BLOCK_M == 1 else x32.to(x_ptr.dtype.element_ty)
        if BLOCK_M == 1:
            w_at = w_rows + k[None, :]
            w = load_weight(w_at, k, k_end, BLOCK_M, EVEN_K)
            first += w.to(tl.float32) * x.to(tl.float32)
            if GLU:
                w_up = load_weight(w_at + skip, k, k_end, BLOCK_M, EVEN_K)
                up += w_up.to(tl.float32) * x.to(tl.float32)
        else:
            w_at = w_rows + k[:, None]
            w = load_weight(w_at, k, k_end, BLOCK_M, EVEN_K)
            first += tl.dot(x, _widened(w, x.dtype), input_precision=INPUT_PRECISION)
            if GLU:
                w_up = load_weight(w_at + skip, k, k_end, BLOCK_M, EVEN_K)
                up += tl.dot(x, _widened(w_up, x.dtype), input_precision=INPUT_PRECISION)
    if BLOCK_M == 1:
        first = tl.sum(first, axis=1)[None, :]
        up = tl.sum(up, axis=1)[None, :] if GLU else first
    if HAS_SCALES:
        first *= tl.load(w_scales_ptr + column)[None, :]
        if GLU:
            up *= tl.load(w_scales_ptr + n_cols + column)[None, :]
    store_tile(
        first, up, tl.sum(squares, axis=1), out_ptr, bias_ptr, residual_ptr, partial_ptr, m, n,
        n_rows, n_cols, k_size, out_stride, residual_stride, eps, split,
        IS_SPLIT, GLU, HAS_BIAS, HAS_RESIDUAL, HAS_NORM,
    )  # fmt: skip


def skinny_gemm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    norm_weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    swiglu: bool = False,
    residual: torch.Tensor | None = None,
    input_precision: str = "ieee",
    out: torch.Tensor | None = None,
    workspace: torch.Tensor | None = None,
    tile: Tile | None = None,
    pdl: bool = False,
) -> torch.Tensor:
    """norm(x) @ weight.T + bias, silu(gate) * up of it, + residual, in x's dtype; for 1 to 64 rows.

    x: (rows, k). weight: (n, k), both contiguous along k; the sums are fp32. norm_weight: (k,) of
    an RMS norm of x. Then x * norm_weight is formed in fp32 and rounded once to x's dtype (for one
    row not at all), and the reciprocal rms multiplies the sum; so fewer roundings than `rmsnorm`
    followed by a product, but with fp16 that product must stay within its range. With `swiglu` the
    weight holds the gate's rows and then the up projection's. residual: (rows, columns), added
    before the one rounding of the result; it may be `out`. workspace: fp32, at least
    tile.split * rows * n elements, used where tile.split > 1. pdl: launched as `dependent_launch`
    says.
    """
    return _multiply(
        "skinny_gemm",
        x,
        weight,
        None,
        input_precision,
        pdl,
        bias=bias,
        norm_weight=norm_weight,
        eps=eps,
        swiglu=swiglu,
        residual=residual,
        out=out,
        workspace=workspace,
        tile=tile,
    )


def fp8a16_gemm(
    x: torch.Tensor,
    weight: torch.Tensor,
    w_scales: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    norm_weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    swiglu: bool = False,
    residual: torch.Tensor | None = None,
    input_precision: str = "ieee",
    out: torch.Tensor | None = None,
    workspace: torch.Tensor | None = None,
    tile: Tile | None = None,
    pdl: bool = False,
) -> torch.Tensor:
    """x (rows, k) times weight (n, k) float8_e4m3fn, each row of it scaled by w_scales (n,) fp32.

    The scales multiply the fp32 sums, so no weight is rounded, and x is not quantised: one launch,
    where `fp8_gemm` needs the rows in e4m3 first. Raises ValueError for weights of another dtype
    or for scales of another number. Otherwise as `skinny_gemm`.
    """
    require_unit_stride(w_scales=w_scales)
    if weight.dtype != torch.float8_e4m3fn:
        raise ValueError(f"weight: must be torch.float8_e4m3fn, not {weight.dtype}")
    if w_scales.shape != weight.shape[:1]:
        raise ValueError(f"w_scales: must be {(weight.shape[0],)}, not {tuple(w_scales.shape)}")
    return _multiply(
        "fp8a16_gemm",
        x,
        weight,
        w_scales,
        input_precision,
        pdl,
        bias=bias,
        norm_weight=norm_weight,
        eps=eps,
        swiglu=swiglu,
        residual=residual,
        out=out,
        workspace=workspace,
        tile=tile,
    )


def _multiply(
    kernel: str,
    x: torch.Tensor,
    weight: torch.Tensor,
    w_scales: torch.Tensor | None,
    input_precision: str,
    pdl: bool,
    **options: Any,
) -> torch.Tensor:
    require_unit_stride(weight=weight)
    gemm = plan_gemm(kernel, x, weight.shape[0], **options)
    return gemm.run(
        _skinny_gemm_kernel,
        weight,
        weight.stride(0),
        w_scales,
        BLOCK_K=gemm.tile.k,
        EVEN_K=x.shape[1] % gemm.tile.k == 0,
        HAS_SCALES=w_scales is not None,
        INPUT_PRECISION=input_precision,
        PDL=pdl,
    )
