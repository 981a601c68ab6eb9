"""Clocks, power, temperature and throttle reasons of the GPU while others measure, by NVML."""

from __future__ import annotations

import threading
import time
from typing import Any

THROTTLE = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal",
    0x40: "hardware thermal",
    0x80: "hardware power brake",
}
"""nvmlClocksThrottleReason bits that make a sample unfit, from nvml.h."""


def throttled(bits: int) -> list[str]:
    """Names of the reasons in an NVML bit mask."""
    return [name for bit, name in THROTTLE.items() if bits & bit]


def _has_counter(nvml: Any, handle: Any) -> bool:
    """Whether the card counts its energy (Volta and newer)."""
    try:
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError:
        return False
    return True


class Watch:
    """Samples every `period_s` in a thread; `missing` says why where there is no NVML.

    uuid: of the card, as torch tells it; numbers of CUDA and of NVML need not agree. It runs in the
    process that waits, not in the one that measures. energy_j: the card's counter.
    """

    def __init__(self, uuid: str = "", period_s: float = 0.1) -> None:
        self.samples: list[dict[str, Any]] = []
        self.missing: str | None = None
        self._period_s, self._stop = period_s, threading.Event()
        self._thread: threading.Thread | None = None
        try:
            import pynvml

            pynvml.nvmlInit()
            self._nvml: Any = pynvml
            self._handle = (
                pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
                if uuid
                else pynvml.nvmlDeviceGetHandleByIndex(0)
            )
            self._counts = _has_counter(pynvml, self._handle)
        except Exception as error:  # NVML's binding raises classes of its own, made at run time.
            self.missing = f"clocks and power unknown: {type(error).__name__}: {error}"

    def __enter__(self) -> Watch:
        if self.missing is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            try:
                self.samples.append(self._sample())
            except Exception as error:  # a card that fell off the bus raises NVML's own classes
                self.missing = f"samples ended: {type(error).__name__}: {error}"
                return

    def _sample(self) -> dict[str, Any]:
        nvml, handle = self._nvml, self._handle
        energy = nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3 if self._counts else None
        return {
            "at_s": time.monotonic(),
            "sm_mhz": nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            "memory_mhz": nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
            "power_w": nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
            "energy_j": energy,
            "temperature_c": nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            "throttle": throttled(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)),
        }

    def between(self, start_s: float, end_s: float) -> list[dict[str, Any]]:
        """The samples taken between two times of `time.monotonic`."""
        return [s for s in self.samples if start_s <= s["at_s"] <= end_s]
