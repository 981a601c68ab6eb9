"""Products with `w8` and `w4` weights as ONNX operators over the stored codes and scales.

MatMulNBits (com.microsoft): codes uint8 (n, blocks, bytes of a block) with a zero point of 128 or
8, two codes of 4 bits a byte, the first in the low half; `accuracy_level` is always written, as
what a provider does without it is its own choice (the CPU provider takes 0 then, and unpacks the
whole matrix of 8 bits in every call). Level 4 lets products take activations in int8 with a scale
for each row and group of k.

DequantizeLinear (opset 21, blocks along k) and Gemm: codes int8, or int4 two a byte, (n, k)
without a zero point. A provider may keep the codes and unpack in its product, or unpack once.

Scales are the stored ones (bf16 values) widened to float32 (n, groups): the types of scales and of
the output agree in both operators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from chipmark_models.onnx_graphs.builder import (
    OPSET,
    OPSET_OF_BLOCKS,
    GraphBuilder,
    ViewForm,
    WeightView,
)
from chipmark_models.precision import group_of
from chipmark_models.weights.plain import widen
from chipmark_models.weights.quantise import QuantisedTensor

_BITS: dict[str, int] = {"w8": 8, "w4": 4}
_ZERO_POINT: dict[str, int] = {"w8": 128, "w4": 8}

INTEGERS = tuple(_BITS)
"""The precisions that are written by these operators."""

ACCURACY_LEVELS = (0, 1, 2, 3, 4)
"""Of MatMulNBits: activations at least in fp32 (0 unset, 1), fp16 (2), bf16 (3) or int8 (4)."""


class QuantisedOperator(StrEnum):
    """By which operators a product with quantised weights is written."""

    MATMUL_NBITS = "MatMulNBits"
    DEQUANTIZE_LINEAR = "DequantizeLinear"


@dataclass(frozen=True, slots=True)
class QuantisedForm:
    """How the quantised matrices of a graph are written.

    precision: w8 or w4. accuracy_level: one of ACCURACY_LEVELS, of MatMulNBits.
    """

    precision: str
    operator: QuantisedOperator
    accuracy_level: int = 0

    def takes(self, k: int) -> bool:
        """Whether matrices with rows of `k` are quantised; others are kept (`precision`)."""
        return group_of(self.precision, k) is not None


def opset_of(form: QuantisedForm | None) -> int:
    """The opset that a graph with such products needs; OPSET for values alone."""
    blocks = form is not None and form.operator is QuantisedOperator.DEQUANTIZE_LINEAR
    return OPSET_OF_BLOCKS if blocks else OPSET


def quantised_product(
    builder: GraphBuilder,
    form: QuantisedForm,
    x: str,
    name: str,
    parts: tuple[str, ...],
    shape: tuple[int, int],
) -> str:
    """x (rows, k) times the transposed stack of `parts`, (n, k) = `shape`, as nodes in `builder`.

    Weights are named `name`.weight and `name`.weight_scale. Returns the output's name, (rows, n)
    float32. `form.takes(k)` must hold.
    """
    n, k = shape
    group = group_of(form.precision, k)
    assert group is not None
    bits = _BITS[form.precision]
    by_nbits = form.operator is QuantisedOperator.MATMUL_NBITS
    codes = WeightView(
        f"{name}.weight",
        parts,
        (n, k // group, group * bits // 8) if by_nbits else shape,
        "uint8" if by_nbits else f"int{bits}",
        form=ViewForm.NBITS_CODES if by_nbits else ViewForm.BLOCK_CODES,
        weights=n * k,
    )
    scales = WeightView(
        f"{name}.weight_scale", parts, (n, k // group), "float32", form=ViewForm.SCALES
    )
    weights = [builder.weight(codes), builder.weight(scales)]
    if by_nbits:
        return builder.op(
            "MatMulNBits",
            [x, *weights],
            domain="com.microsoft",
            K=k,
            N=n,
            bits=bits,
            block_size=group,
            accuracy_level=form.accuracy_level,
        )
    wide = builder.op("DequantizeLinear", weights, axis=1, block_size=group)
    return builder.op("Gemm", [x, wide], transB=1)


def quantised_array(view: WeightView, parts: Sequence[QuantisedTensor]) -> npt.NDArray[Any]:
    """The array of a view whose form is not VALUES; int4 as uint8, two a byte, (n, k / 2)."""
    if view.form is ViewForm.SCALES:
        return np.concatenate([widen(part.scales, "bf16") for part in parts])
    return np.concatenate([_packed(part, view.form) for part in parts])


def _packed(part: QuantisedTensor, form: ViewForm) -> npt.NDArray[Any]:
    codes = part.codes()
    if form is ViewForm.NBITS_CODES:
        # uint8 wraps around: adding the zero point of 8 bits turns the sign bit.
        unsigned = codes.view(np.uint8) + np.uint8(_ZERO_POINT[part.precision])
        return unsigned if part.precision == "w8" else _pairs(unsigned)
    if part.precision == "w8":
        return codes.reshape(part.shape)
    return _pairs(codes.view(np.uint8) & np.uint8(15)).reshape(len(codes), -1)


def _pairs(halves: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Values of 4 bits (..., 2 m) as bytes (..., m), the first of two in the low half."""
    packed: npt.NDArray[np.uint8] = halves[..., ::2] | (halves[..., 1::2] << np.uint8(4))
    return packed
