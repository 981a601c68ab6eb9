"""What a cell's parent asks its child, and what the child answers: one type each way.

A child gets one JSON file (`ChildSpec`), then a request a line on a pipe; `Request.answer` is the
type of what comes back. Both sides check every field. Standard library and NumPy only: a child
may run under a vendor's interpreter.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from chipmark.cell.checked_json import parse
from chipmark.engine.contract import Caps, HostOperator, Loaded, LoadSpec
from chipmark.errors import ChipmarkError, DoesNotFitError

SCHEMA = "chipmark.child/2"

GO = "go"
"""The line that a child waits for that runs `together` with others; it is not answered."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A cell as its child sees it."""

    backend: str
    """KIND:DEVICE."""
    load: LoadSpec
    """What the backend is to hold; `load.scratch` is a folder of the cell's own."""
    feedback: Literal["forced", "sampled"]
    schema: str = SCHEMA

    def to_json(self) -> str:
        """One JSON object; `from_json` is its inverse."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @staticmethod
    def from_json(text: str, path: str | Path = "spec") -> ChildSpec:
        """Parse and check; BadInputError names the field."""
        return parse(ChildSpec, text, path)


@dataclass(frozen=True, slots=True)
class Words:
    """What is computed, as a record words it (`ComputedPrecision.words`)."""

    weights: str
    activation: str
    kv: str
    accumulate: str


@dataclass(frozen=True, slots=True)
class Remark:
    """A note of the backend for the row."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class LoadedCaps(Caps):
    """`Caps`, with the facts on the loaded backend that a record keeps among them."""

    sampling: str = "host"
    clock: str = "host"
    execution: str = "eager"
    bind_is_snapshot: bool = False


@dataclass(frozen=True, slots=True)
class LoadAnswer:
    """`engine.contract.Loaded`, and what the child says of itself."""

    caps: LoadedCaps
    load_s: float
    compile_s: float
    weight_bytes: int
    kv_bytes: int
    precision: Words
    graph: str
    ep_coverage: float | None
    device: str
    details: Mapping[str, Any]
    notes: tuple[Remark, ...]
    describe: Mapping[str, Any]
    """`Backend.describe`."""
    plugin: Mapping[str, Any]
    """`registry.PluginIdentity` of the code that was loaded."""
    refused_plugins: tuple[str, ...]
    wall_s: float
    """Seconds of the whole command."""
    python: str
    numpy: str
    packages: Mapping[str, str]
    """Versions of installed distributions that matter."""
    peak_rss_bytes: int
    host_operators: tuple[HostOperator, ...] = ()
    emulated: str = ""

    @staticmethod
    def of(loaded: Loaded, **facts: Any) -> LoadAnswer:
        """From what the backend returned; `facts` are the fields that it does not have."""
        caps = LoadedCaps(
            **dataclasses.asdict(loaded.caps),
            sampling=loaded.sampling,
            # The record's word for a virtual clock is the device's.
            clock="device" if loaded.clock == "simulated" else loaded.clock,
            execution=loaded.execution,
            bind_is_snapshot=loaded.bind_is_snapshot,
        )
        return LoadAnswer(
            caps=caps,
            load_s=loaded.load_s,
            compile_s=loaded.compile_s,
            weight_bytes=loaded.weight_bytes,
            kv_bytes=loaded.kv_bytes,
            precision=Words(**loaded.precision.words()),
            graph=loaded.graph,
            ep_coverage=loaded.ep_coverage,
            device=loaded.device,
            details=dict(loaded.details),
            notes=tuple(Remark(str(code), text) for code, text in loaded.notes),
            host_operators=loaded.host_operators,
            emulated=loaded.emulated,
            **facts,
        )


@dataclass(frozen=True, slots=True)
class ParityAnswer:
    """rows: sampled rows whose logits were written."""

    rows: int
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """Roofs, None where one could not be measured; times of the child's `time.perf_counter`."""

    read: float | None
    """Bytes per second."""
    read_bytes: int
    """Working set of the read."""
    matmul: float | None
    """FLOP per second."""
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class RunAnswer:
    """How a repeat ended."""

    turns: int
    turns_done: int
    complete: bool
    peak_rss_bytes: int
    peak_device_bytes: int | None = None
    """`Backend.peak_device_bytes` after the run."""
    launches: Mapping[str, int] = field(default_factory=dict)
    """`Backend.launch_counts` after the run."""


@dataclass(frozen=True, slots=True)
class ClockAnswer:
    """now_s: the engine's clock."""

    now_s: float


@dataclass(frozen=True, slots=True)
class IdleAnswer:
    """When the child was idle, by its `time.perf_counter`."""

    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class CloseAnswer:
    """The last word of a child."""

    peak_rss_bytes: int


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """Why a command failed, in place of its answer."""

    type: str
    """The class of the error."""
    message: str
    hint: str = ""
    sequences: int | None = None
    """How many would fit, of a load that does not."""

    @staticmethod
    def of(error: Exception) -> ErrorAnswer:
        """From what was raised, which may be of a provider's own class."""
        if not isinstance(error, ChipmarkError):
            return ErrorAnswer(type(error).__name__, str(error))
        fitting = error.sequences if isinstance(error, DoesNotFitError) else None
        return ErrorAnswer(type(error).__name__, error.message, error.hint, fitting)


@dataclass(frozen=True, slots=True)
class Request(Generic[Answer]):
    """A command of the parent. `name` is its word on the pipe, `answer` the answer's type."""

    name: ClassVar[str]
    answer: ClassVar[type]


@dataclass(frozen=True, slots=True)
class Load(Request[LoadAnswer]):
    """Load, compile and warm what the spec says."""

    name = "load"
    answer = LoadAnswer


@dataclass(frozen=True, slots=True)
class Parity(Request[ParityAnswer]):
    """Run the small trace with the logits of every sampled row kept in `out`."""

    name = "parity"
    answer = ParityAnswer
    trace: str
    out: str
    concurrency: int


@dataclass(frozen=True, slots=True)
class Probe(Request[ProbeAnswer]):
    """Measure the roofs: a read of `read_bytes` (0: not asked for) and a product in `precision`."""

    name = "probe"
    answer = ProbeAnswer
    read_bytes: int
    precision: str


@dataclass(frozen=True, slots=True)
class Run(Request[RunAnswer]):
    """One timed repeat."""

    name = "run"
    answer = RunAnswer
    trace: str
    events: str
    concurrency: int
    scenario: Literal["equal_n", "capacity"]
    deadline_s: float
    """Turns that have not ended by then are left unfinished."""
    capture_session: int = -1
    capture_turn: int = -1
    """The turn whose logits go to `captured`; -1 for none."""
    captured: str = ""
    power: str = ""
    """Where a simulated device writes its power samples."""
    counter: str = ""
    """Where one whose meter is polled writes its exact counter too."""
    sessions: int = 0
    """Of the trace from its start, 0 for all."""
    together: bool = False
    """Wait for the word GO once all is ready (mark `ready`), so that replicas start together."""


@dataclass(frozen=True, slots=True)
class Clock(Request[ClockAnswer]):
    """Read the engine's clock of a backend that is not simulated."""

    name = "clock"
    answer = ClockAnswer


@dataclass(frozen=True, slots=True)
class Idle(Request[IdleAnswer]):
    """Do nothing for `seconds`, with the model loaded."""

    name = "idle"
    answer = IdleAnswer
    seconds: float


@dataclass(frozen=True, slots=True)
class Close(Request[CloseAnswer]):
    """Free the device and end."""

    name = "close"
    answer = CloseAnswer


REQUESTS: Mapping[str, type[Request[Any]]] = {
    kind.name: kind for kind in (Load, Parity, Probe, Run, Clock, Idle, Close)
}
"""Every request by its word."""
