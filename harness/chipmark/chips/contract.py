"""What a backend runs on, as the record keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ChipIdentity:
    """A chip by evidence. `name` is the catalogue's; `device_name` what the device calls itself.

    unit: what price and meter cover (`cpu-share`, `card`, `server`), used/of: devices of it used.
    identity: facts that must agree for two rows to be the same chip (model, memory, power limit);
    context: facts that may explain a difference (driver, kernel, governor). evidence: what was
    looked at. verified: False where the route was never run on that hardware.
    """

    name: str
    vendor: str
    device_name: str
    unit: str
    used: int
    of: int
    identity: dict[str, Any] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    evidence: tuple[str, ...] = ()
    verified: bool = True
