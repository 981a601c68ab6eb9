"""What one row of a vendor's tool says of a device, with a reason for what it does not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Missing(StrEnum):
    """Why a field of a reading is None."""

    NOT_PRINTED = "the tool does not print it"
    NOT_AVAILABLE = "the tool says that it is not available"
    UNREADABLE = "what the tool prints there is no such value"
    OUT_OF_RANGE = "what the tool prints there is outside the unit's range"
    ZERO = "the tool prints 0 W, which no powered card draws"


@dataclass(frozen=True, slots=True)
class DieReading:
    """A device as a tool lists it: a card, or one die of a card that has several.

    Every quantity is None where it is not known, and then `missing` may say why by its field's
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
    missing: Mapping[str, Missing] = field(default_factory=dict)
