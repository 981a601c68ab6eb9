"""The paged decoder's operations by the kernels' plain references."""

from __future__ import annotations

from collections.abc import Callable

import torch

from chipmark_kernels.reference.attention import (
    decode_attention_reference as decode_attention,
)
from chipmark_kernels.reference.attention import (
    prefill_attention_reference as prefill_attention,
)
from chipmark_kernels.reference.embedding import embedding_rmsnorm_reference as embed_norm
from chipmark_kernels.reference.gemm import (
    fp8_gemm_reference,
    fp8a16_gemm_reference,
    quantize_rows_fp8_reference,
    skinny_gemm_reference,
    w4a16_gemm_reference,
    w8a16_gemm_reference,
)
from chipmark_kernels.reference.rope_kv import qknorm_rope_kvwrite_reference
from chipmark_kernels.reference.sampling import sample_reference as greedy
from chipmark_models.decoder.paged.ops import Fp8Rows, Matrix
from chipmark_models.decoder.paged.quantised import QuantisedMatrix

__all__ = [
    "decode_attention",
    "embed_norm",
    "greedy",
    "prefill_attention",
    "product",
    "quantise_rows",
    "rope_kv",
]

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


def rope_kv(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    n_heads: int,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    eps: float,
) -> torch.Tensor:
    """Head norms, rotation and the write into the pages."""
    return qknorm_rope_kvwrite_reference(
        qkv, cos, sin, positions, slots, k_cache, v_cache, n_heads,
        q_norm=q_norm, k_norm=k_norm, eps=eps,
    )  # fmt: skip
