"""Maker and model of a CPU from a block of /proc/cpuinfo, on every architecture that Linux has.

x86 shows a vendor and a model name; ARM shows numbers only (implementer and part); LoongArch,
RISC-V, POWER and s390 each have keys of their own. Codes are in cpu_makers.toml.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_DATA = Path(__file__).with_name("cpu_makers.toml")
_NOISE = re.compile(r"\((?:r|tm)\)|@.*$|\b\d+-core\b|\b(?:cpu|processor)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class CpuMaker:
    """maker: who made it, "" where unknown. vendor_id: the raw code. model_name: for people;
    the core's name or its codes where cpuinfo has no name."""

    maker: str
    vendor_id: str
    model_name: str


def maker_of(block: Mapping[str, str], *, sys_vendor: str = "", machine: str = "") -> CpuMaker:
    """Who made the CPU of one block of /proc/cpuinfo.

    sys_vendor: DMI's, which gives a cloud's own name of a core. machine: `uname -m`, the name
    of last resort.
    """
    if "CPU implementer" in block:
        return _arm(block, sys_vendor)
    if "vendor_id" in block:
        raw = block["vendor_id"].strip()
        maker = str(_data()["vendor_ids"].get(raw, raw))
        return CpuMaker(maker, raw, block.get("model name", machine))
    if any(key.startswith("CPU Family") and "Loongson" in block[key] for key in block):
        return CpuMaker("Loongson", "Loongson", block.get("Model Name", block["CPU Family"]))
    if "cpu model" in block:  # MIPS
        name = block["cpu model"]
        maker = "Loongson" if "Loongson" in name else name.split()[0]
        return CpuMaker(maker, maker, name)
    if "isa" in block and block["isa"].startswith("rv"):
        return _riscv(block)
    if "cpu" in block:  # POWER
        maker = "IBM" if block["cpu"].startswith("POWER") else ""
        return CpuMaker(maker, maker, block["cpu"])
    return CpuMaker("", "", block.get("model name", block.get("Model Name", machine)))


def slug(maker: str, model_name: str) -> str:
    """`cpu-MAKER-MODEL` in lower case, without marks and words that every name has."""
    words = re.findall(r"[a-z0-9+]+", _NOISE.sub(" ", model_name).lower())
    own = re.findall(r"[a-z0-9+]+", maker.lower()) or ["unknown"]
    return "-".join(["cpu", *own, *(word for word in words if word not in own)])


def _arm(block: Mapping[str, str], sys_vendor: str) -> CpuMaker:
    data = _data()
    implementer, part = _code(block["CPU implementer"], 2), _code(block.get("CPU part", ""), 3)
    maker = str(data["arm_implementers"].get(implementer, f"implementer-{implementer}"))
    core = str(data["arm_parts"].get(implementer, {}).get(part, f"part-{part}"))
    for platform in data["platforms"]:
        if platform["sys_vendor"] == sys_vendor and core in platform["cores"]:
            core = f"{platform['cores'][core]} ({core})"
    # Some kernels and boards name the product; the core's name still leads.
    product = block.get("model name", "") or block.get("Hardware", "")
    name = f"{maker} {core}, {product}" if product else f"{maker} {core}"
    return CpuMaker(maker, implementer, name)


def _riscv(block: Mapping[str, str]) -> CpuMaker:
    raw = _code(block.get("mvendorid", ""), 3)
    uarch = block.get("uarch", "")
    maker = str(_data()["riscv_vendors"].get(raw, ""))
    if not maker:
        maker = uarch.partition(",")[0] or (f"mvendorid-{raw}" if raw != "unknown" else "")
    name = uarch or f"marchid {block['marchid']}" if "marchid" in block or uarch else block["isa"]
    return CpuMaker(maker, raw, name)


def _code(text: str, digits: int) -> str:
    """A hexadecimal code in the form of the data file."""
    try:
        return f"0x{int(text, 0):0{digits}x}"
    except ValueError:
        return "unknown"


@cache
def _data() -> dict[str, Any]:
    return tomllib.loads(_DATA.read_text(encoding="utf-8"))
