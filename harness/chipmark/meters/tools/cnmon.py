"""Cambricon's `cnmon`: its table in the dialects of v4.20 and v5.10, and `cnmon info -p|-u|-m|-e`.

An MLU370-X8 is listed as two devices, each of which prints the watts and the limit of the card.
"""

from __future__ import annotations

from collections.abc import Iterator

from chipmark.meters.tools.reading import DieReading
from chipmark.meters.tools.sections import Line, integer, lines_of
from chipmark.meters.tools.tool import Query, Tool
from chipmark.meters.tools.usage_table import UsageTable
from chipmark.meters.tools.values import BYTES, CELSIUS, PERCENT, WATTS, Fields

_TABLE = UsageTable(first="Card", busy="Util", ecc="Ecc-Error", part="VF")


def read_table(text: str) -> tuple[DieReading, ...]:
    """`cnmon`."""
    return _TABLE.read(text)


_FIELDS = {
    # By the section and the key, or by the key where no other section has it.
    "power/usage": ("power_w", WATTS),
    "power/cap": ("cap_w", WATTS),
    "temperature/chip": ("temperature_c", CELSIUS),
    "mlu average": ("busy", PERCENT),
    "physical memory usage/used": ("memory_used_bytes", BYTES),
    "physical memory usage/total": ("memory_total_bytes", BYTES),
}


def read_info(text: str) -> tuple[DieReading, ...]:
    """`cnmon info` of one or several kinds: sections a card, which begin with its number. In some
    versions `-p` lists processes, and then says nothing of power."""
    found = []
    for number, texts in _cards(lines_of(text)):
        fields = Fields(number, name=texts.get("product name", texts.get("product", "")))
        for key, (name, unit) in _FIELDS.items():
            if key in texts:
                fields.take(name, texts[key], unit, 2.0**20 if unit is BYTES else 1.0)
        if fields.asked:
            found.append(fields.reading())
    return tuple(found)


def _cards(lines: list[Line]) -> Iterator[tuple[int, dict[str, str]]]:
    """Number of each card, and its values by "section/key"."""
    number: int | None = None
    texts: dict[str, str] = {}
    sections: list[Line] = []
    for line in lines:
        key, value = line.key, line.value
        # "Card 0", or "Card : 0" in other versions.
        begun = integer(value or key.removeprefix("card"))
        if begun is not None and (key == "card" or (key.startswith("card ") and not value)):
            if number is not None:
                yield number, texts
            number, texts, sections = begun, {}, []
        elif number is not None and key:
            sections = [above for above in sections if above.indent < line.indent]
            if value:
                texts.setdefault(key, value)
                texts.setdefault("/".join((*(above.key for above in sections[-1:]), key)), value)
            else:
                sections.append(line)
    if number is not None:
        yield number, texts


CNMON = Tool(
    name="cnmon",
    vendor="Cambricon",
    programs=("cnmon",),
    scope="board",
    overview=Query((), read_table),
    details=tuple(Query(("info", flag), read_info) for flag in ("-p", "-u", "-m", "-e")),
    is_own=lambda text: "CNMON" in text,
    resolution_w=1.0,
)
