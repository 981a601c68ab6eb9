"""The power that a nameplate allows a unit to be charged with, where nothing can be measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from chipmark.chips.catalogue import catalogue, catalogue_name
from chipmark.chips.contract import ChipIdentity
from chipmark.chips.cpu import read_cpu
from chipmark.chips.identify import cpu_entry


@dataclass(frozen=True, slots=True)
class Nameplate:
    """Watts of a unit worked out from the catalogue; `method` is the sentence for the row."""

    power_w: float
    method: str


def nameplate(chip: ChipIdentity, root: Path = Path("/")) -> Nameplate | None:
    """TDP / threads x vCPUs for a share of a CPU, TDP x sockets for whole packages, else None.

    An accelerator has none: boards differ too much from a TDP, so the user must declare it.
    """
    if chip.unit not in ("cpu-share", "package"):
        return None
    facts = read_cpu(root)
    entry = cpu_entry(facts)
    if entry is None or entry.tdp.value is None or entry.threads.value is None:
        return None
    tdp, threads = entry.tdp.value, entry.threads.value
    source = f"{entry.title}: {entry.tdp.source}"
    if chip.unit == "package":
        return Nameplate(tdp * chip.used, f"TDP {tdp:g} W x {chip.used} sockets ({source})")
    return Nameplate(
        tdp / threads * chip.used,
        f"TDP {tdp:g} W / {threads:g} threads x {chip.used} vCPUs ({source})",
    )


def unit_nameplate_w(chip: ChipIdentity, root: Path = Path("/")) -> float | None:
    """The catalogue's watts of the whole unit, which a declared power must reach to be a bound.

    For a CPU that of `nameplate`; for a card its TDP, or the ceiling that the vendor's tool shows
    where that is higher or all that is known. None where the catalogue has no figure.
    """
    if (plate := nameplate(chip, root)) is not None:
        return plate.power_w
    entry = catalogue().chips.get(catalogue_name(chip.name))
    if entry is None or entry.unit != chip.unit:
        return None
    figures = [q.value for q in (entry.tdp, entry.cap) if q.value is not None]
    return max(figures, default=None)
