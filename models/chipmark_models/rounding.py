"""What rounding a backend's activations does by itself, as the oracle can do it on purpose.

A backend that keeps activations in 16 bits, or rounds them to e4m3 for its products, differs from
the fp32 oracle by that much even when it is right; how much depends on the model. The oracle with
the same rounding tells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from chipmark_kernels.formats import E4M3_MAX

RoundFn = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Rounding:
    """into: on what goes into a product of the layers. out: on what comes out of one, and on the
    residual stream."""

    into: RoundFn
    out: RoundFn


def round_rows_fp8(x: torch.Tensor) -> torch.Tensor:
    """Rows of x (..., k) to e4m3 with a scale a row, and back: the activations of `fp8`."""
    top = x.abs().amax(-1, keepdim=True) / E4M3_MAX
    scale = torch.where(top > 0, top, torch.ones_like(top)).float()
    scaled = (x.float() / scale).clamp(-E4M3_MAX, E4M3_MAX)
    return (scaled.to(torch.float8_e4m3fn).float() * scale).to(x.dtype)


def _through(dtype: torch.dtype) -> RoundFn:
    return lambda x: x.to(dtype).to(x.dtype)


ROUNDINGS: Mapping[str, Rounding] = MappingProxyType(
    {
        "fp8": Rounding(round_rows_fp8, _through(torch.bfloat16)),
        "bf16": Rounding(_through(torch.bfloat16), _through(torch.bfloat16)),
        "fp16": Rounding(_through(torch.float16), _through(torch.float16)),
    }
)
"""By the name of the activations' type; with e4m3 products all else is bf16."""
