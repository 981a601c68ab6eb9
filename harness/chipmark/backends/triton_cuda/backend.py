"""`triton:DEVICE`: the paged decoder by our own kernels, decode as CUDA graphs."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chipmark.backends.torch_device import roofs
from chipmark.backends.torch_device.devices import release, synchronize
from chipmark.backends.torch_device.memory import peak_bytes
from chipmark.backends.triton_cuda import devices
from chipmark.backends.triton_cuda.timeline import Span, Timeline
from chipmark.engine.clock import MonotonicClock
from chipmark.engine.contract import (
    F32,
    BackendDefaults,
    Done,
    Launch,
    LaunchPlan,
    Loaded,
    LoadSpec,
    Step,
)
from chipmark.engine.machine import Candidate, Machine
from chipmark.errors import ContractError

if TYPE_CHECKING:
    from chipmark.backends.triton_cuda.loading import Engine
    from chipmark.backends.triton_cuda.streams import Mark


@dataclass(frozen=True, slots=True)
class _Queued:
    """A launch on its way. ids, best: where the sampled ids and the two largest logits of its rows
    will be on the host; sampled: which of them. positions: those that it computes."""

    plan: LaunchPlan
    first: Mark
    last: Mark
    ids: Any
    best: Any
    sampled: Any
    host_s: float
    positions: int


@dataclass(frozen=True, slots=True)
class _Submitted:
    """A step on its way. behind: the last mark of the step that it waits behind."""

    step: Step
    submitted_s: float
    launches: tuple[_Queued, ...]
    logits: dict[int, F32]
    behind: Mark | None
    h2d_bytes: int
    d2h_bytes: int


class TritonBackend(BackendDefaults):
    """A `Backend` over pages of KV. Steps are queued and finish in order, two at a time.

    `device` is "cuda", "cuda:N", or "interpreter" (tests). Raises UnknownNameError for another
    name and MissingBackendError where torch, Triton, the device or its capability is missing.
    """

    def __init__(self, device: str) -> None:
        self._name = device
        self._device = devices.open_device(device)
        self._clock = MonotonicClock()
        self._engine: Engine | None = None
        self._queue: deque[_Submitted] = deque()
        self._timeline = Timeline()
        self._counts: Counter[str] = Counter()

    @staticmethod
    def precisions(device: str) -> tuple[str, ...]:
        """All of them; the interpreter leaves out what it computes wrongly itself."""
        return devices.precisions(device)

    @staticmethod
    def check(device: str, options: Mapping[str, Any], has_module: Callable[[str], bool]) -> str:
        """The device and the options by name."""
        devices.check_name(device)
        devices.check_options(options)
        return ""

    @staticmethod
    def candidates(machine: Machine) -> Sequence[Candidate]:
        """The card that CUDA puts first; the interpreter is for tests."""
        return (devices.candidate(machine),)

    def load(self, spec: LoadSpec) -> Loaded:
        """Read weights, allocate pages, hold every kernel against its reference, pick the fastest
        products, warm and capture every bucket.

        Raises DoesNotFitError before anything is allocated, UsageError for a precision that is
        not computed here, and UnknownNameError for an option or operation that does not exist.
        """
        from chipmark.backends.triton_cuda.loading import load

        self._engine = load(spec, self._name, self._device)
        return self._engine.loaded

    def submit(self, step: Step) -> None:
        """Queue the step's launches; nothing is waited for unless logits are wanted."""
        engine = self._loaded()
        if len(self._queue) >= engine.loaded.caps.in_flight:
            raise ContractError(f"more than {engine.loaded.caps.in_flight} steps in flight")
        # Pages move no bytes: a sequence that ends or shares is a change of tables.
        behind = self._queue[-1].launches[-1].last if self._queue else None
        submitted_s = self._clock.now()
        launches: list[_Queued] = []
        logits: dict[int, F32] = {}
        h2d = d2h = 0
        for plan in step.launches:
            queued, wanted, sent = self._launch(engine, plan, step.logits_of)
            launches.append(queued)
            logits |= wanted
            h2d += sent
            d2h += queued.ids.nbytes + queued.best.nbytes
            d2h += sum(row.nbytes for row in wanted.values())
        self._queue.append(_Submitted(step, submitted_s, tuple(launches), logits, behind, h2d, d2h))

    def _launch(
        self, engine: Engine, plan: LaunchPlan, logits_of: tuple[int, ...]
    ) -> tuple[_Queued, dict[int, F32], int]:
        """Queue one launch: what to wait for, the logits wanted by session, bytes sent."""
        stream, rows = engine.stream, plan.rows
        begin_s = self._clock.now()
        first = stream.mark()
        if plan.phase == "decode":
            sent = engine.inputs.fill(rows, stream)
            logits, ids, best = engine.decode[plan.batch_bucket]()
            which = np.flatnonzero(rows.sample)
            positions, by_graph = plan.batch_bucket, engine.loaded.execution == "graph"
        else:
            made = engine.prefill.launch(plan)
            logits, ids, best, which = made.logits, made.ids, made.best, made.sampled
            positions, sent, by_graph = made.positions, made.sent, made.graph
        self._counts[f"{plan.phase}:{'graph' if by_graph else 'eager'}"] += 1
        seen, largest = stream.download(ids), stream.download(best)
        last = stream.mark()
        host_s = self._clock.now() - begin_s if self._device.type != "cpu" else 0.0
        wanted = {}
        for row, session in zip(which.tolist(), rows.seq[rows.sample].tolist(), strict=True):
            if session in logits_of:
                # Before a later step writes over them: only parity asks, and it may wait.
                wanted[session] = logits[row].float().cpu().numpy().copy()
        return _Queued(plan, first, last, seen, largest, which, host_s, positions), wanted, sent

    def wait(self) -> Done:
        """The oldest submitted step, finished."""
        if not self._queue:
            raise ContractError("no step was submitted")
        stream, queued = self._loaded().stream, self._queue.popleft()
        launches = queued.launches
        if launches:
            stream.wait(launches[-1].last)
        seen_s = self._clock.now()
        spans = [
            Span(
                stream.seconds(launches[0].first, launch.first),
                stream.seconds(launches[0].first, launch.last),
            )
            for launch in launches
        ]
        behind = queued.behind
        after = None
        if behind is not None and launches:
            after = stream.seconds(behind, launches[0].first)
        placed = self._timeline.place(spans, queued.submitted_s, seen_s, after)
        ids = [launch.ids.numpy()[launch.sampled] for launch in launches]
        best = [launch.best.numpy()[launch.sampled] for launch in launches]
        return Done(
            step=queued.step.id,
            sampled=np.concatenate([np.zeros(0, np.int32), *ids], dtype=np.int32),
            top2=np.concatenate([np.zeros((0, 2), np.float32), *best]),
            launches=tuple(
                Launch(
                    launch.plan.phase,
                    number,
                    span.start_s,
                    span.end_s,
                    launch.host_s,
                    launch.positions,
                )
                for number, (launch, span) in enumerate(zip(launches, placed, strict=True))
            ),
            logits=queued.logits if queued.step.logits_of else None,
            h2d_bytes=queued.h2d_bytes,
            d2h_bytes=queued.d2h_bytes,
        )

    def synchronize(self) -> None:
        """Return when the device has nothing left to do."""
        synchronize(self._device)

    def probe_bytes(self, wanted: int) -> int | None:
        """Bytes that a read probe of `wanted` bytes may take now; None where too little is free."""
        return roofs.largest_probe(self._device, wanted)

    def probe_read(self, n_bytes: int) -> float | None:
        """Bytes per second of reading `n_bytes`, best of a few; None without the memory."""
        return roofs.read_bandwidth(self._device, n_bytes)

    def probe_matmul(self, precision: str) -> float | None:
        """FLOP per second of a square product in the type that products take; None without the
        memory."""
        return roofs.matmul_rate(self._device, precision)

    def peak_device_bytes(self) -> int | None:
        """Most bytes of tensors on the device so far; None in the interpreter."""
        return peak_bytes(self._device)

    def launch_counts(self) -> Mapping[str, int]:
        """Launches by graph and eager ones, by phase."""
        return dict(self._counts)

    def describe(self) -> Mapping[str, Any]:
        """Versions, device and what computes each operation: JSON-safe."""
        described = {"backend": f"triton:{self._name}", **devices.description(self._device)}
        if self._engine is not None:
            described["operations"] = dict(self._engine.names)
        return described

    def close(self) -> None:
        """Free weights, pages and graphs; may be called again."""
        self._engine = None
        self._queue.clear()
        if self._device.type != "cpu":
            release(self._device)

    def _loaded(self) -> Engine:
        if self._engine is None:
            raise ContractError("the backend was not loaded")
        return self._engine
