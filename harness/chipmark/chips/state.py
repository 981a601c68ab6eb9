"""The state of a device before, during and after a repeat, as it is stored, and who can tell it.

Every field is None where it is not known, and never a zero that nothing said. Metrics and the
child know these classes, so they are plain dataclasses; `results.manifest` checks them by pydantic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

_CHECKED: Mapping[str, Any] = {"extra": "forbid", "allow_inf_nan": False}
"""How a file's part of this form is checked, as `results.manifest.StoredPart` is."""

UNVERIFIED = "unverified on hardware"
"""How a source says that it was written from documents and never run on what it reads."""
CPU_THERMAL = "cpu_thermal"
"""The name of a rise of the kernel's thermal_throttle counters."""

_HEAT = ("therm", "temp", "thm", "prochot")
_FORCED = ("hw_", "hardware", "brake")
_CAP = ("power_cap", "power cap", "ppt")


_DISPLAY = ("geforce", "rtx", "titan", "quadro")


def holds_highest_clock(name: str) -> bool:
    """Whether a card of this name holds the highest clock that its driver names, unless it says why
    not. Cards for displays do not: theirs is that of the best chip at its coolest."""
    return not any(word in name.lower() for word in _DISPLAY)


def is_idle(reason: str) -> bool:
    """Whether a throttle reason is that nothing runs on the device."""
    return reason.lower().endswith("idle")


def is_thermal(reason: str) -> bool:
    """Whether a throttle reason, by the name that its source gives it, is heat."""
    return any(part in reason.lower() for part in _HEAT)


def is_hardware(reason: str) -> bool:
    """Whether it is another slowdown that the hardware forces."""
    return not is_thermal(reason) and any(part in reason.lower() for part in _FORCED)


def is_power_cap(reason: str) -> bool:
    """Whether it is the power limit: a setting, and at its default the product as it is sold."""
    return any(part in reason.lower() for part in _CAP)


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A device at one moment. Of a card of several dies: the slowest clock, the highest
    temperature, and the sums over its dies."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _CHECKED

    clock_mhz: float | None = None
    """Clock of the compute units; of a CPU the highest of the CPUs that are used."""
    nominal_mhz: float | None = None
    """What the device itself says that this clock is where nothing slows it down."""
    memory_clock_mhz: float | None = None
    temperature_c: float | None = None
    throttle: tuple[str, ...] | None = None
    """Reasons why the clock is lower than it could be, by its source's names; () for none."""
    power_limit_w: float | None = None
    power_limit_default_w: float | None = None
    ecc_errors: int | None = None
    """Uncorrected memory errors since the counter was reset."""
    other_processes: int | None = None
    """Processes on the device that this run did not start."""
    other_pids: tuple[int, ...] = ()
    """Their ids where they are known; names are not kept."""
    shared: str | None = None
    """How the device is a part of a card ("MIG 1g.10gb", "vGPU"), "" for a whole one."""
    busy: float | None = None
    """Share of the time in which the device computed, by its own gauge; of CPUs, of all used."""
    other_busy: float | None = None
    """Of a host's CPUs: the share of their time that other processes took since the look before."""
    waiting: float | None = None
    """Of a host: the share of that time in which a process waited for a CPU (PSI)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What of a device changes while it works, at one moment."""

    clock_mhz: float | None = None
    temperature_c: float | None = None
    throttle: tuple[str, ...] | None = None
    loaded: bool | None = None
    """Whether it computes; None where nothing tells."""
    capped: bool = False
    """Whether its power limit holds the clock down."""
    other_processes: int | None = None
    other_pids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class UnderLoad:
    """A device over a repeat."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _CHECKED

    samples: int
    period_s: float | None = None
    """Mean seconds between samples; None for a single one."""
    clock_least_mhz: float | None = None
    """Of the samples in which it computed (of all, where nothing tells when it did)."""
    clock_median_mhz: float | None = None
    """Of the same."""
    clock_uncapped_mhz: float | None = None
    """The median where it computed and its power limit did not hold the clock down; where nothing
    tells when it computed, the highest. None where the limit held it nearly always."""
    temperature_most_c: float | None = None
    throttle: tuple[str, ...] | None = None
    """Every reason that was seen; None where it never told."""
    other_processes: int | None = None
    """The most that were seen at once."""
    other_pids: tuple[int, ...] = ()
    """All that were seen."""


@dataclass(frozen=True, slots=True)
class RepeatState:
    """A device around one repeat."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _CHECKED

    source: str
    """What told it: "NVML", "npu-smi", "the kernel"; "" where nothing here can."""
    before: DeviceState = DeviceState()
    during: UnderLoad | None = None
    """None where it is asked before and after only."""
    after: DeviceState = DeviceState()
    busy_before: float | None = None
    """Before a cell's first repeat: how busy the device stayed while all of this run was
    stopped."""
    remarks: tuple[str, ...] = ()
    """What its reader must know, as how seldom a slow tool was asked."""

    def slowdowns(self) -> tuple[str, ...] | None:
        """Reasons of heat and hardware seen around and during the repeat; None where none of the
        looks could tell."""
        during = None if self.during is None else self.during.throttle
        told = [
            seen for seen in (self.before.throttle, during, self.after.throttle) if seen is not None
        ]
        if not told:
            return None
        names = {name for seen in told for name in seen if is_thermal(name) or is_hardware(name)}
        return tuple(sorted(names))


class StateSource(Protocol):
    """Tells the state of one device. Never raises while it is asked."""

    @property
    def name(self) -> str:
        """For `RepeatState.source`."""
        ...

    @property
    def period_s(self) -> float | None:
        """How often it may be asked during a repeat, as known after `read`; None for before and
        after only."""
        ...

    @property
    def remarks(self) -> tuple[str, ...]:
        """For `RepeatState.remarks`."""
        ...

    def read(self) -> DeviceState:
        """Everything, now."""
        ...

    def sample(self) -> Sample:
        """What changes while the device works, now; throttle reasons are those since `read`
        where the source counts events."""
        ...
