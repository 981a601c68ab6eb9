"""The state of an NVIDIA card by NVML. Written from NVML's documents; unverified on hardware."""

from __future__ import annotations

from typing import Any

from chipmark.chips import nvml as nv
from chipmark.chips.device_users import DeviceUsers
from chipmark.chips.state import (
    UNVERIFIED,
    DeviceState,
    Sample,
    holds_highest_clock,
    is_idle,
    is_power_cap,
)

_PERIOD_S = 0.1  # reasons last for seconds; NVML answers in a fraction of a millisecond
_USERS_EVERY = 10
"""Samples of which one asks who uses the card: the dearest question, of what changes slowly."""

_LOADED = 0.1
"""Least share of the gauge's own period at which the card computes; between launches of a decode
step its clocks stay up."""

_UNCORRECTED, _VOLATILE = 1, 0  # nvmlMemoryErrorType_t, nvmlEccCounterType_t
_VIRTUAL = {2: "vGPU", 3: "vGPU host", 4: "vSGA host"}
"""nvmlGpuVirtualizationMode_t; a card that is passed through is whole."""


class CardSource:
    """A whole card; of a MIG slice the card that it is a part of, as they share clock and heat."""

    name = "NVML"
    period_s = _PERIOD_S
    remarks: tuple[str, ...] = (f"{UNVERIFIED}: written from NVML's documents",)

    def __init__(self, card: nv.Card, users: DeviceUsers | None = None) -> None:
        self._part = card.mig_slice()
        self._card = card if self._part is None else self._part.parent
        self._users = users or DeviceUsers()
        self._asked = 0

    def read(self) -> DeviceState:
        """Everything that the card says of itself."""
        card = self._card
        self._users.look_at_own()
        self._asked = 0
        limit, default = card.power_limits_w()
        others = self._users.others(compute_pids(card))
        return DeviceState(
            clock_mhz=card.clock_mhz(),
            nominal_mhz=_nominal_mhz(card),
            memory_clock_mhz=card.memory_clock_mhz(),
            temperature_c=card.temperature_c(),
            throttle=card.reasons(),
            power_limit_w=limit,
            power_limit_default_w=default,
            ecc_errors=_number(card.ask("nvmlDeviceGetTotalEccErrors", _UNCORRECTED, _VOLATILE)),
            other_processes=others.count,
            other_pids=others.pids,
            shared=self._shared(),
            busy=_busy(card),
        )

    def sample(self) -> Sample:
        """Clock, heat and reasons; every tenth time also who uses the card."""
        card = self._card
        self._asked += 1
        reasons, busy = card.reasons(), _busy(card)
        loaded = None if busy is None else busy >= _LOADED
        if reasons is not None:
            loaded = not any(map(is_idle, reasons)) and loaded is not False
        ask = self._asked % _USERS_EVERY == 0
        others = self._users.others(compute_pids(card)) if ask else None
        return Sample(
            clock_mhz=card.clock_mhz(),
            temperature_c=card.temperature_c(),
            throttle=reasons,
            loaded=loaded,
            capped=any(map(is_power_cap, reasons or ())),
            other_processes=None if others is None else others.count,
            other_pids=() if others is None else others.pids,
        )

    def _shared(self) -> str:
        if self._part is not None:
            return f"MIG {self._part.profile}".strip()
        mode = self._card.mig_slice()
        if mode is not None:
            return f"MIG {mode.profile}".strip()
        return _VIRTUAL.get(int(self._card.ask("nvmlDeviceGetVirtualizationMode") or 0), "")


def compute_pids(card: nv.Card) -> tuple[int, ...] | None:
    """Ids of processes with a compute context on the card; None where it does not say."""
    running = card.ask("nvmlDeviceGetComputeRunningProcesses")
    return None if running is None else tuple(int(process.pid) for process in running)


def _nominal_mhz(card: nv.Card) -> float | None:
    """The card's highest clock, which a data-centre card holds under load unless it says why not;
    of a card for displays its default application clock, where it has one."""
    which = getattr(card.nvml, "NVML_CLOCK_SM", None)
    if which is None:
        return None
    highest = holds_highest_clock(card.name)
    asked = "nvmlDeviceGetMaxClockInfo" if highest else "nvmlDeviceGetDefaultApplicationsClock"
    return _number(card.ask(asked, which)) or None


def _busy(card: nv.Card) -> float | None:
    rates = card.ask("nvmlDeviceGetUtilizationRates")
    return None if rates is None else float(rates.gpu) / 100


def _number(value: Any) -> int | None:
    return None if value is None else int(value)
