"""What a loaded backend computes with, and how a record words it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from chipmark_models.precision import INT8_BY_GROUP, precision_class


class Weights(StrEnum):
    """Precisions of stored weights: the names of `chipmark_models.precision.PRECISIONS`."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    W8 = "w8"
    W4 = "w4"
    FP8 = "fp8"


class Number(StrEnum):
    """Types of activations, of what products take, and of KV."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    FP8 = "fp8"
    E4M3 = "e4m3"
    E5M2 = "e5m2"
    INT8 = "int8"
    INT8_BY_GROUP = INT8_BY_GROUP
    INT4 = "int4"


class Accumulator(StrEnum):
    """Types that products add up in, or who decides it."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT32 = "int32"
    TORCH = "torch's default"
    PROVIDER = "provider"


@dataclass(frozen=True, slots=True)
class ComputedPrecision:
    """The precision of what was really computed, which may be another than the one asked for."""

    weights: Weights
    activation: Number
    """Activations between operations."""
    linear_input: Number
    """What products take: `activation`, or narrower where it is rounded for them."""
    kv: Number
    accumulate: Accumulator
    attention_input: Number | None = None
    """What attention of decode takes; None for `activation`."""
    linear_from_rows: int = 0
    """Products of more rows than this take `linear_input`, those of fewer `activation`."""

    @classmethod
    def plain(
        cls, name: str, kv: str = "", accumulate: Accumulator = Accumulator.FP32
    ) -> ComputedPrecision:
        """Everything in the type `name`, KV too unless `kv` names another. Raises ValueError for
        a name that is not a type."""
        number = Number(name)
        return cls(Weights(name), number, number, Number(kv or name), accumulate)

    def words(self) -> dict[str, str]:
        """As a record keeps it: `weights`, `activation`, `kv`, `accumulate`."""
        return {
            "weights": str(self.weights),
            "activation": self._activation_words(),
            "kv": str(self.kv),
            "accumulate": str(self.accumulate),
        }

    def _activation_words(self) -> str:
        """`bf16, fp8 into products of over 64 rows`, `fp32, int8 by group into products`: what
        goes where it is another type."""
        places: dict[Number, list[str]] = {}
        if self.linear_input != self.activation:
            rows = f" of over {self.linear_from_rows} rows" if self.linear_from_rows else ""
            places.setdefault(self.linear_input, []).append(f"products{rows}")
        if self.attention_input not in (None, self.activation):
            places.setdefault(Number(self.attention_input), []).append("decode attention")
        parts = (f"{number} into {' and '.join(where)}" for number, where in places.items())
        return ", ".join((str(self.activation), *parts))


def class_of(weights: str, activation: str, kv: str) -> str:
    """The precision class of what is computed, as a record words it. UnknownNameError for a word
    that is not a precision."""
    return precision_class(weights, linear_input_of(activation), kv)


def linear_input_of(words: str) -> str:
    """What products take by a record's words on activations: the type that goes "into products",
    else that of the activations themselves."""
    first, *others = words.split(", ")
    found = (re.fullmatch(r"([\w ]+?) into products\b.*", part) for part in others)
    return next((match[1] for match in found if match), first)
