"""What a backend runs on, as the record keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

SHARE = "cpu-share"
"""Unit, and power scope, of some threads of a processor that others use too."""

HOST_UNITS = ("package", SHARE)
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
    """A chip by evidence."""

    name: str
    """The catalogue's. A power limit below default or a MIG slice is part of it, in brackets;
    `catalogue.catalogue_name` is the name without."""
    vendor: str
    device_name: str
    """What the device calls itself."""
    unit: str
    """What price and meter cover: `cpu-share`, `package`, `card`, `server`."""
    used: int
    of: int
    """Devices (or slices) of the unit: used of all."""
    identity: dict[str, Any] = field(default_factory=dict)
    """Facts that must agree for two rows to be the same chip: model, memory, power limit."""
    context: dict[str, Any] = field(default_factory=dict)
    """Facts that may explain a difference: driver, kernel, governor."""
    evidence: tuple[str, ...] = ()
    """What was looked at."""
    verified: bool = True
    """False where the route was never run on that hardware."""
    devices: tuple[str, ...] = ()
    """Names of the unit's devices as the backend takes them (`npu:0`, `npu:1`), where it has
    several that each hold a model of their own; () where it has not, or nothing can tell."""

    @property
    def key(self) -> DeviceKey:
        """What tells this very card from another; empty where no library of the vendor's does."""
        uuid, pci = str(self.context.get("uuid", "")), str(self.context.get("pci", ""))
        return DeviceKey(uuid, pci, self.device_name if uuid or pci else "")

    @property
    def on_host(self) -> bool:
        """Whether it is the host's own processor."""
        return self.unit in HOST_UNITS


class ChipIdentifier(Protocol):
    """The object behind an entry point of `chipmark.chips`: a function, as a rule."""

    def __call__(self, device: str, *, key: DeviceKey | None = None) -> ChipIdentity | None:
        """The chip that `device` (after the colon of a backend's name) computes on; None for
        devices that it does not know. `key`: the very card, once the computing process has
        reported it. Raises MissingBackendError where the vendor's library is not here."""
        ...
