"""What a quantised precision loses against the source weights: in the weights, and in the logits.

Parity compares a backend with the oracle on the same quantised weights and knows nothing of this.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chipmark_models.weights.plain import FloatArray
from chipmark_models.weights.quantise import QuantisedTensor

_ROWS = 1 << 20  # weights a step


@dataclass(frozen=True, slots=True)
class WeightError:
    """rms of (weight - dequantised) over rms of the weight: of all quantised matrices together,
    and of the worst one, with its name."""

    rms_rel: float
    worst_rms_rel: float
    worst_tensor: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` is its inverse."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> WeightError:
        """Inverse of `to_dict`; KeyError for a lacking field."""
        return WeightError(
            float(data["rms_rel"]), float(data["worst_rms_rel"]), str(data["worst_tensor"])
        )


@dataclass(frozen=True, slots=True)
class LogitLoss:
    """Distance of the logits of quantised weights from those of the source weights.

    rms_rel: rms of the difference over rms of the source's centred logits, all positions
    together. kl_mean, kl_max: of source to quantised, nats a position. top1: share of positions
    with the same first token.
    """

    rms_rel: float
    kl_mean: float
    kl_max: float
    top1: float
    positions: int


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


def logit_loss(
    source: Sequence[npt.NDArray[np.float32]], quantised: Sequence[npt.NDArray[np.float32]]
) -> LogitLoss:
    """Compare logits of two oracles, sequence by sequence (positions, vocab).

    ValueError where the shapes differ or there is no position.
    """
    error = spread = 0.0
    divergences, same = [], 0
    for ours, theirs in zip(source, quantised, strict=True):
        left, right = ours.astype(np.float64), theirs.astype(np.float64)
        if left.shape != right.shape:
            raise ValueError(f"logits of {left.shape} against {right.shape}")
        error += float(((left - right) ** 2).sum())
        spread += float(((left - left.mean(1, keepdims=True)) ** 2).sum())
        log_p, log_q = _log_softmax(left), _log_softmax(right)
        divergences.append((np.exp(log_p) * (log_p - log_q)).sum(1).clip(min=0.0))
        same += int((left.argmax(1) == right.argmax(1)).sum())
    all_kl = np.concatenate(divergences) if divergences else np.zeros(0)
    if not len(all_kl):
        raise ValueError("no position to compare")
    return LogitLoss(
        rms_rel=math.sqrt(error / spread) if spread > 0 else math.inf if error else 0.0,
        kl_mean=float(all_kl.mean()),
        kl_max=float(all_kl.max()),
        top1=same / len(all_kl),
        positions=len(all_kl),
    )


def _log_softmax(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = values - values.max(1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result
