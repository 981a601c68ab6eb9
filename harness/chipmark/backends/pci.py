"""What the PCI bus shows: the one evidence of a vendor's chip that no software can pose as.

Standard library only: the measured process reads it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class PciDevice:
    """address: "0000:17:00.0". vendor, device: their ids, four hexadecimal digits. kind: the
    class, six digits ("120000"). Each without 0x, "" where the device has just left."""

    address: str
    vendor: str
    kind: str
    device: str


def pci_devices(root: Path = ROOT) -> list[PciDevice]:
    """Every device of the bus as sysfs shows it, by address; [] where there is no sysfs."""
    found = []
    for folder in sorted((root / "sys/bus/pci/devices").glob("*")):
        vendor, kind, device = (_code(folder / name) for name in ("vendor", "class", "device"))
        found.append(PciDevice(folder.name, vendor, kind, device))
    return found


def same_address(a: str, b: str) -> bool:
    """Whether two PCI addresses are one, however many digits their domain is written with."""
    return _address(a) == _address(b)


def _address(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part, 16) for part in text.replace(".", ":").split(":"))
    except ValueError:
        return ()


def _code(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip().lower().removeprefix("0x")
    except OSError:
        return ""
