"""What a row must say of its unit and its meter, whatever was measured."""

from __future__ import annotations

from chipmark.chips.contract import ChipIdentity
from chipmark.chips.nvml import limited
from chipmark.meters.contract import MeterInfo
from chipmark.results.manifest import Note

UNVERIFIED = "unverified on hardware"


def unit_notes(chip: ChipIdentity) -> list[Note]:
    """That only a part of the unit was used, and that its power limit is below the default."""
    notes = []
    if chip.used < chip.of:
        text = f"{chip.used} of {chip.of} of a {chip.unit}: {'; '.join(chip.evidence)}"
        notes.append(Note(code="unit_partly_used", text=text))
    limit, default = (
        chip.identity.get(name) for name in ("power_limit_w", "power_limit_default_w")
    )
    if limited(limit, default):
        notes.append(Note(code="power_limit", text=f"{limit:g} W of {default:g} W by default"))
    return notes


def meter_notes(info: MeterInfo) -> list[Note]:
    """What the meter says of itself; that it was never run on that hardware under its own code."""
    notes = (
        [] if info.verified else [Note(code="unverified_meter", text=f"{info.name}: {UNVERIFIED}")]
    )
    rest = [text for text in info.notes if not text.startswith(UNVERIFIED)]
    return notes + [Note(code="meter", text=f"{info.name}: {text}") for text in rest]
