"""SwiGLU of a packed gate|up row: silu(gate) * up. As a GEMM epilogue it is in `skinny_gemm`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from chipmark_kernels.dtypes import ceil_div, dtype_name, require_unit_stride
from chipmark_kernels.launch import MAX_GRID, device_facts, launch
from chipmark_kernels.tiles import Tile, choose


@triton.jit
def silu_times(gate, up):
    """silu(gate) * up in fp32, gate and up fp32 of any shape."""
    return gate / (1.0 + tl.exp(-gate)) * up


@triton.jit(do_not_specialize=["n_rows"])
def _swiglu_kernel(
    packed_ptr, out_ptr, n_rows, n_cols, packed_stride, out_stride, BLOCK: tl.constexpr
):
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < n_cols
    for row in range(tl.program_id(0), n_rows, tl.num_programs(0)):
        at = tl.cast(row, tl.int64)
        gate = tl.load(packed_ptr + at * packed_stride + cols, mask=inside, other=0.0)
        up = tl.load(packed_ptr + at * packed_stride + n_cols + cols, mask=inside, other=0.0)
        y = silu_times(gate.to(tl.float32), up.to(tl.float32))
        tl.store(out_ptr + at * out_stride + cols, y.to(out_ptr.dtype.element_ty), mask=inside)


def swiglu(
    packed: torch.Tensor, *, out: torch.Tensor | None = None, tile: Tile | None = None
) -> torch.Tensor:
    """silu(packed[:, :cols]) * packed[:, cols:] of a (rows, 2 * cols) tensor, computed in fp32."""
    require_unit_stride(packed=packed, out=out)
    n_rows, n_cols = packed.shape[0], packed.shape[1] // 2
    out = packed.new_empty((n_rows, n_cols)) if out is None else out
    tile = tile or choose("swiglu", dtype_name(packed.dtype), device_facts(packed), cols=n_cols)
    launch(
        _swiglu_kernel,
        (min(n_rows, MAX_GRID), ceil_div(n_cols, tile.n)),
        tile,
        packed,
        out,
        n_rows,
        n_cols,
        packed.stride(0),
        out.stride(0),
        BLOCK=tile.n,
    )
    return out
