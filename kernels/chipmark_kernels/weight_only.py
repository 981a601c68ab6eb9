"""x @ weight.T with int8 or int4 weights and 16-bit activations, dequantised in registers.

The integers are exact in bf16 and fp16; each group's scale multiplies its fp32 partial sum, so no
weight is rounded. tile.k counts the groups of a step; it is used where it divides the groups of
every split, else a step is one group.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from chipmark_kernels.dtypes import require_unit_stride
from chipmark_kernels.gemm import plan_gemm, squares_of, store_tile
from chipmark_kernels.tiles import Tile


@triton.jit
def _group_product(x, w, scale, BLOCK_M: tl.constexpr, INPUT_PRECISION: tl.constexpr):
    """x (M, K) times w (K, N) times scale (N,); for BLOCK_M 1 w is (N, K) and is not summed."""
    if BLOCK_M == 1:
        product = w.to(tl.float32) * x.to(tl.float32) * scale[:, None]
    else:
        product = tl.dot(x, w, input_precision=INPUT_PRECISION) * scale[None, :]
    return product


@triton.jit
def _group_of_weights(
    acc,
    x,
    x_high,
    w_at,
    scales_at,
    zeros_at,
    group,
    dtype: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    HAS_ZEROS: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
):
    """acc plus scale * x times (w - zero) of one group; x_high is the second half for 4 bits."""
    scale = tl.load(scales_at + group).to(tl.float32)
    w = tl.load(w_at)
    if BITS == 8:
        acc += _group_product(x, w.to(dtype), scale, BLOCK_M, INPUT_PRECISION)
    else:
        low = (w & 15).to(dtype)
        high = (w >> 4).to(dtype)
        if HAS_ZEROS:
            zero = tl.load(zeros_at + group).to(dtype)
            zero = zero[:, None] if BLOCK_M == 1 else zero[None, :]
        else:
            zero = 8
        # Triton 3.0, which vendors' ports stand on, makes fp32 of a bf16 less a number.
        low, high = (low - zero).to(dtype), (high - zero).to(dtype)
        acc += _group_product(x, low, scale, BLOCK_M, INPUT_PRECISION)
        acc += _group_product(x_high, high, scale, BLOCK_M, INPUT_PRECISION)
    return acc


@triton.jit
def _load_rows(
    x_rows,
    norm_ptr,
    squares,
    at,
    k,
    dtype: tl.constexpr,
    RUN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    HAS_NORM: tl.constexpr,
):
    """x (M, K) from column `at`, times the norm's weight, and the running sums of its squares."""
    x = tl.load(x_rows + at)
    if HAS_NORM:
        x32 = x.to(tl.float32)
        squares += squares_of(x32, RUN)
        x32 *= tl.load(norm_ptr + at + k).to(tl.float32)[None, :]
        x = x32 if BLOCK_M == 1 else x32.to(dtype)
    return x, squares


@triton.jit(do_not_specialize=["n_rows"])
def _weight_only_gemm_kernel(
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
    scales_ptr,
    zeros_ptr,
    n_groups,
    w_stride,
    scales_stride,
    zeros_stride,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_G: tl.constexpr,
    HAS_ZEROS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    GLU: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_NORM: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
):
    STEP: tl.constexpr = GROUP * BITS // 8
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1)
    m = tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)
    n_splits = tl.num_programs(1)
    per_split = (n_groups + n_splits - 1) // n_splits
    group_start = split * per_split
    group_end = tl.minimum(group_start + per_split, n_groups)

    k = tl.arange(0, STEP)
    x_rows = x_ptr + tl.minimum(m, n_rows - 1).to(tl.int64)[:, None] * x_stride + k[None, :]
    w_row = tl.minimum(n, n_cols - 1).to(tl.int64)
    skip = tl.cast(n_cols, tl.int64)
    scales_at = scales_ptr + w_row * scales_stride
    zeros_at = zeros_ptr
    zeros_up_at = zeros_ptr
    if HAS_ZEROS:
        zeros_at = zeros_ptr + w_row * zeros_stride
        zeros_up_at = zeros_at + skip * zeros_stride
    if BLOCK_M == 1:
        w_at = w_ptr + w_row[:, None] * w_stride + k[None, :]
        first = tl.full([BLOCK_N, STEP], 0.0, tl.float32)
    else:
        w_at = w_ptr + w_row[None, :] * w_stride + k[:, None]
        first = tl.full([BLOCK_M, BLOCK_N], 0.0, tl.float32)
    up = first
    # Half of the 16 bytes that a thread loads at once; one row has registers for each value.
    RUN: tl.constexpr = 1 if BLOCK_M == 1 else 64 // x_ptr.dtype.element_ty.primitive_bitwidth
    squares = tl.full([BLOCK_M, STEP // RUN], 0.0, tl.float32)
    for step in range(group_start, group_end, BLOCK_G):
        # Unrolled, so that the loads of several groups are under way at once.
        for i in tl.static_range(BLOCK_G):
            group = step + i
            at = group * GROUP
            x, squares = _load_rows(x_rows, norm_ptr, squares, at, k, dtype, RUN, BLOCK_M, HAS_NORM)
            x_high = x
            if BITS == 4:
                x_high, squares = _load_rows(
                    x_rows, norm_ptr, squares, at + STEP, k, dtype, RUN, BLOCK_M, HAS_NORM
                )
            first = _group_of_weights(
                first, x, x_high, w_at + group * STEP, scales_at, zeros_at, group,
                dtype, BITS, BLOCK_M, HAS_ZEROS, INPUT_PRECISION,
            )  # fmt: skip
            if GLU:
                up = _group_of_weights(
                    up, x, x_high, w_at + skip * w_stride + group * STEP,
                    scales_at + skip * scales_stride, zeros_up_at, group,
                    dtype, BITS, BLOCK_M, HAS_ZEROS, INPUT_PRECISION,
                )  # fmt: skip
    if BLOCK_M == 1:
        first = tl.sum(first, axis=1)[None, :]
        up = tl.sum(up, axis=1)[None, :] if GLU else first
    store_tile(
        first, up, tl.sum(squares, axis=1), out_ptr, bias_ptr, residual_ptr, partial_ptr, m, n,
        n_rows, n_cols, k_size, out_stride, residual_stride, eps, split,
        IS_SPLIT, GLU, HAS_BIAS, HAS_RESIDUAL, HAS_NORM,
    )  # fmt: skip


def _weight_only_gemm(
    bits: int,
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    input_precision: str,
    **options: Any,
) -> torch.Tensor:
    require_unit_stride(weight=weight, scales=scales, zeros=zeros)
    k_size, n_groups = x.shape[1], scales.shape[1]
    group = k_size // n_groups
    if group * n_groups != k_size or group & (group - 1) or group < 32:
        raise ValueError(f"k = {k_size} in {n_groups} groups: a group is a power of two >= 32")
    gemm = plan_gemm(f"w{bits}a16_gemm", x, weight.shape[0], **options)
    tile = gemm.tile
    return gemm.run(
        _weight_only_gemm_kernel,
        weight,
        scales,
        zeros,
        n_groups,
        weight.stride(0),
        scales.stride(0),
        zeros.stride(0) if zeros is not None else 0,
        BITS=bits,
        GROUP=group,
        BLOCK_G=tile.k if tile.k and n_groups % (tile.k * tile.split) == 0 else 1,
        HAS_ZEROS=zeros is not None,
        INPUT_PRECISION=input_precision,
    )


def w8a16_gemm(
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
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
) -> torch.Tensor:
    """x (rows, k) times int8 weight (n, k), each group of k scaled by scales (n, groups).

    Otherwise as `skinny_gemm`.
    """
    return _weight_only_gemm(
        8,
        x,
        weight,
        scales,
        None,
        input_precision,
        bias=bias,
        norm_weight=norm_weight,
        eps=eps,
        swiglu=swiglu,
        residual=residual,
        out=out,
        workspace=workspace,
        tile=tile,
    )


def w4a16_gemm(
    x: torch.Tensor,
    packed: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None = None,
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
) -> torch.Tensor:
    """x (rows, k) times 4-bit weights packed (n, k / 2) uint8 as `quantize_int4` does.

    scales, zeros: (n, groups); without zeros the zero point is 8. Otherwise as `skinny_gemm`.
    """
    return _weight_only_gemm(
        4,
        x,
        packed,
        scales,
        zeros,
        input_precision,
        bias=bias,
        norm_weight=norm_weight,
        eps=eps,
        swiglu=swiglu,
        residual=residual,
        out=out,
        workspace=workspace,
        tile=tile,
    )


def quantize_int8(weight: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric int8 (n, k), rounded to nearest, and fp32 scales (n, k / group)."""
    grouped = weight.float().view(weight.shape[0], -1, group)
    top = grouped.abs().amax(-1, keepdim=True)
    scales = torch.where(top > 0, top / 127.0, torch.ones_like(top))
    values = (grouped / scales).round().clamp(-127, 127).to(torch.int8)
    return values.view(weight.shape), scales[..., 0]


def quantize_int4(weight: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric 4-bit values around 8, packed (n, k / 2) uint8, and fp32 scales (n, k / group).

    Byte b of a group holds its value b in the low half and its value b + group / 2 in the high
    half, so that each half is a run of k and a dot product needs no interleaving.
    """
    n = weight.shape[0]
    grouped = weight.float().view(n, -1, group)
    top = grouped.abs().amax(-1, keepdim=True)
    scales = torch.where(top > 0, top / 7.0, torch.ones_like(top))
    values = ((grouped / scales).round().clamp(-7, 7) + 8).to(torch.uint8)
    packed = values[..., : group // 2] | (values[..., group // 2 :] << 4)
    return packed.reshape(n, -1), scales[..., 0]
