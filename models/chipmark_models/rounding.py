"""What rounding a backend's activations does by itself, as the oracle can do it on purpose.

A backend that keeps activations in 16 bits, or rounds them to 8 bits for its products, differs from
the fp32 oracle by that much even when it is right; how much depends on the model. The oracle with
the same rounding tells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from chipmark_kernels.formats import E4M3_MAX, SCALE_GROUPS, scale_group
from chipmark_models.precision import INT8_BY_GROUP

_INT8_MAX = 127.0

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


def round_groups_int8(x: torch.Tensor) -> torch.Tensor:
    """x (..., k) to int8 and back, a scale for each row and group of k: largest value / 127.

    The groups are those of the weights that it is multiplied by (`formats.scale_group`); x itself
    where none divides k, as such weights are kept. That is what onnxruntime's CPU kernels of
    MatMulNBits do at accuracy_level 4 (block size = group; `QuantizeARow_CompInt8` of its mlas).
    """
    k = x.shape[-1]
    if k % SCALE_GROUPS[-1]:
        return x
    grouped = x.reshape(*x.shape[:-1], -1, scale_group(k))
    scale = grouped.abs().amax(-1, keepdim=True) / _INT8_MAX
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return ((grouped / scale).round() * scale).reshape(x.shape)


def _itself(x: torch.Tensor) -> torch.Tensor:
    return x


def _through(dtype: torch.dtype) -> RoundFn:
    return lambda x: x.to(dtype).to(x.dtype)


ROUNDINGS: Mapping[str, Rounding] = MappingProxyType(
    {
        "fp8": Rounding(round_rows_fp8, _through(torch.bfloat16)),
        "bf16": Rounding(_through(torch.bfloat16), _through(torch.bfloat16)),
        "fp16": Rounding(_through(torch.float16), _through(torch.float16)),
        INT8_BY_GROUP: Rounding(round_groups_int8, _itself),
    }
)
"""By the name of the activations' type; with e4m3 products all else is bf16, with int8 fp32."""
