"""x @ weight.T for many rows on Hopper and later: tensor descriptors (TMA) feed wgmma.

A variant next to cuBLAS, unverified on hardware: nothing picks it by itself, and
`chipmark kernels run` measures it. It needs Triton 3.4's tensor descriptors; the portable kernels
need nothing newer than 3.0.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from chipmark_kernels.dtypes import require_unit_stride
from chipmark_kernels.gemm import plan_gemm, store_tile
from chipmark_kernels.launch import device_facts
from chipmark_kernels.tiles import Tile


@triton.jit(do_not_specialize=["n_rows"])
def _dense_gemm_hopper_kernel(
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
    x_tiles,
    w_tiles,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
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
    m0 = (band * GROUP_M + within % band_m) * BLOCK_M
    n0 = within // band_m * BLOCK_N
    first = tl.full([BLOCK_M, BLOCK_N], 0.0, tl.float32)
    up = first
    for k0 in range(0, k_size, BLOCK_K):
        # Beyond the tensors' ends a descriptor reads zeros.
        x = x_tiles.load([m0, k0])
        first = tl.dot(x, w_tiles.load([n0, k0]).T, first, input_precision="ieee")
        if GLU:
            up = tl.dot(x, w_tiles.load([n_cols + n0, k0]).T, up, input_precision="ieee")
    m = m0 + tl.arange(0, BLOCK_M)
    n = n0 + tl.arange(0, BLOCK_N)
    store_tile(
        first, up, eps, out_ptr, bias_ptr, residual_ptr, partial_ptr, m, n,
        n_rows, n_cols, k_size, out_stride, residual_stride, eps, 0,
        IS_SPLIT, GLU, HAS_BIAS, HAS_RESIDUAL, HAS_NORM,
    )  # fmt: skip


def dense_gemm_hopper(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    swiglu: bool = False,
    residual: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    tile: Tile | None = None,
) -> torch.Tensor:
    """x @ weight.T + bias, SwiGLU of it, + residual, as `skinny_gemm`; fp16 or bf16, many rows.

    Rows of x and weight must begin at multiples of 16 bytes. Raises ValueError for a device that
    has no tensor memory accelerator (before compute capability 9.0).
    """
    facts = device_facts(x)
    if facts.vendor != "cuda" or int(facts.arch) < 90:
        raise ValueError(f"dense_gemm_hopper: {facts.name} has no TMA; take skinny_gemm or torch")
    require_unit_stride(weight=weight)
    gemm = plan_gemm(
        "dense_gemm_hopper",
        x,
        weight.shape[0],
        bias=bias,
        residual=residual,
        swiglu=swiglu,
        out=out,
        tile=tile,
    )
    tile = gemm.tile
    return gemm.run(
        _dense_gemm_hopper_kernel,
        TensorDescriptor.from_tensor(x, [tile.m, tile.k]),
        TensorDescriptor.from_tensor(weight, [tile.n, tile.k]),
        blocks_in_a_row=True,
        BLOCK_K=tile.k,
        GROUP_M=8,
    )
