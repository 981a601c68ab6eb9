"""The paged decoder's operations by the kernels' plain references."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from chipmark_kernels.reference.attention import (
    decode_attention_reference,
    prefill_attention_reference,
)
from chipmark_kernels.reference.embedding import embedding_rmsnorm_reference
from chipmark_kernels.reference.gemm import (
    fp8_gemm_reference,
    fp8a16_gemm_reference,
    quantize_rows_fp8_reference,
    skinny_gemm_reference,
    w4a16_gemm_reference,
    w8a16_gemm_reference,
)
from chipmark_kernels.reference.rope_kv import qknorm_rope_kvwrite_reference
from chipmark_kernels.reference.sampling import sample_reference
from chipmark_models.decoder.op_table import Implementation
from chipmark_models.decoder.paged.ops import PRODUCTS, Fp8Rows, Matrix
from chipmark_models.decoder.paged.quantised import QuantisedMatrix

_BY_PRECISION: dict[str, Callable[..., torch.Tensor]] = {
    "w8": w8a16_gemm_reference,
    "w4": w4a16_gemm_reference,
    "fp8": fp8a16_gemm_reference,
}
"""What multiplies rows as they are by a quantised matrix."""


def quantise_rows(x: torch.Tensor, norm: torch.Tensor | None, eps: float) -> Fp8Rows:
    """Rows as e4m3 with a scale each, after the norm where one is given."""
    return Fp8Rows(*quantize_rows_fp8_reference(x, norm, eps), x.dtype)


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
    """norm(x) @ matrix.T + bias, then SwiGLU, then + residual."""
    if isinstance(x, Fp8Rows):
        assert isinstance(matrix, QuantisedMatrix)
        return fp8_gemm_reference(
            x.values, x.scales, matrix.packed, matrix.scales, x.dtype, bias,
            swiglu=swiglu, residual=residual,
        )  # fmt: skip
    if isinstance(matrix, QuantisedMatrix):
        return _BY_PRECISION[matrix.precision](
            x, matrix.packed, matrix.scales, bias=bias,
            norm_weight=norm, eps=eps, swiglu=swiglu, residual=residual,
        )  # fmt: skip
    return skinny_gemm_reference(
        x, matrix, bias, norm_weight=norm, eps=eps, swiglu=swiglu, residual=residual
    )


OPS: Mapping[str, Implementation] = {
    "embed_norm": embedding_rmsnorm_reference,
    "quantise_rows": quantise_rows,
    "rope_kv": qknorm_rope_kvwrite_reference,
    "prefill_attention": prefill_attention_reference,
    "decode_attention": decode_attention_reference,
    "greedy": sample_reference,
    **dict.fromkeys(PRODUCTS, product),
}
"""The function of each operation, by its name."""
