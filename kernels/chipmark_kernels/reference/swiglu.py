"""SwiGLU in plain torch."""

from __future__ import annotations

import torch

from chipmark_kernels.dtypes import wide_dtype


def swiglu_reference(packed: torch.Tensor) -> torch.Tensor:
    """As `chipmark_kernels.swiglu.swiglu`; float64 inputs are computed in float64."""
    wide = wide_dtype(packed)
    gate, up = packed.to(wide).chunk(2, dim=-1)
    return (torch.nn.functional.silu(gate) * up).to(packed.dtype)
