"""What metrics are computed from: one cell's events, power, roofs and the facts they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from chipmark.chips.contract import HOST_UNITS, SHARE
from chipmark.chips.state import RepeatState
from chipmark.engine.events import Table
from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.workload.trace import Trace
from chipmark_models.config import ModelConfig

Scenario = Literal["equal_n", "capacity"]
"""How sessions are offered: a given number of clients, or the most that meet the objective."""


@dataclass(frozen=True, slots=True)
class SloLimits:
    """A turn meets the objective when its TTFT (append or cold) and TPOT are within these
    seconds."""

    ttft_append_s: float = 2.0
    ttft_cold_s: float = 10.0
    tpot_s: float = 0.050
    share: float = 0.95
    """Of the turns, which must meet it."""


@dataclass(frozen=True, slots=True)
class Roofs:
    """Roofs probed before and after a repeat; None where not probed."""

    read_bytes: int
    """Working set of the probe of read bandwidth."""
    read_before: float | None
    """Read bandwidth in bytes/s."""
    read_after: float | None
    matmul_before: float | None
    """Matrix rate in FLOP/s."""
    matmul_after: float | None
    llc_bytes: int | None = None
    """Last-level cache of the device; None where its size is unknown."""
    wanted_bytes: int | None = None
    """Working set that the probe should have had; None where that was not kept."""


@dataclass(frozen=True, slots=True)
class RunTiming:
    """A repeat by the parent's clock, the machine's monotonic one in seconds."""

    sent_s: float
    """When the command was sent."""
    started_s: float | None
    """The child's mark before the engine's run, as it arrived."""
    ended_s: float | None
    """The child's mark after the engine's run, as it arrived."""
    answered_s: float
    """When the answer to the command came."""
    complete: bool
    """Every session of the plan ended before the time limit."""
    captured: bool = False
    """Logits were captured."""
    clock_before: tuple[float, float, float] | None = None
    """The child's clock just before the command: when it was asked, its answer, when the answer
    came; None where it was not asked."""
    clock_after: tuple[float, float, float] | None = None
    """The same just after the command."""
    throttle: tuple[str, ...] | None = None
    """Names of throttle reasons seen; None where nothing could tell."""
    state: RepeatState | None = None
    """The device before, during and after; None in records from before it was kept."""


@dataclass(frozen=True, slots=True)
class RepeatData:
    """One repeat as it was measured."""

    events: Mapping[str, Table]
    """The tables of `chipmark.engine.events`."""
    power: PowerSamples | None = None
    roofs: Roofs | None = None
    timing: RunTiming | None = None
    """None in records of before chipmark.record/2."""
    others: tuple[RepeatData, ...] = ()
    """What the other replicas of the engine did in this repeat; `power` is the unit's and stands
    here alone."""
    beside: Mapping[str, PowerSamples] = field(default_factory=dict)
    """Of the meters next to the row's, by name; those that read nothing are absent."""

    @property
    def runs(self) -> tuple[RepeatData, ...]:
        """Every replica's part of the repeat, this one first."""
        return (self, *self.others)


@dataclass(frozen=True, slots=True)
class CellFacts:
    """What of a cell's identity changes how its numbers are computed."""

    scenario: Scenario
    concurrency: int
    slo: SloLimits
    scale: tuple[Fraction, Fraction, Fraction]
    """Of context, output and tool time."""
    loop: Literal["closed", "open"]
    meter: MeterInfo | None
    unit: str
    """What meter and price cover."""
    used: int
    """Devices or slices of the unit that computed."""
    of: int
    """Devices or slices that the unit has."""
    config: ModelConfig | None
    """None where the model has no shape (`sim:`)."""
    weights_precision: str
    """A name that `chipmark_models.costs` knows."""
    kv_precision: str
    """The same of the KV cache."""
    nameplate_bytes_s: float | None = None
    """Memory bandwidth of the devices used, in bytes/s by the catalogue; None where it has none."""
    clock: Literal["device", "host"] = "host"
    """Whose the launches' times are (`Caps.clock`)."""
    simulated: bool = False
    """A built-in simulated device, whose clock is virtual."""
    replicas: int = 1
    """Engines that ran at once, each on a device of its own; `concurrency` is of all together."""
    beside: tuple[MeterInfo, ...] = ()
    """Meters next to `meter`, whose readings no column but `power_beside` is made from."""

    @property
    def meters_more(self) -> bool:
        """Whether the row's meter covers more than what computed: a unit of which a part was used,
        or the machine around a share of its processors."""
        share = self.unit == SHARE and self.meter is not None and self.meter.scope != SHARE
        return self.used < self.of or share

    @property
    def on_host(self) -> bool:
        """Whether the device is the host's own processor."""
        return self.unit in HOST_UNITS and not self.simulated


@dataclass(frozen=True, slots=True)
class RawCell:
    """A measured cell with the work it was given."""

    facts: CellFacts
    trace: Trace
    repeats: tuple[RepeatData, ...]
    idle_before: PowerSamples | None = None
    idle_after: PowerSamples | None = None
    idle_beside: Mapping[str, tuple[PowerSamples | None, PowerSamples | None]] = field(
        default_factory=dict
    )
    """Before and after, of the meters next to the row's, by name; those that read neither are
    absent."""

    @property
    def runs(self) -> tuple[RepeatData, ...]:
        """Every replica's part of every repeat, repeat by repeat."""
        return tuple(run for repeat in self.repeats for run in repeat.runs)
