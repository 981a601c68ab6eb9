"""How far logits are from others: a tool of tests of quantised weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


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
