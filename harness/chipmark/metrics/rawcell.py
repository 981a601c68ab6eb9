"""What metrics are computed from: one cell's events, power, roofs and the facts they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from chipmark.chips.contract import HOST_UNITS
from chipmark.engine.events import Table
from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.workload.trace import Trace
from chipmark_models.config import ModelConfig


@dataclass(frozen=True, slots=True)
class SloLimits:
    """A turn meets the objective when its TTFT (append or cold) and TPOT are within these seconds;
    `share` of the turns must."""

    ttft_append_s: float = 2.0
    ttft_cold_s: float = 10.0
    tpot_s: float = 0.050
    share: float = 0.95


@dataclass(frozen=True, slots=True)
class Roofs:
    """Roofs probed before and after a repeat: read bandwidth in bytes/s at a working set of
    `read_bytes`, matrix rate in FLOP/s; None where not probed. `llc_bytes`: last-level cache.
    `wanted_bytes`: working set that the probe should have had, None where that was not kept."""

    read_bytes: int
    read_before: float | None
    read_after: float | None
    matmul_before: float | None
    matmul_after: float | None
    llc_bytes: int | None = None
    wanted_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class RunTiming:
    """A repeat by the parent's clock, the machine's monotonic one in seconds.

    sent_s, answered_s: the command. started_s, ended_s: the child's marks around the engine's run,
    as they arrived. clock_before, clock_after: the child's clock just before and after the command:
    when it was asked, what it said, when the answer came; None where it was not asked. complete:
    every session of the plan ended before the time limit. captured: logits were captured.
    throttle: names of throttle reasons seen, None where nothing could tell.
    """

    sent_s: float
    started_s: float | None
    ended_s: float | None
    answered_s: float
    complete: bool
    captured: bool = False
    clock_before: tuple[float, float, float] | None = None
    clock_after: tuple[float, float, float] | None = None
    throttle: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class RepeatData:
    """One repeat: the tables of `chipmark.engine.events`, power samples, roofs, and the parent's
    clock around it (None in records of before chipmark.record/2)."""

    events: Mapping[str, Table]
    power: PowerSamples | None = None
    roofs: Roofs | None = None
    timing: RunTiming | None = None


@dataclass(frozen=True, slots=True)
class CellFacts:
    """What of a cell's identity changes how its numbers are computed.

    scale: (context, output, tool time). unit, used, of: what meter and price cover.
    weights_precision, kv_precision: names that `chipmark_models.costs` knows. config is None
    where the model has no shape (`sim:`). nameplate_bytes_s: memory bandwidth of the devices
    used by the catalogue, in bytes/s; None where it has none. clock: whose the launches' times are
    (`Caps.clock`). simulated: of a built-in simulated device, whose clock is virtual.
    """

    scenario: Literal["equal_n", "capacity"]
    concurrency: int
    slo: SloLimits
    scale: tuple[Fraction, Fraction, Fraction]
    loop: Literal["closed", "open"]
    meter: MeterInfo | None
    unit: str
    used: int
    of: int
    config: ModelConfig | None
    weights_precision: str
    kv_precision: str
    nameplate_bytes_s: float | None = None
    clock: Literal["device", "host"] = "host"
    simulated: bool = False

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
