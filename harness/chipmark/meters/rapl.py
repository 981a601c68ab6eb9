"""Whole CPU packages by the kernel's powercap counters (RAPL; AMD uses the same files).

`energy_uj` counts microjoules, changes about every millisecond and wraps at
`max_energy_range_uj`. It is readable by root only since CVE-2020-8694.
"""

from __future__ import annotations

import math
from pathlib import Path

from chipmark.errors import ChipmarkError
from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.meters.poll import Reading, Sampler
from chipmark.meters.request import MeterRequest

_FOLDER = Path("/sys/class/powercap")
_PERIOD_S = 0.02  # the counter moves every millisecond; 20 ms bound the error at a window's edges


class Domain:
    """One package's counter with its wrap removed."""

    def __init__(self, folder: Path) -> None:
        self._energy = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text())
        self._last: int | None = None
        self._turns = 0

    def joules(self) -> float:
        """Joules since an arbitrary origin; never falls. Right if read once a turn or more."""
        now = int(self._energy.read_text())
        if self._last is not None and now < self._last:
            self._turns += 1
        self._last = now
        return (self._turns * self._range + now) / 1e6


class RaplMeter:
    """All packages of the machine together: a package is the least that RAPL can tell apart."""

    def __init__(self, domains: list[Domain]) -> None:
        self._domains = domains
        self.info = MeterInfo(
            name="rapl",
            source="counter",
            scope="package",
            method="powercap energy_uj, wrap removed",
            update_period_s=0.001,
            averaging_s=None,
            error_rel=0.05,
            covers=f"{len(domains)} package{'s' if len(domains) > 1 else ''}, memory not included",
            reading_period_s=_PERIOD_S,
            verified=False,
            notes=(
                "unverified on hardware: tested by replay",
                "covers everything that ran on the packages, not this process alone",
            ),
        )
        self._sampler = Sampler(self._read, _PERIOD_S)

    @classmethod
    def for_request(cls, request: MeterRequest, folder: Path = _FOLDER) -> RaplMeter | None:
        """The meter of the host's packages; None where the kernel shows none (a virtual machine).

        Raises ChipmarkError, with what helps, for a share of a package, whose energy no counter
        tells, and where the counter may not be read.
        """
        if request.unit not in ("package", "cpu-share"):
            return None
        found = []
        for entry in sorted(folder.glob("intel-rapl:*")):
            name = entry / "name"
            # "intel-rapl:0" is a package, "intel-rapl:0:0" a part of it (core, uncore, dram).
            if entry.name.count(":") == 1 and name.is_file():
                if not name.read_text().startswith("package"):
                    continue
                found.append(entry)
        if not found:
            return None
        if request.unit != "package":
            raise ChipmarkError(
                "RAPL counts whole packages, and this process may use a share of them only",
                "run on the whole machine without quota, CPU set or affinity, or go without energy",
            )
        try:
            domains = [Domain(entry) for entry in found]
            for domain in domains:
                domain.joules()
        except (FileNotFoundError, ValueError) as error:
            raise ChipmarkError(
                f"{folder} shows packages without a counter that can be read ({error})",
                "declare the power with --power-w, or go without energy",
            ) from error
        except PermissionError as error:
            raise ChipmarkError(
                f"{error.filename} is readable by root only",
                f"run `sudo chmod a+r {folder}/intel-rapl:*/energy_uj`, grant CAP_DAC_READ_SEARCH, "
                "or declare the power with --power-w",
            ) from error
        return cls(domains)

    def start(self) -> None:
        """Begin sampling."""
        self._sampler.start()

    def stop(self) -> PowerSamples:
        """End sampling; energy in joules, no power."""
        return self._sampler.stop()

    def _read(self) -> Reading:
        return sum(domain.joules() for domain in self._domains), math.nan
