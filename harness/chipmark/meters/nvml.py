"""NVIDIA cards: the energy counter where there is one, else polled power.

Counter: nvmlDeviceGetTotalEnergyConsumption, millijoules since the driver was loaded (Volta and
newer). Power: field NVML_FI_DEV_POWER_INSTANT, else nvmlDeviceGetPowerUsage, which is a one-second
average on Ampere and newer except GA100. Both come from one sensor of the board, so that their
agreement shows consistency and not accuracy; on A100 and H100 that sensor looks at about a
quarter of the time (arXiv 2312.02741).
"""

from __future__ import annotations

import math

from chipmark.chips.nvml import POWER_AVERAGE_S, Card, find_card, open_nvml
from chipmark.errors import ChipmarkError, MissingBackendError
from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.meters.poll import Reading, Sampler, infer_period
from chipmark.meters.request import MeterRequest

_FALLBACK_PERIOD_S = 0.1  # the slowest counter that is reported; used where idle hides the period
_ERROR_REL = 0.05
_UNVERIFIED = "unverified on hardware: written from NVML's documents and tested by replay"


class NvmlMeter:
    """One whole card. Sampled four times an update, at most every 10 ms."""

    def __init__(self, card: Card) -> None:
        """Raises ChipmarkError for a MIG slice and for a card without any sensor."""
        part = card.mig_slice()
        if part is not None:
            raise ChipmarkError(
                f"the sensors count the whole card, and a MIG slice is {part.used} of {part.of} "
                "parts of it",
                "measure energy on a card that is not split",
            )
        self._card = card
        self._has_counter = card.energy_j() is not None
        if not self._has_counter and card.power_w() is None:
            raise ChipmarkError(
                "this card gives neither energy nor power by NVML",
                "give the board's power with --power-w, or go without energy",
            )
        # Of the value that is integrated: power moves at a rate of its own.
        found = infer_period(card.energy_j if self._has_counter else card.power_w)
        period = found or _FALLBACK_PERIOD_S
        reading = max(0.01, period / 4)
        notes = [_UNVERIFIED]
        if found is None:
            notes.append("the update period was not seen at idle and is taken as 0.1 s")
        averaged = not self._has_counter and card.instant_power_w() is None
        averaging_s = POWER_AVERAGE_S if averaged else None
        self.info = MeterInfo(
            name="nvml",
            source="counter" if self._has_counter else "polled",
            scope="board",
            method="nvmlDeviceGetTotalEnergyConsumption"
            if self._has_counter
            else "NVML power, instantaneous where the driver has that field",
            update_period_s=period,
            averaging_s=averaging_s,
            error_rel=_ERROR_REL,
            covers=f"one card, {card.uuid or card.pci or card.name}",
            verified=False,
            notes=tuple(notes),
            period_known=found is not None,
            reading_period_s=reading,
            cap_w=card.power_limits_w()[0],
        )
        self._sampler = Sampler(self._read, reading)

    @classmethod
    def for_request(cls, request: MeterRequest) -> NvmlMeter | None:
        """The meter of an NVIDIA card; None for other chips and where NVML is not here.

        Raises ChipmarkError where the card that computes is not known, is split, or has no sensor.
        """
        if request.vendor != "NVIDIA":
            return None
        try:
            nvml = open_nvml()
        except MissingBackendError:
            return None
        return cls(find_card(nvml, request.device, request.key))

    def start(self) -> None:
        """Begin sampling."""
        self._sampler.start()

    def stop(self) -> PowerSamples:
        """End sampling; energy in joules since the driver was loaded, power in watts."""
        return self._sampler.stop()

    def _read(self) -> Reading | None:
        energy = self._card.energy_j() if self._has_counter else None
        power = self._card.power_w()
        if energy is None and power is None:
            return None
        return (
            math.nan if energy is None else energy,
            math.nan if power is None else power,
        )
