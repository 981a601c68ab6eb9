"""RMS norm of rows, with the residual addition before it in the same pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from chipmark_kernels.dtypes import dtype_name, next_power_of_2, require_unit_stride
from chipmark_kernels.launch import MAX_GRID, device_facts, launch
from chipmark_kernels.tiles import Tile, choose


@triton.jit(do_not_specialize=["n_rows"])
def _rmsnorm_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    out_ptr,
    sum_ptr,
    n_rows,
    n_cols,
    x_stride,
    residual_stride,
    out_stride,
    sum_stride,
    eps,
    BLOCK: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    CAST_FIRST: tl.constexpr,
):
    cols = tl.arange(0, BLOCK)
    inside = cols < n_cols
    weight = tl.load(weight_ptr + cols, mask=inside, other=0.0)
    for row in range(tl.program_id(0), n_rows, tl.num_programs(0)):
        at = tl.cast(row, tl.int64)
        x = tl.load(x_ptr + at * x_stride + cols, mask=inside, other=0.0)
        if HAS_RESIDUAL:
            residual = tl.load(residual_ptr + at * residual_stride + cols, mask=inside, other=0.0)
            # The sum is rounded before it is normed: what the next layer adds to is what was seen.
            x = (x.to(tl.float32) + residual.to(tl.float32)).to(x.dtype)
            tl.store(sum_ptr + at * sum_stride + cols, x, mask=inside)
        x32 = x.to(tl.float32)
        rstd = tl.rsqrt(tl.sum(x32 * x32, axis=0) / n_cols + eps)
        normed = x32 * rstd
        if CAST_FIRST:
            normed = normed.to(weight.dtype).to(tl.float32)
        y = normed * weight.to(tl.float32)
        tl.store(out_ptr + at * out_stride + cols, y.to(out_ptr.dtype.element_ty), mask=inside)


def rmsnorm(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    residual: torch.Tensor | None = None,
    *,
    cast_first: bool = True,
    out: torch.Tensor | None = None,
    residual_out: torch.Tensor | None = None,
    tile: Tile | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """RMS norm of (x + residual), and that sum (x itself where there is no residual).

    x, residual: (rows, cols). weight: (cols,). cast_first rounds the normed row to the weight's
    dtype before the multiplication, as Llama and Qwen do. residual_out may be `residual`.
    """
    require_unit_stride(x=x, residual=residual, weight=weight, out=out, residual_out=residual_out)
    n_rows, n_cols = x.shape
    out = torch.empty_like(x, dtype=weight.dtype) if out is None else out
    if residual is None:
        residual_out = x
    elif residual_out is None:
        residual_out = torch.empty_like(x)
    tile = tile or choose("rmsnorm", dtype_name(x.dtype), device_facts(x), cols=n_cols)
    added = residual is not None
    launch(
        _rmsnorm_kernel,
        (min(n_rows, MAX_GRID),),
        tile,
        x,
        residual,
        weight,
        out,
        residual_out if added else None,
        n_rows,
        n_cols,
        x.stride(0),
        residual.stride(0) if residual is not None else 0,
        out.stride(0),
        residual_out.stride(0) if added else 0,
        eps,
        BLOCK=next_power_of_2(n_cols),
        HAS_RESIDUAL=added,
        CAST_FIRST=cast_first,
    )
    return out, residual_out
