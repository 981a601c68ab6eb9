"""A device's reading from the pieces of text that a tool prints for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from chipmark.meters.tools.reading import DieReading
from chipmark.meters.tools.values import (
    BYTES,
    CELSIUS,
    COUNT,
    MEGAHERTZ,
    PERCENT,
    WATTS,
    Fields,
    Unit,
)
from chipmark_models.plain_text import one_line

_QUANTITIES: Mapping[str, Unit] = {
    "power_w": WATTS,
    "cap_w": WATTS,
    "temperature_c": CELSIUS,
    "clock_mhz": MEGAHERTZ,
    "nominal_mhz": MEGAHERTZ,
    "memory_clock_mhz": MEGAHERTZ,
    "busy": PERCENT,
    "memory_used_bytes": BYTES,
    "memory_total_bytes": BYTES,
    "ecc_errors": COUNT,
    "processes": COUNT,
}
"""Fields of a reading that are numbers. A percentage becomes a share."""

_PCI = re.compile(
    r"(?:(?P<domain>[0-9a-fA-F]{2,8}):)?(?P<bus>[0-9a-fA-F]{2}):"
    r"(?P<device>[0-9a-fA-F]{1,2})\.(?P<function>[0-9a-fA-F])"
)

_BARE = re.compile(r"\d[\d.]*")
_UNIT = re.compile(r"[A-Za-z%]+$")

_NONE = ("", "n/a", "[n/a]", "na", "-", "--", "none", "unknown")

_WORDS = 100


def reading_of(
    card: int,
    printed: Mapping[str, str | Sequence[str]],
    *,
    die: int = 0,
    throttle: tuple[str, ...] | None = None,
    shared: str = "",
) -> DieReading:
    """The reading of a device. `printed`: the text of each field by its name in DieReading, or
    several of which the first that is a value counts; a field that is not there was not printed.
    Never raises for what is printed."""
    found = Fields(
        card,
        die,
        name=_word(_first(printed, "name")),
        pci=pci_address(_first(printed, "pci")),
        uuid=_word(_first(printed, "uuid")),
        shared=_word(shared),
    )
    for name, unit in _QUANTITIES.items():
        for text in _texts(printed, name):
            found.take(name, text, unit)
    if throttle is not None:
        found.say(throttle=throttle)
    return found.reading()


def pci_address(text: str) -> str:
    """A PCI address with a domain of four digits or more, "" for what is none: some tools print
    two digits of the domain and one of the device."""
    found = _PCI.fullmatch(text.strip())
    if found is None:
        return ""
    domain, device = (found["domain"] or "").zfill(4), found["device"].zfill(2)
    return f"{domain}:{found['bus']}:{device}.{found['function']}"


def with_unit(text: str, unit: str) -> str:
    """A bare number with the unit that stands elsewhere (in a header, behind a total); all other
    texts as they are."""
    bare = text.strip()
    return f"{bare} {unit}" if unit and _BARE.fullmatch(bare) else bare


def unit_behind(text: str) -> str:
    """The unit at the end of a quantity's text, "" where there is none."""
    found = _UNIT.search(text.strip())
    return found.group() if found else ""


def first_of_each(readings: Iterable[DieReading]) -> tuple[DieReading, ...]:
    """Without what lists a die a second time: its watts must not be counted twice."""
    kept: dict[tuple[int, int], DieReading] = {}
    for reading in readings:
        kept.setdefault((reading.card, reading.die), reading)
    return tuple(kept.values())


def _texts(printed: Mapping[str, str | Sequence[str]], name: str) -> Sequence[str]:
    found = printed.get(name, ())
    return (found,) if isinstance(found, str) else found


def _first(printed: Mapping[str, str | Sequence[str]], name: str) -> str:
    return next(iter(_texts(printed, name)), "")


def _word(text: str) -> str:
    plain = one_line(text.strip(), _WORDS)
    return "" if plain.lower() in _NONE else plain
