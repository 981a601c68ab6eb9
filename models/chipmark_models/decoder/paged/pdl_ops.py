"""The decode step as a chain of dependent launches: each begins while the one before it works.

`chipmark_kernels.dependent_launch` says which devices know such launches and why mixing them with
others is safe. One row is multiplied by the kernel of its own for that; up to FEW_ROWS by the
portable ones, launched early; more rows and 4- or 8-bit integers as by `triton`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from chipmark_kernels.decode_attention import decode_attention
from chipmark_kernels.embedding import embedding_rmsnorm
from chipmark_kernels.gemv_hopper import gemv_hopper
from chipmark_kernels.rope_kv import qknorm_rope_kvwrite
from chipmark_kernels.sampling import sample
from chipmark_kernels.skinny_gemm import fp8a16_gemm, skinny_gemm
from chipmark_models.decoder.op_table import Implementation
from chipmark_models.decoder.paged import triton_ops
from chipmark_models.decoder.paged.ops import FEW_ROWS, PRODUCTS, Fp8Rows, Matrix
from chipmark_models.decoder.paged.quantised import QuantisedMatrix


def product(
    x: torch.Tensor | Fp8Rows,
    matrix: Matrix,
    bias: torch.Tensor | None = None,
    *,
    norm: torch.Tensor | None = None,
    eps: float = 0.0,
    swiglu: bool = False,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """norm(x) @ matrix.T + bias, then SwiGLU, then + residual.

    Raises ValueError on a device that launches no kernel early.
    """
    scales: torch.Tensor | None = None
    weight: Matrix = matrix
    if isinstance(weight, QuantisedMatrix) and weight.precision == "fp8":
        scales, weight = weight.scales, weight.packed
    if isinstance(x, Fp8Rows) or isinstance(weight, QuantisedMatrix) or x.shape[0] > FEW_ROWS:
        return triton_ops.product(
            x, matrix, bias, norm=norm, eps=eps, swiglu=swiglu, residual=residual
        )
    if x.shape[0] == 1:
        return gemv_hopper(
            x, weight, scales, bias,
            norm_weight=norm, eps=eps, swiglu=swiglu, residual=residual,
        )  # fmt: skip
    multiply = skinny_gemm if scales is None else partial(fp8a16_gemm, w_scales=scales)
    return multiply(
        x, weight, bias=bias,
        norm_weight=norm, eps=eps, swiglu=swiglu, residual=residual, pdl=True,
    )  # fmt: skip


OPS: Mapping[str, Implementation] = {
    "embed_norm": partial(embedding_rmsnorm, pdl=True),
    "rope_kv": partial(qknorm_rope_kvwrite, pdl=True),
    "decode_attention": partial(decode_attention, pdl=True),
    "greedy": partial(sample, pdl=True),
    **dict.fromkeys(PRODUCTS, product),
}
"""The function of each operation that it has, by its name."""
