"""Kunlunxin's `xpu-smi` (`xpu_smi` in older releases): its table, `-m` and `-q`.

Intel's tool has the same name; this one's answers hold `XPU-RT`. `-m` prints a line of 32 fields a
device without any names, so it is read by their positions and by nothing else than that count.
"""

from __future__ import annotations

import re
import shlex

from chipmark.meters.tools.reading import DieReading
from chipmark.meters.tools.sections import Line, integer, lines_of
from chipmark.meters.tools.tool import Query, Tool
from chipmark.meters.tools.usage_table import UsageTable
from chipmark.meters.tools.values import BYTES, CELSIUS, COUNT, MEGAHERTZ, PERCENT, WATTS, Fields

_TABLE = UsageTable(first="XPU", busy="XPU-Util", ecc="Uncorr.ECC", split="SR-IOV-M.")

_LINE_FIELDS = 32
_NUMBER, _TEMPERATURE, _POWER, _USED, _TOTAL, _BUSY = 1, 4, 8, 17, 18, 19
_PCI = re.compile(r"(?:[0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]")
_DEVICE = re.compile(r"xpu ((?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])")


def read_table(text: str) -> tuple[DieReading, ...]:
    """`xpu-smi`."""
    return _TABLE.read(text)


def read_lines(text: str) -> tuple[DieReading, ...]:
    """`xpu-smi -m`; a line with another number of fields is of another version and left out."""
    found = []
    for line in text.splitlines():
        try:
            parts = shlex.split(line)
        except ValueError:  # a quote without an end
            continue
        number = integer(parts[_NUMBER]) if len(parts) == _LINE_FIELDS else None
        if number is None:
            continue
        fields = Fields(number, pci=next((p for p in parts[:4] if _PCI.fullmatch(p)), ""))
        fields.take("power_w", parts[_POWER], WATTS)
        fields.take("temperature_c", parts[_TEMPERATURE], CELSIUS)
        fields.take("memory_used_bytes", parts[_USED], BYTES, 2.0**20)
        fields.take("memory_total_bytes", parts[_TOTAL], BYTES, 2.0**20)
        fields.take("busy", parts[_BUSY], PERCENT)
        found.append(fields.reading())
    return tuple(found)


_FIELDS = {
    "power readings/power draw": ("power_w", WATTS),
    "power readings/enforced power limit": ("cap_w", WATTS),
    "temperature/xpu current temp": ("temperature_c", CELSIUS),
    "clocks/cluster": ("clock_mhz", MEGAHERTZ),
    "utilization/xpu": ("busy", PERCENT),
    "memory usage/used": ("memory_used_bytes", BYTES),
    "memory usage/total": ("memory_total_bytes", BYTES),
    "ecc errors/volatile/dram uncorrectable": ("ecc_errors", COUNT),
}


def read_query(text: str) -> tuple[DieReading, ...]:
    """`xpu-smi -q`: a section a device, its lines below headings by their indents."""
    found: list[Fields] = []
    path: list[Line] = []
    texts: dict[str, str] = {}
    for line in (*lines_of(text), Line(0, "xpu 00:00.0")):
        if (device := _DEVICE.fullmatch(line.key)) is not None:
            if texts:
                found.append(_of_device(texts, len(found)))
            texts = {"": device.group(1)} if line.value is None else {}
            path = []
        elif texts and line.key:
            path = [above for above in path if above.indent < line.indent]
            if line.value is None:
                path.append(line)
            else:
                # Without the device's own heading, which has been taken off above.
                texts["/".join((*(above.key for above in path), line.key))] = line.value
    return tuple(fields.reading() for fields in found)


def _of_device(texts: dict[str, str], position: int) -> Fields:
    number = integer(texts.get("minor number"))
    fields = Fields(
        position if number is None else number,
        name=texts.get("product name", ""),
        pci=texts.get("pci/bus id", texts[""]),
        uuid=texts.get("xpu uuid", ""),
    )
    for key, (name, unit) in _FIELDS.items():
        if key in texts:
            fields.take(name, texts[key], unit, 2.0**20 if unit is BYTES else 1.0)
    if texts.get("processes", "").lower() == "none":
        fields.say(processes=0)
    return fields


XPU_SMI = Tool(
    name="xpu-smi",
    vendor="Kunlunxin",
    programs=("xpu-smi", "xpu_smi"),
    scope="board",
    overview=Query((), read_table),
    details=(Query(("-m",), read_lines, quick=True), Query(("-q",), read_query)),
    is_own=lambda text: "XPU-RT" in text,
    resolution_w=1.0,
)
