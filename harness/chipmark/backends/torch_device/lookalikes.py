"""Vendors whose builds of torch call their chip `cuda`: `torch:kunlun` means that device, on proof.

The name is taken only where the PCI bus shows that vendor's chip, and where torch's device is not
another vendor's card. Written from the vendors' packages; unverified on hardware.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chipmark.backends.pci import ROOT, PciDevice, pci_devices, same_address
from chipmark.errors import MissingBackendError

POSED_AS = "cuda"
"""The device type of torch that they pose as."""


@dataclass(frozen=True, slots=True)
class Lookalike:
    """A vendor by name, and the PCI ids of its chips."""

    vendor: str
    pci_vendors: tuple[str, ...]


LOOKALIKES: Mapping[str, Lookalike] = {
    "kunlun": Lookalike("Kunlunxin", ("1d22", "2057")),
    "dcu": Lookalike("Hygon", ("1d94",)),
    "maca": Lookalike("MetaX", ("9999",)),
    "corex": Lookalike("Iluvatar CoreX", ("1e3e",)),
    "ppu": Lookalike("T-Head", ("1ded",)),
    "rocm": Lookalike("AMD", ("1002",)),
}
"""Names after `torch:` -> whose chip is meant. The catalogue's vendors say the same (tested)."""

_POSING = {
    vendor: known.vendor for known in LOOKALIKES.values() for vendor in known.pci_vendors
} | {"10de": "NVIDIA"}
_OF_TORCH = ("10de", "1002")
"""NVIDIA and AMD: torch itself is built for their chips."""

_CLASSES = ("03", "0b", "12")
"""PCI classes of accelerators: display, processor, processing accelerator."""


def check_bus(kind: str, root: Path = ROOT) -> None:
    """Raise MissingBackendError where the PCI bus shows no chip of the vendor that `kind` names."""
    wanted = LOOKALIKES[kind]
    accelerators = _accelerators(root)
    if any(device.vendor in wanted.pci_vendors for device in accelerators):
        return
    others = sorted({_POSING.get(d.vendor, f"PCI vendor {d.vendor}") for d in accelerators})
    raise MissingBackendError(
        f"torch:{kind} is a chip of {wanted.vendor}, and the PCI bus shows none "
        f"(vendor {' or '.join(wanted.pci_vendors)}); "
        f"accelerators found: {', '.join(others) or 'none'}",
        f"torch:{POSED_AS} is whatever torch calls {POSED_AS}",
    )


def check_card(kind: str, facts: Mapping[str, Any], root: Path = ROOT) -> None:
    """Raise MissingBackendError where torch's device is not, or need not be, the vendor's.

    facts: `devices.hardware` of the opened device. Its PCI address decides; without one, the bus
    must show a single vendor whose chips are called `cuda`.
    """
    wanted = LOOKALIKES[kind]
    accelerators = _accelerators(root)
    address, name = str(facts.get("pci", "")), str(facts.get("name", ""))
    at = [device for device in accelerators if address and same_address(device.address, address)]
    vendors = {_POSING[d.vendor] for d in at or accelerators if d.vendor in _POSING}
    if vendors == {wanted.vendor}:
        return
    called = f"{name or 'a device without a name'}{f' at {address}' if address else ''}"
    if at:
        found = f"is of {_POSING.get(at[0].vendor, f'PCI vendor {at[0].vendor}')}"
    else:
        found = f"may be of {' or '.join(sorted(vendors))}, and nothing tells which"
    raise MissingBackendError(
        f"torch:{kind} is a chip of {wanted.vendor}; what torch calls {POSED_AS} here, {called}, "
        f"{found}",
        f"use {wanted.vendor}'s build of torch (--python PATH), or torch:{POSED_AS} for this card",
    )


def poses(facts: Callable[[], Mapping[str, Any]], root: Path = ROOT) -> bool:
    """Whether what torch calls `cuda` may be a chip of another vendor than NVIDIA and AMD, whose
    builds of torch are the project's own. facts: asked where the bus shows such a chip."""
    accelerators = _accelerators(root)
    strangers = {d.address for d in accelerators if d.vendor in _POSING} - {
        d.address for d in accelerators if d.vendor in _OF_TORCH
    }
    if not strangers:
        return False
    address = str(facts().get("pci", ""))
    known = any(same_address(d.address, address) for d in accelerators if d.vendor in _OF_TORCH)
    return not (address and known)


def _accelerators(root: Path) -> list[PciDevice]:
    return [device for device in pci_devices(root) if device.kind.startswith(_CLASSES)]
