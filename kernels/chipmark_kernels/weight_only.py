"""x @ weight.T with int8 or int4 weights and 16-bit activations, dequantised in registers.

The integers are exact in bf16 and fp16; each group's scale multiplies its fp32 partial sum, so no
weight is rounded. tile.k counts the groups of a step; it is used where it divides the groups of
every split, else a step is one group.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from chipmark_kernels.dtypes import ceil_div, dtype_name, require_unit_stride
from chipmark_kernels.launch import device_facts, launch
from chipmark_kernels.skinny_gemm import split_partial
from chipmark_kernels.split_k import store_tile, sum_splits
from chipmark_kernels.tiles import Tile, choose


@triton.jit
def _group_product(x, w, scale, BLOCK_M: tl.constexpr, INPUT_PRECISION: tl.constexpr):
    """x (M, K) times w (K, N) times scale (N,); for BLOCK_M 1 w is (N, K) and is not summed."""
    if BLOCK_M == 1:
        product = w.to(tl.float32) * x.to(tl.float32) * scale[:, None]
    else:
        product = tl.dot(x, w, input_precision=INPUT_PRECISION) * scale[None, :]
    return product


@triton.jit
def _dot_int_rows(
    x_ptr,
    w_ptr,
    scales_ptr,
    zeros_ptr,
    m,
    n,
    n_rows,
    n_cols,
    group_start,
    group_end,
    x_stride,
    w_stride,
    scales_stride,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_G: tl.constexpr,
    HAS_ZEROS: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
):
    """sum over the groups of scale * sum over k of x[m, k] * (w[n, k] - zero), fp32 (M, N)."""
    STEP: tl.constexpr = GROUP * BITS // 8
    k = tl.arange(0, STEP)
    x_rows = x_ptr + tl.minimum(m, n_rows - 1).to(tl.int64)[:, None] * x_stride + k[None, :]
    w_row = tl.minimum(n, n_cols - 1).to(tl.int64)
    scales_at = scales_ptr + w_row * scales_stride
    zeros_at = zeros_ptr
    if HAS_ZEROS:
        zeros_at = zeros_ptr + w_row * scales_stride
    if BLOCK_M == 1:
        w_at = w_ptr + w_row[:, None] * w_stride + k[None, :]
        acc = tl.full([BLOCK_N, STEP], 0.0, tl.float32)
    else:
        w_at = w_ptr + w_row[None, :] * w_stride + k[:, None]
        acc = tl.full([BLOCK_M, BLOCK_N], 0.0, tl.float32)
    for step in range(group_start, group_end, BLOCK_G):
        # Unrolled, so that the loads of several groups are under way at once.
        for i in tl.static_range(BLOCK_G):
            group = step + i
            scale = tl.load(scales_at + group).to(tl.float32)
            w = tl.load(w_at + group * STEP)
            x = tl.load(x_rows + group * GROUP)
            if BITS == 8:
                acc += _group_product(x, w.to(x.dtype), scale, BLOCK_M, INPUT_PRECISION)
            else:
                x_high = tl.load(x_rows + group * GROUP + STEP)
                low = (w & 15).to(x.dtype)
                high = (w >> 4).to(x.dtype)
                if HAS_ZEROS:
                    zero = tl.load(zeros_at + group).to(x.dtype)
                    zero = zero[:, None] if BLOCK_M == 1 else zero[None, :]
                    low -= zero
                    high -= zero
                else:
                    low -= 8
                    high -= 8
                acc += _group_product(x, low, scale, BLOCK_M, INPUT_PRECISION)
                acc += _group_product(x_high, high, scale, BLOCK_M, INPUT_PRECISION)
    return tl.sum(acc, axis=1)[None, :] if BLOCK_M == 1 else acc


@triton.jit(do_not_specialize=["n_rows"])
def _weight_only_gemm_kernel(
    x_ptr,
    w_ptr,
    scales_ptr,
    zeros_ptr,
    bias_ptr,
    out_ptr,
    partial_ptr,
    n_rows,
    n_cols,
    n_groups,
    x_stride,
    w_stride,
    scales_stride,
    out_stride,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_G: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    GLU: tl.constexpr,
    HAS_ZEROS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
):
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1)
    m = tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)
    n_splits = tl.num_programs(1)
    per_split = (n_groups + n_splits - 1) // n_splits
    start = split * per_split
    end = tl.minimum(start + per_split, n_groups)
    first = _dot_int_rows(
        x_ptr, w_ptr, scales_ptr, zeros_ptr, m, n, n_rows, n_cols, start, end,
        x_stride, w_stride, scales_stride,
        BITS, GROUP, BLOCK_M, BLOCK_N, BLOCK_G, HAS_ZEROS, INPUT_PRECISION,
    )  # fmt: skip
    up = first
    if GLU:
        skip = tl.cast(n_cols, tl.int64)
        up_zeros_ptr = zeros_ptr
        if HAS_ZEROS:
            up_zeros_ptr = zeros_ptr + skip * scales_stride
        up = _dot_int_rows(
            x_ptr, w_ptr + skip * w_stride, scales_ptr + skip * scales_stride, up_zeros_ptr,
            m, n, n_rows, n_cols, start, end, x_stride, w_stride, scales_stride,
            BITS, GROUP, BLOCK_M, BLOCK_N, BLOCK_G, HAS_ZEROS, INPUT_PRECISION,
        )  # fmt: skip
    store_tile(
        first, up, bias_ptr, out_ptr, partial_ptr, m, n, n_rows, n_cols, out_stride, split,
        GLU, HAS_BIAS, IS_SPLIT,
    )  # fmt: skip


def _weight_only_gemm(
    kernel: str,
    bits: int,
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    bias: torch.Tensor | None,
    swiglu: bool,
    input_precision: str,
    out: torch.Tensor | None,
    workspace: torch.Tensor | None,
    tile: Tile | None,
) -> torch.Tensor:
    require_unit_stride(x=x, weight=weight, scales=scales, zeros=zeros, out=out)
    n_rows, k_size = x.shape
    n_groups = scales.shape[1]
    group = k_size // n_groups
    if group * n_groups != k_size or group & (group - 1) or group < 32:
        raise ValueError(f"k = {k_size} in {n_groups} groups: a group is a power of two >= 32")
    n_cols = weight.shape[0] // 2 if swiglu else weight.shape[0]
    out = x.new_empty((n_rows, n_cols)) if out is None else out
    tile = tile or choose(
        kernel, dtype_name(x.dtype), device_facts(x), rows=n_rows, n=n_cols, k=k_size
    )
    partial = split_partial(x, weight.shape[0], tile.split, workspace)
    launch(
        _weight_only_gemm_kernel,
        (ceil_div(n_cols, tile.n), tile.split, ceil_div(n_rows, tile.m)),
        tile,
        x,
        weight,
        scales,
        zeros,
        bias,
        out,
        partial,
        n_rows,
        n_cols,
        n_groups,
        x.stride(0),
        weight.stride(0),
        scales.stride(0),
        out.stride(0),
        BITS=bits,
        GROUP=group,
        BLOCK_M=tile.m,
        BLOCK_N=tile.n,
        BLOCK_G=tile.k if tile.k and n_groups % (tile.k * tile.split) == 0 else 1,
        IS_SPLIT=tile.split > 1,
        GLU=swiglu,
        HAS_ZEROS=zeros is not None,
        HAS_BIAS=bias is not None,
        INPUT_PRECISION=input_precision,
    )
    if partial is not None:
        sum_splits(partial, out, bias, swiglu=swiglu)
    return out


def w8a16_gemm(
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    swiglu: bool = False,
    input_precision: str = "ieee",
    out: torch.Tensor | None = None,
    workspace: torch.Tensor | None = None,
    tile: Tile | None = None,
) -> torch.Tensor:
    """x (rows, k) times int8 weight (n, k), each group of k scaled by scales (n, groups).

    Otherwise as `skinny_gemm`.
    """
    return _weight_only_gemm(
        "w8a16_gemm",
        8,
        x,
        weight,
        scales,
        None,
        bias,
        swiglu,
        input_precision,
        out,
        workspace,
        tile,
    )


def w4a16_gemm(
    x: torch.Tensor,
    packed: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    swiglu: bool = False,
    input_precision: str = "ieee",
    out: torch.Tensor | None = None,
    workspace: torch.Tensor | None = None,
    tile: Tile | None = None,
) -> torch.Tensor:
    """x (rows, k) times 4-bit weights packed (n, k / 2) uint8 as `quantize_int4` does.

    scales, zeros: (n, groups); without zeros the zero point is 8. Otherwise as `skinny_gemm`.
    """
    return _weight_only_gemm(
        "w4a16_gemm",
        4,
        x,
        packed,
        scales,
        zeros,
        bias,
        swiglu,
        input_precision,
        out,
        workspace,
        tile,
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
