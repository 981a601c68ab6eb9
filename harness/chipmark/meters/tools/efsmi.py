"""`efsmi` of Enflame's cards: frames of bars or stars, a log, and columns of `--dmon`.

Versions differ: 1.2 and 1.20 print `105W  300W` below `Pwr(Usage/Cap)`, 1.4 and newer `68W / 300W`;
temperatures are `39 C`, `30C`, `35℃` or `35`; memory is the total only. A virtual function (SRIOV)
prints N/A for its watts, a sleeping card a dash.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from chipmark.meters.tools.frames import (
    BUSY,
    BYTE,
    CARD,
    NAME,
    PCI,
    TEMPERATURE,
    USE_OF_CAP,
    Label,
    frame_rows,
)
from chipmark.meters.tools.logs import DeviceLog, Place, device_logs
from chipmark.meters.tools.printed import first_of_each, reading_of
from chipmark.meters.tools.reading import DieReading
from chipmark.meters.tools.tool import Query, Tool

_TABLE: Sequence[Label] = (
    Label("DEV", CARD),
    Label("NAME", NAME),
    Label("BUS-ID", PCI),
    Label("TEMP", TEMPERATURE),
    Label(r"Pwr\(Usage/Cap\)", USE_OF_CAP),
    Label("Mem", rf"(?P<memory_total_bytes>{BYTE})"),
    Label("(?:GCU Virt|vGCU)", r"(?P<virtual>\S+)"),
    Label("(?:DUsed|DEV-Util)", BUSY),
)

_PLACES: Mapping[str, tuple[Place, ...]] = {
    "name": (("device info", "dev name"),),
    "uuid": (("device info", "dev uuid"),),
    "power_w": (("power info", "cur power"),),
    "cap_w": (("power info", "power capa"),),
    "temperature_c": (("temperature info", "gcu temp"),),
    "clock_mhz": (("clock info", "gcu clk"),),
    "memory_clock_mhz": (("clock info", "mem clk"),),
    "busy": (("device usage info", "gcu usage"),),
    "memory_used_bytes": (("device mem info", "used size"), ("device mem info", "mem usage")),
    "memory_total_bytes": (("device mem info", "total size"), ("device mem info", "mem size")),
    "ecc_errors": (("rma info", "total dbe"), ("rma info", "dbe")),
}

_DMON: Mapping[str, str] = {
    "pwr": "power_w",
    "dtemp": "temperature_c",
    "dused": "busy",
    "dclk": "clock_mhz",
    "mclk": "memory_clock_mhz",
}

_BEGINS = re.compile(r"DEV ID (?P<card>\d{1,4})$")
_LONGEST_LINE = 1000


def overview(text: str) -> tuple[DieReading, ...]:
    """The devices of the bare command's table."""
    readings = []
    for row in frame_rows(text, _TABLE):
        virtual = row.get("virtual", "")
        shared = "" if virtual.lower() in ("", "disable", "disabled", "n/a", "?") else virtual
        readings.append(reading_of(int(row["card"]), row, shared=shared))
    return first_of_each(readings)


def log(text: str) -> tuple[DieReading, ...]:
    """The devices of `-q`."""
    return first_of_each(
        reading_of(int(device.begins["card"]), {**device.fields(_PLACES), "pci": _pci(device)})
        for device in device_logs(text, _BEGINS)
    )


def dmon(text: str) -> tuple[DieReading, ...]:
    """The devices of `--dmon -c 1`: columns in blanks, told by the header."""
    names: list[str] = []
    readings = []
    for line in text.splitlines():
        words = line.strip(" #|*\t")[:_LONGEST_LINE].split()
        if not names:
            plain = [word.lower() for word in words]
            names = plain if "pwr" in plain and plain[0] in ("gcu", "dev") else []
        elif len(words) == len(names) and re.fullmatch(r"\d{1,4}", words[0]):
            row = dict(zip(names, words, strict=True))
            printed = {field: row[name] for name, field in _DMON.items() if name in row}
            readings.append(reading_of(int(words[0]), printed))
    return first_of_each(readings)


def _pci(device: DeviceLog) -> str:
    parts = [device.first(("pcie info", name)) for name in ("domain", "bus", "dev", "func")]
    return "{}:{}:{}.{}".format(*parts)


EFSMI = Tool(
    name="efsmi",
    vendor="Enflame",
    programs=("efsmi",),
    scope="board",
    overview=Query((), overview),
    details=(Query(("-q",), log), Query(("--dmon", "-c", "1"), dmon)),
    is_own=lambda text: "EFSMI" in text,
)
