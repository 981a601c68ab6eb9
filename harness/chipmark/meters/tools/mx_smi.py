"""`mx-smi` of MetaX's cards: four dialects of its table, `--show-board-power`, and CSV of `dmon`.

Up to 2.1.6 the table has watts without a limit, then both; from 2.2.9 a card (`Board`) has its
power in a column of its own, before its GPUs with a P-state each. `dmon` prints a line of units
below its header, and a bare total of memory in GB with its use in percent (or in MiB).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from chipmark.meters.tools.csv_rows import csv_rows
from chipmark.meters.tools.frames import (
    BUSY,
    NAME,
    PCI,
    TEMPERATURE,
    USE_OF_CAP,
    USED_OF_TOTAL,
    WATT,
    Label,
    frame_rows,
    processes_of,
)
from chipmark.meters.tools.logs import DeviceLog, device_logs
from chipmark.meters.tools.printed import first_of_each, reading_of, unit_behind, with_unit
from chipmark.meters.tools.reading import DieReading
from chipmark.meters.tools.tool import Query, Tool
from chipmark.meters.tools.values import BYTES, PERCENT, quantity

_SHARED: Sequence[Label] = (
    Label("NAME", NAME),
    Label("Bus-id", PCI),
    Label("GPU-Util", BUSY),
    Label("Temp", TEMPERATURE),
    Label("Pwr:Usage/Cap", USE_OF_CAP),
    Label("Power", rf"(?P<power_w>{WATT})"),
    Label("Memory-Usage", USED_OF_TOTAL),
    Label("sGPU-M", r"(?P<virtual>\S+)"),
)
_BY_GPU = (Label("GPU", r"(?P<card>\d{1,4})"), *_SHARED)
_BY_BOARD = (Label("Board", r"(?P<card>\d{1,4})"), Label("GPU", r"(?P<gpu>\d{1,4})"), *_SHARED)

_DMON: Mapping[str, tuple[str, ...]] = {
    "pci": ("bdfid", "bdf"),
    "power_w": ("power", "boardpower"),
    "temperature_c": ("hottemp", "temp", "coretemp", "soctemp"),
    "busy": ("gpu", "gpuutil"),
    "clock_mhz": ("xcoreclk", "gpuclock"),
    "memory_clock_mhz": ("mcclk", "memoryclock"),
}

_BEGINS = re.compile(
    r"GPU#(?P<card>\d{1,4})\s+(?P<name>\S.*?)\s+(?P<pci>[0-9a-fA-F]{4}:[0-9a-fA-F:.]+)"
    r"(?:\s+(?P<state>.*?))?(?:\s*\(UUID: (?P<uuid>[^)]*)\))?$"
)
_TOTAL = re.compile(r"total\b.*?(?P<power>[^\s:]+)\s*W", re.IGNORECASE)
_LONGEST_LINE = 1000


def overview(text: str) -> tuple[DieReading, ...]:
    """The devices of the bare command's table."""
    by_board = frame_rows(text, _BY_BOARD)
    processes = processes_of(text)
    dies: Counter[int] = Counter()
    readings = []
    for row in by_board or frame_rows(text, _BY_GPU):
        card = int(row["card"])
        gpu = int(row["gpu"]) if row.get("gpu", "").isdecimal() else card
        used, total = row.get("memory_used_bytes"), row.get("memory_total_bytes", "")
        if used is not None:
            row["memory_used_bytes"] = with_unit(used, unit_behind(total))
        row |= processes.printed(gpu)
        if dies[card]:
            # Each of a board's GPUs prints the board's watts: they are the card's, once.
            row["power_w"] = row["cap_w"] = "N/A"
        virtual = row.get("virtual", "").lower() == "enabled"
        readings.append(reading_of(card, row, die=dies[card], shared="sGPU" if virtual else ""))
        dies[card] += 1
    return first_of_each(readings)


def board_power(text: str) -> tuple[DieReading, ...]:
    """The devices of `--show-board-power`: the total of a board's rails, and its limit."""
    return first_of_each(_of(device, _power(device)) for device in device_logs(text, _BEGINS))


def listing(text: str) -> tuple[DieReading, ...]:
    """The devices of `-L`: a line each."""
    return first_of_each(_of(device, {}) for device in device_logs(text, _BEGINS))


def throttle(text: str) -> tuple[DieReading, ...]:
    """The devices of `--show-clk-tr`: reasons that are `Active`."""
    readings = []
    for device in device_logs(text, _BEGINS):
        said = {
            name: texts[0].lower() == "active"
            for (_, name), texts in device.values.items()
            if texts[0].lower() in ("active", "not active")
        }
        reasons = tuple(name.replace(" ", "_") for name, active in said.items() if active)
        card = int(device.begins["card"])
        readings.append(reading_of(card, {}, throttle=reasons if said else None))
    return first_of_each(readings)


def ecc(text: str) -> tuple[DieReading, ...]:
    """The devices of `--count-ecc`: uncorrectable errors together."""
    readings = []
    for device in device_logs(text, _BEGINS):
        errors = [
            texts[0]
            for (section, name), texts in device.values.items()
            if section == "ecc errors" and "uncorrectable" in name
        ]
        whole = [int(text) for text in errors if re.fullmatch(r"\d{1,15}", text)]
        printed = {"ecc_errors": str(sum(whole)) if whole else errors[0]} if errors else {}
        readings.append(_of(device, printed))
    return first_of_each(readings)


def dmon(text: str) -> tuple[DieReading, ...]:
    """The devices of `dmon ... --format csv -c 1`."""
    readings = []
    units: dict[str, str] = {}
    for row in csv_rows(text, "dev"):
        if row["dev"] == "idx":
            units = row
            continue
        die = row.get("die", "0")
        if not re.fullmatch(r"\d{1,4}", row["dev"]) or not re.fullmatch(r"\d{1,4}", die):
            continue
        printed = {}
        for name, columns in _DMON.items():
            column = next((column for column in columns if column in row), None)
            if column is not None:
                printed[name] = with_unit(row[column], units.get(column, ""))
        printed.update(_memory(row, units))
        readings.append(reading_of(int(row["dev"]), printed, die=int(die)))
    return first_of_each(readings)


def _memory(row: Mapping[str, str], units: Mapping[str, str]) -> dict[str, str]:
    """Texts of the memory in use and of all: the use is a share of all where it is in percent."""
    printed = {}
    if "total" in row:
        printed["memory_total_bytes"] = with_unit(row["total"], units.get("total", "") or "GB")
    if "used" in row:
        printed["memory_used_bytes"] = with_unit(row["used"], units.get("used", "") or "MiB")
    elif "vram" in row and "total" in row and units.get("vram") == "%":
        share, _ = quantity(row["vram"], PERCENT)
        total, _ = quantity(printed["memory_total_bytes"], BYTES)
        if share is not None and total is not None:
            printed["memory_used_bytes"] = str(round(share / 100 * total))
    return printed


def _power(device: DeviceLog) -> dict[str, str]:
    printed: dict[str, str] = {}
    for (_, name), texts in device.values.items():
        found = _TOTAL.fullmatch(f"{name} : {texts[0]}")
        if found is not None:
            printed.setdefault("power_w", f"{found['power']} W")
        elif "limit" in name or "cap" in name.split():
            printed.setdefault("cap_w", texts[0])
    return printed


def _of(device: DeviceLog, printed: Mapping[str, str]) -> DieReading:
    known = {name: device.begins[name] for name in ("name", "pci", "uuid")}
    return reading_of(int(device.begins["card"]), {**known, **printed})


MX_SMI = Tool(
    name="mx-smi",
    vendor="MetaX",
    programs=("mx-smi", "/opt/mxdriver/bin/mx-smi"),
    scope="board",
    overview=Query((), overview),
    details=(
        Query(("--show-board-power",), board_power, quick=True),
        Query(
            (
                "dmon", "--show-board-power", "--show-usage", "--show-temperature",
                "--show-memory", "--total-memory", "--show-bdf", "--show-clock", "--format", "csv",
                "-c", "1",
            ),
            dmon,
        ),
        Query(("-L",), listing),
        Query(("--show-clk-tr",), throttle),
        Query(("--count-ecc",), ecc),
    ),
    is_own=lambda text: "MetaX" in text or "MX-SMI" in text,
    period_s=0.5,
)  # fmt: skip
