"""The card that the loaded process reports, and what follows for chip and meters.

Before a backend has loaded, a card is known by its place in CUDA_VISIBLE_DEVICES at best. Then the
process reports UUID, PCI address and name: either they confirm what was prepared, or they settle
what was open, or the cell fails, since the wrong card would be named, metered and priced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chipmark.cell.protocol import LoadAnswer
from chipmark.chips.contract import ChipIdentity, DeviceKey
from chipmark.chips.detect import chip_of
from chipmark.chips.nvml import same_pci, same_uuid
from chipmark.codes import NoteCode
from chipmark.errors import CellFailedError
from chipmark.meters.pick import Picked
from chipmark.results.manifest import Note

PickMeters = Callable[[ChipIdentity], Picked]
"""The meters of a chip, with remarks for its row."""


@dataclass(frozen=True, slots=True)
class Settled:
    """Chip and meters of a loaded cell, with notes on the meters where they were picked only
    now."""

    chip: ChipIdentity
    meters: Picked
    notes: tuple[Note, ...] = ()
    stale: tuple[Note, ...] = ()
    """Notes on meters that were picked before the card was known, and are no longer read."""


def is_open(chip: ChipIdentity) -> bool:
    """Whether only the loaded process knows which card it is."""
    return chip.vendor == "NVIDIA" and not (chip.key.uuid or chip.key.pci)


def reported_key(described: Mapping[str, Any]) -> DeviceKey:
    """The card that a backend's `describe` names."""
    hardware = described.get("hardware")
    if not isinstance(hardware, Mapping):
        return DeviceKey()
    return DeviceKey(*(str(hardware.get(field) or "") for field in ("uuid", "pci", "name")))


def settle(
    backend: str,
    chip: ChipIdentity,
    meters: Picked,
    loaded: LoadAnswer,
    pick: PickMeters,
) -> Settled:
    """Chip and meters of `backend` after it has loaded.

    Raises CellFailedError where the loaded device is not the one that was named and metered, and
    UsageError where NVML does not know it, or where a meter that the user named cannot be read.
    """
    key = reported_key(loaded.describe)
    if chip.vendor != "NVIDIA":
        if chip.verified:
            return Settled(chip, meters)
        # Such a chip has no name before its backend has reported one, and no address either.
        chip = chip_of(backend, loaded.device, key=key)
        if chip.key == DeviceKey():
            return Settled(chip, meters)
        found = pick(chip)
        return Settled(chip, found, remarks_of(found), stale=remarks_of(meters))
    if is_open(chip):
        chip = chip_of(backend, key.name or loaded.device, key=key)
        meters = pick(chip)
        settled = Settled(chip, meters, remarks_of(meters))
    else:
        settled = Settled(chip, meters)
    if why := _contradiction(settled.chip, key):
        raise CellFailedError(
            f"{backend} computes on another card than the one that is named and metered: {why}",
            "set CUDA_DEVICE_ORDER=PCI_BUS_ID, or CUDA_VISIBLE_DEVICES to the card's UUID",
        )
    return settled


def remarks_of(meters: Picked) -> tuple[Note, ...]:
    """What a row says of meters that could not be read."""
    return tuple(Note(code=NoteCode.METER, text=text) for text in meters.remarks)


def _contradiction(chip: ChipIdentity, reported: DeviceKey) -> str:
    """How the reported card differs from the chip; "" where it does not.

    A slice of a card has an UUID of its own, which CUDA and NVML need not give alike: there the
    card's PCI address and name decide.
    """
    known, sliced = chip.key, bool(chip.identity.get("mig"))
    if not sliced and reported.uuid and known.uuid and not same_uuid(reported.uuid, known.uuid):
        return f"UUID {reported.uuid} and {known.uuid}"
    if reported.pci and known.pci and not same_pci(reported.pci, known.pci):
        return f"PCI address {reported.pci} and {known.pci}"
    whole = chip.device_name.partition(" MIG ")[0]
    same = reported.name.startswith(whole) if sliced else reported.name == chip.device_name
    if reported.name and chip.device_name and not same:
        return f"{reported.name} and {chip.device_name}"
    return ""
