"""What a quantised precision loses against the source weights.

Parity compares a backend with the oracle on the same quantised weights and knows nothing of this.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from chipmark_models.weights.plain import FloatArray
from chipmark_models.weights.quantise import QuantisedTensor

_ROWS = 1 << 20  # weights a step


@dataclass(frozen=True, slots=True)
class WeightError:
    """rms of (weight - dequantised) over rms of the weight."""

    rms_rel: float
    """Of all quantised matrices together."""

    worst_rms_rel: float
    """Of the worst one."""

    worst_tensor: str
    """Its name."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` is its inverse."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> WeightError:
        """Inverse of `to_dict`; KeyError for a missing field."""
        return WeightError(
            float(data["rms_rel"]), float(data["worst_rms_rel"]), str(data["worst_tensor"])
        )


def squares(array: FloatArray, stored: QuantisedTensor) -> tuple[float, float]:
    """Sums of squares of (array - dequantised) and of the array (n, k), in float64."""
    error = total = 0.0
    step = max(1, _ROWS // array.shape[1])
    for start in range(0, len(array), step):
        part = array[start : start + step].astype(np.float64).reshape(-1)
        left = part - stored.rows(slice(start, start + step)).dequantise().reshape(-1)
        error, total = error + float(left @ left), total + float(part @ part)
    return error, total


def weight_error(found: Mapping[str, tuple[float, float]]) -> WeightError | None:
    """From the `squares` of each quantised matrix; None where there is none or all are zero."""
    ratios = {name: math.sqrt(e / t) for name, (e, t) in found.items() if t > 0}
    if not ratios:
        return None
    worst = max(sorted(ratios), key=ratios.__getitem__)
    error = math.fsum(e for e, _ in found.values())
    total = math.fsum(t for _, t in found.values())
    return WeightError(math.sqrt(error / total), ratios[worst], worst)
