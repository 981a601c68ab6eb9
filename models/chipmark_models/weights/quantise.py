"""Matrices as the weight-only and FP8 kernels take them, quantised by numpy alone.

Every step is one correctly rounded operation (maximum, division, round to nearest even) on a row
or a group of a row by itself. So the bytes are the same on every machine, and whether matrices
are fused (q, k, v; gate, up) before or after makes no difference. There is no calibration: error
is that of round-to-nearest against the largest value of a group.

Scales are rounded to bf16 before the division (those of fp8 are kept as fp32 with the value of a
bf16), so that weight x scale is exact in fp32 for all three: what the oracle computes with is
what is stored, not a rounding of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chipmark_kernels.formats import E4M3_MAX
from chipmark_models.errors import BadInputError
from chipmark_models.precision import group_of
from chipmark_models.weights import e4m3
from chipmark_models.weights.plain import FloatArray, StoredArray, round_to, widen

_TOP = {"w8": np.float32(127.0), "w4": np.float32(7.0), "fp8": np.float32(E4M3_MAX)}
_ZERO_POINT = 8  # of a packed 4-bit value
_LEAST_SCALE = np.float32(2.0**-126)  # least normal bf16: devices may flush smaller scales to zero
_CHUNK = 1 << 20  # weights a step: bounds the temporaries, and keeps them in the caches

RULE = "nearest-1"
"""Name of this rule: files that an earlier one wrote are made again."""

PACKED_DTYPE: dict[str, npt.DTypeLike] = {"w8": "i1", "w4": "u1", "fp8": "u1"}
SCALE_DTYPE: dict[str, npt.DTypeLike] = {"w8": "<u2", "w4": "<u2", "fp8": "<f4"}


@dataclass(frozen=True, slots=True)
class QuantisedTensor:
    """A matrix (n, k) in `precision` "w8", "w4" or "fp8".

    packed: int8 (n, k) for w8. uint8 (n, k / 2) for w4, where byte b of a group holds its value b
    in the low half and its value b + group / 2 in the high half, both with a zero point of 8.
    uint8 (n, k), the bits of e4m3, for fp8.
    scales: uint16 (n, k / group), the bits of bf16, for w8 and w4; float32 (n,) for fp8.
    group: weights of a row that share a scale; k for fp8.
    """

    precision: str
    packed: StoredArray
    scales: StoredArray
    group: int

    @property
    def shape(self) -> tuple[int, int]:
        """(n, k) of the matrix that it stands for."""
        n, width = self.packed.shape
        return n, 2 * width if self.precision == "w4" else width

    @property
    def n_bytes(self) -> int:
        """Bytes stored, scales included."""
        return self.packed.nbytes + self.scales.nbytes

    def rows(self, index: slice | npt.NDArray[np.integer[Any]]) -> QuantisedTensor:
        """Some rows, in any order."""
        return QuantisedTensor(self.precision, self.packed[index], self.scales[index], self.group)

    def dequantise(self) -> FloatArray:
        """The matrix (n, k) in float32, exact."""
        if self.precision == "fp8":
            wide = e4m3.decode(self.packed)
            np.multiply(wide, self.scales[:, None], out=wide)
            return wide
        n, k = self.shape
        wide = self.codes().astype(np.float32)
        np.multiply(wide, widen(self.scales, "bf16")[:, :, None], out=wide)
        return wide.reshape(n, k)

    def codes(self) -> npt.NDArray[np.int8]:
        """The integers (n, k / group, group) of w8 and w4, in the order of k."""
        n, k = self.shape
        if self.precision == "w8":
            return self.packed.reshape(n, -1, self.group)
        halves = self.packed.reshape(n, -1, self.group // 2)
        codes = np.empty((n, k // self.group, self.group), np.int8)
        np.bitwise_and(halves, 15, out=codes[..., : self.group // 2], casting="unsafe")
        np.right_shift(halves, 4, out=codes[..., self.group // 2 :], casting="unsafe")
        codes -= _ZERO_POINT
        return codes


def fuse(parts: Sequence[QuantisedTensor]) -> QuantisedTensor:
    """Matrices of one precision and k as one, rows one after another."""
    first = parts[0]
    if any((p.precision, p.shape[1], p.group) != _kind(first) for p in parts):
        raise ValueError(f"cannot fuse {[_kind(p) for p in parts]}")
    return QuantisedTensor(
        first.precision,
        np.concatenate([p.packed for p in parts]),
        np.concatenate([p.scales for p in parts]),
        first.group,
    )


def _kind(tensor: QuantisedTensor) -> tuple[str, int, int]:
    return tensor.precision, tensor.shape[1], tensor.group


def quantise(matrix: FloatArray, precision: str, name: str = "matrix") -> QuantisedTensor:
    """Quantise (n, k) float32 to "w8", "w4" or "fp8".

    |weight - dequantised| is at most scale / 2 for w8 and w4, and half a step of e4m3 for fp8.
    A group of zeros gets scale 1. Raises BadInputError naming `name` where k has no group that
    the kernels take, or a value is not finite.
    """
    n, k = matrix.shape
    group = group_of(precision, k)
    if group is None:
        raise BadInputError(
            name, f"has rows of {k}, which no group of 128, 64 or 32 divides", field=precision
        )
    packed = np.empty((n, k // 2 if precision == "w4" else k), PACKED_DTYPE[precision])
    scales = np.empty((n,) if precision == "fp8" else (n, k // group), SCALE_DTYPE[precision])
    step = max(1, _CHUNK // k)
    for start in range(0, n, step):
        part = np.ascontiguousarray(matrix[start : start + step], np.float32)
        grouped = part.reshape(len(part), -1, group)
        top = np.abs(grouped).max(-1)
        if not np.isfinite(top).all():
            raise BadInputError(name, "has a value that is not finite: it cannot be quantised")
        rounded = _scales(top, precision)
        wide = widen(rounded, "bf16")
        codes = _codes(grouped / wide[:, :, None], precision)
        packed[start : start + step] = codes.reshape(len(part), -1)
        scales[start : start + step] = wide[:, 0] if precision == "fp8" else rounded
    return QuantisedTensor(precision, packed, scales, group)


def _scales(top: FloatArray, precision: str) -> npt.NDArray[np.uint16]:
    """bf16 bits of largest value / largest integer; 1 where the largest value is 0."""
    exact = np.where(top > 0, np.maximum(top / _TOP[precision], _LEAST_SCALE), np.float32(1.0))
    bits: npt.NDArray[np.uint16] = round_to(exact.astype(np.float32), "bf16")
    return bits


def _codes(scaled: FloatArray, precision: str) -> StoredArray:
    """Scaled values (n, groups, group) as packed codes (n, groups, group or group / 2)."""
    if precision == "fp8":
        return e4m3.encode(scaled)
    # A scale that was rounded down leaves the largest value up to 2**-9 above the top.
    top = _TOP[precision]
    whole = np.clip(np.rint(scaled, out=scaled), -top, top, out=scaled).astype(np.int8)
    if precision == "w8":
        return whole
    codes = (whole + _ZERO_POINT).astype(np.uint8)
    half = codes.shape[-1] // 2
    return codes[..., :half] | (codes[..., half:] << np.uint8(4))
