"""The matrix products in plain torch: plain, int8 and int4 weights, fp8."""

from __future__ import annotations

import torch

from chipmark_kernels.dtypes import wide_dtype
from chipmark_kernels.formats import E4M3_MAX
from chipmark_kernels.reference.rmsnorm import rmsnorm_reference
from chipmark_kernels.reference.swiglu import swiglu_reference


def _product(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    norm_weight: torch.Tensor | None,
    eps: float,
    swiglu: bool,
    residual: torch.Tensor | None,
) -> torch.Tensor:
    """norm(x) @ weight.T, its bias, SwiGLU and residual, in float32, or float64 for such an x.

    The normed x is rounded to x's dtype, as a norm of its own would leave it.
    """
    wide = wide_dtype(x)
    if norm_weight is not None:
        x, _ = rmsnorm_reference(x, norm_weight, eps)
    y = x.to(wide) @ weight.to(wide).T
    return finished(y, bias, swiglu=swiglu, residual=residual)


def finished(
    y: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    swiglu: bool,
    residual: torch.Tensor | None,
) -> torch.Tensor:
    """The end of every GEMM, in y's dtype: bias, then SwiGLU, then the residual."""
    if bias is not None:
        y = y + bias.to(y.dtype)
    if swiglu:
        y = swiglu_reference(y)
    return y if residual is None else y + residual.to(y.dtype)


def skinny_gemm_reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    norm_weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    swiglu: bool = False,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """As `chipmark_kernels.skinny_gemm.skinny_gemm`; float64 inputs are computed in float64."""
    return _product(x, weight, bias, norm_weight, eps, swiglu, residual).to(x.dtype)


def dequantize_int8(weight: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """weight (n, k) int8 times scales (n, groups), in `dtype`."""
    n, k = weight.shape
    grouped = weight.to(dtype).view(n, scales.shape[1], -1)
    return (grouped * scales.to(dtype)[:, :, None]).reshape(n, k)


def dequantize_int4(
    packed: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """Undo `weight_only.quantize_int4`: packed (n, k / 2) uint8 to (n, k) in `dtype`."""
    n = packed.shape[0]
    grouped = packed.view(n, scales.shape[1], -1)
    values = torch.cat((grouped & 15, grouped >> 4), dim=-1).to(dtype)
    zero = 8.0 if zeros is None else zeros.to(dtype)[:, :, None]
    return ((values - zero) * scales.to(dtype)[:, :, None]).reshape(n, -1)


def dequantize_fp8(weight: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """weight (n, k) float8_e4m3fn times scales (n,), in `dtype`."""
    return weight.to(dtype) * scales.to(dtype)[:, None]


def w8a16_gemm_reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    norm_weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    swiglu: bool = False,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """As `chipmark_kernels.weight_only.w8a16_gemm`."""
    wide = wide_dtype(x)
    w = dequantize_int8(weight, scales, wide)
    return _product(x, w, bias, norm_weight, eps, swiglu, residual).to(x.dtype)


def w4a16_gemm_reference(
    x: torch.Tensor,
    packed: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    norm_weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    swiglu: bool = False,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """As `chipmark_kernels.weight_only.w4a16_gemm`."""
    wide = wide_dtype(x)
    w = dequantize_int4(packed, scales, zeros, wide)
    return _product(x, w, bias, norm_weight, eps, swiglu, residual).to(x.dtype)


def fp8a16_gemm_reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    w_scales: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    norm_weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    swiglu: bool = False,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """As `chipmark_kernels.skinny_gemm.fp8a16_gemm`."""
    wide = wide_dtype(x)
    w = dequantize_fp8(weight, w_scales, wide)
    return _product(x, w, bias, norm_weight, eps, swiglu, residual).to(x.dtype)


def fp8_gemm_reference(
    x: torch.Tensor,
    x_scales: torch.Tensor,
    weight: torch.Tensor,
    w_scales: torch.Tensor,
    out_dtype: torch.dtype = torch.bfloat16,
    bias: torch.Tensor | None = None,
    *,
    swiglu: bool = False,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """As `chipmark_kernels.fp8_gemm.fp8_gemm`, multiplied in fp64."""
    product = x.to(torch.float64) @ weight.to(torch.float64).T
    scaled = product * x_scales.to(torch.float64)[:, None] * w_scales.to(torch.float64)[None, :]
    return finished(scaled, bias, swiglu=swiglu, residual=residual).to(out_dtype)


def quantize_rows_fp8_reference(
    x: torch.Tensor, norm_weight: torch.Tensor | None = None, eps: float = 1e-6
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `chipmark_kernels.fp8_gemm.quantize_rows_fp8`."""
    if norm_weight is not None:
        x, _ = rmsnorm_reference(x, norm_weight, eps)
    wide = x.to(torch.float32)
    top = wide.abs().amax(-1)
    scales = torch.where(top > 0, top / E4M3_MAX, torch.ones_like(top))
    scaled = (wide / scales[:, None]).clamp(-E4M3_MAX, E4M3_MAX)
    return scaled.to(torch.float8_e4m3fn), scales
