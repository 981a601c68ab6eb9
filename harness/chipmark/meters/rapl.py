"""The host's processors and memory by the kernel's powercap counters (RAPL; AMD's use the same).

`energy_uj` counts microjoules, changes about every millisecond and wraps at `max_energy_range_uj`.
It is readable by root only since CVE-2020-8694. Their names say what zones cover:

- `package-N` (on processors of several dies `package-N-die-M`): cores, caches, memory controllers
  and built-in graphics of a socket. `core` and `uncore` under it are parts of it.
- `dram` under a package: its memory, which no package holds. AMD has none.
- `psys`: what the board's maker has wired to the processor's platform input: on laptops all of it
  behind the adapter, on servers packages and memory at least.

`dram` and `psys` overlap on some servers, so each is a meter of its own and nothing is summed over
two kinds. `intel-rapl-mmio` shows zones of `intel-rapl` by another way: one of the two is read.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from chipmark.errors import ChipmarkError
from chipmark.meters.contract import MeterInfo, PowerSamples, Scope
from chipmark.meters.poll import MakeSampler, Reading, Sampler
from chipmark.meters.request import Metered, MeterRequest

_FOLDER = Path("/sys/class/powercap")
_PERIOD_S = 0.02  # the counter moves every millisecond; 20 ms bound the error at a window's edges
_TYPES = ("intel-rapl", "intel-rapl-mmio")
_MOST_W = 20_000.0
_SLACK_J = 100.0
_STILL_S = 0.1
"""A counter that moves every millisecond and has not in this time stands still."""

_UNVERIFIED = "unverified on hardware: tested by replay"
_EVERYTHING = "covers everything that ran on the packages, not this process alone"


@dataclass(frozen=True, slots=True)
class Zone:
    """A counter as the kernel shows it. name: "package-0", or "dram of package-0"; kind: the name
    without numbers and owner ("package", "dram", "psys", "core", "uncore")."""

    folder: Path
    name: str
    kind: str


def zones(folder: Path = _FOLDER) -> list[Zone]:
    """Every zone once, in the kernel's order; [] where it shows none (a virtual machine)."""
    found: list[Zone] = []
    for control in _TYPES:
        seen = {zone.name for zone in found}
        names: dict[str, str] = {}
        entries = [(_numbers(entry, control), entry) for entry in folder.glob(f"{control}:*")]
        for numbers, entry in sorted((n, e) for n, e in entries if n):
            try:
                own = (entry / "name").read_text(errors="replace").strip()
            except OSError:
                continue  # a zone that leads nowhere, or that its driver has just taken away
            names[entry.name] = own
            owner = names.get(entry.name.rpartition(":")[0], "") if len(numbers) > 1 else ""
            name = f"{own} of {owner}" if owner else own
            if name not in seen:
                found.append(Zone(entry, name, own.partition("-")[0]))
    return found


def _numbers(entry: Path, control: str) -> tuple[int, ...]:
    """(1,) of "intel-rapl:1", (1, 0) of its first part "intel-rapl:1:0"; () of another name."""
    if not re.fullmatch(rf"{control}(:\d+){{1,2}}", entry.name):
        return ()
    return tuple(int(number) for number in entry.name.split(":")[1:])


class Domain:
    """One zone's counter with its wrap removed."""

    def __init__(
        self, folder: Path, name: str = "", clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.name = name or folder.name
        self.moved = False
        """Whether it has counted since this was last set to False."""
        self._energy = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text())
        self._clock = clock
        self._last: int | None = None
        self._last_s = 0.0
        self._turns = 0

    def joules(self) -> float:
        """Joules since an arbitrary origin. Right if read once a turn or more.

        A counter that falls has turned, unless that makes more joules than a package can draw in
        the time: then it has begun anew, and so does this value.
        """
        now, at = int(self._energy.read_text()), self._clock()
        if self._last is not None and now < self._last:
            drawn = (self._range - self._last + now) / 1e6
            self._turns += drawn <= _SLACK_J + _MOST_W * (at - self._last_s)
        self.moved |= self._last is not None and now != self._last
        self._last, self._last_s = now, at
        return (self._turns * self._range + now) / 1e6


class _Counters:
    """All zones of one kind together: less than a package RAPL cannot tell apart."""

    NAME: ClassVar[str]
    KIND: ClassVar[str]
    SCOPE: ClassVar[Scope]
    NOTE: ClassVar[str]

    def __init__(
        self,
        domains: list[Domain],
        cap_w: float | None = None,
        sampler: MakeSampler = Sampler,
    ) -> None:
        self._domains = domains
        self.info = MeterInfo(
            name=self.NAME,
            source="counter",
            scope=self.SCOPE,
            method="powercap energy_uj, wrap removed",
            update_period_s=0.001,
            error_rel=0.05,
            covers=self._covers(domains),
            reading_period_s=_PERIOD_S,
            verified=False,
            notes=(_UNVERIFIED, self.NOTE),
            cap_w=cap_w,
            jittered=True,
        )
        self._sampler = sampler(self._read, _PERIOD_S)

    @staticmethod
    def _covers(domains: list[Domain]) -> str:
        return ", ".join(domain.name for domain in domains)

    @classmethod
    def _of(cls, folder: Path) -> Self | None:
        """The meter of this kind of zone; None where there are none. Raises ChipmarkError, with
        what helps, where they cannot be read."""
        found = [zone for zone in zones(folder) if zone.kind == cls.KIND]
        if not found:
            return None
        try:
            domains = [Domain(zone.folder, zone.name) for zone in found]
            for domain in domains:
                domain.joules()
        except PermissionError as error:
            raise ChipmarkError(
                f"{error.filename} is readable by root only",
                f"run `sudo chmod a+r {folder}/intel-rapl:*/energy_uj`, grant CAP_DAC_READ_SEARCH, "
                "or declare the power with --power-w",
            ) from error
        except (OSError, ValueError) as error:
            raise ChipmarkError(
                f"{folder} shows packages without a counter that can be read ({error})",
                "declare the power with --power-w, or go without energy",
            ) from error
        limits = [_limit_w(zone.folder) for zone in found]
        known = [limit for limit in limits if limit is not None]
        return cls(domains, sum(known) if len(known) == len(limits) else None)

    @classmethod
    def _beside(cls, request: MeterRequest, metered: Metered, folder: Path) -> Self | None:
        """Errors are raised only if the user named this meter: `rapl` reports the same ones."""
        if request.metered != metered:
            return None
        try:
            return cls._of(folder)
        except ChipmarkError:
            if request.choice(cls.NAME) is not None:
                raise
            return None

    def start(self) -> None:
        """Begin sampling."""
        for domain in self._domains:
            domain.moved = False
        self._sampler.start()

    def stop(self) -> PowerSamples:
        """End sampling; energy in joules, no power. No energy either where one of several
        counters stood still while others moved: their sum would be too small."""
        samples = self._sampler.stop()
        still = [domain.name for domain in self._domains if not domain.moved]
        long = len(samples.time_s) > 1 and np.ptp(samples.time_s) >= _STILL_S
        if not long or not 0 < len(still) < len(self._domains):
            return samples
        remark = f"{', '.join(still)} stood still while others counted, so there is no sum"
        nothing = np.full(len(samples.time_s), np.nan)
        return PowerSamples(samples.time_s, nothing, nothing, (*samples.remarks, remark))

    def _read(self) -> Reading:
        return sum(domain.joules() for domain in self._domains), math.nan


class RaplMeter(_Counters):
    """All packages of the machine together."""

    NAME, KIND, SCOPE, NOTE = "rapl", "package", "package", _EVERYTHING

    @staticmethod
    def _covers(domains: list[Domain]) -> str:
        return f"{len(domains)} package{'s' if len(domains) > 1 else ''}, memory not included"

    @classmethod
    def for_request(cls, request: MeterRequest, folder: Path = _FOLDER) -> Self | None:
        """The meter of packages as the unit, or as the host of any other unit; None where the
        kernel shows none (a virtual machine), and of a node.

        Raises ChipmarkError, with what helps, for a share of a package as the unit, whose energy
        no counter tells, and where the counter may not be read.
        """
        if request.metered == "host":
            return cls._of(folder)
        if request.metered != "unit" or request.unit not in ("package", "cpu-share"):
            return None
        if request.unit == "cpu-share" and any(zone.kind == cls.KIND for zone in zones(folder)):
            raise ChipmarkError(
                "RAPL counts whole packages, and this process may use a share of them only",
                "run on the whole machine without quota, CPU set or affinity, or go without energy",
            )
        return cls._of(folder)


class RaplMemoryMeter(_Counters):
    """The memory of all packages together, which no package's counter includes."""

    NAME, KIND, SCOPE, NOTE = "rapl-dram", "dram", "memory", _EVERYTHING

    @classmethod
    def for_request(cls, request: MeterRequest, folder: Path = _FOLDER) -> Self | None:
        """As a part of the host; None for anything else, and where the kernel shows none."""
        return cls._beside(request, "host", folder)


class RaplPlatformMeter(_Counters):
    """What the board's maker has wired to the platform input: more than the packages, and not the
    accelerators of a server as a rule. Its scope is the nearest that there is."""

    NAME, KIND, SCOPE = "rapl-psys", "psys", "node_dc"
    NOTE = "covers what the board's maker has wired to it: packages and memory at least"

    @classmethod
    def for_request(cls, request: MeterRequest, folder: Path = _FOLDER) -> Self | None:
        """As the node; None for anything else, and where the kernel shows none."""
        return cls._beside(request, "node", folder)


def _limit_w(folder: Path) -> float | None:
    """The power that a zone may draw for long, in watts; None where it does not say."""
    for name in sorted(folder.glob("constraint_*_name")):
        try:
            if name.read_text().strip() == "long_term":
                limit = folder / f"{name.name.removesuffix('_name')}_power_limit_uw"
                return int(limit.read_text()) / 1e6 or None
        except (OSError, ValueError):
            return None
    return None
