"""The kernel's lists of CPUs ("0-3,8,10-11")."""

from __future__ import annotations


def cpu_list(text: str) -> frozenset[int]:
    """CPU numbers of a list; empty where it is empty or not a list."""
    cpus: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if not first.strip().isdigit() or (last and not last.strip().isdigit()):
            continue
        cpus.update(range(int(first), int(last or first) + 1))
    return frozenset(cpus)
