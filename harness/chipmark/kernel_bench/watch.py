"""Clocks, power, temperature and throttle reasons of the GPU while others measure, by NVML."""

from __future__ import annotations

import threading
import time
from typing import Any

from chipmark.chips.nvml import HARDWARE, THERMAL, by_uuid, find_card, open_nvml
from chipmark.errors import ChipmarkError

LIMITING = ("sw_power_cap", *THERMAL, *HARDWARE)
"""Clock event reasons that make a sample unfit: what keeps the clocks below the settings."""


class Watch:
    """Samples every `period_s` in a thread; `missing` says why where there is no NVML.

    uuid: of the card, as torch reports it; CUDA and NVML number cards differently. It runs in the
    process that waits, not in the one that measures. energy_j: the card's counter.
    """

    def __init__(self, uuid: str = "", period_s: float = 0.1) -> None:
        self.samples: list[dict[str, Any]] = []
        self.missing: str | None = None
        self._period_s, self._stop = period_s, threading.Event()
        self._thread: threading.Thread | None = None
        try:
            nvml = open_nvml()
            found = by_uuid(nvml, uuid) if uuid else find_card(nvml, "cuda", None)
        except ChipmarkError as error:
            self.missing = f"clocks and power unknown: {error.message}"
        else:
            self._card = found

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
            self.samples.append(self._sample())

    def _sample(self) -> dict[str, Any]:
        card = self._card
        limiting = card.reasons()
        return {
            "at_s": time.monotonic(),
            "sm_mhz": card.clock_mhz(),
            "memory_mhz": card.memory_clock_mhz(),
            "power_w": card.power_w(),
            "energy_j": card.energy_j(),
            "temperature_c": card.temperature_c(),
            "throttle": None
            if limiting is None
            else [reason for reason in limiting if reason in LIMITING],
        }

    def between(self, start_s: float, end_s: float) -> list[dict[str, Any]]:
        """The samples taken between two times of `time.monotonic`."""
        return [s for s in self.samples if start_s <= s["at_s"] <= end_s]
