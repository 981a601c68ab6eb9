"""NVIDIA cards: the energy counter where there is one, else polled power.

Counter: nvmlDeviceGetTotalEnergyConsumption, millijoules since the driver was loaded (Volta and
newer). Power: field NVML_FI_DEV_POWER_INSTANT, else nvmlDeviceGetPowerUsage, which is a one-second
average on Ampere and newer except GA100. Both come from one sensor of the board, so that their
agreement shows consistency and not accuracy; on A100 and H100 that sensor looks at about a
quarter of the time (arXiv 2312.02741).
"""

from __future__ import annotations

import math
import os
from typing import Any

from chipmark.errors import ChipmarkError
from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.meters.poll import Reading, Sampler, infer_period
from chipmark.meters.request import MeterRequest

_FALLBACK_PERIOD_S = 0.1  # the slowest counter that is reported; used where idle hides the period
_ERROR_REL = 0.05
_UNVERIFIED = "unverified on hardware: written from NVML's documents and tested by replay"


class NvmlMeter:
    """One card. Sampled four times an update, at most every 10 ms."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._has_counter = self._counter() is not None
        if not self._has_counter and self._power() is None:
            raise ChipmarkError(
                "this card gives neither energy nor power by NVML",
                "give the board's power with --power-w, or go without energy",
            )
        found = infer_period(self._read)
        period = found or _FALLBACK_PERIOD_S
        notes = [_UNVERIFIED]
        if found is None:
            notes.append("the update period was not seen at idle and is taken as 0.1 s")
        self.info = MeterInfo(
            name="nvml",
            source="counter" if self._has_counter else "polled",
            scope="board",
            method="nvmlDeviceGetTotalEnergyConsumption"
            if self._has_counter
            else "NVML power, instantaneous where the driver has that field",
            update_period_s=period,
            averaging_s=None,
            error_rel=_ERROR_REL,
            covers="one card",
            verified=False,
            notes=tuple(notes),
        )
        self._sampler = Sampler(self._read, max(0.01, period / 4))

    @classmethod
    def for_request(cls, request: MeterRequest) -> NvmlMeter | None:
        """The meter of an NVIDIA card; None for other chips and where NVML is not installed."""
        if request.vendor != "NVIDIA":
            return None
        try:
            import pynvml
        except ModuleNotFoundError:
            return None
        try:
            pynvml.nvmlInit()
            return cls(pynvml, _handle(pynvml, request.device))
        except pynvml.NVMLError as error:
            raise ChipmarkError(
                f"NVML does not answer: {error}", "check that nvidia-smi works here"
            ) from error

    def start(self) -> None:
        """Begin sampling."""
        self._sampler.start()

    def stop(self) -> PowerSamples:
        """End sampling; energy in joules since the driver was loaded, power in watts."""
        return self._sampler.stop()

    def _read(self) -> Reading | None:
        energy = self._counter() if self._has_counter else None
        power = self._power()
        if energy is None and power is None:
            return None
        return (
            math.nan if energy is None else energy,
            math.nan if power is None else power,
        )

    def _counter(self) -> float | None:
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000
        except self._nvml.NVMLError:
            return None

    def _power(self) -> float | None:
        field = getattr(self._nvml, "NVML_FI_DEV_POWER_INSTANT", None)
        try:
            if field is not None:
                value = self._nvml.nvmlDeviceGetFieldValues(self._handle, [field])[0]
                if value.nvmlReturn == 0:
                    return float(value.value.uiVal) / 1000
            return float(self._nvml.nvmlDeviceGetPowerUsage(self._handle)) / 1000
        except self._nvml.NVMLError:
            return None


def _handle(nvml: Any, device: str) -> Any:
    index = int(device.partition(":")[2] or 0)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    if not visible:
        return nvml.nvmlDeviceGetHandleByIndex(index)
    name = visible.split(",")[index].strip()
    if name.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(name))
    return nvml.nvmlDeviceGetHandleByUUID(name)
