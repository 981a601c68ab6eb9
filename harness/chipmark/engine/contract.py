"""The narrow boundary between the engine and a backend.

The engine owns logical KV (sequences, blocks or slots, reference counts, prefix hashes, eviction)
and the order of work; a backend owns bytes and time. Rows are columns (NumPy arrays), not an object
a row: at 64 running sessions the engine has 100 microseconds a step, and building 64 small objects
alone would take them. Standard library and NumPy only: it runs in a vendor's container.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from chipmark.engine.computed import ComputedPrecision
from chipmark.engine.machine import Candidate, Machine

I32 = NDArray[np.int32]
F32 = NDArray[np.float32]
Bool = NDArray[np.bool_]

Phase = Literal["prefill_cold", "prefill_append", "prefill_refill", "decode", "mixed", "kv"]
PHASES: tuple[Phase, ...] = (
    "prefill_cold",
    "prefill_append",
    "prefill_refill",
    "decode",
    "mixed",
    "kv",
)
"""`prefill_cold`: a session's first prompt, or one after a reset. `prefill_append`: new input of
a later turn. `prefill_refill`: tokens computed again because their KV was evicted. `kv`: prefix
copies and compaction. A phase is stored in events as its index in this tuple."""

Place = Literal["device", "host"]
Timed = Literal["device", "host", "simulated"]
"""`device`: the device's own events. `host`: the host's clock around a synchronised call.
`simulated`: a virtual clock, which only the built-in `sim:` may have."""
Execution = Literal["eager", "compiled", "graph"]
GraphLevel = Literal["plain", "standard", "contrib", "none"]


@dataclass(frozen=True, slots=True)
class Caps:
    """What a loaded backend can do; the engine plans by it and by nothing else.

    `kv` is how bytes are addressed: `paged` (rows carry a page table of `page_tokens`-token
    pages) or `slots` (rows carry a slot of `max_context` tokens). `prefix`: pages are shared,
    rows of a slot are copied, or neither. Buckets are ascending; `()` means any size.
    """

    kv: Literal["paged", "slots"]
    prefix: Literal["share", "copy", "none"]
    max_context: int
    max_batch: int
    max_chunk: int
    page_tokens: int = 16
    n_pages: int = 0
    n_slots: int = 0
    mixed: bool = False
    in_flight: int = 1
    chunk_buckets: tuple[int, ...] = ()
    batch_buckets: tuple[int, ...] = ()
    context_buckets: tuple[int, ...] = ()
    prefill_rows: int = 1
    """Most rows (sequences) of one prefill launch."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one launch, as columns of length n."""

    seq: I32
    """Session ids."""
    slot: I32
    """Slot of each row; -1 when paged."""
    start: I32
    """Tokens already in KV."""
    length: I32
    """Tokens computed now; 1 in decode."""
    tokens: I32
    """Their ids, concatenated: sum(length) of them."""
    pages: I32 | None
    """(n, width) page table, page index of each `page_tokens` block, -1 beyond the end; the pages
    cover start + length tokens. None for slots."""
    sample: Bool
    """Rows whose last position is sampled: the last chunk of a prompt, and every decode row."""


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """One device launch as the shape planner wants it: homogeneous in phase, padded to buckets.

    `batch_bucket` >= rows, `chunk_bucket` >= max(length), `context_bucket` >= max(start + length);
    each equals the exact size where the backend has no bucket in that dimension.
    """

    phase: Phase
    rows: Rows
    batch_bucket: int
    chunk_bucket: int
    context_bucket: int


@dataclass(frozen=True, slots=True)
class KvOp:
    """A change of cached bytes before the launches of a step.

    copy: the first `length` tokens of slot `src` to slot `dst`. drop: `src` holds nothing any more
    (a hint; no bytes move). `seq` is the session that receives the copy and whose turn is charged
    with it.
    """

    kind: Literal["copy", "drop"]
    src: int
    dst: int
    length: int
    seq: int


@dataclass(frozen=True, slots=True)
class Step:
    """What the engine hands over at once: KV operations first, then launches, in order."""

    id: int
    ops: tuple[KvOp, ...]
    launches: tuple[LaunchPlan, ...]
    logits_of: tuple[int, ...] = ()
    """Sessions whose sampled row's logits are wanted (parity); the path is the same."""


@dataclass(frozen=True, slots=True)
class Launch:
    """When one launch ran, in seconds of the engine's clock (`time.perf_counter` on the host).

    It lies between the engine's `submit` and the end of its `wait`, and does not overlap another.
    """

    phase: Phase
    plan: int
    """Index of its plan in the step; -1 for `kv` operations (the step's copies, at most one launch
    each)."""
    start_s: float
    end_s: float
    """Device time of the launch, or wall time around a synchronised call; head and sampling are in
    it, and so is growth of the KV that it caused."""
    host_s: float
    """Host time spent preparing and launching."""
    positions: int = 0
    """Those really computed, padding included; 0 where they are those of the plan's buckets, or,
    without batch and chunk buckets in the capabilities, the useful tokens."""


@dataclass(frozen=True, slots=True)
class Done:
    """A finished step: the host sees its tokens when `wait` returns it.

    sampled: ids (n,) in the order of the sample rows over the step's launches, or None where the
    host does not see them. top2: (n, 2), in the same order, the two largest logits of each of
    these rows, the larger first; None only where `sampled` is.
    """

    step: int
    sampled: I32 | None
    top2: F32 | None
    launches: tuple[Launch, ...]
    logits: Mapping[int, F32] | None = None
    h2d_bytes: int = 0
    d2h_bytes: int = 0
    kv_copied_bytes: int = 0


class Clock(Protocol):
    """Seconds since an arbitrary origin: the engine's, which times every backend. It is the host's
    monotonic clock, but for the built-in simulated devices, whose clock the harness chooses."""

    def now(self) -> float:
        """Seconds now."""
        ...

    def sleep_until(self, time_s: float) -> None:
        """Return no earlier than `time_s`."""
        ...


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """What a backend is asked to hold and to warm."""

    model: Mapping[str, Any]
    """A dictionary that `chipmark_models.weights.prepared.open_any` understands (prepared folder or
    streamed source); of a simulated device the ids and bytes of its model."""
    precision: str
    n_seqs: int
    """Sequences that live at once."""
    max_context: int
    """Tokens of the longest sequence."""
    kv_tokens: int
    """Tokens of KV over all sequences, which pages are made from; slot backends hold n_seqs +
    reserved_slots slots."""
    max_chunk: int
    """Most prompt tokens of one launch (the token budget)."""
    reserved_slots: int = 1
    threads: int = 0
    """Threads on the host; 0 leaves them to the backend."""
    scratch: str = "."
    """A folder of this cell's own for caches and dumps."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The backend's own options; UnknownNameError for one that it does not have."""


@dataclass(frozen=True, slots=True)
class HostOperator:
    """Operators of one kind that ran on the host's CPU in place of the device."""

    name: str
    """The operator's type as the graph or the dispatcher calls it: `Softmax`, `aten::topk`."""
    count: int
    """Nodes of the graph, or calls of the counted launches."""
    flops_share: float
    """Of all FLOPs of the counted launches, 0 to 1."""
    bytes_share: float
    """Of all bytes of memory traffic of the counted launches, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was loaded: capabilities, costs of loading, and what will really be computed."""

    caps: Caps
    load_s: float
    """Weights and graph."""
    compile_s: float
    """Compilation and warm-up of every bucket, apart from the clock of the run."""
    weight_bytes: int
    kv_bytes: int
    precision: ComputedPrecision
    graph: GraphLevel
    """Which operators the graph has: see chipmark_models.onnx_graphs; `none` without a graph."""
    ep_coverage: float | None
    """Share of work on the provider's own device, None where nothing can tell."""
    device: str
    """The name that the device or provider gives itself."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Further facts for the record, JSON-safe."""
    notes: tuple[tuple[str, str], ...] = ()
    """(code, text) pairs for the row; codes are those of chipmark.codes."""
    sampling: Place = "host"
    """Where ids are sampled."""
    clock: Timed = "host"
    """Whose clock the times of launches are of."""
    execution: Execution = "eager"
    """How a launch reaches the device."""
    bind_is_snapshot: bool = False
    """Binding an input copies it, so KV lives in memory that the provider allocated."""
    host_operators: tuple[HostOperator, ...] = ()
    """What ran on the host's CPU in place of the device, by operator; () where it is nothing and
    where nothing can tell (`ep_coverage` says which)."""
    emulated: str = ""
    """What computes in the device's place where that is known to be an emulation ("HTP of QNN on
    x86-64"), "" elsewhere. An emulated device is never ranked."""


PowerColumns = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""time_s, energy_j, power_w, as `chipmark.meters.contract.PowerSamples` has them."""


class Backend(Protocol):
    """What executes steps. Every member is asked for; `BackendDefaults` has those that a backend
    may have nothing to say to."""

    def load(self, spec: LoadSpec) -> Loaded:
        """Load weights, allocate KV, compile and warm every bucket.

        Raises DoesNotFitError (what would fit), MissingBackendError (what to install).
        """
        ...

    def submit(self, step: Step) -> None:
        """Queue a step. Raises ContractError before `load`, and where `caps.in_flight` steps are
        waiting already; those are finished all the same."""
        ...

    def wait(self) -> Done:
        """The oldest submitted step, finished. Raises ContractError where none is submitted."""
        ...

    def synchronize(self) -> None:
        """Return when the device has nothing left to do."""
        ...

    def probe_bytes(self, wanted: int) -> int | None:
        """The working set of at most `wanted` bytes that is safe to probe now; None where what is
        free is too little for a roof of the memory."""
        ...

    def probe_read(self, n_bytes: int) -> float | None:
        """Measured read bandwidth of the device at this working-set size, bytes per second; None
        where the backend has no way to measure it, and then MBU is null (`no_probe`)."""
        ...

    def probe_matmul(self, precision: str) -> float | None:
        """Measured dense matrix rate in the precision computed, FLOP per second; None as above,
        and then MFU is null."""
        ...

    def power_samples(self) -> PowerColumns | None:
        """Power since the start, of a simulated device; None of every other, which is metered."""
        ...

    def peak_device_bytes(self) -> int | None:
        """Most bytes of the device's own memory in use; None of a host CPU or if unknown."""
        ...

    def launch_counts(self) -> Mapping[str, int]:
        """Launches since the load, as "decode:graph", "prefill_cold:eager"; {} if all are one."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Versions, device, options: JSON-safe, for the record's identity and context. `hardware`:
        what tells the very card (`uuid`, `pci`, `name`) and its cache (`l2_cache_bytes`)."""
        ...

    def close(self) -> None:
        """Free the device; idempotent."""
        ...


class BackendFactory(Protocol):
    """The object behind an entry point of `chipmark.backends`: a class, as a rule.

    A backend's name is `KIND:DEVICE`, where KIND is the entry point's name.
    """

    @property
    def needs_weights_file(self) -> bool:
        """Whether `LoadSpec.model` must be a prepared folder, not a source that is streamed."""
        ...

    def __call__(self, device: str) -> Backend:
        """The backend of a device. Raises UnknownNameError for a device that cannot be, and
        MissingBackendError (what to install) for one that is not here."""
        ...

    def precisions(self, device: str) -> tuple[str, ...] | None:
        """All precisions that `load` takes, told without the backend's own package; others are
        then refused before weights are prepared. None where every one is taken."""
        ...

    def check(
        self, device: str, options: Mapping[str, Any], has_module: Callable[[str], bool]
    ) -> str:
        """Raise UnknownNameError (or UsageError) for a device or an option that cannot be, told
        without the backend's own package; has_module: whether the child's interpreter has one.
        Returns a hash of the user's own data that the device's name stands for, "" for none."""
        ...

    def candidates(self, machine: Machine) -> Sequence[Candidate]:
        """What a suite without `-b` should try on this machine. Imports nothing heavy."""
        ...


class BackendDefaults:
    """A base class for backends: answers of one that has nothing to add."""

    needs_weights_file: ClassVar[bool] = False

    @staticmethod
    def precisions(device: str) -> tuple[str, ...] | None:
        """Every precision is taken."""
        return None

    @staticmethod
    def check(device: str, options: Mapping[str, Any], has_module: Callable[[str], bool]) -> str:
        """Nothing is refused here."""
        return ""

    @staticmethod
    def candidates(machine: Machine) -> Sequence[Candidate]:
        """Nothing is tried unless it is named."""
        return ()

    def probe_bytes(self, wanted: int) -> int | None:
        """What is wanted."""
        return wanted

    def power_samples(self) -> PowerColumns | None:
        """None: power is metered."""
        return None

    def peak_device_bytes(self) -> int | None:
        """None: nothing tells."""
        return None

    def launch_counts(self) -> Mapping[str, int]:
        """None: all go by the way of `Loaded.execution`."""
        return {}
