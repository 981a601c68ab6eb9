"""The machine around each process: clocks, steal, load, throttling, who else uses the card."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from chipmark.chips.device_users import DeviceUsers
from chipmark.chips.nvml import SLOWDOWN, Card, cards, open_nvml
from chipmark.chips.state_card import compute_pids
from chipmark.errors import MissingBackendError


@dataclass(frozen=True, slots=True)
class CardState:
    """A card by NVML. others: processes on it. throttle: NVML's bits of thermal and
    hardware slowdown; a power limit is a setting and not one."""

    index: int
    sm_clock_mhz: int | None
    temperature_c: int | None
    throttle: int | None
    others: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MachineState:
    """One look. cpu_mhz: mean of the cores, None where the kernel does not say. steal_s, busy_s,
    total_s: CPU seconds since boot, over all cores. load1: the kernel's one-minute load."""

    time_s: float
    cpu_mhz: float | None
    steal_s: float
    busy_s: float
    total_s: float
    load1: float
    cards: tuple[CardState, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)


def look(cards: tuple[CardState, ...] | None = None) -> MachineState:
    """The machine now. `cards`: in place of what NVML says, for tests."""
    times = psutil.cpu_times()
    steal = float(getattr(times, "steal", 0.0))
    # guest times are part of user and nice already.
    parts = ("user", "nice", "system", "irq", "softirq")
    busy = sum(float(getattr(times, name, 0.0)) for name in parts)
    idle = float(times.idle) + float(getattr(times, "iowait", 0.0))
    try:
        frequency = psutil.cpu_freq()
    except (OSError, NotImplementedError):
        frequency = None
    return MachineState(
        time_s=time.time(),
        cpu_mhz=float(frequency.current) if frequency and frequency.current else None,
        steal_s=steal,
        busy_s=busy,
        total_s=busy + idle + steal,
        load1=os.getloadavg()[0],
        cards=_cards() if cards is None else cards,
    )


def card_faults(state: MachineState) -> list[str]:
    """Why a card is not fit now: somebody else computes on it, or it is throttled."""
    faults = []
    for card in state.cards:
        if card.others:
            ids = ", ".join(map(str, card.others))
            faults.append(f"card {card.index} is used by other processes: {ids}")
        if card.throttle:
            faults.append(f"card {card.index} is throttled: NVML reasons {card.throttle:#x}")
    return faults


def _cards() -> tuple[CardState, ...]:
    """Every NVIDIA card that NVML shows; () without NVML. Unverified on hardware."""
    if not Path("/dev/nvidiactl").exists():
        return ()
    try:
        return card_states(open_nvml())
    except MissingBackendError:
        return ()


def card_states(nvml: Any) -> tuple[CardState, ...]:
    """Every card of an open NVML."""
    return tuple(_card(card, index) for index, card in enumerate(cards(nvml)))


def _card(card: Card, index: int) -> CardState:
    reasons = card.reason_mask()
    return CardState(
        index=index,
        sm_clock_mhz=card.clock_mhz(),
        temperature_c=card.temperature_c(),
        throttle=None if reasons is None else reasons & SLOWDOWN,
        others=DeviceUsers().others(compute_pids(card)).pids,
    )
