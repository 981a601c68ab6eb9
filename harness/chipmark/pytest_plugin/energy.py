"""Joules of the timed rounds, by the meter that the harness would take, or none."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from chipmark.backends.torch_device.devices import hardware
from chipmark.cell.settle import reported_key
from chipmark.chips.contract import DeviceKey
from chipmark.chips.detect import chip_of
from chipmark.chips.nameplate import unit_nameplate_w
from chipmark.codes import NullReason
from chipmark.meters.contract import Meter, MeterInfo, PowerSamples
from chipmark.meters.pick import row_meter
from chipmark.meters.request import MeterRequest
from chipmark.metrics.energy import WindowEnergy, energy_at, window_energy
from chipmark.registry import is_simulated

if TYPE_CHECKING:
    from chipmark.pytest_plugin.workloads import LoadedBackend

SIM_METER = MeterInfo("sim", "counter", "sim", "closed form of the simulated device", 0.0)


class Joules:
    """A context in which a meter samples. The energy of what runs between rounds counts too."""

    def __init__(self, backend: str, power_w: float | None, loaded: LoadedBackend | None) -> None:
        """Raises UsageError for a power that is none."""
        self._loaded = loaded if loaded is not None and loaded.simulated else None
        self._meter: Meter | None = None
        self._samples: PowerSamples | None = None
        self._partly_used = False
        if not is_simulated(backend):
            chip = chip_of(backend, key=key_here(backend, loaded))
            self._partly_used = chip.used < chip.of
            device = backend.partition(":")[2]
            request = MeterRequest(
                chip.vendor,
                chip.unit,
                device,
                power_w,
                nameplate_w=unit_nameplate_w(chip),
                key=chip.key,
            )
            self._meter = row_meter(request)

    @property
    def info(self) -> MeterInfo | None:
        """What is read; None where nothing is."""
        if self._loaded is not None:
            return SIM_METER
        return self._meter.info if self._meter is not None else None

    @property
    def source(self) -> str | None:
        """Its source class."""
        return self.info.source if self.info else None

    @property
    def scope(self) -> str | None:
        """What it covers."""
        return self.info.scope if self.info else None

    def __enter__(self) -> Joules:
        if self._meter is not None:
            self._meter.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._meter is not None:
            self._samples = self._meter.stop()

    def of(self, start_s: float, end_s: float) -> WindowEnergy:
        """Energy between two times of the backend's clock, under DEFINITIONS' rules of refusal."""
        if self._loaded is not None:
            # Exact between its samples: too few changes of power are not a fault of a closed form.
            at = energy_at(self._loaded.power_samples(), SIM_METER, np.array([start_s, end_s]))
            return WindowEnergy(float(at[1] - at[0]), None, "counter", 0.0)
        if self._partly_used:
            # The meter, or the power that was declared, is that of the whole unit.
            return WindowEnergy(None, NullReason.UNIT_PARTLY_USED, "none")
        return window_energy(self._samples, self.info, start_s, end_s)


def key_here(backend: str, loaded: LoadedBackend | None) -> DeviceKey:
    """The very card that this process computes on: by the loaded backend's word, else by torch
    where the test has opened the device already; empty where neither can tell."""
    described: Mapping[str, Any] = {}
    kind, _, device = backend.partition(":")
    if loaded is not None:
        described = loaded.backend.describe()
    elif kind == "torch" and device.startswith("cuda"):
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            described = {"hardware": hardware(torch.device(device if ":" in device else "cuda:0"))}
    return reported_key(described)
