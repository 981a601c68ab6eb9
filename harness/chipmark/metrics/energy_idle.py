"""Power with the model loaded and no work, and the net energy that is left without it."""

from __future__ import annotations

from dataclasses import dataclass

from chipmark.codes import NullReason
from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.metrics.energy import window_energy

IDLE_MIN_S = 30.0
IDLE_DRIFT = 0.05
"""Limits of DEFINITIONS, section Energy: seconds of idle; relative difference before and after."""


@dataclass(frozen=True, slots=True)
class IdlePower:
    """Power with the model loaded and no work, before and after; equal ends unless they differ
    by over 5 %."""

    low_w: float | None
    high_w: float | None
    reason: NullReason | None = None
    """Why it is not known."""

    @property
    def note(self) -> str:
        """The text of note `idle_range`; "" where both ends agree."""
        if self.low_w is None or self.high_w is None or self.low_w == self.high_w:
            return ""
        return f"idle power {self.low_w:.4g} W to {self.high_w:.4g} W, before and after"


def idle_power(
    before: PowerSamples | None, after: PowerSamples | None, meter: MeterInfo | None
) -> IdlePower:
    """Idle power from the two idle stretches, or from the one before where it was measured once for
    a loaded model and device; each at least 30 s and 20 updates."""
    if meter is None or meter.source in ("declared", "assumed"):
        return IdlePower(None, None, NullReason.IDLE_MISSING)
    values = []
    for samples in (before,) if after is None else (before, after):
        if samples is None or len(samples.time_s) < 2:
            return IdlePower(None, None, NullReason.IDLE_MISSING)
        start_s, end_s = float(samples.time_s[0]), float(samples.time_s[-1])
        if end_s - start_s < IDLE_MIN_S - 1e-6:
            return IdlePower(None, None, NullReason.IDLE_TOO_SHORT)
        energy = window_energy(samples, meter, start_s, end_s)
        if energy.energy_j is None:
            few = energy.reason in (NullReason.POWER_TOO_FEW_UPDATES, NullReason.COUNTER_TOO_COARSE)
            return IdlePower(None, None, NullReason.IDLE_TOO_SHORT if few else energy.reason)
        values.append(energy.energy_j / (end_s - start_s))
    low, high = min(values), max(values)
    if high - low <= IDLE_DRIFT * low:
        low = high = (low + high) / 2
    return IdlePower(low, high)


def net_energy(energy_j: float, idle: IdlePower, window_s: float) -> tuple[float, float] | None:
    """(low, high) of E_W - P_idle x W in joules; None where idle is unknown or net is negative."""
    if idle.low_w is None or idle.high_w is None:
        return None
    low, high = energy_j - idle.high_w * window_s, energy_j - idle.low_w * window_s
    return (low, high) if low >= 0 else None
