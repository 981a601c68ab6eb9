"""What the kernel says of the host's CPU: product, virtual machine, quota, caches."""

from __future__ import annotations

import math
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

_ISA_FLAGS = ("avx2", "f16c", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
_ARM_FLAGS = ("asimd", "sve", "sve2", "bf16", "i8mm")


@dataclass(frozen=True, slots=True)
class CpuFacts:
    """Lines of /proc/cpuinfo and the limits around this process.

    vcpus: CPUs this process may use at once (affinity, cut by the cgroup's quota, rounded up).
    online: CPUs of the machine. llc_bytes: last-level cache, None if unknown.
    """

    vendor_id: str
    family: int
    model: int
    stepping: int
    model_name: str
    sockets: int
    cores: int
    online: int
    vcpus: int
    quota_cpus: float | None
    hypervisor: bool
    llc_bytes: int | None
    isa: tuple[str, ...] = ()
    context: dict[str, str] = field(default_factory=dict)


def read_cpu(root: Path = Path("/")) -> CpuFacts:
    """Read the host's CPU under `root` (a test may hand in a folder with copies of the files)."""
    blocks = _blocks((root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    first = blocks[0] if blocks else {}
    packages = {b.get("physical id", "0") for b in blocks}
    cores = {(b.get("physical id", "0"), b.get("core id", str(i))) for i, b in enumerate(blocks)}
    flags = set((first.get("flags") or first.get("Features") or "").split())
    usable = len(os.sched_getaffinity(0)) if root == Path("/") else len(blocks)
    quota = cgroup_quota(root)
    vcpus = max(1, usable if quota is None else min(usable, math.ceil(quota)))
    governor = root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    context = {
        "kernel": platform.release(),
        "microcode": first.get("microcode", ""),
        "governor": governor.read_text().strip() if governor.is_file() else "",
    }
    return CpuFacts(
        vendor_id=first.get("vendor_id", first.get("CPU implementer", "")),
        family=_number(first.get("cpu family", "")),
        model=_number(first.get("model", "")),
        stepping=_number(first.get("stepping", "")),
        model_name=first.get("model name", platform.machine()),
        sockets=max(1, len(packages)),
        cores=max(1, len(cores)),
        online=max(1, len(blocks)),
        vcpus=vcpus,
        quota_cpus=quota,
        hypervisor="hypervisor" in flags,
        llc_bytes=_last_level_cache(root),
        isa=tuple(f for f in (*_ISA_FLAGS, *_ARM_FLAGS) if f in flags),
        context={k: v for k, v in context.items() if v},
    )


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """CPUs that the cgroup may use at once (v2 `cpu.max`, v1 `cpu.cfs_quota_us`), None if any."""
    found: list[float] = []
    base = root / "sys/fs/cgroup"
    own = root / "proc/self/cgroup"
    folders = [base]
    if own.is_file():
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            inner = base / "cpu" if "cpu" in controllers.split(",") else base
            folders.append(inner / path.lstrip("/"))
    for folder in folders:
        v2, v1 = folder / "cpu.max", folder / "cpu.cfs_quota_us"
        if v2.is_file():
            limit, _, period = v2.read_text().strip().partition(" ")
            if limit != "max":
                found.append(float(limit) / float(period or 100_000))
        elif v1.is_file() and (limit_us := float(v1.read_text())) > 0:
            found.append(limit_us / float((folder / "cpu.cfs_period_us").read_text()))
    return min(found) if found else None


def _blocks(text: str) -> list[dict[str, str]]:
    blocks = []
    for chunk in text.split("\n\n"):
        pairs = (line.partition(":") for line in chunk.splitlines() if ":" in line)
        block = {key.strip(): value.strip() for key, _, value in pairs}
        if "processor" in block:
            blocks.append(block)
    return blocks


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        return -1


def _last_level_cache(root: Path) -> int | None:
    largest = 0
    for index in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*"):
        size = index / "size"
        if size.is_file():
            text = size.read_text().strip()
            unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 1)
            digits = text.rstrip("KMG")
            largest = max(largest, int(digits) * unit if digits.isdigit() else 0)
    return largest or None
