"""The narrow boundary between the engine and a backend.

The engine owns logical KV (sequences, blocks or slots, reference counts, prefix hashes, eviction)
and the order of work; a backend owns bytes and time. Rows are columns (NumPy arrays), not an
object a row: at 64 running sessions the engine has 100 microseconds a step, and building 64
small objects alone would take them. Standard library and NumPy only: this module runs in a
vendor's container.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

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
    """The rows of one launch, as columns of length n.

    seq: session ids. slot: slot of each row (-1 when paged). start: tokens already in KV.
    length: tokens computed now (1 in decode). tokens: their ids, concatenated, sum(length).
    pages: (n, width) page table, page index of each `page_tokens` block, -1 beyond the end; the
    pages cover start + length tokens; None for slots. sample: rows whose last position is
    sampled (the last chunk of a prompt, and every decode row).
    """

    seq: I32
    slot: I32
    start: I32
    length: I32
    tokens: I32
    pages: I32 | None
    sample: Bool


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
    """What the engine hands over at once: KV operations first, then launches, in order.

    logits_of: sessions whose sampled row's logits are wanted (parity); the path is the same.
    """

    id: int
    ops: tuple[KvOp, ...]
    launches: tuple[LaunchPlan, ...]
    logits_of: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Launch:
    """When one launch ran, in seconds of the engine's clock (`time.perf_counter` on the host).

    start_s, end_s: device time of the launch, or wall time around a synchronised call; head and
    sampling are in it, and so is growth of the KV that it caused. A launch lies between the
    engine's `submit` and the end of its `wait`, and does not overlap another. host_s: host time
    spent preparing and launching. For `kv` operations (the step's copies, at most one
    launch each) `plan` is -1. positions:
    those really computed, padding included; 0 where they are those of the plan's buckets, or,
    without batch and chunk buckets in the capabilities, the useful tokens.
    """

    phase: Phase
    plan: int
    start_s: float
    end_s: float
    host_s: float
    positions: int = 0


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
    """What a backend is asked to hold and to warm.

    model: a dictionary that `chipmark_models.weights.prepared.open_any` understands (prepared
    folder or streamed source); {} for `sim:`. n_seqs: sequences that live at once. max_context:
    tokens of the longest sequence. kv_tokens: tokens of KV over all sequences (pages are made
    from it); slot backends hold n_seqs + reserved_slots slots. max_chunk: most prompt tokens of
    one launch (the token budget). scratch: a folder of this cell's own for caches and dumps.
    """

    model: Mapping[str, Any]
    precision: str
    n_seqs: int
    max_context: int
    kv_tokens: int
    max_chunk: int
    reserved_slots: int = 1
    threads: int = 0
    scratch: str = "."
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was loaded: capabilities, costs of loading, and what will really be computed.

    load_s: weights and graph. compile_s: compilation and warm-up of every bucket, apart from the
    clock of the run. precision: {"weights", "activation", "kv", "accumulate"},
    names of `chipmark_models.precision`. graph: plain, standard, contrib or none. ep_coverage:
    share of work on the provider's own device, None where nothing can tell. device: the name that
    the device or provider gives itself. notes: {code, text} pairs for the row.
    """

    caps: Caps
    load_s: float
    compile_s: float
    weight_bytes: int
    kv_bytes: int
    precision: Mapping[str, str]
    graph: str
    ep_coverage: float | None
    device: str
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[Mapping[str, str], ...] = ()
    sampling: Place = "host"
    """Where ids are sampled."""
    clock: Timed = "host"
    """Whose clock the times of launches are of."""
    execution: Execution = "eager"
    """How a launch reaches the device."""
    bind_is_snapshot: bool = False
    """Binding an input copies it, so KV lives in memory that the provider allocated."""


class Backend(Protocol):
    """What executes steps. Built by `factory(device)` where the name is `KIND:DEVICE`.

    A factory may have a static `precisions(device) -> tuple[str, ...]`, which answers without the
    backend's own package and names all that `load` takes: other precisions are then refused
    before weights are prepared.
    """

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

    def probe_read(self, n_bytes: int) -> float | None:
        """Measured read bandwidth of the device at this working-set size, bytes per second; None
        where the backend has no way to measure it, and then MBU is null (`no_probe`). A backend may
        also have `probe_bytes(wanted) -> int | None`: the size that is safe to ask for now."""
        ...

    def probe_matmul(self, precision: str) -> float | None:
        """Measured dense matrix rate in the precision computed, FLOP per second; None as above,
        and then MFU is null."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Versions, device, options: JSON-safe, for the record's identity and context."""
        ...

    def close(self) -> None:
        """Free the device; idempotent."""
        ...
