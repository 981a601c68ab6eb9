"""Products of e4m3 rows by an e4m3 matrix by cuBLAS, a scale a row on both sides."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from chipmark_kernels.swiglu import swiglu as swiglu_kernel
from chipmark_models.decoder.op_table import Implementation
from chipmark_models.decoder.paged.ops import PRODUCTS, Fp8Rows
from chipmark_models.decoder.paged.quantised import QuantisedMatrix


def product(
    x: Fp8Rows,
    matrix: QuantisedMatrix,
    bias: torch.Tensor | None = None,
    *,
    swiglu: bool = False,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """x @ matrix.T + bias, then SwiGLU, then + residual, in x.dtype.

    Sums are kept in fp32 throughout: not by cuBLAS's fast accumulation. Raises what torch raises
    on a device without such a product, or for an x.dtype other than bf16.
    """
    y: torch.Tensor = torch._scaled_mm(
        x.values,
        matrix.packed.T,
        x.scales[:, None],
        matrix.scales[None, :],
        out_dtype=x.dtype,
        use_fast_accum=False,
    )
    if bias is not None:
        y = y.add_(bias)
    y = swiglu_kernel(y) if swiglu else y
    return y if residual is None else y.add_(residual)


OPS: Mapping[str, Implementation] = dict.fromkeys(PRODUCTS, product)
"""The function of each operation that it has, by its name."""
