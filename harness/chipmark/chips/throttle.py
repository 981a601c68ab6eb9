"""Whether a chip slowed itself down while it was measured: watched together with its power.

An NVIDIA card says at any moment why its clocks are not higher (NVML's clock event reasons), so it
is asked all the time. A CPU's kernel driver counts thermal events since boot (Intel), so a
difference is enough; no other CPU tells, nor does any in a virtual machine. What cannot be read is
None: unknown, and never "it did not throttle".
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from chipmark.chips import nvml as nv
from chipmark.chips.contract import ChipIdentity
from chipmark.codes import NoteCode
from chipmark.errors import ChipmarkError

_PERIOD_S = 0.1  # reasons last for seconds; NVML answers in a fraction of a millisecond
_COUNTERS = ("core_throttle_count", "package_throttle_count")
CPU_THERMAL = "cpu_thermal"
"""The name of a rise of the kernel's thermal_throttle counters."""


class ThrottleWatch(Protocol):
    """Watches one chip between `start` and `stop`."""

    def start(self) -> None:
        """Begin."""
        ...

    def stop(self) -> tuple[str, ...] | None:
        """Names of the reasons seen since `start`, () for none; None where nothing could tell."""
        ...


@dataclass(slots=True)
class UnknownWatch:
    """A device that does not say whether it throttles."""

    def start(self) -> None:
        """Nothing to watch."""

    def stop(self) -> tuple[str, ...] | None:
        """Unknown."""
        return None


class CardWatch:
    """An NVIDIA card's clock event reasons, asked ten times a second on a thread of its own."""

    def __init__(
        self, reasons: Callable[[], tuple[str, ...] | None], period_s: float = _PERIOD_S
    ) -> None:
        self._reasons, self._period_s = reasons, period_s
        self._seen: set[str] = set()
        self._answers = 0
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; the first question is asked before this returns."""
        self._seen, self._answers = set(), 0
        self._done.clear()
        self._ask()
        self._thread = threading.Thread(target=self._run, name="throttle-watch", daemon=True)
        self._thread.start()

    def stop(self) -> tuple[str, ...] | None:
        """What was seen; None where the card never answered."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._ask()
        return tuple(sorted(self._seen)) if self._answers else None

    def _run(self) -> None:
        while not self._done.wait(self._period_s):
            self._ask()

    def _ask(self) -> None:
        found = self._reasons()
        if found is not None:
            self._answers += 1
            self._seen.update(name for name in found if name in (*nv.THERMAL, *nv.HARDWARE))


class CpuWatch:
    """The kernel's counters of thermal events of the CPUs that are used."""

    def __init__(self, cpus: Iterable[int], root: Path = Path("/")) -> None:
        base = root / "sys/devices/system/cpu"
        self._files = [
            base / f"cpu{cpu}/thermal_throttle" / name for cpu in cpus for name in _COUNTERS
        ]
        self._before: list[int | None] = []

    def start(self) -> None:
        """Note the counters."""
        self._before = self._counts()

    def stop(self) -> tuple[str, ...] | None:
        """`cpu_thermal` where a counter rose; None where there is none."""
        pairs = [
            (before, after)
            for before, after in zip(self._before, self._counts(), strict=True)
            if before is not None and after is not None
        ]
        if not pairs:
            return None
        return (CPU_THERMAL,) if any(after > before for before, after in pairs) else ()

    def _counts(self) -> list[int | None]:
        return [_count(path) for path in self._files]


def watch_for(
    chip: ChipIdentity, root: Path = Path("/"), mask: Iterable[int] | None = None
) -> ThrottleWatch | None:
    """What watches a chip; None for a simulated one, which has nothing to watch.

    mask: the CPUs that a host's threads run on; None for this process's own.
    """
    if chip.vendor == "simulated":
        return None
    if chip.on_host:
        if mask is None:
            mask = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
        return CpuWatch(mask, root)
    if chip.vendor == "NVIDIA" and (chip.key.uuid or chip.key.pci):
        try:
            card = nv.find_card(nv.open_nvml(), "cuda", chip.key)
        except ChipmarkError:
            return UnknownWatch()
        part = card.mig_slice()
        return CardWatch(card.reasons if part is None else part.parent.reasons)
    return UnknownWatch()


def throttle_notes(reasons: tuple[str, ...] | None, chip: str) -> list[tuple[NoteCode, str]]:
    """(note code, text) of what a watch saw: thermal, hardware, or that nothing could tell."""
    if reasons is None:
        return [(NoteCode.THROTTLE_UNKNOWN, f"{chip}: nothing here says whether it throttled")]
    notes = []
    for code, names in (
        (NoteCode.THROTTLED_THERMAL, (*nv.THERMAL, CPU_THERMAL)),
        (NoteCode.THROTTLED_HARDWARE, nv.HARDWARE),
    ):
        seen = [name for name in reasons if name in names]
        if seen:
            notes.append((code, f"{chip}: {', '.join(seen)}"))
    return notes


def _count(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
