"""What the kernel says of the host's CPU: product, virtual machine, quota, caches."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from chipmark.backends.cgroup import cpu_quota
from chipmark.chips.caches import last_level_cache
from chipmark.chips.cpu_makers import maker_of
from chipmark.chips.cpulist import cpu_list
from chipmark.chips.virtual import virtual_by

_ISA_FLAGS = ("avx2", "f16c", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
_ARM_FLAGS = ("asimd", "sve", "sve2", "bf16", "i8mm")
_LOONGARCH_FLAGS = ("lsx", "lasx")


@dataclass(frozen=True, slots=True)
class CpuFacts:
    """Lines of /proc/cpuinfo and the limits around this process.

    maker: who made it; vendor_id: the raw code of that. cores_found: the distinct kinds of core by
    their names (big and little ones of ARM); one elsewhere. sockets: by topology. vcpus: CPUs this
    process may use at once (affinity, cut by the cgroup's quota, rounded up: a share is bought in
    whole vCPUs; `backends.host.physical_cores` rounds down for threads). online: CPUs of the
    machine. virtual_by: what tells that it is a virtual one, "" for none. llc_bytes: last-level
    cache of the clusters in the affinity mask, None if unknown.
    """

    maker: str
    vendor_id: str
    family: int
    model: int
    stepping: int
    model_name: str
    cores_found: tuple[str, ...]
    sockets: int
    cores: int
    online: int
    vcpus: int
    quota_cpus: float | None
    virtual_by: str
    llc_bytes: int | None
    isa: tuple[str, ...] = ()
    context: dict[str, str] = field(default_factory=dict)


def read_cpu(root: Path = Path("/"), mask: Iterable[int] | None = None) -> CpuFacts:
    """Read the host's CPU under `root` (a test may hand in a folder with copies of the files).

    mask: CPUs this process may run on; None takes the process's own affinity, or all CPUs of a
    `root` that is a copy.
    """
    blocks = _blocks((root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    first = blocks[0] if blocks else {}
    vendor = _text(root / "sys/devices/virtual/dmi/id/sys_vendor")
    makers = [maker_of(b, sys_vendor=vendor, machine=platform.machine()) for b in blocks or [{}]]
    flags = frozenset((first.get("flags") or first.get("Features") or "").split())
    online = _online(root, blocks)
    if mask is None and root == Path("/") and hasattr(os, "sched_getaffinity"):
        mask = os.sched_getaffinity(0)
    usable = sorted(online if mask is None else set(mask))
    quota = cpu_quota(root)
    vcpus = max(1, len(usable) if quota is None else min(len(usable), math.ceil(quota)))
    context = {
        "kernel": platform.release(),
        "microcode": first.get("microcode", ""),
        "governor": _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    }
    return CpuFacts(
        maker=makers[0].maker,
        vendor_id=makers[0].vendor_id,
        family=_number(first.get("cpu family", "")),
        model=_number(first.get("model", "")),
        stepping=_number(first.get("stepping", "")),
        model_name=makers[0].model_name,
        cores_found=tuple(sorted({m.model_name for m in makers})),
        sockets=_sockets(root, online, blocks),
        cores=_cores(blocks),
        online=len(online),
        vcpus=vcpus,
        quota_cpus=quota,
        virtual_by=virtual_by(root, flags),
        llc_bytes=last_level_cache(usable, root),
        isa=tuple(f for f in (*_ISA_FLAGS, *_ARM_FLAGS, *_LOONGARCH_FLAGS) if f in flags),
        context={k: v for k, v in context.items() if v},
    )


def _online(root: Path, blocks: list[dict[str, str]]) -> frozenset[int]:
    """CPUs of the machine: the larger of what /proc and /sys show, as a container's file system
    (lxcfs) may show its own share in one of them."""
    shown = cpu_list(_text(root / "sys/devices/system/cpu/online"))
    listed = frozenset(_number(block["processor"]) for block in blocks) - {-1}
    return max(shown, listed, key=len) or frozenset({0})


def _sockets(root: Path, online: Iterable[int], blocks: list[dict[str, str]]) -> int:
    """Packages by the kernel's topology, else by cpuinfo, which has none on ARM."""
    base = root / "sys/devices/system/cpu"
    found = {_text(base / f"cpu{cpu}/topology/physical_package_id") for cpu in online}
    packages = {text for text in found if text.isdigit()}
    return len(packages) or len({b.get("physical id", b.get("package", "0")) for b in blocks}) or 1


def _cores(blocks: list[dict[str, str]]) -> int:
    ids = {(b.get("physical id", "0"), b.get("core id", str(i))) for i, b in enumerate(blocks)}
    return max(1, len(ids))


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


def _text(path: Path) -> str:
    """A small file's content, "" where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
