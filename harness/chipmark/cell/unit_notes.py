"""What a row must say of its unit and its meter, whatever was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chipmark.cell.protocol import LoadAnswer
from chipmark.chips.contract import ChipIdentity
from chipmark.chips.nvml import limited
from chipmark.codes import NoteCode
from chipmark.engine.contract import HostOperator
from chipmark.meters.contract import MeterInfo
from chipmark.results.manifest import Note, PluginId

UNVERIFIED = "unverified on hardware"


def unit_notes(chip: ChipIdentity) -> list[Note]:
    """That only a part of the unit was used, and that its power limit is below the default."""
    notes = []
    if chip.used < chip.of:
        text = f"{chip.used} of {chip.of} of a {chip.unit}: {'; '.join(chip.evidence)}"
        notes.append(Note(code=NoteCode.UNIT_PARTLY_USED, text=text))
    limit, default = (
        chip.identity.get(name) for name in ("power_limit_w", "power_limit_default_w")
    )
    if limited(limit, default):
        notes.append(
            Note(code=NoteCode.POWER_LIMIT, text=f"{limit:g} W of {default:g} W by default")
        )
    return notes


def device_notes(loaded: LoadAnswer) -> list[Note]:
    """Which operators the host's CPU computed in place of the device, and what was
    emulated."""
    notes = []
    if loaded.host_operators:
        text = "left to the host's CPU: " + operators_text(loaded.host_operators)
        notes.append(Note(code=NoteCode.EP_COVERAGE, text=text))
    if loaded.emulated:
        text = f"{loaded.emulated}: no hardware of that kind computed"
        notes.append(Note(code=NoteCode.EMULATED, text=text))
    return notes


def operators_text(operators: Sequence[HostOperator]) -> str:
    """Operators of the host by name, count and share of work, the largest shares of bytes first."""
    by_bytes = sorted(operators, key=lambda left: (-left.bytes_share, -left.flops_share, left.name))
    return ", ".join(
        f"{left.name} x{left.count} ({left.flops_share:.2%} of FLOPs, {left.bytes_share:.2%} of "
        "bytes)"
        for left in by_bytes
    )


def foreign_code(
    plugins: Mapping[str, PluginId], beside: Mapping[str, PluginId] | None = None
) -> list[Note]:
    """That a meter (the row's, or one `beside` it), or what named the chip, is not chipmark's
    code: nothing here checks it."""
    notes = []
    meters = [plugins.get("meter"), *(beside or {}).values()]
    of_role = [(plugin, NoteCode.UNVERIFIED_METER) for plugin in meters]
    for plugin, code in (*of_role, (plugins.get("chip"), NoteCode.UNVERIFIED_CHIP)):
        if plugin is not None and not plugin.built_in:
            owner = plugin.distribution or "an installed module"
            text = f"by {plugin.module} of {owner} {plugin.version}".rstrip()
            notes.append(Note(code=code, text=f"{text}, which chipmark does not check"))
    return notes


def meter_notes(info: MeterInfo) -> list[Note]:
    """What the meter says of itself; that it was never run on that hardware under its own code."""
    notes = (
        []
        if info.verified
        else [Note(code=NoteCode.UNVERIFIED_METER, text=f"{info.name}: {UNVERIFIED}")]
    )
    rest = [text for text in info.notes if not text.startswith(UNVERIFIED)]
    return notes + [Note(code=NoteCode.METER, text=f"{info.name}: {text}") for text in rest]
