"""AMD's `amd-smi`: `static` for what a card is, `metric` for what it does, both as JSON.

Releases wrap the list of cards in `gpu_data` or do not, write a quantity as `{"value", "unit"}` or
as a bare number, "N/A" for what is missing, and print warnings before the document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from chipmark.errors import BadInputError
from chipmark.meters.tools.reading import DieReading
from chipmark.meters.tools.tool import Query, Tool
from chipmark.meters.tools.values import BYTES, CELSIUS, COUNT, MEGAHERTZ, PERCENT, WATTS, Fields
from chipmark_models.foreign_file import parse_json

_QUANTITIES = (
    ("power_w", WATTS, ("power.socket_power", "power.current_socket_power",
                        "power.average_socket_power")),
    ("cap_w", WATTS, ("limit.socket_power", "limit.ppt0.socket_power_limit", "limit.max_power")),
    ("temperature_c", CELSIUS, ("temperature.hotspot", "temperature.edge")),
    ("clock_mhz", MEGAHERTZ, ("clock.gfx_0.clk", "clock.gfx.clk")),
    ("memory_clock_mhz", MEGAHERTZ, ("clock.mem_0.clk", "clock.mem.clk")),
    ("busy", PERCENT, ("usage.gfx_activity",)),
    ("memory_used_bytes", BYTES, ("mem_usage.used_vram",)),
    ("memory_total_bytes", BYTES, ("mem_usage.total_vram",)),
    ("ecc_errors", COUNT, ("ecc.total_uncorrectable_count",)),
)  # fmt: skip
"""A reading's field, its unit, and where it may be found, the better place first. `max_clk` is the
highest clock of a boost and no nominal one: a card below it need not be slowed down."""

_BEGIN = re.compile(r"^\s*[\[{]", re.MULTILINE)
_WHOLE = ("", "N/A", "SPX")
_MIB = 2.0**20


def read_cards(text: str) -> tuple[DieReading, ...]:
    """`amd-smi static --json` and `amd-smi metric --json`."""
    found = []
    for card in _cards(text):
        number = card.get("gpu")
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            continue
        partition = _text(_at(card, "partition.compute_partition")).upper()
        fields = Fields(
            number,
            name=_name(card),
            pci=_text(_at(card, "bus.bdf")),
            shared="" if partition in _WHOLE else f"partition {partition}",
        )
        for name, unit, places in _QUANTITIES:
            for place in places:
                if (value := _at(card, place)) is not None:
                    fields.take(name, _text(value), unit, _MIB if unit is BYTES else 1.0)
        found.append(fields.reading())
    return tuple(found)


def _cards(text: str) -> Iterator[Mapping[str, Any]]:
    begin = _BEGIN.search(text)
    if begin is None:
        return
    try:
        document = parse_json(text[begin.start() :], "amd-smi --json")
    except BadInputError:
        return
    if isinstance(document, Mapping):
        document = document.get("gpu_data", [document])
    if isinstance(document, list):
        yield from (card for card in document if isinstance(card, Mapping))


def _at(card: Mapping[str, Any], place: str) -> Any:
    """What is at "power.socket_power"; None where nothing is."""
    found: Any = card
    for key in place.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _text(value: Any) -> str:
    """As a tool for people prints it: "130 W"; "" for a list and the like."""
    if isinstance(value, Mapping):
        return f"{_text(value.get('value'))} {_text(value.get('unit'))}".strip()
    return str(value) if isinstance(value, (str, int, float)) else ""


def _name(card: Mapping[str, Any]) -> str:
    name = _text(_at(card, "asic.market_name"))
    return "" if name == "N/A" else name


AMD_SMI = Tool(
    name="amd-smi",
    vendor="AMD",
    programs=("amd-smi",),
    scope="package",
    overview=Query(("static", "--asic", "--bus", "--limit", "--partition", "--json"), read_cards),
    details=(
        Query(("metric", "--power", "--json"), read_cards, quick=True),
        Query(("metric", "--json"), read_cards),
    ),
    resolution_w=1.0,
)
