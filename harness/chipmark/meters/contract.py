"""Where joules come from: readings with provenance, never a zero for what was not measured."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from chipmark.meters.request import MeterRequest

SourceClass = Literal["counter", "polled", "wall", "declared", "assumed"]
Scope = Literal[
    "die", "package", "memory", "board", "module", "node_dc", "wall", "facility", "cpu-share", "sim"
]
"""What a reading covers: `module` is a board whose package holds CPU and GPU, `memory` a host's
DRAM by a counter of its own."""


def file_slug(name: str) -> str:
    """A meter's name as part of a file's name: lower-case letters, digits and single hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "meter"


@dataclass(frozen=True, slots=True)
class MeterInfo:
    """What a meter reads and how far it can be trusted."""

    name: str
    """Its own among the meters of a cell; files that hold its readings bear it (`file_slug`)."""
    source: SourceClass
    scope: Scope
    method: str
    """How it is read, for people."""
    update_period_s: float
    """How often the value behind it changes; 0 for a constant."""
    averaging_s: float | None = None
    """The window that the sensor averages over, None if unknown."""
    error_rel: float | None = None
    """Bound of the sensor class, None if unknown."""
    covers: str = ""
    """Which units (dies, cards) the reading covers, for people."""
    verified: bool = True
    """False: written from documents and never run on that hardware ("unverified on hardware")."""
    notes: tuple[str, ...] = field(default=())
    period_known: bool = True
    """Whether the period was calibrated or is documented; where it is only taken, updates are
    counted by changes of value."""
    reading_period_s: float | None = None
    """How often the sensor is asked, None where that is not known."""
    cap_w: float | None = None
    """The most that the unit can draw for long (its power limit), None if unknown."""
    resolution_w: float | None = None
    """The least step between two watts that it gives, None if unknown."""
    jittered: bool = False
    """Whether the moments of reading are drawn within their periods, so that a load in step with
    the meter cannot hide from it."""
    clock_s: float | None = 0.0
    """By how many seconds its times may differ from this machine's, either way: a logger has a
    clock of its own. None where nothing bounds it."""


@dataclass(frozen=True, slots=True)
class PowerSamples:
    """Samples on the host's monotonic clock. `energy_j` is a cumulative counter (wrap removed) or
    NaN where there is none; `power_w` a reading or NaN. A missing reading is left out."""

    time_s: NDArray[np.float64]
    energy_j: NDArray[np.float64]
    power_w: NDArray[np.float64]
    remarks: tuple[str, ...] = ()
    """What went wrong while they were taken, each once, for the row; not stored with them."""


class Meter(Protocol):
    """Sampled in the parent while the child works."""

    info: MeterInfo

    def start(self) -> None:
        """Begin sampling; raises ChipmarkError with what to do where it cannot read."""
        ...

    def stop(self) -> PowerSamples:
        """End sampling and hand over everything since `start`."""
        ...


class MeterFactory(Protocol):
    """The object behind an entry point of `chipmark.meters`: a class of meters, as a rule."""

    def for_request(self, request: MeterRequest) -> Meter | None:
        """The meter of the unit asked for; None where it does not meter such a unit. Raises
        ChipmarkError with what to do where it would, and cannot be read."""
        ...
