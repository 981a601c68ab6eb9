"""What a backend runs on, as the record keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

HOST_UNITS = ("package", "cpu-share")
"""Units of the host's own processor."""


@dataclass(frozen=True, slots=True)
class DeviceKey:
    """The card that the computing process reports: uuid, pci ("00000000:01:00.0" or shorter)
    and name, each "" where unknown."""

    uuid: str = ""
    pci: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class ChipIdentity:
    """A chip by evidence. `name` is the catalogue's; `device_name` what the device calls itself.

    unit: what price and meter cover (`cpu-share`, `card`, `server`), used/of: devices (or slices)
    of it used. A power limit below default or a MIG slice is part of the name, in brackets;
    `catalogue.catalogue_name` is the name without.
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

    @property
    def key(self) -> DeviceKey:
        """What tells this very card from another; empty where no library of the vendor's does."""
        uuid, pci = str(self.context.get("uuid", "")), str(self.context.get("pci", ""))
        return DeviceKey(uuid, pci, self.device_name if uuid or pci else "")

    @property
    def on_host(self) -> bool:
        """Whether it is the host's own processor."""
        return self.unit in HOST_UNITS
