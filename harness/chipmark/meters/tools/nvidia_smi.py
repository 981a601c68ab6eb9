"""`nvidia-smi`, for machines where NVML's bindings are not installed.

The table is read by its header (drivers change its widths), the CSV by its columns' names, the log
by its sections. `power.draw` is a mean over a second on Ampere and newer, except GA100;
`power.draw.instant` is of the moment, and older drivers refuse it with the whole query. The sensor
is quicker than it is asked here, since every question starts a process. Tools of vendors that pose
as CUDA may have its name, and are known by their own banners.
"""

from __future__ import annotations

from collections.abc import Callable

from chipmark.meters.nvml_power import usage_averaging_s
from chipmark.meters.tools.nvidia_like import csv_readings, log_readings, table_readings
from chipmark.meters.tools.reading import DieReading
from chipmark.meters.tools.tool import Query, Tool

_STATE = (
    "temperature.gpu,utilization.gpu,memory.used,memory.total,enforced.power.limit,"
    "clocks.current.sm,clocks.current.memory"
)
_NOMINAL = "clocks.max.sm,ecc.errors.uncorrected.volatile.total"
_OTHERS = ("HGGC", "PPU-SMI", "IX-ML", "MX-SMI", "XPU-RT")


def overview(text: str) -> tuple[DieReading, ...]:
    """The devices of the bare command's table."""
    return table_readings(text)


def _csv(
    properties: str,
    *,
    quick: bool = False,
    averaging_s: Callable[[str], float | None] = usage_averaging_s,
) -> Query:
    arguments = f"--query-gpu=index,uuid,pci.bus_id,{properties}", "--format=csv"
    return Query(arguments, csv_readings, quick, averaging_s)


def _of_the_moment(name: str) -> None:
    """No window, whatever the card."""


def _is_nvidia(text: str) -> bool:
    return "NVIDIA-SMI" in text and not any(word in text for word in _OTHERS)


NVIDIA_SMI = Tool(
    name="nvidia-smi",
    vendor="NVIDIA",
    programs=("nvidia-smi",),
    scope="board",
    overview=Query((), overview, averaging_s=usage_averaging_s),
    details=(
        _csv(f"power.draw.instant,{_STATE}", quick=True, averaging_s=_of_the_moment),
        _csv(f"power.draw,{_STATE}", quick=True),
        _csv(f"clocks_event_reasons.active,{_NOMINAL}"),
        _csv(f"clocks_throttle_reasons.active,{_NOMINAL}"),
        Query(("-q", "-i", "{card}"), log_readings, averaging_s=usage_averaging_s),
    ),
    is_own=_is_nvidia,
    listed_by="CUDA_DEVICE_ORDER=PCI_BUS_ID",
    period_s=0.5,
)
