"""What all GEMMs share: their arguments, how a tile ends, and the sum over the parts of a split k.

A tile ends with, in fp32 and in this order: the reciprocal rms of the row (where an RMS norm stands
before the product), the bias, SwiGLU, the residual; then it is rounded once to the output's dtype.
The parts of a split k go to fp32 partials as they are, and a second pass sums them in order and
ends in the same way: no atomics, so the same bits on every run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from chipmark_kernels.dependent_launch import gdc_launch_dependents, gdc_wait
from chipmark_kernels.dtypes import (
    ceil_div,
    dtype_name,
    require_elements,
    require_unit_stride,
)
from chipmark_kernels.launch import device_facts, launch
from chipmark_kernels.swiglu import silu_times
from chipmark_kernels.tiles import Tile, choose


@triton.jit
def squares_of(x32, RUN: tl.constexpr):
    """x32 * x32 (M, K) summed over runs of RUN along k: (M, K / RUN).

    With a run inside what one thread loads at once the sum stays in its registers. Running sums of
    every value (64 a thread at 16 x 256 in two warps) leave too few for the products, and spill.
    """
    runs = tl.reshape(x32 * x32, [x32.shape[0], x32.shape[1] // RUN, RUN])
    return tl.sum(runs, axis=2)


@triton.jit
def store_tile(
    first,
    up,
    squares,
    out_ptr,
    bias_ptr,
    residual_ptr,
    partial_ptr,
    m,
    n,
    n_rows,
    n_cols,
    k_size,
    out_stride,
    residual_stride,
    eps,
    split,
    IS_SPLIT: tl.constexpr,
    GLU: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_NORM: tl.constexpr,
):
    """End a tile: sums `first` (and `up` for GLU), fp32 (len(m), len(n)).

    squares: fp32 (len(m),), the sums of x * x over k, read with HAS_NORM alone. With IS_SPLIT the
    sums go to partial (splits, rows, cols or 2 * cols) as they are.
    """
    mask = (m < n_rows)[:, None] & (n < n_cols)[None, :]
    if IS_SPLIT:
        width = 2 * n_cols if GLU else n_cols
        at = (split * n_rows + m).to(tl.int64) * width
        tl.store(partial_ptr + at[:, None] + n[None, :], first, mask=mask)
        if GLU:
            tl.store(partial_ptr + at[:, None] + (n_cols + n)[None, :], up, mask=mask)
    else:
        y = first
        if HAS_NORM:
            rstd = tl.rsqrt(squares / k_size + eps)[:, None]
            y *= rstd
            if GLU:
                up *= rstd
        if HAS_BIAS:
            y += tl.load(bias_ptr + n, mask=n < n_cols, other=0.0).to(tl.float32)[None, :]
            if GLU:
                bias_up = tl.load(bias_ptr + n_cols + n, mask=n < n_cols, other=0.0)
                up += bias_up.to(tl.float32)[None, :]
        if GLU:
            y = silu_times(y, up)
        rows = m.to(tl.int64)[:, None]
        if HAS_RESIDUAL:
            residual_at = residual_ptr + rows * residual_stride + n[None, :]
            y += tl.load(residual_at, mask=mask, other=0.0).to(tl.float32)
        out_at = out_ptr + rows * out_stride + n[None, :]
        tl.store(out_at, y.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n_rows"])
def _sum_splits_kernel(
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
    SPLIT_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GLU: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_NORM: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    m = tl.program_id(1) + tl.arange(0, 1)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (n < n_cols)[None, :]
    width = 2 * n_cols if GLU else n_cols
    first = tl.full([1, BLOCK_N], 0.0, tl.float32)
    up = tl.full([1, BLOCK_N], 0.0, tl.float32)
    for split in tl.static_range(SPLIT_K):
        at = partial_ptr + (split * n_rows + m).to(tl.int64)[:, None] * width + n[None, :]
        first += tl.load(at, mask=inside, other=0.0)
        if GLU:
            up += tl.load(at + n_cols, mask=inside, other=0.0)
    lanes = tl.full([1, BLOCK_K], 0.0, tl.float32)
    if HAS_NORM:
        for k0 in range(0, k_size, BLOCK_K):
            k = k0 + tl.arange(0, BLOCK_K)
            x_at = x_ptr + m.to(tl.int64)[:, None] * x_stride + k[None, :]
            x = tl.load(x_at, mask=(k < k_size)[None, :], other=0.0).to(tl.float32)
            lanes += x * x
    store_tile(
        first, up, tl.sum(lanes, axis=1), out_ptr, bias_ptr, residual_ptr, partial_ptr, m, n,
        n_rows, n_cols, k_size, out_stride, residual_stride, eps, 0,
        False, GLU, HAS_BIAS, HAS_RESIDUAL, HAS_NORM,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Gemm:
    """One product of x (rows, k) by a weight of `width` rows, checked, with its tile and memory.

    Every GEMM kernel begins with the arguments `shared` and knows the constants `flags`.
    """

    x: torch.Tensor
    out: torch.Tensor
    bias: torch.Tensor | None
    residual: torch.Tensor | None
    norm_weight: torch.Tensor | None
    eps: float
    swiglu: bool
    tile: Tile
    partial: torch.Tensor | None

    @property
    def n_cols(self) -> int:
        """Columns of the result."""
        return self.out.shape[1]

    @property
    def shared(self) -> tuple[Any, ...]:
        """x, out, bias, residual, norm, partial; rows, columns, k; strides of rows; eps."""
        return (
            self.x,
            self.out,
            self.bias,
            self.residual,
            self.norm_weight,
            self.partial,
            self.x.shape[0],
            self.n_cols,
            self.x.shape[1],
            self.x.stride(0),
            self.out.stride(0),
            self.residual.stride(0) if self.residual is not None else 0,
            self.eps,
        )

    @property
    def flags(self) -> dict[str, bool]:
        """The constants of the epilogue."""
        return {
            "GLU": self.swiglu,
            "HAS_BIAS": self.bias is not None,
            "HAS_RESIDUAL": self.residual is not None,
            "HAS_NORM": self.norm_weight is not None,
        }

    def run(
        self, kernel: Any, *weight: Any, blocks_in_a_row: bool = False, **constants: Any
    ) -> torch.Tensor:
        """Launch over (columns, splits, rows) in blocks, sum the splits, and return `out`.

        blocks_in_a_row: the kernel counts columns times rows in one dimension and has no splits.
        Raises ValueError for a tile with splits then, and for a grid over what every device takes.
        """
        if blocks_in_a_row and self.partial is not None:
            raise ValueError(f"{kernel.__name__}: takes no tile with {self.tile.split} splits")
        tile, n_rows = self.tile, self.x.shape[0]
        blocks_n, blocks_m = ceil_div(self.n_cols, tile.n), ceil_div(n_rows, tile.m)
        grid = (blocks_n * blocks_m,) if blocks_in_a_row else (blocks_n, tile.split, blocks_m)
        launch(
            kernel,
            grid,
            tile,
            *self.shared,
            *weight,
            **constants,
            **self.flags,
            BLOCK_M=tile.m,
            BLOCK_N=tile.n,
            IS_SPLIT=self.partial is not None,
        )
        if self.partial is not None:
            self._sum_splits(pdl=bool(constants.get("PDL")))
        return self.out

    def _sum_splits(self, *, pdl: bool) -> None:
        tile = choose("sum_splits", "fp32", device_facts(self.out), cols=self.n_cols)
        launch(
            _sum_splits_kernel,
            (ceil_div(self.n_cols, tile.n), self.x.shape[0]),
            tile,
            *self.shared,
            **self.flags,
            SPLIT_K=self.tile.split,
            BLOCK_N=tile.n,
            BLOCK_K=tile.k,
            PDL=pdl,
        )


def plan_gemm(
    kernel: str,
    x: torch.Tensor,
    width: int,
    *,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    norm_weight: torch.Tensor | None = None,
    eps: float = 0.0,
    swiglu: bool = False,
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    workspace: torch.Tensor | None = None,
    tile: Tile | None = None,
) -> Gemm:
    """Check the arguments that all GEMMs share, and choose the tile of `kernel`.

    Raises ValueError naming the argument whose shape or memory does not fit.
    """
    require_unit_stride(x=x, out=out, residual=residual, norm_weight=norm_weight, bias=bias)
    n_rows, k_size = x.shape
    n_cols = width // 2 if swiglu else width
    expected = {"out": (n_rows, n_cols), "residual": (n_rows, n_cols), "bias": (width,)}
    given = {"out": out, "residual": residual, "bias": bias, "norm_weight": norm_weight}
    for name, shape in (expected | {"norm_weight": (k_size,)}).items():
        tensor = given[name]
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: must be {shape}, not {tuple(tensor.shape)}")
    out = x.new_empty((n_rows, n_cols), dtype=out_dtype or x.dtype) if out is None else out
    tile = tile or choose(
        kernel,
        dtype_name(x.dtype),
        device_facts(x),
        rows=n_rows,
        n=n_cols,
        k=k_size,
        glu=int(swiglu),
    )
    partial = _partial(x, width, tile.split, workspace)
    return Gemm(x, out, bias, residual, norm_weight, eps, swiglu, tile, partial)


def _partial(
    x: torch.Tensor, width: int, splits: int, workspace: torch.Tensor | None
) -> torch.Tensor | None:
    """The fp32 partials (splits, rows, width), inside `workspace` where given; None for one split.

    Raises ValueError where the workspace is too small.
    """
    if splits == 1:
        return None
    shape = (splits, x.shape[0], width)
    needed = splits * x.shape[0] * width
    if workspace is None:
        return x.new_empty(shape, dtype=torch.float32)
    require_elements("workspace", workspace, needed)
    return workspace.view(-1)[:needed].view(shape)
