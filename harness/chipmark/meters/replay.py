"""Samples recorded elsewhere: by a simulated device, a test, or a wall meter's file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from chipmark.engine.plugins import simulated_factory
from chipmark.errors import BadInputError
from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark_models.foreign_arrays import read_npz

SIM_INFO = MeterInfo(
    name="sim",
    source="counter",
    scope="board",
    method="closed-form power of a simulated device, on its virtual clock",
    update_period_s=0.0,
    error_rel=0.0,
    covers="one simulated card",
)
"""An exact counter."""


SIM_COUNTER_INFO = replace(
    SIM_INFO, name="sim-counter", method="exact counter of a simulated device that is polled"
)
"""What is kept next to the polled watts of a simulated device."""


def sim_info(device: str) -> MeterInfo:
    """The meter of a simulated device: an exact counter, or watts that are polled."""
    simulated = simulated_factory()
    period_s = simulated.meter_period_s(device)
    if not period_s:
        return SIM_INFO
    return replace(
        SIM_INFO,
        source="polled",
        method="watts of a simulated device, read at drawn moments on its virtual clock",
        update_period_s=simulated.sensor_s(device) or period_s,
        averaging_s=simulated.sensor_s(device),
        reading_period_s=period_s,
        cap_w=simulated.most_w(device),
        resolution_w=0.0,
        jittered=True,
    )


class ReplayMeter:
    """Hands over given samples whatever happens in between; without any, an empty series."""

    def __init__(self, info: MeterInfo, samples: PowerSamples | None = None) -> None:
        self.info = info
        self._samples = samples or PowerSamples(np.zeros(0), np.zeros(0), np.zeros(0))

    def start(self) -> None:
        """Nothing to begin."""

    def stop(self) -> PowerSamples:
        """The given samples."""
        return self._samples


def summed(parts: Sequence[PowerSamples]) -> PowerSamples:
    """The power of parts of one unit that tell theirs on one clock, as one series: at every time
    of any of them. Each is exact between its samples (cumulative joules are linear there, watts
    hold until the next one) and continues as it ended."""
    if len(parts) == 1:
        return parts[0]
    time_s = np.unique(np.concatenate([part.time_s for part in parts]))
    energy_j, power_w = np.zeros(len(time_s)), np.zeros(len(time_s))
    for part in parts:
        at = np.searchsorted(part.time_s, time_s, side="right") - 1
        watts = np.where(at < 0, 0.0, part.power_w[at])
        power_w += watts
        energy_j += part.energy_j[at] + watts * (time_s - part.time_s[at])
    return PowerSamples(time_s, energy_j, power_w)


def save_samples(path: str | os.PathLike[str], samples: PowerSamples) -> None:
    """Write `time_s`, `energy_j`, `power_w` to an `.npz`, as a raw folder keeps them."""
    with Path(path).open("wb") as file:
        np.savez(file, time_s=samples.time_s, energy_j=samples.energy_j, power_w=samples.power_w)


def load_samples(path: str | os.PathLike[str]) -> PowerSamples:
    """Read what `save_samples` wrote; BadInputError where it is not whole or goes back in time."""
    columns = read_npz(path, dict.fromkeys(("time_s", "energy_j", "power_w"), "f8"))
    samples = PowerSamples(columns["time_s"], columns["energy_j"], columns["power_w"])
    if fault := samples_fault(samples):
        raise BadInputError(path, fault[1], field=fault[0])
    return samples


def samples_fault(samples: PowerSamples) -> tuple[str, str] | None:
    """The field that is wrong ("" where it is all together) and how; None of whole samples."""
    time_s = samples.time_s
    shapes = {column.shape for column in (time_s, samples.energy_j, samples.power_w)}
    if time_s.ndim != 1 or len(shapes) != 1:
        return "", "has columns of different lengths"
    if not np.isfinite(time_s).all():
        return "time_s", "is not finite"
    if (np.diff(time_s) < 0).any():
        return "time_s", "goes back in time"
    return None
