"""float8 e4m3 (the finite kind: no infinity, largest 448) by integer arithmetic of numpy.

Format: Micikevicius et al. 2022, "FP8 formats for deep learning", table 1: a sign, four bits of
exponent with bias 7, three of mantissa; 0x7F is NaN.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_LEAST_NORMAL = np.float32(2.0**-6)
_SUBNORMAL_STEPS = np.float32(2.0**9)  # steps of a subnormal in one
_TOP_CODE = 0x7E
_NAN_CODE = 0x7F
_REBIAS = np.uint32((127 - 7) << 3)


def encode(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Nearest e4m3 codes, ties to even, same shape; values beyond +-448 become +-448."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    sign = (bits >> np.uint32(24)) & np.uint32(0x80)
    size = bits & np.uint32(0x7FFFFFFF)
    odd = (size >> np.uint32(20)) & np.uint32(1)
    normal = ((size + np.uint32(0x7FFFF) + odd) >> np.uint32(20)) - _REBIAS
    magnitude = size.view(np.float32)
    # Scaling by a power of two is exact; eight steps are the code of the least normal number.
    # fmin passes over NaN, which has its own code below.
    small = np.rint(np.fmin(magnitude, _LEAST_NORMAL) * _SUBNORMAL_STEPS).astype(np.uint32)
    codes = np.where(magnitude < _LEAST_NORMAL, small, np.minimum(normal, np.uint32(_TOP_CODE)))
    codes = np.where(size > np.uint32(0x7F800000), np.uint32(_NAN_CODE), codes)
    signed: npt.NDArray[np.uint8] = (codes | sign).astype(np.uint8)
    return signed


def _decoded() -> npt.NDArray[np.float32]:
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, (codes & 7).astype(np.float32)
    size = np.where(
        exponent == 0,
        np.ldexp(mantissa, -9),
        np.ldexp(1 + mantissa / 8, exponent.astype(np.int32) - 7),
    ).astype(np.float32)
    size[(codes & 0x7F) == _NAN_CODE] = np.nan
    return np.where(codes & 0x80, -size, size).astype(np.float32)


VALUES: npt.NDArray[np.float32] = _decoded()
"""The value of every code, float32 (256,)."""
VALUES.flags.writeable = False


def decode(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Values of e4m3 codes, exact in float32, same shape."""
    return VALUES[codes]
