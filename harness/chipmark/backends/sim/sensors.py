"""What a power sensor of a known kind tells of a power that is known in closed form.

Every number that a real sensor may differ in is a field, so that a bound can be tested against
all of them. Draws are raw bits of Philox under the sensor's own key: the same sensor over the
same curve gives the same readings everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from chipmark.backends.sim.power_curve import F64, PowerCurve

Readings = tuple[F64, F64, F64]
"""(time_s, energy_j, power_w), NaN in the column that the sensor does not have."""


@dataclass(frozen=True, slots=True)
class Sensor:
    """A sensor and how it is read.

    It looks every `update_period_s`, `phase` of one after a multiple of it, and holds what it saw
    until it looks again; 0 is a sensor that looks when it is asked. `watts` are the mean over the
    `averaging_s` before it looked (0: the watts of that moment), `counter` the joules so far. What
    it shows is off by the factor 1 / (1 + `gain`), and then rounded to `resolution` (watts to the
    nearest, joules down; 0: not at all). It is read once every `read_period_s`: at even moments
    that begin `read_phase` of a period late, or, `drawn`, at a moment drawn evenly within each
    period. No reading falls into one of the `gaps` (start_s, end_s).
    """

    kind: Literal["watts", "counter"]
    update_period_s: float
    averaging_s: float = 0.0
    phase: float = 0.0
    gain: float = 0.0
    resolution: float = 0.0
    read_period_s: float = 0.01
    read_phase: float = 0.0
    drawn: bool = False
    gaps: tuple[tuple[float, float], ...] = ()
    key: int = 0

    def readings(self, curve: PowerCurve, start_s: float, end_s: float) -> Readings:
        """Everything that is read from `start_s` to `end_s`."""
        time_s = self._moments(start_s, end_s)
        looked_s = time_s
        if self.update_period_s > 0:
            grid = np.floor(time_s / self.update_period_s - self.phase)
            looked_s = (grid + self.phase) * self.update_period_s
        none = np.full(len(time_s), np.nan)
        if self.kind == "counter":
            joules = curve.energy(looked_s) / (1 + self.gain)
            return time_s, self._rounded(joules, np.floor), none
        if self.averaging_s > 0:
            seen = curve.energy(looked_s) - curve.energy(looked_s - self.averaging_s)
            watts = seen / self.averaging_s
        else:
            watts = curve.at(looked_s)
        return time_s, none, self._rounded(watts / (1 + self.gain), np.round)

    def _moments(self, start_s: float, end_s: float) -> F64:
        period = self.read_period_s
        first, count = np.floor(start_s / period), int((end_s - start_s) / period) + 2
        shares = np.full(count, self.read_phase)
        if self.drawn:
            bits = np.random.Philox(key=self.key).random_raw(count)
            shares = (bits >> np.uint64(11)) / float(1 << 53)
        time_s = (first + np.arange(count) + shares) * period
        kept = (time_s >= start_s) & (time_s <= end_s)
        for gap_start_s, gap_end_s in self.gaps:
            kept &= (time_s < gap_start_s) | (time_s > gap_end_s)
        moments: F64 = time_s[kept]
        return moments

    def _rounded(self, values: F64, how: Callable[[F64], F64]) -> F64:
        if not self.resolution:
            return values
        return how(values / self.resolution) * self.resolution
