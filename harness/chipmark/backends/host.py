"""What a backend on the CPU may use of the host: cores and memory (standard library only)."""

from __future__ import annotations

import ctypes
import math
import os
from pathlib import Path

from chipmark.backends.cgroup import ROOT, cpu_quota, memory_left


def physical_cores(root: Path = ROOT) -> int:
    """Threads that can compute all the time: cores of the affinity mask, hardware threads of one
    core counted once, and no more than the control group's quota pays for.

    The quota is rounded down (at least 1): with 2 threads under 1.5 CPUs the kernel stops both for
    a quarter of every period, and each product waits for the one that was stopped.
    """
    cores = _cores_in_mask(root)
    quota = cpu_quota(root)
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


def _cores_in_mask(root: Path) -> int:
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if cpus is None:
        return os.cpu_count() or 1
    cores = set()
    for cpu in cpus:
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        try:
            cores.add(topology.read_text(encoding="ascii").strip())
        except OSError:
            cores.add(str(cpu))
    return max(1, len(cores))


def chosen_threads() -> int:
    """Threads of a backend on this host: its physical cores, or OMP_NUM_THREADS where that is
    fewer, so that both libraries take it and not only the one that is built with OpenMP.

    Of a list (one number a level of nesting, OpenMP 5.2, 21.1.2) the first counts. What is not a
    number above zero is passed over, as OpenMP's own runtimes do.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    cores = physical_cores()
    return min(cores, int(first)) if first.isdecimal() and int(first) > 0 else cores


def available_memory(meminfo: str = "/proc/meminfo") -> int | None:
    """The kernel's MemAvailable in bytes, within the control groups' limits; None elsewhere."""
    try:
        lines = Path(meminfo).read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    if "MemAvailable" not in fields:
        return None
    available = int(fields["MemAvailable"].split()[0]) * 1024
    left = memory_left()
    return available if left is None else min(available, left)


def total_memory(meminfo: str = "/proc/meminfo") -> int | None:
    """The kernel's MemTotal in bytes, which psutil calls the total; None elsewhere."""
    try:
        lines = Path(meminfo).read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields["MemTotal"].split()[0]) * 1024 if "MemTotal" in fields else None


def return_free_memory() -> bool:
    """Have glibc return freed memory to the system, which else stays resident; False without glibc.

    After weights were read, converted and tried in several layouts, that is 100 MB and more.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(0)
    return True
