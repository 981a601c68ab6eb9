"""The noise of benchmark rounds on a shared machine, for simulations of the gate's rule.

The magnitudes are those that users and tools report: 1 % within a process, 0.7 % between
processes of one build, a slow drift of 2 % that half forgets itself in seven slots, and one round
in twenty that something else made longer by 10 % on average. They are assumptions at reported
magnitudes, not a measurement of this machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Noise:
    """Standard deviations of ln(time). drift_phi: correlation of the drift between neighbouring
    slots. outlier_share of rounds are longer by an exponential of mean outlier_mean. session:
    between two runs on different days, which pairs do not see and stored results do."""

    within: float = 0.010
    process: float = 0.007
    drift: float = 0.020
    drift_phi: float = 0.9
    outlier_share: float = 0.05
    outlier_mean: float = 0.10
    session: float = 0.030

    def between_sessions(self) -> float:
        """Standard deviation of ln(B / A) of two runs of one build in two sessions."""
        return math.sqrt(2 * (self.session**2 + self.drift**2 + self.process**2))

    def times(self, factor: float) -> Noise:
        """The same shape of noise, `factor` times as large."""
        return Noise(
            self.within * factor,
            self.process * factor,
            self.drift * factor,
            self.drift_phi,
            self.outlier_share,
            self.outlier_mean * factor,
            self.session * factor,
        )


def paired_differences(
    generator: np.random.Generator, noise: Noise, effect: float, trials: int, pairs: int
) -> F64:
    """ln(B / A) of `pairs` ABBA pairs in each of `trials` series, (trials, pairs).

    B's true time is e^effect times A's. A and B of a pair take neighbouring slots of one drift;
    who goes first alternates, and every round has a process of its own.
    """
    slots = _drift(generator, noise, trials, 2 * pairs)
    rounds = slots + generator.normal(0.0, noise.process, slots.shape)
    rounds += generator.normal(0.0, noise.within, slots.shape)
    struck = generator.random(slots.shape) < noise.outlier_share
    rounds += struck * generator.exponential(noise.outlier_mean, slots.shape)
    first, second = rounds[:, 0::2], rounds[:, 1::2]
    sign = np.where(np.arange(pairs) % 2 == 0, 1.0, -1.0)
    return sign * (second - first) + effect


def _drift(generator: np.random.Generator, noise: Noise, trials: int, slots: int) -> F64:
    """A stationary AR(1) of standard deviation `noise.drift`, (trials, slots)."""
    fresh = generator.normal(0.0, noise.drift, (trials, slots))
    fresh[:, 1:] *= np.sqrt(1 - noise.drift_phi**2)
    for slot in range(1, slots):
        fresh[:, slot] += noise.drift_phi * fresh[:, slot - 1]
    return fresh
