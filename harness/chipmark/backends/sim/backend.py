"""`sim:NAME`: a backend whose time, power and samples are known in closed form.

It runs in simulated time, takes every shape that the contract knows, and checks what it is asked:
a violation of the contract raises. Standard library and NumPy only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chipmark.backends.sim.cells import Cells, expected_ids, sampled_ids, two_largest
from chipmark.backends.sim.polling import counted_power, polled_power
from chipmark.backends.sim.spec import SPECS, SimSpec, check_options, spec_of
from chipmark.engine.clock import VirtualClock
from chipmark.engine.computed import ComputedPrecision
from chipmark.engine.contract import (
    F32,
    I32,
    BackendDefaults,
    Caps,
    Clock,
    Done,
    KvOp,
    Launch,
    LaunchPlan,
    Loaded,
    LoadSpec,
    Phase,
    Step,
)
from chipmark.engine.plugins import Condition
from chipmark.errors import ContractError

F64 = NDArray[np.float64]


class SimBackend(BackendDefaults):
    """The contract as a null system. `device` is a name of `SPECS` (`NAME:DIE` for another die
    than a card's first), or a `SimSpec` of one's own.

    `clock` is the virtual clock that the engine must run on (`RunPlan.clock`): it moves to where
    a step's tokens are visible when the step is waited for.

    Raises UnknownNameError for another name.
    """

    def __init__(self, device: str | SimSpec) -> None:
        spec, die = spec_of(device) if isinstance(device, str) else (device, 0)
        self.spec: SimSpec = spec
        self._card_w = 0.0 if die else spec.card_w
        self.clock: Clock = VirtualClock()
        self._caps: Caps | None = None
        self._cells: Cells | None = None
        self._vocab = spec.vocab_size
        self._queue: deque[tuple[Done, float]] = deque()
        self._free_s = 0.0
        self._segments: list[tuple[float, float, float]] = []

    @staticmethod
    def check(device: str, options: Mapping[str, Any], has_module: Callable[[str], bool]) -> str:
        """The options by name."""
        check_options(options)
        return ""

    @staticmethod
    def expected_ids(tokens: I32, vocab_size: int) -> I32:
        """The id that is sampled after each token, a function of the whole context before it."""
        return expected_ids(tokens, vocab_size)

    @staticmethod
    def meter_period_s(device: str) -> float:
        """The period of the device's meter that is polled; 0 for an exact counter, which an
        unknown device has as well."""
        name = device.partition(":")[0]
        return SPECS[name].poll_s if name in SPECS else 0.0

    @staticmethod
    def sensor_s(device: str) -> float:
        """The period over which the device's sensor averages; 0 where it shows a moment's watts."""
        name = device.partition(":")[0]
        return SPECS[name].sensor_s if name in SPECS else 0.0

    @staticmethod
    def most_w(device: str) -> float | None:
        """Watts that the card never exceeds; None of an unknown one."""
        name = device.partition(":")[0]
        return SPECS[name].most_w if name in SPECS else None

    @staticmethod
    def dies(device: str) -> int:
        """Devices of the card; 1 of an unknown one."""
        name = device.partition(":")[0]
        return SPECS[name].dies if name in SPECS else 1

    @staticmethod
    def condition(device: str) -> Condition:
        """What the device says of its clock, by its constants; of an unknown one, as golden."""
        spec = SPECS.get(device.partition(":")[0], SPECS["golden"])
        return Condition(spec.nominal_mhz, spec.clock_mhz, spec.temperature_c, spec.throttle)

    def load(self, spec: LoadSpec) -> Loaded:
        """Simulated weights and KV. DoesNotFitError beyond `SimSpec.memory_bytes`."""
        told = spec.model
        self.spec = sim = replace(
            self.spec,
            weight_bytes=int(told.get("weight_bytes", self.spec.weight_bytes)),
            kv_bytes_per_token=int(told.get("kv_bytes_per_token", self.spec.kv_bytes_per_token)),
        )
        caps = sim.caps(spec)
        self._caps, self._cells = caps, Cells(caps, sim.verify)
        self._vocab = int(spec.model.get("vocab_size", sim.vocab_size))
        tokens = caps.n_pages * caps.page_tokens or caps.n_slots * caps.max_context
        return Loaded(
            caps=caps,
            load_s=sim.load_s,
            compile_s=sim.compile_s,
            weight_bytes=sim.weight_bytes,
            kv_bytes=tokens * sim.kv_bytes_per_token,
            precision=ComputedPrecision.plain("fp32"),
            graph="none",
            ep_coverage=1.0,
            device=f"sim:{sim.name}",
            details={"vocab_size": self._vocab},
            sampling="device",
            clock="simulated",
            execution="compiled",
        )

    def submit(self, step: Step) -> None:
        """Run the step in simulated time. ContractError where it breaks the contract."""
        if self._caps is None or self._cells is None:
            raise ContractError("the backend was not loaded")
        if len(self._queue) >= self._caps.in_flight:
            raise ContractError(f"more than {self._caps.in_flight} steps in flight")
        launches: list[Launch] = []
        sampled: list[NDArray[np.uint64]] = []
        logits = {}
        copied = 0
        for op in step.ops:
            copied += self._operate(self._cells, op, launches)
        for index, plan in enumerate(step.launches):
            self._check_plan(self._caps, plan)
            hashes = self._cells.compute(plan.rows)
            self._pass_time(launches, plan.phase, index, self.spec.launch_s(plan))
            sampled.append(hashes[plan.rows.sample])
            if step.logits_of:
                for row in np.flatnonzero(plan.rows.sample).tolist():
                    if int(plan.rows.seq[row]) in step.logits_of:
                        logits[int(plan.rows.seq[row])] = self._logits(hashes[row : row + 1])
        tokens = sum(plan.rows.tokens.nbytes for plan in step.launches)
        contexts = np.concatenate(sampled) if sampled else np.zeros(0, np.uint64)
        ids, best = sampled_ids(contexts, self._vocab), two_largest(contexts)
        done = Done(
            step=step.id,
            sampled=ids,
            top2=best,
            launches=tuple(launches),
            logits=logits if step.logits_of else None,
            h2d_bytes=tokens,
            d2h_bytes=ids.nbytes + best.nbytes,
            kv_copied_bytes=copied * self.spec.kv_bytes_per_token,
        )
        self._queue.append((done, self._free_s))

    def wait(self) -> Done:
        """The oldest step; the clock moves to when its tokens are visible."""
        if not self._queue:
            raise ContractError("no step was submitted")
        done, visible_s = self._queue.popleft()
        self.clock.sleep_until(visible_s)
        return done

    def synchronize(self) -> None:
        """Move the clock to when the device has nothing left to do."""
        self.clock.sleep_until(self._free_s)

    def probe_read(self, n_bytes: int) -> float:
        """The constant of the spec, bytes per second."""
        return self.spec.read_bytes_s

    def probe_matmul(self, precision: str) -> float:
        """The constant of the spec, FLOP per second."""
        return self.spec.matmul_flop_s

    def describe(self) -> Mapping[str, Any]:
        """Every constant."""
        return {"backend": "sim", **asdict(self.spec)}

    def close(self) -> None:
        """Forget the KV."""
        self._cells = None
        self._caps = None

    def power_samples(self) -> tuple[F64, F64, F64]:
        """(time_s, energy_j, power_w) from second 0 to now, a sample at every change of power.

        `energy_j` is cumulative and linear between samples, so interpolation is exact; `power_w`
        is the power from that sample to the next. Where the spec has a polling period: watts at
        these moments, and no counter. Of a card of several dies these are the die's own watts, and
        the first die's hold the card's.
        """
        if self.spec.poll_s:
            return polled_power(self.spec, self._segments, self.clock.now())
        times, powers = [0.0], [self.spec.idle_w]
        for start_s, end_s, power_w in self._segments:
            if start_s == times[-1]:
                powers[-1] = power_w
            else:
                times.append(start_s)
                powers.append(power_w)
            times.append(end_s)
            powers.append(self.spec.idle_w)
        now = self.clock.now()
        if now > times[-1]:
            times.append(now)
            powers.append(self.spec.idle_w)
        time_s, power_w_ = np.array(times), np.array(powers) + self._card_w
        energy_j = np.concatenate([[0.0], np.cumsum(np.diff(time_s) * power_w_[:-1])])
        return time_s, energy_j, power_w_

    def counter_samples(self) -> tuple[F64, F64, F64]:
        """(time_s, energy_j, power_w) of an exact counter, next to a meter that is polled."""
        return counted_power(self.spec, self._segments, self.clock.now())

    def _operate(self, cells: Cells, op: KvOp, launches: list[Launch]) -> int:
        """Do a KV operation; the tokens it copied."""
        if op.kind == "drop":
            cells.drop(op.src)
            return 0
        cells.copy(op.src, op.dst, op.length)
        self._pass_time(launches, "kv", -1, op.length * self.spec.copy_s)
        return op.length

    def _pass_time(self, launches: list[Launch], phase: Phase, plan: int, seconds: float) -> None:
        start_s = max(self.clock.now(), self._free_s)
        self._free_s = start_s + seconds
        launches.append(Launch(phase, plan, start_s, self._free_s, self.spec.host_s))
        if seconds > 0:
            self._segments.append((start_s, self._free_s, self.spec.power_w(phase)))

    def _check_plan(self, caps: Caps, plan: LaunchPlan) -> None:
        rows = plan.rows
        n, longest = rows.seq.size, int(rows.length.max())
        context = int((rows.start + rows.length).max())
        if n > plan.batch_bucket or longest > plan.chunk_bucket or context > plan.context_bucket:
            raise ContractError(f"{n} rows of {longest} at {context} are over their buckets")
        sizes = (
            ("batch", plan.batch_bucket, caps.batch_buckets, caps.max_batch),
            ("context", plan.context_bucket, caps.context_buckets, caps.max_context),
        )
        for name, size, buckets, largest in sizes:
            if size > largest or (buckets and size not in buckets):
                raise ContractError(f"{name} bucket {size}; {buckets or largest} are allowed")
        if plan.phase == "decode":
            if longest != 1 or not rows.sample.all() or plan.chunk_bucket != 1:
                raise ContractError("a decode row has one token, and it is sampled")
            return
        if caps.chunk_buckets and plan.chunk_bucket not in caps.chunk_buckets:
            raise ContractError(f"chunk bucket {plan.chunk_bucket} of {caps.chunk_buckets}")
        if plan.phase == "mixed":
            if not caps.mixed:
                raise ContractError("a mixed launch on a backend that takes none")
        elif n > caps.prefill_rows:
            raise ContractError(f"{n} prompt rows; {caps.prefill_rows} are allowed")
        elif int(rows.length.sum()) > caps.max_chunk:
            raise ContractError(f"{rows.length.sum()} prompt tokens, over {caps.max_chunk}")

    def _logits(self, context: NDArray[np.uint64]) -> F32:
        """Pseudo-random logits below 1 out of the whole context, and the two of `two_largest`."""
        ids = np.arange(self._vocab, dtype=np.uint64)
        mixed = (ids * np.uint64(0x9E3779B97F4A7C15) + context) * np.uint64(0xD1342543DE82EF95)
        logits: F32 = ((mixed >> np.uint64(40)) / np.float64(1 << 24)).astype(np.float32)
        best = int(sampled_ids(context, self._vocab)[0])
        logits[[(best + 1) % self._vocab, best]] = two_largest(context)[0, ::-1]
        return logits
