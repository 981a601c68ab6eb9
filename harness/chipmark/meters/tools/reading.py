"""What one row of a vendor's tool says of a device, with a reason for what it does not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum


class Missing(StrEnum):
    """Why a field of a reading is None."""

    NOT_PRINTED = "the tool does not print it"
    NOT_AVAILABLE = "the tool says that it is not available"
    UNREADABLE = "what the tool prints there is no such value"
    OUT_OF_RANGE = "what the tool prints there is outside the unit's range"
    ZERO = "the tool prints 0 W, which no powered card draws"
    SUSPECT = "the tool prints watts that cannot be true at what else it prints of the card"


QUANTITIES = (
    "power_w", "cap_w", "temperature_c", "clock_mhz", "nominal_mhz", "memory_clock_mhz", "busy",
    "memory_used_bytes", "memory_total_bytes", "throttle", "ecc_errors", "processes",
)  # fmt: skip
"""Fields of a reading that are None where they are not known; each then has a reason."""


@dataclass(frozen=True, slots=True)
class DieReading:
    """A device as a tool lists it: a card, or one die of a card that has several.

    Every quantity is None where it is not known, and then `missing` says why by its field's
    name; none is ever a zero that was not printed.
    """

    card: int
    """The tool's own number of the card."""
    die: int = 0
    """Number of the die on its card."""
    name: str = ""
    """What the tool calls it."""
    pci: str = ""
    uuid: str = ""
    power_w: float | None = None
    """Watts. Of a card whose dies share one sensor, only one of its dies has them."""
    cap_w: float | None = None
    """Power limit in watts."""
    temperature_c: float | None = None
    clock_mhz: float | None = None
    """Clock of the compute units now."""
    nominal_mhz: float | None = None
    """What that clock is by default where nothing slows it down."""
    memory_clock_mhz: float | None = None
    busy: float | None = None
    """Share of the compute units' time, 0 to 1."""
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    throttle: tuple[str, ...] | None = None
    """Reasons why the clock is lower than it could be, by the tool's names; () for none, None where
    it does not tell."""
    ecc_errors: int | None = None
    """Uncorrected memory errors since the counter was reset."""
    processes: int | None = None
    """Processes on the device."""
    shared: str = ""
    """How the device is a part of a card ("vGPU", "MIG 1g.10gb"); "" for a whole one."""
    whole_card: bool = False
    """Whether the tool says that the watts are the whole card's, whatever its dies print (a sensor
    of the board)."""
    missing: Mapping[str, Missing] = field(default_factory=dict)

    def __post_init__(self) -> None:
        reasons = {
            name: self.missing.get(name, Missing.NOT_PRINTED)
            for name in QUANTITIES
            if getattr(self, name) is None
        }
        object.__setattr__(self, "missing", reasons)


def merged(base: DieReading, more: DieReading) -> DieReading:
    """`base` with what only `more`, another answer about the same die, says."""
    found = {
        name: getattr(more, name)
        for name in QUANTITIES
        if getattr(base, name) is None and getattr(more, name) is not None
    }
    # "Not available" of one answer tells more than the silence of another.
    why = {
        name: more.missing[name] if reason is Missing.NOT_PRINTED else reason
        for name, reason in base.missing.items()
        if name not in found
    }
    texts = {
        name: getattr(base, name) or getattr(more, name)
        for name in ("name", "pci", "uuid", "shared")
    }
    board = more.whole_card if "power_w" in found else base.whole_card
    return replace(base, **found, **texts, whole_card=board, missing=why)


LOW_SHARE, BUSY = 0.03, 0.5
"""A card that is busy for half of the time or more draws over 3 % of its limit: 8.0 W at 74 % with
a limit of 800 W was seen of a DCU's tool."""

HIGH_SHARE = 2.0
"""Watts over twice the card's own limit are not the card's."""


def without_suspects(reading: DieReading, cap_w: float | None = None) -> DieReading:
    """The reading without watts that contradict what else the tool prints of the card.

    cap_w: the card's limit, where this reading does not hold it.
    """
    power, cap = reading.power_w, reading.cap_w or cap_w
    if power is None or not cap:
        return reading
    least = LOW_SHARE * cap if (reading.busy or 0.0) >= BUSY else 0.0
    if least <= power <= HIGH_SHARE * cap:
        return reading
    return replace(reading, power_w=None, missing={**reading.missing, "power_w": Missing.SUSPECT})
