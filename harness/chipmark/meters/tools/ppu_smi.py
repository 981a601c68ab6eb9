"""`ppu-smi` of T-Head's PPUs, in the manner of nvidia-smi with words of its own (PPU, CU).

Its `Power Samples` (about 120 in 2.4 s) are another section than the draw and are not read as it.
"""

from __future__ import annotations

from chipmark.meters.tools.nvidia_like import csv_readings, log_readings, table_readings
from chipmark.meters.tools.reading import DieReading
from chipmark.meters.tools.tool import Query, Tool


def overview(text: str) -> tuple[DieReading, ...]:
    """The devices of the bare command's table."""
    return table_readings(text)


PPU_SMI = Tool(
    name="ppu-smi",
    vendor="T-Head",
    programs=("ppu-smi",),
    scope="board",
    overview=Query((), overview),
    details=(
        Query(
            (
                "--query-ppu=index,uuid,pci.bus_id,power.draw,power.limit,temperature.ppu,"
                "utilization.ppu,clocks.current.cu,clocks.current.memory",
                "--format=csv",
            ),
            csv_readings,
            quick=True,
        ),
        Query(("-q", "-d", "POWER", "-i", "{card}"), log_readings),
        Query(("-q", "-i", "{card}"), log_readings),
    ),
    is_own=lambda text: "PPU-SMI" in text,
)
