"""The state of the host's own CPUs, out of the kernel's files.

A CPU's driver counts thermal events since boot (Intel), so a difference is enough; no other CPU
tells, nor does any in a virtual machine, where clocks and temperatures are hidden as well. What
other processes do is the CPUs' busy time without that of this run's own family.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from chipmark.chips.state import CPU_THERMAL, UNVERIFIED, DeviceState, Sample

_PERIOD_S = 1.0  # some drivers measure for 10 ms when they are asked for a clock
_COUNTERS = ("core_throttle_count", "package_throttle_count")
_NOMINAL = ("cpufreq/base_frequency", "acpi_cppc/nominal_freq")
"""kHz by intel_pstate, MHz by ACPI: the clock that is promised under any load."""

_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
_IDLE_FIELDS = (3, 4)  # idle and iowait of a line of /proc/stat
_FIELDS = 8  # up to steal: guests are in user and nice
_LEAST_S = 0.5
"""The kernel counts CPU time in hundredths of a second; over less the share is noise."""

_LOADED_CPUS = 0.5
"""Least busy CPUs at which the CPUs compute."""


@dataclass(frozen=True, slots=True)
class _Times:
    """Seconds: of the machine's clock, of busy CPUs, of this run's family, of waiting for a CPU."""

    now_s: float
    busy_s: float | None
    own_s: float
    waiting_s: float | None


class CpuSource:
    """The CPUs of a mask."""

    name = "the kernel"
    period_s = _PERIOD_S
    remarks: tuple[str, ...] = ()

    def __init__(
        self,
        cpus: Iterable[int],
        root: Path = Path("/"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cpus = sorted(cpus)
        self._root, self._clock = root, clock
        self._base = root / "sys/devices/system/cpu"
        self._sensors = _sensor_files(root)
        self._events = self._counts()
        self._last_read: _Times | None = None
        self._last_busy: tuple[float, float] | None = None

    def read(self) -> DeviceState:
        """Clocks, heat, and what took the CPUs since the read before. Events are counted anew."""
        times, before = self._times(), self._last_read
        self._last_read = times
        throttle = self._throttled()
        self._events = self._counts()
        over = 0.0 if before is None else times.now_s - before.now_s
        clock, heat = self._clock_mhz(), self._temperature_c()
        if (clock, heat, throttle) != (None, None, None):
            self.remarks = (f"clocks, heat and events of a host are {UNVERIFIED}",)
        return DeviceState(
            clock_mhz=clock,
            nominal_mhz=self._nominal_mhz(),
            temperature_c=heat,
            throttle=throttle,
            busy=self._busy(times.now_s, times.busy_s),
            other_busy=self._other_busy(before, times) if over >= _LEAST_S else None,
            waiting=_waiting(before, times) if over >= _LEAST_S else None,
        )

    def sample(self) -> Sample:
        """Clock, heat, and thermal events since `read`."""
        busy = self._busy(self._clock(), self._busy_s())
        return Sample(
            clock_mhz=self._clock_mhz(),
            temperature_c=self._temperature_c(),
            throttle=self._throttled(),
            loaded=None if busy is None else busy * len(self._cpus) >= _LOADED_CPUS,
        )

    def _counts(self) -> list[int | None]:
        files = (
            self._base / f"cpu{cpu}/thermal_throttle" / name
            for cpu in self._cpus
            for name in _COUNTERS
        )
        return [_whole(path) for path in files]

    def _throttled(self) -> tuple[str, ...] | None:
        """`cpu_thermal` where a counter rose; None where there is none."""
        pairs = [
            (before, after)
            for before, after in zip(self._events, self._counts(), strict=True)
            if before is not None and after is not None
        ]
        if not pairs:
            return None
        return (CPU_THERMAL,) if any(after > before for before, after in pairs) else ()

    def _clock_mhz(self) -> float | None:
        """The highest of the mask: work may be on few of its CPUs, and the others rest."""
        found = [_whole(self._base / f"cpu{cpu}/cpufreq/scaling_cur_freq") for cpu in self._cpus]
        khz = max((value for value in found if value), default=None)
        return None if khz is None else khz / 1000

    def _nominal_mhz(self) -> float | None:
        """The lowest of the mask, whose cores may be of several kinds."""
        for name, scale in zip(_NOMINAL, (1000, 1), strict=True):
            found = [_whole(self._base / f"cpu{cpu}" / name) for cpu in self._cpus]
            values = [value / scale for value in found if value]
            if values:
                return min(values)
        return None

    def _temperature_c(self) -> float | None:
        found = [value for path in self._sensors if (value := _whole(path)) is not None]
        return max(found) / 1000 if found else None

    def _times(self) -> _Times:
        return _Times(
            self._clock(), self._busy_s(), family_cpu_s(os.getpid()), _pressure_s(self._root)
        )

    def _busy_s(self) -> float | None:
        """CPU seconds of the mask that were not idle since boot, stolen ones among them."""
        wanted = {f"cpu{cpu}" for cpu in self._cpus}
        try:
            lines = (self._root / "proc/stat").read_text(encoding="ascii").splitlines()
            ticks = [
                sum(int(n) for i, n in enumerate(words[1 : _FIELDS + 1]) if i not in _IDLE_FIELDS)
                for words in map(str.split, lines)
                if words and words[0] in wanted
            ]
        except (OSError, ValueError):
            return None
        return sum(ticks) / os.sysconf("SC_CLK_TCK") if ticks else None

    def _busy(self, now_s: float, busy_s: float | None) -> float | None:
        """Share of the mask's time since it was asked before."""
        if busy_s is None:
            return None
        last, self._last_busy = self._last_busy, (now_s, busy_s)
        if last is None or now_s <= last[0]:
            return None
        return _share((busy_s - last[1]) / (now_s - last[0]) / len(self._cpus))

    def _other_busy(self, before: _Times | None, now: _Times) -> float | None:
        if before is None or before.busy_s is None or now.busy_s is None:
            return None
        others = (now.busy_s - before.busy_s) - (now.own_s - before.own_s)
        return _share(others / (now.now_s - before.now_s) / len(self._cpus))


def family_cpu_s(leader: int) -> float:
    """CPU seconds of a process, what it started, and what these have waited for."""
    total = 0.0
    try:
        first = psutil.Process(leader)
        family = [first, *first.children(recursive=True)]
    except psutil.Error:
        return total
    for process in family:
        try:
            used = process.cpu_times()
        except psutil.Error:
            continue  # it has ended, and its time is in its parent's
        total += used.user + used.system + used.children_user + used.children_system
    return total


def _waiting(before: _Times | None, now: _Times) -> float | None:
    if before is None or before.waiting_s is None or now.waiting_s is None:
        return None
    return _share((now.waiting_s - before.waiting_s) / (now.now_s - before.now_s))


def _share(value: float) -> float:
    """Counters of the kernel are rounded apart from each other."""
    return min(1.0, max(0.0, value))


def _pressure_s(root: Path) -> float | None:
    """Seconds since boot in which some process waited for a CPU; None without PSI."""
    try:
        lines = (root / "proc/pressure/cpu").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        kind, _, rest = line.partition(" ")
        total = rest.rpartition("total=")[2]
        if kind == "some" and total.isdigit():
            return int(total) / 1e6
    return None


def _sensor_files(root: Path) -> list[Path]:
    """Files with the temperature of CPUs, in thousandths of a degree."""
    found = []
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        try:
            name = (folder / "name").read_text(encoding="ascii").strip()
        except OSError:
            continue
        if name in _SENSORS:
            found += sorted(folder.glob("temp*_input"))
    return found


def _whole(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
