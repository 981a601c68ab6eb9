"""What a machine with a card has: the card itself, versions, what Triton needs at run time."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from chipmark.kernel_bench.stages.card import asked_of_card
from chipmark.kernel_bench.stages.contract import MAIN, Asked, Part

PACKAGES = (
    "torch", "triton", "numpy", "rich", "pydantic", "typer", "scipy", "pandas", "pyarrow",
    "psutil", "nvidia-ml-py", "onnxruntime", "liger-kernel", "flag-gems",
)  # fmt: skip
"""What a step may need or compare with; those that are missing are named."""

TOOLS = ("gcc", "nvcc", "ptxas", "compute-sanitizer", "ncu", "nsys", "nvidia-smi")
_CUDA_BIN = Path("/usr/local/cuda/bin")


def environment(asked: Asked) -> Iterator[Part]:
    """The card, versions, Triton's needs, the cache; a part each, so that one that hangs costs no
    other."""
    yield "versions", versions
    yield "triton_needs", triton_needs
    yield "cache", cache
    yield "packages_of_records", packages_of_records
    yield "card", card


def card() -> dict[str, Any]:
    """The card by torch and by the driver's tool; left out where there is no CUDA device."""
    import torch

    if not torch.cuda.is_available():
        return {"left_out": "no CUDA device"}
    properties: Any = torch.cuda.get_device_properties()
    uuid = str(getattr(properties, "uuid", ""))
    tool = asked_of_card(uuid)
    free, total = torch.cuda.mem_get_info()
    found = {
        "name": properties.name, "uuid": uuid, "cuda": torch.version.cuda,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": getattr(properties, "L2_cache_size", None),
        "memory_bytes": total, "free_bytes": free, "nvidia_smi": tool,
    }  # fmt: skip
    clocks = f", {tool['clocks.max.sm']}, cap {tool['power.limit']}" if tool else ""
    return found | {MAIN: f"{properties.name}, driver {tool.get('driver_version', '?')}{clocks}"}


def versions() -> dict[str, Any]:
    """Python, system, processor, and of each package its version or null."""
    return {
        "python": sys.version.split()[0], "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)), "packages": {n: _version(n) for n in PACKAGES},
        "tools": {name: tool(name) for name in TOOLS},
    }  # fmt: skip


def tool(name: str) -> str | None:
    """Path of a program, also where only CUDA's own folder has it."""
    if found := shutil.which(name):
        return found
    beside = _CUDA_BIN / name
    return str(beside) if beside.is_file() else None


def triton_needs() -> dict[str, Any]:
    """A C compiler and Python.h: Triton builds a launcher in C at the first launch of a kernel.

    Raises FileNotFoundError where one is missing, for then no kernel runs here.
    """
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    missing = [] if compiler and shutil.which(compiler) else ["a C compiler (gcc, clang, or CC)"]
    if not header.is_file():
        missing.append(f"{header} (the package python3-dev)")
    if missing:
        raise FileNotFoundError(f"Triton cannot launch a kernel without {' and '.join(missing)}")
    told = subprocess.run(
        [str(compiler), "--version"], capture_output=True, text=True, timeout=20, check=False
    )
    first = (told.stdout.splitlines() or [""])[0]
    return {"compiler": compiler, "compiler_version": first, "header": str(header)}


def packages_of_records() -> dict[str, Any]:
    """What stage 3 will lack here, by distribution, and what to do about it while there is time."""
    from chipmark.kernel_bench.end_to_end import NEEDS
    from chipmark.kernel_bench.wheels import lacking

    missing = {NEEDS[module]: reason for module, reason in lacking(NEEDS).items()}
    if not missing:
        return {"missing": {}}
    way_out = "elsewhere `chipmark kernels wheels -o DIR`, here `scripts/gpu --wheels DIR`"
    return {"missing": missing, "way_out": way_out, MAIN: f"stage 3 lacks {', '.join(missing)}"}


def cache() -> dict[str, Any]:
    """Triton's cache, and whether kernels that were made elsewhere will be found in it."""
    import torch

    from chipmark.kernel_bench.stages.cache import state
    from chipmark_kernels.device import facts_of

    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return state(facts_of(where).name)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
