"""Products of many rows by the kernel that uses Hopper's tensor memory accelerator and wgmma."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from chipmark_kernels.dense_gemm_hopper import dense_gemm_hopper
from chipmark_kernels.rmsnorm import rmsnorm
from chipmark_models.decoder.op_table import Implementation
from chipmark_models.decoder.paged.ops import PRODUCTS


def product(
    x: torch.Tensor,
    matrix: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    norm: torch.Tensor | None = None,
    eps: float = 0.0,
    swiglu: bool = False,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """norm(x) @ matrix.T + bias, then SwiGLU, then + residual; of plain 16-bit weights only.

    Raises ValueError on a device without the accelerator.
    """
    if norm is not None:
        x = rmsnorm(x, norm, eps)[0]
    return dense_gemm_hopper(x, matrix, bias, swiglu=swiglu, residual=residual)


OPS: Mapping[str, Implementation] = dict.fromkeys(PRODUCTS, product)
"""The function of each operation that it has, by its name."""
