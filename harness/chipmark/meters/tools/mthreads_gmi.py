"""`mthreads-gmi` of Moore Threads' cards: a table without watts, a log, and the log as JSON.

The JSON's names carry blanks (`"Power Draw "`), so that they are compared without. The log begins a
device with `GPU0 00000000:2a:00.0`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from chipmark.errors import BadInputError
from chipmark.meters.tools.frames import (
    BUSY,
    CARD,
    NAME,
    PCI,
    TEMPERATURE,
    USED_OF_TOTAL,
    Label,
    frame_rows,
    processes_of,
)
from chipmark.meters.tools.logs import DeviceLog, Place, device_logs, device_objects
from chipmark.meters.tools.printed import first_of_each, reading_of
from chipmark.meters.tools.reading import DieReading
from chipmark.meters.tools.tool import Query, Tool
from chipmark_models.foreign_file import parse_json

_TABLE: Sequence[Label] = (
    Label("ID", CARD),
    Label("Name", NAME),
    Label("PCIe", PCI),
    Label("%GPU", BUSY),
    Label("Mem", USED_OF_TOTAL),
    Label("Temp", TEMPERATURE),
    Label("Device Type", r"(?P<kind>\S+)"),
)

_PLACES: Mapping[str, tuple[Place, ...]] = {
    "name": (("", "product name"), ("", "name")),
    "uuid": (("", "gpu uuid"), ("", "uuid")),
    "power_w": (("power readings", "power draw"), ("", "power draw")),
    "cap_w": (
        ("power readings", "current power limit"), ("power readings", "power limit"),
        ("power readings", "enforced power limit"),
    ),
    "temperature_c": (("temperature", "gpu current temp"),),
    "clock_mhz": (("clocks", "graphics"),),
    "nominal_mhz": (("max clocks", "graphics"),),
    "memory_clock_mhz": (("clocks", "memory"),),
    "busy": (("utilization", "gpu"),),
    "memory_used_bytes": (("fb memory usage", "used"),),
    "memory_total_bytes": (("fb memory usage", "total"),),
}  # fmt: skip

_BEGINS = re.compile(r"GPU\s?(?P<card>\d{1,4})\b(?:\s+(?P<pci>[0-9A-Fa-f:.]+))?(?!.*:\s)")


def overview(text: str) -> tuple[DieReading, ...]:
    """The devices of the bare command's table; it has no watts."""
    processes = processes_of(text)
    readings = []
    for row in frame_rows(text, _TABLE):
        card = int(row["card"])
        row |= processes.printed(card)
        kind = row.get("kind", "Physical")
        readings.append(reading_of(card, row, shared="" if kind == "Physical" else kind))
    return first_of_each(readings)


def log(text: str) -> tuple[DieReading, ...]:
    """The devices of `-q`."""
    return first_of_each(_reading(device) for device in device_logs(text, _BEGINS))


def json_log(text: str) -> tuple[DieReading, ...]:
    """The devices of `-q --json`."""
    try:
        document = parse_json(text, "mthreads-gmi --json")
    except BadInputError:
        return ()
    if not isinstance(document, dict):
        return ()
    names = {" ".join(str(name).lower().split()): value for name, value in document.items()}
    devices = device_objects(names.get("gpu", names.get("gpus")))
    return first_of_each(_reading(device) for device in devices)


def _reading(device: DeviceLog) -> DieReading:
    number = device.first(("", "index")) or device.begins.get("card") or device.begins["number"]
    printed = device.fields(_PLACES)
    pci = device.first(("pci", "bus id"), ("pci", "bus-id")) or device.begins.get("pci", "")
    return reading_of(
        int(number) if re.fullmatch(r"\d{1,4}", number) else 0, {**printed, "pci": pci}
    )


MTHREADS_GMI = Tool(
    name="mthreads-gmi",
    vendor="Moore Threads",
    programs=("mthreads-gmi",),
    scope="board",
    overview=Query((), overview),
    details=(
        Query(("-q", "-d", "POWER", "-i", "{card}", "--json"), json_log),
        Query(("-q", "-d", "POWER", "-i", "{card}"), log),
        Query(("-q", "-i", "{card}", "--json"), json_log),
        Query(("-q", "-i", "{card}"), log),
    ),
    is_own=lambda text: "mthreads-gmi" in text.lower(),
)
