"""What of a unit was used, and what a meter and a price then cover."""

from __future__ import annotations

from chipmark.chips.contract import SHARE
from chipmark.chips.nvml import limited
from chipmark.results.manifest import ChipId
from chipmark.results.record import Record


def all_devices_used(record: Record) -> bool:
    """Whether every device that the price covers was used, and no card was cut into slices."""
    chip = record.manifest.chip
    return chip.used >= chip.of and not chip.identity.get("mig")


def is_share(record: Record) -> bool:
    """Whether the unit is a share of a processor: priced as such, but without a meter."""
    return record.manifest.chip.unit == SHARE


def meters_more_than_unit(record: Record) -> bool:
    """Whether the meter reads the whole machine while the unit is a share of it."""
    meter = record.manifest.meter
    return meter is not None and is_share(record) and meter.scope != SHARE


def power_limit(chip: ChipId) -> tuple[float, float] | None:
    """(limit, default) in watts where the limit in force is below the default, else None."""
    limit, default = (chip.identity.get(n) for n in ("power_limit_w", "power_limit_default_w"))
    if not isinstance(limit, (int, float)) or not isinstance(default, (int, float)):
        return None
    return (float(limit), float(default)) if limited(limit, default) else None


def chip_label(chip: ChipId) -> str:
    """The chip's name; with its power limit where that is below the default, which makes it
    another chip."""
    limit = power_limit(chip)
    if limit is None:
        return chip.name
    mark = f"{limit[0]:g} W of {limit[1]:g} W"
    return chip.name if mark in chip.name else f"{chip.name} ({mark})"
