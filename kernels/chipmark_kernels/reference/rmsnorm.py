"""RMS norm in plain torch."""

from __future__ import annotations

import torch

from chipmark_kernels.dtypes import wide_dtype


def rmsnorm_reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    residual: torch.Tensor | None = None,
    *,
    cast_first: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `chipmark_kernels.rmsnorm.rmsnorm`; float64 inputs are computed in float64."""
    wide = wide_dtype(x)
    total = x if residual is None else (x.to(wide) + residual.to(wide)).to(x.dtype)
    t = total.to(wide)
    normed = t * torch.rsqrt(t.square().mean(-1, keepdim=True) + eps)
    if cast_first:
        normed = normed.to(weight.dtype).to(wide)
    return (normed * weight.to(wide)).to(weight.dtype), total
