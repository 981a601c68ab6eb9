"""The paged decoder's operations by the Triton kernels.

A product of at most FEW_ROWS rows is one launch with its norm and its ending inside. More rows of a
plain weight are bound by arithmetic: cuBLAS multiplies, and the kernels norm and end around it.
More rows of an fp8 weight come normed and quantised, see `ops.takes_fp8_rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from chipmark_kernels.decode_attention import decode_attention
from chipmark_kernels.embedding import embedding_rmsnorm
from chipmark_kernels.fp8_gemm import fp8_gemm, quantize_rows_fp8
from chipmark_kernels.prefill_attention import prefill_attention
from chipmark_kernels.rope_kv import qknorm_rope_kvwrite
from chipmark_kernels.sampling import sample
from chipmark_kernels.skinny_gemm import fp8a16_gemm, skinny_gemm
from chipmark_kernels.weight_only import w4a16_gemm, w8a16_gemm
from chipmark_models.decoder.op_table import Implementation
from chipmark_models.decoder.paged import mixed_ops
from chipmark_models.decoder.paged.ops import FEW_ROWS, PRODUCTS, Fp8Rows, Matrix
from chipmark_models.decoder.paged.quantised import QuantisedMatrix

_BY_PRECISION: dict[str, Callable[..., torch.Tensor]] = {
    "w8": w8a16_gemm,
    "w4": w4a16_gemm,
    "fp8": fp8a16_gemm,
}
"""What multiplies 16-bit rows by a quantised matrix."""


def quantise_rows(x: torch.Tensor, norm: torch.Tensor | None, eps: float) -> Fp8Rows:
    """Rows (normed where a norm is given) as e4m3 with a scale each, one launch."""
    values, scales = quantize_rows_fp8(x, norm, eps)
    return Fp8Rows(values, scales, x.dtype)


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
    """norm(x) @ matrix.T + bias, then SwiGLU, then + residual; by the weight's kind and rows.

    The residual may be what is returned, its old values gone.
    """
    if isinstance(x, Fp8Rows):
        assert isinstance(matrix, QuantisedMatrix)
        return fp8_gemm(
            x.values, x.scales, matrix.packed, matrix.scales, x.dtype, bias,
            swiglu=swiglu, residual=residual,
        )  # fmt: skip
    if isinstance(matrix, QuantisedMatrix):
        return _BY_PRECISION[matrix.precision](
            x, matrix.packed, matrix.scales, bias=bias,
            norm_weight=norm, eps=eps, swiglu=swiglu, residual=residual,
        )  # fmt: skip
    if x.shape[0] <= FEW_ROWS:
        return skinny_gemm(
            x, matrix, bias, norm_weight=norm, eps=eps, swiglu=swiglu, residual=residual
        )
    return mixed_ops.product(x, matrix, bias, norm=norm, eps=eps, swiglu=swiglu, residual=residual)


OPS: Mapping[str, Implementation] = {
    "embed_norm": embedding_rmsnorm,
    "quantise_rows": quantise_rows,
    "rope_kv": qknorm_rope_kvwrite,
    "prefill_attention": prefill_attention,
    "decode_attention": decode_attention,
    "greedy": sample,
    **dict.fromkeys(PRODUCTS, product),
}
"""The function of each operation, by its name."""
