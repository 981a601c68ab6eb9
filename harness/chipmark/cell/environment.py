"""The environment that a cell is measured in: what its child is started with, what is recorded."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chipmark.cell.protocol import LoadAnswer
from chipmark.supervised import run_supervised
from chipmark.user_files import labels

HUGE_PAGES = "glibc.malloc.hugetlb"
"""The tunable of glibc (2.35 and later; others ignore it) that asks for transparent huge pages, by
`madvise`, in all memory that `malloc` takes. Weights are read once a step from end to end, and with
pages of 4 KiB a part of that time is spent on finding them: on two cores of an AMD Zen 3 large
matrices were read 5 to 20 % faster with it, small ones as fast as without."""

_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child: this installation's source roots first on PYTHONPATH, and huge
    pages asked for where the user's GLIBC_TUNABLES do not speak of them."""
    import chipmark
    import chipmark_models

    roots: list[str] = []
    for package in (chipmark, chipmark_models):
        assert package.__file__ is not None
        root = str(Path(package.__file__).parent.parent)
        if root not in roots:
            roots.append(root)
    before = environ.get("PYTHONPATH")
    return dict(environ) | {
        "PYTHONPATH": os.pathsep.join([*roots, *([before] if before else [])]),
        "PYTHONUNBUFFERED": "1",
        "GLIBC_TUNABLES": glibc_tunables(environ),
    }


def run_module(
    module: str, *arguments: str, limit_s: float, python: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run one of chipmark's own modules in a process of its own, in the environment of a child,
    under the interpreter `python` ("" is this one).

    Raises subprocess.TimeoutExpired after `limit_s`; the exit code is the caller's to look at.
    """
    return run_supervised(
        [python or sys.executable, "-m", module, *arguments], child_environment(os.environ), limit_s
    )


def glibc_tunables(environ: Mapping[str, str]) -> str:
    """GLIBC_TUNABLES of a child: those of `environ`, and huge pages where it does not name them."""
    asked = [part for part in environ.get("GLIBC_TUNABLES", "").split(":") if part]
    if not any(part.startswith(f"{HUGE_PAGES}=") for part in asked):
        asked.append(f"{HUGE_PAGES}=1")
    return ":".join(asked)


def recorded_environment(loaded: LoadAnswer | None) -> dict[str, Any]:
    """What a record says of the machine's software; `loaded` is what the child answered."""
    affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return {
        "os": platform.platform(),
        "python": sys.version.split()[0],
        "child_python": loaded.python if loaded else "",
        "child_numpy": loaded.numpy if loaded else "",
        "child_packages": loaded.packages if loaded else {},
        "backend": loaded.describe if loaded else {},
        "cpus": affinity,
        "glibc_tunables": glibc_tunables(os.environ),
        "huge_pages": huge_pages(),
        "user_files": labels(),
    }


def huge_pages(path: Path = _PAGES) -> str:
    """The kernel's rule for transparent huge pages ("always", "madvise", "never"), "" where there
    is none."""
    try:
        words = path.read_text(encoding="ascii").split()
    except OSError:
        return ""
    return next((word.strip("[]") for word in words if word.startswith("[")), "")
