"""What tools in the manner of nvidia-smi print: a framed table, CSV of named properties, and a log
of sections. Several vendors' tools follow it, with words of their own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from chipmark.chips.nvml import reason_names
from chipmark.meters.tools.csv_rows import csv_rows
from chipmark.meters.tools.frames import (
    BUSY,
    CARD,
    NAME,
    PCI,
    TEMPERATURE,
    USE_OF_CAP,
    USED_OF_TOTAL,
    Label,
    frame_rows,
    processes_of,
)
from chipmark.meters.tools.logs import DeviceLog, Place, device_logs
from chipmark.meters.tools.printed import first_of_each, reading_of
from chipmark.meters.tools.reading import DieReading

TABLE: Sequence[Label] = (
    Label("(?:GPU|PPU)", CARD),
    Label("Name", NAME),
    Label("Bus-Id", PCI),
    Label("Volatile Uncorr. ECC", r"(?P<ecc_errors>\S+)"),
    Label("Temp", TEMPERATURE),
    Label("Pwr:Usage/Cap", USE_OF_CAP),
    Label("Memory-Usage", USED_OF_TOTAL),
    Label("(?:GPU|PPU)-Util", BUSY),
    Label("Clock-SM", r"(?P<clock_mhz>\S+)"),
    Label("Clock-Mem", r"(?P<memory_clock_mhz>\S+)"),
    Label(r"MIG M\.", r"(?P<mig>\S+)"),
)

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "name": ("name", "gpu_name", "ppu_name"),
    "uuid": ("uuid", "gpu_uuid", "ppu_uuid"),
    "pci": ("pci.bus_id", "gpu_bus_id", "ppu_bus_id", "bus_id"),
    "power_w": (
        "power.draw.instant", "power.draw", "board.power.draw", "gpu.power.draw",
        "power.draw.average",
    ),
    "cap_w": ("enforced.power.limit", "power.limit", "gpu.power.limit", "board.power.limit"),
    "temperature_c": ("temperature.gpu", "temperature.ppu"),
    "clock_mhz": (
        "clocks.current.sm", "clocks.sm", "clocks.current.cu", "clocks.current.graphics",
        "clocks.gr",
    ),
    "nominal_mhz": (
        "clocks.default_applications.graphics", "clocks.max.sm", "clocks.max.cu",
        "clocks.max.graphics",
    ),
    "memory_clock_mhz": ("clocks.current.memory", "clocks.mem"),
    "busy": ("utilization.gpu", "utilization.ppu"),
    "memory_used_bytes": ("memory.used",),
    "memory_total_bytes": ("memory.total",),
    "ecc_errors": ("ecc.errors.uncorrected.volatile.total",),
}  # fmt: skip
"""Columns of a field, the better one first."""

_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")

_PLACES: Mapping[str, tuple[Place, ...]] = {
    "name": (("", "product name"),),
    "uuid": (("", "gpu uuid"), ("", "ppu uuid")),
    "power_w": tuple(
        (section, name)
        for section in ("gpu power readings", "power readings")
        for name in ("instantaneous power draw", "power draw", "average power draw")
    ),
    "cap_w": tuple(
        (section, name)
        for section in ("gpu power readings", "power readings")
        for name in ("enforced power limit", "current power limit", "power limit")
    ),
    "temperature_c": (("temperature", "gpu current temp"), ("temperature", "ppu current temp")),
    "clock_mhz": (("clocks", "sm"), ("clocks", "cu"), ("clocks", "graphics")),
    "nominal_mhz": (
        ("default applications clocks", "graphics"), ("default applications clocks", "cu"),
        ("max clocks", "sm"), ("max clocks", "cu"),
    ),
    "memory_clock_mhz": (("clocks", "memory"),),
    "busy": (("utilization", "gpu"), ("utilization", "ppu")),
    "memory_used_bytes": (("fb memory usage", "used"), ("memory usage", "used")),
    "memory_total_bytes": (("fb memory usage", "total"), ("memory usage", "total")),
}  # fmt: skip
"""Places of a field in a log, the better one first."""

_BEGINS = re.compile(
    r"(?:GPU|PPU) (?P<pci>[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f])$"
)


def table_readings(text: str) -> tuple[DieReading, ...]:
    """The devices of the framed table, with the number of processes below it."""
    processes = processes_of(text)
    readings = []
    for row in frame_rows(text, TABLE):
        card = int(row["card"])
        if row.get("ecc_errors", "").lower() in ("off", "on"):
            row["ecc_errors"] = "N/A"  # whether it is switched on, and no count
        row |= processes.printed(card)
        split = row.get("mig", "").lower() == "enabled"
        readings.append(reading_of(card, row, shared="MIG" if split else ""))
    return first_of_each(readings)


def csv_readings(text: str) -> tuple[DieReading, ...]:
    """The devices of `--query-...=index,... --format=csv`, by the columns' names."""
    readings = []
    for row in csv_rows(text, "index"):
        if not re.fullmatch(r"\d{1,4}", row["index"]):
            continue
        printed = {
            name: tuple(row[column] for column in columns if column in row)
            for name, columns in _COLUMNS.items()
        }
        split = row.get("mig.mode.current", "").lower() == "enabled"
        reasons = _reasons(next((row[name] for name in _REASONS if name in row), ""))
        shared = "MIG" if split else ""
        readings.append(reading_of(int(row["index"]), printed, throttle=reasons, shared=shared))
    return first_of_each(readings)


def log_readings(text: str) -> tuple[DieReading, ...]:
    """The devices of `-q`, numbered by their order in it, which is that of the tool's numbers."""
    return tuple(_log_reading(number, log) for number, log in enumerate(device_logs(text, _BEGINS)))


def _log_reading(card: int, log: DeviceLog) -> DieReading:
    printed = {**log.fields(_PLACES), "pci": log.begins.get("pci", "")}
    errors = [
        texts[0]
        for (section, name), texts in log.values.items()
        if section == "volatile" and "uncorrectable" in name
    ]
    if errors:
        figures = [text for text in errors if re.fullmatch(r"\d{1,15}", text)]
        printed["ecc_errors"] = str(sum(map(int, figures))) if figures else errors[0]
    processes = log.values.get(("processes", "process id"))
    if processes is not None:
        printed["processes"] = str(len(processes))
    elif (log.first(("", "processes")) or "").lower() == "none":
        printed["processes"] = "0"
    split = (log.first(("mig mode", "current")) or "").lower() == "enabled"
    virtual = log.first(
        ("gpu virtualization mode", "virtualization mode"),
        ("ppu virtualization mode", "virtualization mode"),
    )
    shared = "MIG" if split else "vGPU" if (virtual or "").lower() == "vgpu" else ""
    return reading_of(card, printed, throttle=_active(log), shared=shared)


def _active(log: DeviceLog) -> tuple[str, ...] | None:
    """Reasons that are marked as active, by NVML's names."""
    said = {
        "gpu_idle" if name == "idle" else name.replace(" ", "_"): texts[0].lower() == "active"
        for (section, name), texts in log.values.items()
        if section in ("clocks event reasons", "clocks throttle reasons")
        and texts[0].lower() in ("active", "not active")
    }
    return tuple(name for name, active in said.items() if active) if said else None


def _reasons(text: str) -> tuple[str, ...] | None:
    """Reasons by their bits, `0x0000000000000004`."""
    return reason_names(int(text, 16)) if re.fullmatch(r"0x[0-9a-fA-F]{1,16}", text) else None
