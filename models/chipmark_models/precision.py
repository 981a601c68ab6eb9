"""The precisions: which tensors are stored how, in which groups, and what they are compared with.

Needs the standard library only. The rule for the quantised precisions `w8`, `w4` and `fp8`:

- Quantised are the matrices of the layers (q, k, v, o, gate, up, down). Embedding, head (tied or
  not), norms and biases stay bf16, as llm-compressor, AutoAWQ and GPTQModel leave them by default
  (`ignore = ["lm_head"]`): one rule for tied and untied models, and a tied table is gathered from.
- `w8`, `w4`: symmetric integers, round to nearest even, a bf16 scale a row and group of k. The
  group is the largest of 128, 64, 32 that divides k: 128 for every preset of a public model but
  smollm2-135m (k = 576: 64). A matrix that none divides stays bf16 (only `tiny`, k = 176), and
  `kept_matrices` names it.
- `fp8`: e4m3, an fp32 scale a row; activations are quantised a row at a time when they are
  multiplied, where a product has rows enough to gain by it (a backend says from how many: decode
  of few rows is bound by reading weights).

Rows are compared within a class (`precision_class`), which is concluded from what was computed:
how many bits of a weight are stored, the type that products take, and KV where it is under 16 bits.

Activations and KV are bf16 (e4m3 into products of `fp8` with many rows) unless a backend says
otherwise: ONNX Runtime keeps both in fp32, and may round activations to int8 for products by the
groups that weights have scales of (`INT8_BY_GROUP`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, cast, get_args

from chipmark_kernels.formats import SCALE_GROUPS, scale_group
from chipmark_models.config import ModelConfig
from chipmark_models.errors import UnknownNameError
from chipmark_models.tensors import EMBEDDING, HEAD, expected_shapes, layer_shapes

BaseClass = Literal["fp32", "16-bit", "fp8", "w8a16", "w8a8", "w4a16", "w4a8"]
"""What weights and products are of; the class of a row has "+kv8" added where KV is narrow."""

BASE_CLASSES: tuple[BaseClass, ...] = get_args(BaseClass)
KV8 = "+kv8"
CLASS_PATTERN = f"^({'|'.join(BASE_CLASSES)})({re.escape(KV8)})?$"
"""A regular expression of all names of classes."""


@dataclass(frozen=True, slots=True)
class Precision:
    """How weights are stored and what is computed with."""

    name: str
    """What users call it."""

    class_name: BaseClass
    """The class where it is computed as asked (`precision_class` says of what ran)."""

    kept: str
    """The precision of tensors that are not quantised; of all where nothing is."""

    bits: int
    """Bits of a stored weight."""

    scale_bits: int
    """Bits of a scale, 0 where there is none."""

    groups: tuple[int, ...]
    """Sizes of a group with a scale along a row, preferred first; empty: one scale a row."""

    activation: str
    """Type of activations."""

    kv: str
    """Type of keys and values."""

    @property
    def quantised(self) -> bool:
        """Whether matrices are stored with scales."""
        return self.scale_bits > 0


def _plain(name: str, class_name: BaseClass, bits: int) -> Precision:
    return Precision(name, class_name, name, bits, 0, (), name, name)


PRECISIONS: Mapping[str, Precision] = MappingProxyType(
    {
        "fp32": _plain("fp32", "fp32", 32),
        "bf16": _plain("bf16", "16-bit", 16),
        "fp16": _plain("fp16", "16-bit", 16),
        "w8": Precision("w8", "w8a16", "bf16", 8, 16, SCALE_GROUPS, "bf16", "bf16"),
        "w4": Precision("w4", "w4a16", "bf16", 4, 16, SCALE_GROUPS, "bf16", "bf16"),
        "fp8": Precision("fp8", "fp8", "bf16", 8, 32, (), "fp8", "bf16"),
    }
)
PLAIN = tuple(name for name, p in PRECISIONS.items() if not p.quantised)
QUANTISED = tuple(name for name, p in PRECISIONS.items() if p.quantised)


def precision_named(name: str) -> Precision:
    """The precision of that name; UnknownNameError with the nearest names."""
    if name not in PRECISIONS:
        raise UnknownNameError("precision", name, PRECISIONS)
    return PRECISIONS[name]


def group_of(precision: str, k: int) -> int | None:
    """Weights that share a scale along a row of `k`; None where the rows cannot be grouped so.

    `k` itself for a scale a row (`fp8`). UnknownNameError for a precision without scales.
    """
    found = precision_named(precision)
    if not found.quantised:
        raise UnknownNameError("quantised precision", precision, QUANTISED)
    if not found.groups:
        return k
    return scale_group(k) if k % SCALE_GROUPS[-1] == 0 else None


def stored_as(precision: str, name: str, shape: tuple[int, ...]) -> str:
    """How one tensor is stored: a quantised precision for a matrix that it quantises, else the
    plain one that the others keep."""
    found = precision_named(precision)
    matrix = len(shape) == 2 and name not in (EMBEDDING, HEAD)
    if found.quantised and matrix and group_of(precision, shape[1]) is not None:
        return precision
    return found.kept


def kept_matrices(config: ModelConfig, precision: str) -> tuple[str, ...]:
    """Matrices of the layers that a quantised precision keeps, as no group divides their rows."""
    if not precision_named(precision).quantised:
        return ()
    return tuple(
        name
        for name, shape in expected_shapes(config).items()
        if len(shape) == 2
        and name not in (EMBEDDING, HEAD)
        and stored_as(precision, name, shape) != precision
    )


def tensor_bytes(precision: str, name: str, shape: tuple[int, ...]) -> int:
    """Bytes of one tensor as stored, its scales included."""
    stored = precision_named(stored_as(precision, name, shape))
    n_bytes = math.prod(shape) * stored.bits // 8
    if not stored.quantised:
        return n_bytes
    group = group_of(stored.name, shape[1])
    assert group is not None
    return n_bytes + shape[0] * (shape[1] // group) * stored.scale_bits // 8


def label(config: ModelConfig, precision: str) -> str:
    """For people: the precision with its group, as "w4/g128"; "fp8/row" for a scale a row."""
    found = precision_named(precision)
    if not found.quantised:
        return precision
    if not found.groups:
        return f"{precision}/row"
    sizes = {
        group_of(precision, shape[1])
        for name, shape in layer_shapes(config).items()
        if stored_as(precision, name, shape) == precision
    }
    return f"{precision}/g" + "+".join(str(size) for size in sorted(s for s in sizes if s))


INT8_BY_GROUP = "int8 by group"
"""int8 with a scale for each row and each group of k that the weights have a scale of; matrices
that are kept take what activations are."""

ROUNDED = ("fp8", "bf16", "fp16", INT8_BY_GROUP)
"""Types that activations may be rounded to, as `rounding.ROUNDINGS` does it on purpose."""


def rounding_of(linear_input: str) -> str:
    """What activations are rounded to where products take the type `linear_input`: one of
    ROUNDED, "" where it is none."""
    return linear_input if linear_input in ROUNDED else ""


def product_type(linear_input: str) -> str:
    """The type whose matrix rate bounds products that take `linear_input`: a name that
    `Backend.probe_matmul` knows."""
    if linear_input == INT8_BY_GROUP:
        return "int8"
    return rounding_of(linear_input) or "fp32"


def precision_class(weights: str, linear_input: str, kv: str) -> str:
    """The class of what was computed: a name that matches CLASS_PATTERN.

    weights: the precision of the stored weights. linear_input: the type that products take. kv:
    type of the cache. Plain weights are of the class of what products take where that is narrower:
    a product of 16 bits is none of fp32, however the weights are stored. UnknownNameError for
    weights that are not a precision, and for a KV type that is not known.
    """
    stored = precision_named(weights)
    if kv not in (*WIDE_KV, *NARROW_KV):
        raise UnknownNameError("KV type", kv, (*WIDE_KV, *NARROW_KV))
    rounding = rounding_of(linear_input)
    narrow = linear_input in ("fp8", "int8", INT8_BY_GROUP)
    base: BaseClass
    if not stored.quantised and narrow:
        base = "fp8" if rounding == "fp8" else "w8a8"
    elif not stored.quantised:
        base = "16-bit" if rounding else stored.class_name
    elif weights == "fp8" and narrow:
        base = "fp8"
    else:
        base = cast("BaseClass", f"w{stored.bits}a{8 if narrow else 16}")
    return base + (KV8 if kv in NARROW_KV else "")


WIDE_KV = PLAIN
"""Types of KV of 16 bits and more."""

NARROW_KV = ("int8", "fp8", "e4m3", "e5m2", "int4")
"""Types of KV under 16 bits."""
