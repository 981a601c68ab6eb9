"""Rows of the embedding table by token id, with the first layer's norm in the same launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from chipmark_kernels.dependent_launch import gdc_launch_dependents, gdc_wait
from chipmark_kernels.dtypes import dtype_name, next_power_of_2, require_unit_stride
from chipmark_kernels.launch import MAX_GRID, device_facts, launch
from chipmark_kernels.tiles import Tile, choose


@triton.jit(do_not_specialize=["n_tokens"])
def _embedding_rmsnorm_kernel(
    ids_ptr,
    table_ptr,
    weight_ptr,
    hidden_ptr,
    normed_ptr,
    n_tokens,
    n_cols,
    table_stride,
    hidden_stride,
    normed_stride,
    eps,
    BLOCK: tl.constexpr,
    CAST_FIRST: tl.constexpr,
    PDL: tl.constexpr,
):
    cols = tl.arange(0, BLOCK)
    inside = cols < n_cols
    weight = tl.load(weight_ptr + cols, mask=inside, other=0.0)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    for row in range(tl.program_id(0), n_tokens, tl.num_programs(0)):
        at = tl.cast(row, tl.int64)
        token = tl.load(ids_ptr + at).to(tl.int64)
        x = tl.load(table_ptr + token * table_stride + cols, mask=inside, other=0.0)
        tl.store(hidden_ptr + at * hidden_stride + cols, x, mask=inside)
        x32 = x.to(tl.float32)
        normed = x32 * tl.rsqrt(tl.sum(x32 * x32, axis=0) / n_cols + eps)
        if CAST_FIRST:
            normed = normed.to(weight.dtype).to(tl.float32)
        y = normed * weight.to(tl.float32)
        out = normed_ptr + at * normed_stride + cols
        tl.store(out, y.to(normed_ptr.dtype.element_ty), mask=inside)


def embedding_rmsnorm(
    ids: torch.Tensor,
    table: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    *,
    cast_first: bool = True,
    hidden: torch.Tensor | None = None,
    normed: torch.Tensor | None = None,
    tile: Tile | None = None,
    pdl: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows `table[ids]` (the residual stream) and their RMS norm, each (tokens, cols).

    ids: (tokens,) int32 or int64, each inside the table (not checked: they lie on the device).
    table: (vocabulary, cols). weight: (cols,) of the first norm.
    pdl: launched as `dependent_launch` says.
    """
    require_unit_stride(ids=ids, table=table, weight=weight, hidden=hidden, normed=normed)
    n_tokens, n_cols = ids.shape[0], table.shape[1]
    hidden = table.new_empty((n_tokens, n_cols)) if hidden is None else hidden
    normed = torch.empty_like(hidden, dtype=weight.dtype) if normed is None else normed
    tile = tile or choose(
        "embedding_rmsnorm", dtype_name(table.dtype), device_facts(table), cols=n_cols
    )
    launch(
        _embedding_rmsnorm_kernel,
        (min(n_tokens, MAX_GRID),),
        tile,
        ids,
        table,
        weight,
        hidden,
        normed,
        n_tokens,
        n_cols,
        table.stride(0),
        hidden.stride(0),
        normed.stride(0),
        eps,
        BLOCK=next_power_of_2(n_cols),
        CAST_FIRST=cast_first,
        PDL=pdl,
    )
    return hidden, normed
