"""`ort:DEVICE`: the decoder as an ONNX graph on one execution provider of ONNX Runtime.

KV is kept in slots; the graph reads it in place. A step runs where it is submitted: `wait` hands
over what is finished, so one step is in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from chipmark.backends.host_read import read_bandwidth
from chipmark.backends.ort import loading
from chipmark.backends.ort.launch_rows import LaunchRows
from chipmark.backends.ort.loading import Engine
from chipmark.backends.ort.options import check_options
from chipmark.backends.ort.provider_scan import candidates
from chipmark.backends.ort.providers import (
    Located,
    find_provider,
    hardware,
    locate,
    own_data,
    precisions_of,
)
from chipmark.engine.clock import MonotonicClock
from chipmark.engine.contract import (
    F32,
    I32,
    BackendDefaults,
    Done,
    KvOp,
    Launch,
    LaunchPlan,
    Loaded,
    LoadSpec,
    Step,
)
from chipmark.engine.machine import Candidate, Machine
from chipmark.errors import ContractError


class OrtBackend(BackendDefaults):
    """One provider of ONNX Runtime; `device` is a name of providers.toml, a library's path, or the
    Python module of a plug-in. Raises UnknownNameError for a name that is none of these."""

    needs_weights_file: ClassVar[bool] = True
    """A provider maps the weights' file: arrays handed over would be copied."""

    def __init__(self, device: str) -> None:
        self._clock = MonotonicClock()
        self.provider = find_provider(device)
        self._located: Located | None = None
        self._engine: Engine | None = None
        self._done: list[Done] = []

    @staticmethod
    def precisions(device: str) -> tuple[str, ...]:
        """What providers.toml says of the provider, or of any that it does not list."""
        return precisions_of(device)

    @staticmethod
    def check(device: str, options: Mapping[str, Any], has_module: Callable[[str], bool]) -> str:
        """The provider by its name, the options by theirs; a library is looked for by the child."""
        find_provider(device, has_module)
        check_options(options)
        return own_data(device)

    @staticmethod
    def candidates(machine: Machine) -> Sequence[Candidate]:
        """The CPU's own provider and OpenVINO's, which lists only processors that it supports."""
        return candidates(machine)

    def _locate(self) -> Located:
        if self._located is None:
            self._located = locate(self.provider)
        return self._located

    def load(self, spec: LoadSpec) -> Loaded:
        """Open sessions, allocate KV, warm every bucket.

        Raises MissingBackendError (what to install), DoesNotFitError (what would fit), UsageError
        for a precision or an option that the provider does not have, CellFailedError where it
        refuses the graph.
        """
        self._engine = loading.load(spec, self._locate())
        return self._engine.loaded

    def _loaded(self) -> Engine:
        if self._engine is None:
            raise ContractError("the backend was not loaded")
        return self._engine

    def submit(self, step: Step) -> None:
        """Run a step: KV operations, then its launches."""
        engine = self._loaded()
        if self._done:
            raise ContractError("more than 1 steps in flight")
        launches: list[Launch] = []
        self._change_kv(engine, step.ops, launches)
        ids: list[I32] = [np.zeros(0, np.int32)]
        best: list[F32] = [np.zeros((0, 2), np.float32)]
        wanted: dict[int, F32] = {}
        for index, plan in enumerate(step.launches):
            launch, chosen, largest = self._launch(engine, plan, index, step.logits_of, wanted)
            launches.append(launch)
            ids.append(chosen)
            best.append(largest)
        traffic = engine.runner.take_traffic()
        self._done.append(
            Done(
                step=step.id,
                sampled=np.concatenate(ids),
                top2=np.concatenate(best),
                launches=tuple(launches),
                logits=wanted if step.logits_of else None,
                h2d_bytes=traffic.h2d_bytes,
                d2h_bytes=traffic.d2h_bytes,
                kv_copied_bytes=traffic.kv_copied_bytes,
            )
        )

    def _change_kv(self, engine: Engine, ops: tuple[KvOp, ...], launches: list[Launch]) -> None:
        if not ops:
            return
        start = self._clock.now()
        cache, copied = engine.runner.cache, 0
        for op in ops:
            if op.kind == "drop":
                cache.drop(op.src)
                continue
            copied += cache.copy(op.src, op.dst, op.length)
        engine.runner.traffic.kv_copied_bytes += copied
        if copied:
            cache.synchronize()
            launches.append(Launch("kv", -1, start, self._clock.now(), 0.0))

    def _launch(
        self,
        engine: Engine,
        plan: LaunchPlan,
        index: int,
        logits_of: tuple[int, ...],
        wanted: dict[int, F32],
    ) -> tuple[Launch, I32, F32]:
        """One launch, ids and two largest logits of its sampled rows. Its time holds the growth of
        the KV that it needs and the sampling; its host time is what the session's run leaves."""
        rows, runner = plan.rows, engine.runner
        start = self._clock.now()
        of_slots = LaunchRows(rows.slot, rows.start, rows.length, rows.tokens, rows.sample)
        runner.ensure_capacity(runner.rows_needed(of_slots))
        ready, before = self._clock.now(), runner.run_s
        ran = runner.run(of_slots)
        host_s = max(0.0, self._clock.now() - ready - (runner.run_s - before))
        ids, best = runner.sampled(ran)
        launch = Launch(plan.phase, index, start, self._clock.now(), host_s, runner.positions)
        if logits_of:
            for row, seq in enumerate(rows.seq[rows.sample].tolist()):
                if seq in logits_of:
                    wanted[seq] = runner.logits(ran, row)
        return launch, ids, best

    def wait(self) -> Done:
        """The step that was submitted last."""
        if not self._done:
            raise ContractError("no step was submitted")
        return self._done.pop(0)

    def synchronize(self) -> None:
        """Nothing is left running after `submit`."""

    def probe_read(self, n_bytes: int) -> float | None:
        """Read bandwidth in bytes per second of the host's memory by the threads of the cell.

        None for a provider on another device: standard operators give no read that is not also a
        write or a product, so its bandwidth stays unknown rather than wrong.
        """
        engine = self._loaded()
        if not engine.host_device:
            return None
        return read_bandwidth(n_bytes, engine.threads)

    def probe_matmul(self, precision: str) -> float | None:
        """Rate of a square MatMul on the provider itself, FLOP per second.

        None for int8 where the provider is not the CPU's own, as the one product that all write
        may be left to the CPU.
        """
        if precision == "int8" and self._locate().ep_name != "CPUExecutionProvider":
            return None
        return loading.matmul_rate(self._loaded(), self._locate(), precision)

    def describe(self) -> Mapping[str, Any]:
        """Versions, devices, options and graph hashes, JSON-safe."""
        import onnxruntime as ort

        listed = []
        if hasattr(ort, "get_ep_devices"):
            listed = [f"{d.ep_name} {d.device.vendor}" for d in ort.get_ep_devices()]
        described: dict[str, Any] = {
            "onnxruntime": ort.__version__,
            "provider": self.provider.name,
            "providers": list(ort.get_available_providers()),
            "ep_devices": listed,
            "verified_on_hardware": self.provider.verified,
            "hardware": hardware(self._locate()),
        }
        if self._engine is not None:
            described |= dict(self._engine.loaded.details)
        return described

    def close(self) -> None:
        """Let go of sessions and KV."""
        self._engine = None
        self._done.clear()
