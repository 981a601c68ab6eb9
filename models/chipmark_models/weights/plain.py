"""Arrays in a plain precision: their types in memory, and rounding to them and back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from chipmark_models.errors import UnknownNameError
from chipmark_models.precision import PLAIN

# bf16 is kept as its raw bits: numpy has no such type, and the bits are what every reader wants.
STORED_DTYPE: Mapping[str, npt.DTypeLike] = {"fp32": "<f4", "bf16": "<u2", "fp16": "<f2"}
ITEM_BYTES: Mapping[str, int] = {"fp32": 4, "bf16": 2, "fp16": 2}

_ROUND_CHUNK = 1 << 20

FloatArray = npt.NDArray[np.float32]
StoredArray = npt.NDArray[Any]


def check_plain(precision: str) -> None:
    """Raise UnknownNameError unless `precision` is one without scales."""
    if precision not in PLAIN:
        raise UnknownNameError("plain precision", precision, PLAIN)


def round_to(array: FloatArray, precision: str) -> StoredArray:
    """Round float32 to nearest, ties to even.

    Returns float32 itself for "fp32", the raw bits as uint16 for "bf16", float16 for "fp16"
    (values beyond its range become infinite, as the hardware's conversion does). Same shape.
    """
    check_plain(precision)
    if precision == "fp32":
        return array
    if precision == "fp16":
        with np.errstate(over="ignore"):
            return array.astype(np.float16)
    flat = np.ascontiguousarray(array).reshape(-1)
    out = np.empty(flat.shape, np.uint16)
    for start in range(0, flat.size, _ROUND_CHUNK):
        bits = flat[start : start + _ROUND_CHUNK].view(np.uint32)
        rounded = (bits + (((bits >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF))) >> 16
        nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        if nan.any():  # adding to a NaN's mantissa could carry it over to infinity
            rounded[nan] = (bits[nan] >> np.uint32(16)) | np.uint32(0x40)
        out[start : start + _ROUND_CHUNK] = rounded
    return out.reshape(array.shape)


def widen(array: StoredArray, precision: str) -> FloatArray:
    """Inverse of `round_to` without loss: float32 of the stored values, same shape."""
    check_plain(precision)
    if precision == "bf16":
        wide = np.empty(array.shape, np.uint32)
        np.left_shift(array, np.uint32(16), out=wide, casting="unsafe", dtype=np.uint32)
        return wide.view(np.float32)
    return np.asarray(array, np.float32)


def thread_count() -> int:
    """Threads for work on weights: the CPUs of this process, at most 8."""
    cpus = (
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    return max(1, min(8, len(cpus)))
