"""chipmark's own work in this process: a decode step, or whole sessions through the engine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chipmark.cell.workloads import SIM_VOCABULARY, find_model, prepare_model
from chipmark.engine.clock import MonotonicClock
from chipmark.engine.contract import (
    Backend,
    Clock,
    Done,
    LaunchPlan,
    Loaded,
    LoadSpec,
    Phase,
    Rows,
    Step,
)
from chipmark.engine.loop import run
from chipmark.engine.plan import RunPlan, RunResult
from chipmark.engine.plugins import open_backend, virtual_clock
from chipmark.meters.contract import PowerSamples
from chipmark.metrics.events import view
from chipmark.metrics.samples import Kind, Samples, turn_samples
from chipmark.registry import is_simulated
from chipmark.workload.generate import generate
from chipmark.workload.profile import profile
from chipmark.workload.scale import scale_named
from chipmark.workload.trace import Trace
from chipmark_models.presets import PRESETS

_SYNTHETIC = "@synthetic"


@dataclass
class LoadedBackend:
    """A backend that is loaded in this process."""

    name: str
    backend: Backend
    loaded: Loaded
    model: str
    vocab_size: int
    scratch: tempfile.TemporaryDirectory[str] = field(repr=False)

    @classmethod
    def open(
        cls,
        name: str,
        model: str,
        precision: str,
        *,
        n_seqs: int,
        max_context: int,
        max_chunk: int,
        vocab_size: int | None = None,
    ) -> LoadedBackend:
        """Load weights, allocate KV and warm every bucket. What `Backend.load` raises."""
        simulated = is_simulated(name)
        backend = open_backend(name)
        if simulated:
            vocabulary = vocab_size or SIM_VOCABULARY
            spec: dict[str, Any] = {"vocab_size": vocabulary}
        else:
            used = prepare_model(find_model(model, 0, _quiet), precision, name, _quiet)
            assert used.config is not None
            spec, vocabulary = used.spec, used.config.vocab_size
        scratch = tempfile.TemporaryDirectory(prefix="chipmark-pytest-")
        try:
            loaded = backend.load(
                LoadSpec(
                    model=spec,
                    precision=precision,
                    n_seqs=n_seqs,
                    max_context=max_context,
                    kv_tokens=2 * n_seqs * max_context + 64,
                    max_chunk=max_chunk,
                    scratch=scratch.name,
                )
            )
        except BaseException:
            backend.close()
            scratch.cleanup()
            raise
        named = "sim" if simulated else model
        return cls(name, backend, loaded, named, vocabulary, scratch)

    @property
    def simulated(self) -> bool:
        """Whether its time and power are closed forms."""
        return is_simulated(self.name)

    @property
    def virtual_clock(self) -> Clock | None:
        """The clock of a built-in simulated device; None where time is the host's."""
        return virtual_clock(self.name, self.backend)

    def now(self) -> float:
        """Seconds of the clock that the engine times this backend by."""
        return (self.virtual_clock or MonotonicClock()).now()

    @property
    def clock_name(self) -> str:
        """What its times are: `sim`, `device`, or `host` around a synchronised call."""
        return "sim" if self.simulated else self.loaded.clock

    def power_samples(self) -> PowerSamples:
        """Power of a simulated device since its start."""
        columns = self.backend.power_samples()
        assert columns is not None, "a simulated device knows its power"
        return PowerSamples(*columns)

    def close(self) -> None:
        """Free the device and its scratch folder."""
        self.backend.close()
        self.scratch.cleanup()


def decode_steps(loaded: LoadedBackend, batch: int, context: int) -> Callable[[], Done]:
    """Prefill `batch` sequences of `context` tokens; the callable decodes one token of each, at
    the same position every time, so that every step reads the same KV."""
    generator = np.random.Generator(np.random.Philox(key=[context, batch]))
    tokens = generator.integers(0, loaded.vocab_size, (batch, context + 1), dtype=np.int32)
    count = iter(range(1 << 30))

    def submit(phase: Phase, first: int, last: int, start: int, length: int) -> Done:
        n = last - first
        rows = Rows(
            seq=np.arange(first, last, dtype=np.int32),
            slot=_slots(loaded, first, last),
            start=np.full(n, start, dtype=np.int32),
            length=np.full(n, length, dtype=np.int32),
            tokens=np.ascontiguousarray(tokens[first:last, start : start + length]).ravel(),
            pages=_pages(loaded, first, last, start + length),
            sample=np.full(n, start + length >= context, dtype=np.bool_),
        )
        caps = loaded.loaded.caps
        plan = LaunchPlan(
            phase,
            rows,
            _bucket(n, caps.batch_buckets),
            _bucket(length, caps.chunk_buckets) if phase != "decode" else 1,
            _bucket(start + length, caps.context_buckets),
        )
        loaded.backend.submit(Step(next(count), (), (plan,)))
        return loaded.backend.wait()

    caps = loaded.loaded.caps
    for sequence in range(batch):
        for start in range(0, context, caps.max_chunk):
            length = min(caps.max_chunk, context - start)
            submit("prefill_cold", sequence, sequence + 1, start, length)
    loaded.backend.synchronize()
    return lambda: submit("decode", 0, batch, context, 1)


def trace_for(
    workload: str, scale: str, sessions: int, seed: int, model: str, backend: str
) -> Trace:
    """The trace of `run`; ids are those of the model, or of a preset for `sim:`."""
    known = profile(workload)
    config = PRESETS.get(model.removesuffix(_SYNTHETIC))
    if config is None and not is_simulated(backend):
        config = prepare_model(find_model(model, 0, _quiet), "fp32", backend, _quiet).config
    vocabulary = config.vocab_size if config else SIM_VOCABULARY
    chosen = scale_named(scale)
    longest = config.max_context if config else None
    return generate(known, chosen, seed, sessions, vocabulary, longest)


def run_once(
    loaded: LoadedBackend, trace: Trace, concurrency: int
) -> tuple[float, Mapping[Kind, Samples], RunResult]:
    """W in seconds, latencies of the turns, and the run itself."""
    clock = loaded.virtual_clock
    plan = RunPlan(caps=loaded.loaded.caps, concurrency=concurrency, clock=clock)
    result = run(loaded.backend, trace, plan)
    seen = view(result.tables)
    turns = turn_samples(result.tables["turns"], seen.start_s, seen.end_s)
    return seen.window_s, turns, result


def _bucket(size: int, buckets: tuple[int, ...]) -> int:
    return next((bucket for bucket in buckets if bucket >= size), size)


def _slots(loaded: LoadedBackend, first: int, last: int) -> Any:
    if loaded.loaded.caps.kv == "slots":
        return np.arange(first, last, dtype=np.int32)
    return np.full(last - first, -1, dtype=np.int32)


def _pages(loaded: LoadedBackend, first: int, last: int, tokens: int) -> Any:
    caps = loaded.loaded.caps
    if caps.kv == "slots":
        return None
    width = -(-caps.max_context // caps.page_tokens)
    used = -(-tokens // caps.page_tokens)
    table = np.arange(first * width, last * width, dtype=np.int32).reshape(last - first, width)
    return np.ascontiguousarray(table[:, :used])


def _quiet(_: str) -> None:
    """Progress of preparing a model: pytest captures what a test prints."""
