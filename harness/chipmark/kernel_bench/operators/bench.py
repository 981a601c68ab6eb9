"""What the measuring process does with operators: their parity, their times, the roofs."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from chipmark.errors import UnknownNameError
from chipmark.kernel_bench.operators.case import OperatorCase, operator_cases
from chipmark.kernel_bench.operators.reference import errors, expected, make_inputs
from chipmark.kernel_bench.operators.runner import OperatorRunner, Prepared
from chipmark.kernel_bench.rotation import COLD_FACTOR, n_copies
from chipmark.kernel_bench.worker import Step
from chipmark.registry import split_backend
from chipmark.workload.kernel_shapes import kernel_shapes
from chipmark.workload.profile import load_profiles, profile
from chipmark.workload.scale import scale_named
from chipmark_models.presets import preset
from chipmark_models.weights.prepared import ComputedWeights
from chipmark_models.weights.synthetic import SyntheticWeights

SEED = 20_261
KINDS = ("ort", "torch")
"""Kinds of backends whose operators are measured here; the Triton kernels have their own cases."""

UNKNOWN_CACHE = 64 << 20
"""Bytes taken for a cache of which nothing is known: more than any L2 of today's accelerators but
one (NVIDIA's 50 to 126 MB, which torch reports)."""

MOST_COPIES, MOST_COPIES_BYTES = 48, 1 << 30
READ_BYTES = 1 << 28
SAMPLES, LEAST_SAMPLES, SAMPLES_S = 20, 5, 2.0


def cases(model: str, workload: str, scale: str, precision: str) -> list[OperatorCase]:
    """The cases of a model preset at the shapes of a profile (its name, or a file with one)."""
    own = [workload] if workload.endswith(".toml") else []
    name = next(reversed(load_profiles(*own))) if own else workload
    shapes = kernel_shapes(profile(name, *own), scale_named(scale))
    return operator_cases(preset(model), shapes, precision)


def check_backend(backend: str) -> None:
    """UnknownNameError unless operators of this backend are measured here."""
    kind, device = split_backend(backend)
    if kind not in KINDS:
        raise UnknownNameError(
            "kind of backend with operators", kind, [f"{k}:{device}" for k in KINDS]
        )


class OperatorBench:
    """The operators of one model on one backend."""

    def __init__(
        self,
        *,
        backend: str,
        model: str,
        workload: str,
        scale: str,
        precision: str,
        options: Mapping[str, Any],
        scratch: str,
    ) -> None:
        self._settings = {
            "backend": backend, "model": model, "workload": workload, "scale": scale,
            "precision": precision,
        }  # fmt: skip
        found = cases(model, workload, scale, precision)
        self._cases = {(case.kernel, case.name): case for case in found}
        config = replace(preset(model), n_layers=MOST_COPIES)
        self._weights = ComputedWeights(SyntheticWeights(config, SEED), precision)
        self._precision = precision
        self._runner = self._made(backend, dict(options), Path(scratch))

    def _made(self, backend: str, options: dict[str, Any], scratch: Path) -> OperatorRunner:
        kind, device = split_backend(backend)
        if kind == "torch":
            from chipmark.kernel_bench.operators.torch_runner import TorchRunner

            return TorchRunner(device, self._weights, options)
        from chipmark.kernel_bench.operators.ort_runner import OrtRunner

        return OrtRunner(device, self._weights, options, scratch)

    def identity(self) -> Mapping[str, Any]:
        """Backend, model, shapes and versions."""
        return {**self._settings, **self._runner.identity()}

    def usable(self) -> bool:
        """A device that is lost raises in every later step, and each then has its row."""
        return True

    def steps(self, request: Mapping[str, Any]) -> Iterator[Step]:
        """`do`: roofs; or measure, of the `case` (kernel, name): parity, then the time."""
        if request["do"] == "roofs":
            yield "read", self._read
            yield "matrix", self._matrix
            return
        case, have = self._cases[tuple(request["case"])], frozenset(request.get("have", ()))
        if "parity" not in have:
            passed: list[bool] = []
            yield "parity", lambda: self._parity(case, passed)
            if passed != [True]:
                return
        if "ours" not in have:
            n, cold = self._copies(case)
            yield "inputs", lambda: {"cold_l2": cold}
            yield "ours", lambda: self._time(case, n)

    def _read(self) -> dict[str, Any]:
        rate = self._runner.read_bytes_per_s(READ_BYTES)
        return {} if rate is None else {"read_bytes_per_s": rate, "read_bytes": READ_BYTES}

    def _matrix(self) -> dict[str, Any]:
        rate = self._runner.flops()
        return {} if rate is None else {f"{self._precision}_flops": rate}

    def _parity(self, case: OperatorCase, passed: list[bool]) -> dict[str, Any]:
        given = make_inputs(case, SEED)
        wanted = expected(case, given, self._weights, 0)
        prepared = self._runner.prepare(case, [given])
        found = errors(prepared.result(), wanted, self._precision)
        if prepared.problem:
            found = found | {"problems": [prepared.problem], "ok": False}
        passed.append(bool(found["ok"]))
        return {"ok": found["ok"], "results": [found]}

    def _copies(self, case: OperatorCase) -> tuple[int, bool]:
        """How many inputs are gone round in, and whether they turn the cache over."""
        cache = self._runner.cache_bytes() or UNKNOWN_CACHE
        n = copies(case.bytes, cache)
        return n, n * case.bytes >= COLD_FACTOR * cache

    def _time(self, case: OperatorCase, n: int) -> dict[str, Any]:
        prepared = self._runner.prepare(case, [make_inputs(case, SEED + i) for i in range(n)])
        begun = time.monotonic()
        samples = self._samples(prepared)
        return {
            "median_s": statistics.median(samples), "copies": n, "samples_s": samples,
            "from_s": begun, "to_s": time.monotonic(),
        }  # fmt: skip

    def _samples(self, prepared: Prepared) -> list[float]:
        """Seconds an operator, a sample a pass over all copies; the first pass warms up."""
        samples: list[float] = []
        until = math.inf
        while len(samples) <= LEAST_SAMPLES or (
            len(samples) <= SAMPLES and time.perf_counter() < until
        ):
            self._runner.synchronize()
            start = time.perf_counter()
            for call in prepared.calls:
                call()
            self._runner.synchronize()
            end = time.perf_counter()
            samples.append((end - start) / (len(prepared.calls) * prepared.operators))
            until = end + SAMPLES_S if len(samples) == 1 else until
        return samples[1:]


def copies(touched_bytes: int, cache_bytes: int) -> int:
    """Copies of a case's inputs: 2 to MOST_COPIES, no more than fit into MOST_COPIES_BYTES."""
    return n_copies(
        touched_bytes, touched_bytes, cache_bytes, most=MOST_COPIES, most_bytes=MOST_COPIES_BYTES
    )
