"""A tensor as it lies on disk: one array, or packed values and their scales; and the hash of all.

Files use the dtype names of safetensors. A quantised matrix keeps its name for the packed values
and its scales have the same name with `_scale` behind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from chipmark_models.precision import group_of, precision_named, stored_as
from chipmark_models.weights.plain import (
    STORED_DTYPE,
    FloatArray,
    StoredArray,
    round_to,
    thread_count,
)
from chipmark_models.weights.quantise import PACKED_DTYPE, SCALE_DTYPE, QuantisedTensor, quantise

SCALES = "_scale"

_PLAIN_NAME = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
_PACKED_NAME = {"w8": "I8", "w4": "U8", "fp8": "F8_E4M3"}
_SCALE_NAME = {"w8": "BF16", "w4": "BF16", "fp8": "F32"}

Stored = StoredArray | QuantisedTensor


@dataclass(frozen=True, slots=True)
class TensorPart:
    """One array of a tensor: its dtype's name in safetensors, its shape, and its bytes."""

    dtype: str
    shape: tuple[int, ...]
    n_bytes: int


def parts_of(precision: str, name: str, shape: tuple[int, ...]) -> dict[str, TensorPart]:
    """The arrays that tensor `name` of (out, in) `shape` is stored as, by their names."""
    stored = stored_as(precision, name, shape)
    if not precision_named(stored).quantised:
        return {name: _part(_PLAIN_NAME[stored], shape, np.dtype(STORED_DTYPE[stored]))}
    n, k = shape
    group = group_of(stored, k)
    assert group is not None
    packed = (n, k // 2) if stored == "w4" else (n, k)
    scales = (n, k // group) if precision_named(stored).groups else (n,)
    return {
        name: _part(_PACKED_NAME[stored], packed, np.dtype(PACKED_DTYPE[stored])),
        name + SCALES: _part(_SCALE_NAME[stored], scales, np.dtype(SCALE_DTYPE[stored])),
    }


def _part(dtype_name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> TensorPart:
    return TensorPart(dtype_name, shape, int(np.prod(shape)) * dtype.itemsize)


def encode(array: FloatArray, precision: str, name: str) -> Stored:
    """Tensor `name` rounded or quantised as `precision` stores it.

    Raises BadInputError where a matrix to be quantised holds a value that is not finite.
    """
    stored = stored_as(precision, name, array.shape)
    if precision_named(stored).quantised:
        return quantise(array, stored, name)
    return round_to(array, stored)


def arrays_of(name: str, stored: Stored) -> dict[str, StoredArray]:
    """The arrays of an encoded tensor under the names of `parts_of`."""
    if isinstance(stored, QuantisedTensor):
        return {name: stored.packed, name + SCALES: stored.scales}
    return {name: stored}


def hash_line(name: str, array: StoredArray) -> str:
    """The line "name shape dtype sha256(bytes)" of one array."""
    digest = hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()
    shape = "x".join(str(n) for n in array.shape)
    return f"{name} {shape} {array.dtype.str} {digest}\n"


def hash_lines(lines: Mapping[str, str]) -> str:
    """sha256 over lines by array name, names sorted."""
    return hashlib.sha256("".join(lines[name] for name in sorted(lines)).encode()).hexdigest()


def hash_tensors(names: Iterable[str], stored: Callable[[str], Stored]) -> str:
    """`hash_lines` of the arrays of `stored(name)`, tensor by tensor in parallel threads."""

    def lines(name: str) -> dict[str, str]:
        return {part: hash_line(part, a) for part, a in arrays_of(name, stored(name)).items()}

    found: dict[str, str] = {}
    with ThreadPoolExecutor(thread_count()) as pool:
        for each in pool.map(lines, names):
            found.update(each)
    return hash_lines(found)
