"""Products by cuBLAS between kernels of ours: the norm before it and the ending behind it.

Our own product of few rows saves these launches, but from some 8 rows on it reads its rows again
for each block of columns, which cuBLAS does not: a trial on the device says which is faster.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as functional

from chipmark_kernels.rmsnorm import rmsnorm
from chipmark_kernels.swiglu import swiglu as swiglu_kernel
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
    """norm(x) @ matrix.T + bias, then SwiGLU, then + residual; of plain weights only.

    The residual may be what is returned, its old values gone.
    """
    if norm is not None:
        x = rmsnorm(x, norm, eps)[0]
    if residual is not None and bias is None and not swiglu:
        return residual.addmm_(x, matrix.T)  # `torch.addmm` would copy the residual first
    y = functional.linear(x, matrix, bias)
    y = swiglu_kernel(y) if swiglu else y
    return y if residual is None else y.add_(residual)


OPS: Mapping[str, Implementation] = dict.fromkeys(PRODUCTS, product)
"""The function of each operation that it has, by its name."""
