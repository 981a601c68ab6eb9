"""Hygon's `hy-smi`, and the `rocm-smi` of its older releases: the table, and `--json`.

Newer releases print HCU for DCU and add columns, so that columns go by their header's words. The
JSON has other text around it, and between some of its members the comma is missing: its members are
picked out one by one. AMD's `rocm-smi` prints GPU where these print DCU or HCU.
"""

from __future__ import annotations

import re

from chipmark.meters.tools.reading import DieReading
from chipmark.meters.tools.sections import integer
from chipmark.meters.tools.tool import Query, Tool
from chipmark.meters.tools.values import BYTES, CELSIUS, MEGAHERTZ, PERCENT, WATTS, Fields

_OWN = re.compile(r"\b[DH]CU\b")

_COLUMNS = {
    "avgpwr": ("power_w", WATTS),
    "pwrcap": ("cap_w", WATTS),
    "temp": ("temperature_c", CELSIUS),
    "dcu%": ("busy", PERCENT),
    "hcu%": ("busy", PERCENT),
    "sclk": ("clock_mhz", MEGAHERTZ),
    "mclk": ("memory_clock_mhz", MEGAHERTZ),
}


def read_table(text: str) -> tuple[DieReading, ...]:
    """`hy-smi`: rows of as many words as the header has."""
    header: list[str] = []
    found = []
    for line in text.splitlines():
        words = line.split()
        if words and _OWN.fullmatch(words[0]) and "Temp" in words:
            header = [word.lower() for word in words]
            continue
        number = integer(words[0]) if words and header else None
        if number is None or len(words) != len(header):
            continue
        fields = Fields(number)
        for column, word in zip(header[1:], words[1:], strict=True):
            if column in _COLUMNS:
                fields.take(_COLUMNS[column][0], word, _COLUMNS[column][1])
        found.append(fields.reading())
    return tuple(found)


_MEMBERS = {
    "average graphics package power (w)": ("power_w", WATTS),
    "current socket graphics package power (w)": ("power_w", WATTS),
    "max graphics package power (w)": ("cap_w", WATTS),
    "temperature (sensor junction) (c)": ("temperature_c", CELSIUS),
    "temperature (sensor core) (c)": ("temperature_c", CELSIUS),
    "temperature (sensor edge) (c)": ("temperature_c", CELSIUS),
    "gpu use (%)": ("busy", PERCENT),
    "dcu use (%)": ("busy", PERCENT),
    "hcu use (%)": ("busy", PERCENT),
    "sclk clock speed": ("clock_mhz", MEGAHERTZ),
    "sclk clock speed:": ("clock_mhz", MEGAHERTZ),
    "mclk clock speed": ("memory_clock_mhz", MEGAHERTZ),
    "mclk clock speed:": ("memory_clock_mhz", MEGAHERTZ),
}
_SIZES = {
    "vram total memory (mib)": ("memory_total_bytes", 2.0**20),
    "vram total used memory (mib)": ("memory_used_bytes", 2.0**20),
    "vram total memory (b)": ("memory_total_bytes", 1.0),
    "vram total used memory (b)": ("memory_used_bytes", 1.0),
}
_CARD = re.compile(r'"card([0-9]{1,4})"\s*:\s*\{([^{}]*)')
_MEMBER = re.compile(r'"([^"]*)"\s*:\s*(?:"([^"]*)"|([^",{}\s]+))')


def read_json(text: str) -> tuple[DieReading, ...]:
    """`hy-smi --json` with whatever was asked for."""
    return read_members(text)


def read_members(text: str) -> tuple[DieReading, ...]:
    """The JSON of rocm-smi and of what descends from it; members of other names are left out."""
    found = []
    for card in _CARD.finditer(text):
        members = {
            member.group(1).strip().lower(): (member.group(2) or member.group(3) or "")
            for member in _MEMBER.finditer(card.group(2))
        }
        fields = Fields(
            int(card.group(1)),
            name=members.get("card series", ""),
            pci=members.get("pci bus", ""),
            uuid=members.get("unique id", ""),
        )
        for key, (name, unit) in _MEMBERS.items():
            if key in members:
                fields.take(name, members[key].strip("()"), unit)
        for key, (name, factor) in _SIZES.items():
            if key in members:
                fields.take(name, members[key], BYTES, factor)
        found.append(fields.reading())
    return tuple(found)


HY_SMI = Tool(
    name="hy-smi",
    vendor="Hygon",
    programs=("hy-smi", "rocm-smi"),
    scope="board",
    overview=Query((), read_table),
    details=(Query(("-a", "--json"), read_json), Query(("--showpower", "--json"), read_json)),
    is_own=lambda text: _OWN.search(text) is not None,
    resolution_w=1.0,
)
