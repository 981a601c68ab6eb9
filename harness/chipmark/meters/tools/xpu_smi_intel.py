"""Intel's `xpu-smi` (XPU Manager) of discrete GPUs: CSV of `dump`, read by its header.

Kunlunxin's tool has the same name; this one's header has `DeviceId`. Some drivers print N/A for the
power. The first line after a start has N/A for rates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from chipmark.meters.tools.csv_rows import csv_rows
from chipmark.meters.tools.printed import first_of_each, reading_of
from chipmark.meters.tools.reading import DieReading
from chipmark.meters.tools.tool import Query, Tool

_COLUMNS: Mapping[str, str] = {
    "power_w": "gpu power",
    "temperature_c": "gpu core temperature",
    "clock_mhz": "gpu frequency",
    "busy": "gpu utilization",
    "memory_used_bytes": "gpu memory used",
}


def overview(text: str) -> tuple[DieReading, ...]:
    """The devices of `dump`; of a device with several lines the first."""
    readings = []
    for row in csv_rows(text, "deviceid"):
        if re.fullmatch(r"\d{1,4}", row["deviceid"]):
            printed = {name: row[column] for name, column in _COLUMNS.items() if column in row}
            readings.append(reading_of(int(row["deviceid"]), printed))
    return first_of_each(readings)


INTEL_XPU_SMI = Tool(
    name="intel-xpu-smi",
    vendor="Intel",
    programs=("xpu-smi",),
    scope="board",
    overview=Query(("dump", "-d", "-1", "-m", "0,1,2,3,18", "-n", "1"), overview),
    is_own=lambda text: "DeviceId" in text,
)
