"""Limits that control groups put on this process: CPUs it may use at once, memory it may take.

A limit holds for a group and everything below it, so the smallest limit of the own group and of
every parent up to the root counts. Version 2 has one tree (`cpu.max`, `memory.max`), version 1 a
tree a controller (`cpu.cfs_quota_us`, `memory.limit_in_bytes`), and both may be mounted. In a
container without a cgroup namespace /proc/self/cgroup names the host's path, while the mount shows
only the container's own group: there the mount itself is the group. Standard library only: this
runs in a vendor's container too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

Controller = Literal["cpu", "memory"]

ROOT = Path("/")
_PERIOD_US = 100_000.0  # the kernel's default, where a file names no period


@dataclass(frozen=True, slots=True)
class _Mount:
    """A mounted tree. controllers: of version 1, () for version 2. root: the group, in the host's
    tree, that the mount point shows."""

    point: Path
    root: str
    controllers: tuple[str, ...]


def cpu_quota(root: Path = ROOT) -> float | None:
    """CPUs that this process may use at once, None without a quota.

    root: the folder that holds `proc` and `sys` (a test may hand in a copy).
    """
    found: list[float] = []
    for group in groups("cpu", root):
        limit, _, period = _text(group / "cpu.max").partition(" ")
        if (quota := _number(limit)) is not None:
            found.append(quota / (_number(period) or _PERIOD_US))
        quota = _number(_text(group / "cpu.cfs_quota_us"))
        if quota is not None and quota > 0:
            found.append(quota / (_number(_text(group / "cpu.cfs_period_us")) or _PERIOD_US))
    return min((quota for quota in found if quota > 0), default=None)


def memory_left(root: Path = ROOT) -> int | None:
    """Bytes that this process may still take before a limit is met, None without a limit.

    Cached file pages that were not used lately count as free, as the kernel drops them first.
    """
    names = (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    )
    left: list[int] = []
    for group in groups("memory", root):
        for limit_file, used_file, droppable in names:
            limit, used = _number(_text(group / limit_file)), _number(_text(group / used_file))
            if limit is None or used is None:
                continue
            stat = dict(
                line.split(maxsplit=1)
                for line in _text(group / "memory.stat").splitlines()
                if " " in line
            )
            cached = min(used, _number(stat.get(droppable, "")) or 0.0)
            left.append(max(0, int(limit - used + cached)))
    return min(left, default=None)


def groups(controller: Controller, root: Path = ROOT) -> Iterator[Path]:
    """Folders of this process's group and of its parents, in every tree of the controller."""
    own = _own_paths(root)
    seen: set[Path] = set()
    for mount in _mounts(root):
        if mount.controllers and controller not in mount.controllers:
            continue
        path = own.get(controller if mount.controllers else "", "/")
        for inner in _inside(path, mount.root):
            folder = mount.point
            for part in ("", *inner):
                folder = folder / part
                if folder not in seen and folder.is_dir():
                    seen.add(folder)
                    yield folder


def _inside(path: str, root: str) -> list[tuple[str, ...]]:
    """Ways from a mount that shows `root` down to the group `path`.

    Where `path` is not below `root` the mount is of another namespace, and its own folder is all
    that is known; the path as given is tried as well.
    """
    parts = PurePosixPath(path).parts[1:]
    shown = PurePosixPath(root).parts[1:]
    ways = [parts] if ".." not in parts else []
    if shown and parts[: len(shown)] == shown:
        ways.append(parts[len(shown) :])
    return ways or [()]


def _own_paths(root: Path) -> dict[str, str]:
    """The group's path by controller of version 1; "" is version 2's."""
    paths: dict[str, str] = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        fields = line.split(":", 2)
        if len(fields) == 3:
            for name in fields[1].split(","):
                paths[name] = fields[2]
    return paths


def _mounts(root: Path) -> list[_Mount]:
    """Mounted trees by /proc/self/mountinfo; the usual places where that file is missing."""
    mounts = []
    for line in _text(root / "proc/self/mountinfo").splitlines():
        left, found, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if not found or len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2":
            mounts.append(_Mount(root / fields[4].lstrip("/"), fields[3], ()))
        elif kind[0] == "cgroup":
            controllers = tuple(kind[2].split(","))
            mounts.append(_Mount(root / fields[4].lstrip("/"), fields[3], controllers))
    if mounts:
        return mounts
    base = root / "sys/fs/cgroup"
    usual = [_Mount(base, "/", ()), _Mount(base / "unified", "/", ())]
    for name in ("cpu", "cpu,cpuacct", "cpuacct,cpu", "memory"):
        usual.append(_Mount(base / name, "/", tuple(name.split(","))))
    return usual


def _text(path: Path) -> str:
    """A file's content, "" where it cannot be read: most groups lack most files."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _number(text: str) -> float | None:
    """A finite number, None for "max" and everything else."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
