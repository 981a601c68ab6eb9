"""Last-level cache of the CPUs that a process's threads run on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from chipmark.chips.cpulist import cpu_list

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def last_level_cache(cpus: Iterable[int], root: Path = Path("/")) -> int | None:
    """Bytes of the highest level of cache over the clusters that `cpus` belong to.

    A processor of several clusters (an AMD EPYC has an L3 for 8 or 16 cores) holds as much as all
    clusters in use together. Without an L3 it is the L2. None where the kernel does not say level,
    size or sharing.
    """
    clusters: dict[int, dict[str, int]] = {}
    for cpu in cpus:
        for index in (root / f"sys/devices/system/cpu/cpu{cpu}/cache").glob("index*"):
            level, size = _field(index, "level"), _bytes(_field(index, "size"))
            shared = _field(index, "shared_cpu_list")
            if _field(index, "type") == "Instruction" or not level.isdigit() or not size:
                continue
            # Without a list of sharers two CPUs' caches may be one; nothing may be summed.
            if shared and cpu in cpu_list(shared):
                clusters.setdefault(int(level), {})[shared] = size
    return sum(clusters[max(clusters)].values()) if clusters else None


def _field(index: Path, name: str) -> str:
    try:
        return (index / name).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _bytes(text: str) -> int:
    digits, unit = text.rstrip("KMG"), text[-1:]
    return int(digits) * _UNITS.get(unit, 1) if digits.isdigit() else 0
