"""The `chipmark` fixture: device seconds through pytest-benchmark's `pedantic`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from chipmark.pytest_plugin import timing
from chipmark.pytest_plugin.clock import DeviceClock
from chipmark.pytest_plugin.report import Measured, block

if TYPE_CHECKING:
    from chipmark.pytest_plugin.energy import Joules
    from chipmark.pytest_plugin.workloads import LoadedBackend

Round = Callable[[], tuple[float, Any]]
"""One round: device seconds a call, and the result."""


class Engines:
    """Backends that stay loaded over the tests of a session, one for each of what they hold."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[Any, ...], LoadedBackend] = {}

    def get(self, key: tuple[Any, ...], load: Callable[[], LoadedBackend]) -> LoadedBackend:
        """The backend of a key, loaded now or earlier."""
        if key not in self._loaded:
            # One at a time: two models side by side may not fit, and disturb each other.
            self.close()
            self._loaded[key] = load()
        return self._loaded[key]

    def close(self) -> None:
        """Free them all."""
        while self._loaded:
            self._loaded.popitem()[1].close()


class ChipmarkFixture:
    """Used once a test, like pytest-benchmark's own fixture.

    `benchmark` stays that one: its group, its `extra_info` and its statistics are there.
    """

    def __init__(
        self,
        benchmark: Any,
        clock: DeviceClock | None,
        *,
        fullname: str,
        backend: str,
        strict: bool,
        power_w: float | None,
        price_per_hour: float | None,
        engines: Engines,
    ) -> None:
        self.benchmark = benchmark
        self.backend = backend
        self.block: dict[str, Any] | None = None
        self._clock = clock
        self._fullname, self._strict = fullname, strict
        self._power_w, self._price = power_w, price_per_hour
        self._engines = engines

    @property
    def enabled(self) -> bool:
        """False where pytest-benchmark runs everything once (`--benchmark-disable`, xdist)."""
        return not getattr(self.benchmark, "disabled", False)

    def __call__(
        self,
        fn: Callable[..., Any],
        *args: Any,
        tokens: int | None = None,
        sync: Callable[[], Any] | None = None,
        event: Callable[[], timing.DeviceEvent] | None = None,
        calls: int = 1,
        rounds: int = 20,
        warmup_rounds: int = 3,
    ) -> Any:
        """Time `fn(*args)` and return its last result.

        tokens: work tokens of one call, for tok/s. sync: returns when the device is idle
        (`torch.cuda.synchronize`); event: makes an event with device time
        (`lambda: torch.cuda.Event(enable_timing=True)`), which is the better one for short
        kernels. calls: calls between two syncs, for what is shorter than the sync itself; a
        sample is then their mean, and p95 is null. Raises ValueError for counts below 1,
        pytest.UsageError for both of sync and event, or for none in strict mode on a device.
        """
        if sync is not None and event is not None:
            raise pytest.UsageError("give sync= or event=, not both")
        if min(calls, rounds) < 1 or warmup_rounds < 0 or (tokens is not None and tokens < 1):
            raise ValueError("calls, rounds and tokens are whole numbers of at least 1")
        waits = sync is not None or event is not None or self.backend.endswith(":cpu")
        if self._strict and not waits:
            raise pytest.UsageError(
                f"{self.backend} computes while the host continues: give sync= or event= "
                "(--chipmark-strict)"
            )
        timed = timing.by_events(event) if event is not None else timing.by_host(sync)
        many = calls if self.enabled else 1

        def call() -> Any:
            for _ in range(many - 1):
                fn(*args)
            return fn(*args)

        def one() -> tuple[float, Any]:
            seconds, result = timed(call)
            return seconds / many, result

        name = "device_events" if event else "host_synchronised" if sync else "host"
        return self._measure(
            one, what=getattr(fn, "__name__", "callable"), clock=name, rounds=rounds,
            warmup_rounds=warmup_rounds, calls=calls, n_tokens=tokens,
        )  # fmt: skip

    def decode_step(
        self,
        *,
        batch: int = 1,
        context: int = 128,
        model: str = "tiny@synthetic",
        precision: str = "fp32",
        rounds: int = 64,
        warmup_rounds: int = 3,
    ) -> Any:
        """Time one decode step of `batch` sequences at `context` tokens on --chipmark-backend.

        The step goes through the engine's contract, sampling included; a sample is the time of
        its launches on the backend's clock. TPOT is that of one step. Raises the backend's own
        errors (DoesNotFitError, MissingBackendError).
        """
        from chipmark.pytest_plugin.workloads import LoadedBackend, decode_steps

        def load() -> LoadedBackend:
            return LoadedBackend.open(
                self.backend, model, precision, n_seqs=batch, max_context=context + 2,
                max_chunk=min(context, 512),
            )  # fmt: skip

        key = (self.backend, model, precision, batch, context + 2, min(context, 512))
        loaded = self._engines.get(key, load)
        step = decode_steps(loaded, batch, context)

        def one() -> tuple[float, Any]:
            done = step()
            return sum(launch.end_s - launch.start_s for launch in done.launches), done.sampled

        return self._measure(
            one, what=f"decode_step batch={batch} context={context}", rounds=rounds,
            clock=loaded.clock_name, warmup_rounds=warmup_rounds, n_tokens=batch,
            samples=lambda seconds: {"tpot_s": seconds}, loaded=loaded,
            details={"model": loaded.model, "precision": loaded.loaded.precision.words()},
        )  # fmt: skip

    def run(
        self,
        workload: str = "agent-code-32k",
        *,
        scale: str = "1/64,1/16,0",
        sessions: int = 1,
        concurrency: int = 1,
        model: str = "tiny@synthetic",
        precision: str = "fp32",
        seed: int = 0,
        rounds: int = 3,
        warmup_rounds: int = 1,
    ) -> Any:
        """Time whole sessions of an agent workload through chipmark's engine in this process.

        A sample is the window W, first intended send to last token. TTFT (append turns) and TPOT
        are those of distinct turns, each the median of its timed rounds: a turn that is run again
        is not a further sample. Parity is not checked here: `chipmark run` does. Raises
        UnknownNameError for a workload that does not exist, DoesNotFitError.
        """
        from chipmark.metrics.samples import Kind, Samples, joined, medians
        from chipmark.pytest_plugin.workloads import LoadedBackend, run_once, trace_for

        trace = trace_for(workload, scale, sessions, seed, model, self.backend)
        longest = trace.max_context_tokens

        def load() -> LoadedBackend:
            return LoadedBackend.open(
                self.backend, model, precision, n_seqs=concurrency, max_context=longest,
                max_chunk=min(longest, 512), vocab_size=trace.vocab_size,
            )  # fmt: skip

        key = (self.backend, model, precision, concurrency, longest, trace.vocab_size)
        loaded = self._engines.get(key, load)
        turns: list[Mapping[Kind, Samples]] = []

        def one() -> tuple[float, Any]:
            seconds, found, result = run_once(loaded, trace, concurrency)
            turns.append(found)
            return seconds, result

        def samples(_: tuple[float, ...]) -> dict[str, tuple[float, ...]]:
            timed = turns[warmup_rounds : warmup_rounds + rounds]
            kinds: dict[str, Kind] = {"ttft_s": "ttft_append", "tpot_s": "tpot"}
            return {
                name: tuple(medians(joined([r[kind] for r in timed])).value_s.tolist())
                for name, kind in kinds.items()
            }

        work = sum(turn.n_new + turn.n_out for _, turn in trace.walk())
        return self._measure(
            one, what=f"run {workload}", clock=loaded.clock_name, rounds=rounds,
            warmup_rounds=warmup_rounds, n_tokens=work, samples=samples, loaded=loaded,
            details={"workload_hash": trace.hash, "scale": scale, "sessions": sessions,
                     "concurrency": concurrency, "model": loaded.model, "parity": "unchecked"},
        )  # fmt: skip

    def _measure(
        self,
        one: Round,
        *,
        what: str,
        clock: str,
        rounds: int,
        warmup_rounds: int,
        calls: int = 1,
        n_tokens: int | None = None,
        samples: Callable[[tuple[float, ...]], Mapping[str, tuple[float, ...]]] | None = None,
        loaded: LoadedBackend | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> Any:
        taken: list[float] = []
        spans: list[tuple[float, float]] = []
        now = loaded.now if loaded is not None else time.perf_counter

        def target() -> Any:
            start_s = now()
            seconds, result = one()
            spans.append((start_s, now()))
            taken.append(seconds)
            if self._clock is not None:
                self._clock.advance(seconds)
            return result

        if not self.enabled:
            return self.benchmark.pedantic(target)
        meter = self._meter(loaded)
        with meter:
            result = self.benchmark.pedantic(target, rounds=rounds, warmup_rounds=warmup_rounds)
        timed = slice(warmup_rounds, warmup_rounds + rounds)
        if len(taken[timed]) != rounds:
            return result  # another plug-in's benchmark fixture measures in its own way
        seconds = tuple(taken[timed])
        energy = meter.of(spans[timed][0][0], spans[timed][-1][1])
        measured = Measured(
            fullname=self._fullname,
            what=what,
            clock=clock,
            seconds=seconds,
            calls=calls,
            n_tokens=n_tokens,
            energy_j=None if energy.energy_j is None else energy.energy_j / rounds / calls,
            energy_reason=energy.reason,
            energy_source=meter.source,
            power_scope=meter.scope,
            price_per_hour=self._price,
            details={"backend": self.backend, **(details or {})},
            **(samples(seconds) if samples else {}),
        )
        self.block = block(measured)
        self.benchmark.extra_info["chipmark"] = self.block
        return result

    def _meter(self, loaded: LoadedBackend | None) -> Joules:
        from chipmark.pytest_plugin.energy import Joules

        return Joules(self.backend, self._power_w, loaded)
