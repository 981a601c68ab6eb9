"""`torch:DEVICE`: the torch decoder on any device that torch knows, eagerly."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from chipmark.backends.fit import Need, check_fit
from chipmark.backends.host import chosen_threads, return_free_memory
from chipmark.backends.torch_device import devices, roofs
from chipmark.backends.torch_device.sampling import two_largest
from chipmark.backends.torch_device.threads import threads, threads_for
from chipmark.engine.clock import MonotonicClock
from chipmark.engine.computed import Accumulator, ComputedPrecision, Number, Weights
from chipmark.engine.contract import (
    F32,
    I32,
    BackendDefaults,
    Caps,
    Done,
    KvOp,
    Launch,
    LaunchPlan,
    Loaded,
    LoadSpec,
    Step,
)
from chipmark.engine.machine import Candidate, Machine
from chipmark.errors import ContractError, UnknownNameError, UsageError
from chipmark_models.precision import PLAIN

if TYPE_CHECKING:
    from chipmark_models.decoder.slots.decoder import Decoder
    from chipmark_models.decoder.slots.kv import Span

OPTIONS = ("ops",)
"""Options of `LoadSpec.options`: `ops` maps an operation to the name of its implementation."""

_PREFILL_ROWS = 16
_CPU_WARM_TOKENS = 256
_ID_BYTES = 8
_SAMPLED_BYTES = _ID_BYTES + 2 * 4
"""An id and the two largest logits."""


@dataclass(frozen=True, slots=True)
class _Sampled:
    """Ids (n,) int32 of a launch's sampled rows and their two largest logits (n, 2) float32."""

    ids: I32
    best: F32


_NOTHING = _Sampled(np.zeros(0, np.int32), np.zeros((0, 2), np.float32))


def _check_options(options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in OPTIONS:
            raise UnknownNameError("option of torch", name, OPTIONS)


class TorchBackend(BackendDefaults):
    """A `Backend` over slots of KV; one step at a time, timed by the host around synchronised
    launches. `device` is torch's own name for it.

    Raises UnknownNameError for an unknown device type and MissingBackendError where
    torch, a vendor's plug-in or the device is not here.
    """

    def __init__(self, device: str) -> None:
        self._device = devices.open_device(device)
        self._clock = MonotonicClock()
        self._decoder: Decoder | None = None
        self._done: list[Done] = []
        self._threads = 0
        self._roof_threads = 0

    @staticmethod
    def precisions(device: str) -> tuple[str, ...]:
        """The plain ones on every device. Quantised weights could be widened here, but a cell of
        them would then measure 16-bit arithmetic under another name."""
        return PLAIN

    @staticmethod
    def check(device: str, options: Mapping[str, Any], has_module: Callable[[str], bool]) -> str:
        """The device's type and the options by name."""
        devices.check_name(device)
        _check_options(options)
        return devices.own_data(device)

    @staticmethod
    def candidates(machine: Machine) -> Sequence[Candidate]:
        """The CPU, what calls itself cuda, and a vendor's device that is seen here."""
        return devices.candidates(machine)

    def load(self, spec: LoadSpec) -> Loaded:
        """Read the weights of `spec.model` (`WeightSpec.to_dict`), allocate slots, warm.

        Raises DoesNotFitError before anything is allocated, UsageError for a precision that is
        not computed here, and UnknownNameError for an option or operation that does not exist.
        """
        import torch

        from chipmark_models.costs import weight_bytes_stored
        from chipmark_models.decoder.slots.decoder import Decoder
        from chipmark_models.decoder.slots.kv import slot_bytes
        from chipmark_models.decoder.slots.ops import TABLE
        from chipmark_models.weights.plain import ITEM_BYTES
        from chipmark_models.weights.prepared import WeightSpec, open_any

        _check_options(spec.options)
        if spec.precision not in PLAIN:
            raise UsageError(
                f"torch:{self._device} does not compute {spec.precision}",
                f"it computes {', '.join(PLAIN)}; a precision is never substituted",
            )
        begin = time.perf_counter()
        weights = open_any(WeightSpec.from_dict(spec.model))
        if weights.precision != spec.precision:
            raise UsageError(
                f"the weights are prepared in {weights.precision}, asked is {spec.precision}"
            )
        c = weights.config
        if self._device.type == "cpu":
            self._threads = spec.threads or threads_for(c, ITEM_BYTES[spec.precision])
            self._roof_threads = spec.threads or chosen_threads()
            torch.set_num_threads(self._threads)
        n_slots = spec.n_seqs + spec.reserved_slots
        weight_bytes = int(weight_bytes_stored(c, spec.precision))
        need = Need(
            weight_bytes=weight_bytes,
            bytes_per_token=slot_bytes(
                c.n_layers, c.n_kv_heads, c.head_dim, 1, ITEM_BYTES[spec.precision]
            ),
            n_seqs=spec.n_seqs,
            reserved=spec.reserved_slots,
            max_context=spec.max_context,
            model_context=c.max_context,
        )
        check_fit(need, devices.free_bytes(self._device), f"torch:{self._device}")
        decoder = Decoder(
            weights,
            self._device,
            n_slots=n_slots,
            max_context=spec.max_context,
            ops=TABLE.select(TABLE.resolve(spec.options.get("ops"), "torch")),
        )
        self._decoder = decoder
        self.synchronize()
        if self._device.type == "cpu":
            return_free_memory()
        tuning_s = decoder.weights.tuning_s
        load_s = time.perf_counter() - begin - tuning_s
        begin = time.perf_counter()
        covered = self._warm(decoder, spec)
        caps = Caps(
            kv="slots",
            prefix="copy",
            max_context=spec.max_context,
            max_batch=spec.n_seqs,
            max_chunk=spec.max_chunk,
            n_slots=n_slots,
            prefill_rows=_PREFILL_ROWS,
        )
        return Loaded(
            caps=caps,
            load_s=load_s,
            compile_s=tuning_s + time.perf_counter() - begin,
            weight_bytes=weight_bytes,
            kv_bytes=decoder.kv.n_bytes,
            precision=self._precision(spec.precision, decoder),
            graph="none",
            ep_coverage=covered,
            device=devices.device_name(self._device),
            details={
                "products": {name: str(plan) for name, plan in decoder.weights.plans.items()},
                "product_trials_s": {n: dict(t) for n, t in decoder.weights.trials.items()},
                "threads": self._threads,
            },
            sampling="device",
            clock="host",
            execution="eager",
        )

    def _precision(self, precision: str, decoder: Decoder) -> ComputedPrecision:
        """What is computed. On a CPU activations are float32; 16-bit weights and KV are widened
        as they are read, or the activation is rounded where a product needs it so."""
        if self._device.type != "cpu":
            return ComputedPrecision.plain(precision, accumulate=Accumulator.TORCH)
        if decoder.dtype == decoder.activation:
            return ComputedPrecision.plain("fp32", kv=precision)
        stored = Number(precision)
        return ComputedPrecision(
            weights=Weights(precision),
            activation=Number.FP32,
            linear_input=stored if decoder.rounds_activations else Number.FP32,
            kv=stored,
            accumulate=Accumulator.FP32,
            attention_input=stored,
        )

    def _warm(self, decoder: Decoder, spec: LoadSpec) -> float | None:
        """Each kind of launch once or twice: cold, append, ragged prefill, decode of 1 and all.
        Returns the share of the work that ran on the device, None where it is not known."""
        from chipmark.backends.torch_device.coverage import coverage
        from chipmark_models.decoder.slots.kv import Span

        longest = min(spec.max_chunk, spec.max_context - 1)
        if self._device.type == "cpu":
            longest = min(longest, _CPU_WARM_TOKENS)
        half = max(1, longest // 2)
        launches: list[list[Span]] = [[Span(0, 0, longest, 0)]]
        if longest > 1:
            launches.append([Span(0, half, longest - half, 0)])
        if spec.n_seqs > 1:
            launches.append([Span(0, 0, half, 0), Span(1, 0, max(1, longest - half), half)])
        for rows in sorted({1, spec.n_seqs}):
            # Positions beyond the warmed ones may hold anything: the result is not used.
            launches += [[Span(slot, longest, 1, slot) for slot in range(rows)]] * 2

        def launch(spans: list[Span]) -> None:
            tokens = np.zeros(sum(span.length for span in spans), np.int64)
            logits = decoder.forward(tokens, spans, range(len(spans)))
            two_largest(logits, decoder.ops.greedy(logits)).cpu()

        for spans in launches:
            launch(spans)
        covered = coverage(self._device, [partial(launch, spans) for spans in launches])
        if spec.n_seqs + spec.reserved_slots > 1:
            decoder.kv.copy(0, 1, longest)
        self.synchronize()
        return covered

    def submit(self, step: Step) -> None:
        """Compute the step; it is finished when this returns."""
        decoder = self._loaded()
        if self._done:
            raise ContractError("more than 1 steps in flight")
        launches: list[Launch] = []
        sampled: list[_Sampled] = []
        logits: dict[int, Any] = {}
        h2d = d2h = 0
        copied = self._operate(decoder, step.ops, launches)
        for number, plan in enumerate(step.launches):
            seen, wanted, launch, sent = self._launch(decoder, number, plan, step.logits_of)
            launches.append(launch)
            sampled.append(seen)
            logits |= wanted
            h2d += sent
            d2h += seen.ids.size * _SAMPLED_BYTES + sum(row.nbytes for row in wanted.values())
        self._done.append(
            Done(
                step=step.id,
                sampled=np.concatenate([_NOTHING.ids, *(seen.ids for seen in sampled)]),
                top2=np.concatenate([_NOTHING.best, *(seen.best for seen in sampled)]),
                launches=tuple(launches),
                logits=logits if step.logits_of else None,
                h2d_bytes=h2d,
                d2h_bytes=d2h,
                kv_copied_bytes=copied,
            )
        )

    def wait(self) -> Done:
        """The submitted step."""
        if not self._done:
            raise ContractError("no step was submitted")
        return self._done.pop(0)

    def _operate(self, decoder: Decoder, ops: tuple[KvOp, ...], launches: list[Launch]) -> int:
        """Copies of slots as one `kv` launch each; bytes copied."""
        copied = 0
        for op in ops:
            if op.kind == "drop":
                continue
            start_s = self._clock.now()
            copied += decoder.kv.copy(op.src, op.dst, op.length)
            queued_s = self._clock.now()
            self.synchronize()
            end_s = self._clock.now()
            launches.append(Launch("kv", -1, start_s, end_s, self._host_s(start_s, queued_s)))
        return copied

    def _launch(
        self, decoder: Decoder, number: int, plan: LaunchPlan, logits_of: tuple[int, ...]
    ) -> tuple[_Sampled, dict[int, Any], Launch, int]:
        """One launch: what was sampled, wanted logits by session, its times, bytes sent."""
        entered_s = self._clock.now()
        rows = plan.rows
        spans = self._spans(plan)
        sampled = np.flatnonzero(rows.sample).tolist()
        start_s = self._clock.now()
        logits = decoder.forward(rows.tokens, spans, sampled)
        chosen = decoder.ops.greedy(logits)
        largest = two_largest(logits, chosen)
        queued_s = self._clock.now()
        seen = _Sampled(chosen.cpu().numpy().astype(np.int32), largest.cpu().numpy())
        self.synchronize()
        end_s = self._clock.now()
        wanted = {}
        for at, row in enumerate(sampled):
            session = int(rows.seq[row])
            if session in logits_of:
                wanted[session] = logits[at].float().cpu().numpy().copy()
        host_s = start_s - entered_s + self._host_s(start_s, queued_s)
        sent = rows.tokens.size * _ID_BYTES
        return seen, wanted, Launch(plan.phase, number, start_s, end_s, host_s), sent

    def _spans(self, plan: LaunchPlan) -> list[Span]:
        from chipmark_models.decoder.slots.kv import Span

        rows = plan.rows
        spans, first = [], 0
        columns = zip(rows.slot.tolist(), rows.start.tolist(), rows.length.tolist(), strict=True)
        for slot, start, length in columns:
            spans.append(Span(slot, start, length, first))
            first += length
        return spans

    def _host_s(self, start_s: float, queued_s: float) -> float:
        # On a CPU the calls are the computing; on a device they only queue it.
        return 0.0 if self._device.type == "cpu" else queued_s - start_s

    def synchronize(self) -> None:
        """Return when the device has nothing left to do."""
        devices.synchronize(self._device)

    def probe_bytes(self, wanted: int) -> int | None:
        """Bytes that a read probe of `wanted` bytes may take now; None where too little is free."""
        return roofs.largest_probe(self._device, wanted)

    def probe_read(self, n_bytes: int) -> float | None:
        """Bytes per second of reading `n_bytes`, best of a few; None without the memory."""
        with self._all_threads():
            return roofs.read_bandwidth(self._device, n_bytes)

    def probe_matmul(self, precision: str) -> float | None:
        """FLOP per second of a square product in the precision computed; None without memory."""
        with self._all_threads():
            return roofs.matmul_rate(self._device, precision)

    def _all_threads(self) -> AbstractContextManager[None]:
        return threads(self._roof_threads) if self._roof_threads else nullcontext()

    def describe(self) -> Mapping[str, Any]:
        """Versions, device, threads and instruction set: JSON-safe."""
        import torch

        described: dict[str, Any] = {
            "backend": f"torch:{self._device}",
            "torch": torch.__version__,
            "device": devices.device_name(self._device),
            "threads": torch.get_num_threads(),
            "hardware": devices.hardware(self._device),
        }
        plugin = devices.plugin_modules().get(self._device.type)
        if plugin:
            described["plugin"] = devices.plugin_version(plugin)
        if self._device.type == "cpu":
            described |= {
                "cpu_capability": torch.backends.cpu.get_cpu_capability(),
                "mkl": bool(torch.backends.mkl.is_available()),  # type: ignore[no-untyped-call]
                "mkldnn": bool(torch.backends.mkldnn.is_available()),  # type: ignore[no-untyped-call]
                "interop_threads": torch.get_num_interop_threads(),
                "openmp": {n: os.environ[n] for n in devices.SPIN_VARIABLES if n in os.environ},
            }
        elif self._device.type == "cuda":
            described |= {
                "cuda": torch.version.cuda,
                "hip": torch.version.hip,
                "tf32": torch.backends.cuda.matmul.allow_tf32,
            }
        return described

    def close(self) -> None:
        """Free weights and KV; may be called again."""
        self._decoder = None
        self._done.clear()
        if self._device.type != "cpu":
            devices.release(self._device)

    def _loaded(self) -> Decoder:
        if self._decoder is None:
            raise ContractError("the backend was not loaded")
        return self._decoder
