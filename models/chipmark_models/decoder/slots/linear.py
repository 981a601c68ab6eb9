"""Matrix products by constant weights: how the weights are stored, and which call reads them.

On an accelerator there is one way, `rows` and `linear`. On a CPU the best way differs by maker,
instruction set, precision and shape, so each shape is measured at load (`choose`) at one row, at a
few (several sessions decode together) and at many (prefill). Measured on two cores of an AMD
Zen 3, SmolLM2's shapes, GB/s of weights read at 1, 4 and 8 rows: fp32 `onednn` 15-21, 9-18, 7-15;
`columns` 12-22, 4-8, 3-8 (MKL computes each row of a few by itself there); `rows` by `transposed`
10-15, 11-19, 6-12. bf16 at one row: `rows` 13-16, `packed-fp16` up to 18. Lost and left out: MKL's
reordered weights (9-21, 5-7, 5-7), 1x1 convolutions (9-17 at one row), gathers by embedding_bag
(8-20), products batched over slices of the output (8-20). At 512 rows, bf16 products without
hardware for them take 5 times as long as fp32 ones, hence `widened`; `packed-fp16` weights are
widened tile by tile and beat both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as functional

Stored = Any
Call = Callable[[torch.Tensor, Stored], torch.Tensor]

FEW_ROWS, MANY_ROWS = 4, 64
MOST_FEW = 16
"""Launches of 2 to 16 rows are called as the trial of 4 says, larger ones as that of 64."""

ONE_ROW_WEIGHT, FEW_WEIGHT, MANY_WEIGHT = 8, 8, 1
"""A shape's cost is that of 8 launches of one row, 8 of a few and one of 64: an agent reads more
than it writes."""

_TUNE_BYTES = 64_000_000  # weights that the timing of one storage walks through: beyond most caches
_TUNE_COPIES = 48
_TUNE_ROUNDS = 2
_TUNE_S = 0.1  # a call's trials end after so long, at the earliest after as many as `_TUNE_LEAST`
_TUNE_LEAST = 4
TUNE_FROM_BYTES = 250_000  # below, a call costs more than its weights: the preferred one is taken
_CLEARLY = (
    0.8  # a later storage must win by a fifth, so that noise does not change what is computed
)


@dataclass(frozen=True, slots=True)
class LinearPlan:
    """How one weight is stored and called: `one` for a single row, `few` to MOST_FEW, `many`."""

    storage: str
    one: str
    few: str
    many: str

    def __str__(self) -> str:
        return f"{self.storage}: {self.one} / {self.few} / {self.many}"

    @property
    def calls(self) -> frozenset[str]:
        """Every call that the plan makes."""
        return frozenset((self.one, self.few, self.many))


DEVICE_PLAN = LinearPlan("rows", "linear", "linear", "linear")


def _as_rows(weight: torch.Tensor) -> Stored:
    return weight


def _as_columns(weight: torch.Tensor) -> Stored:
    return weight.t().contiguous()


def _as_onednn(weight: torch.Tensor) -> Stored:
    """oneDNN's blocked layout, for no particular number of rows."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, None)


def _as_packed_fp16(weight: torch.Tensor) -> Stored:
    """FBGEMM's 16-bit panels; the caller has made sure that no value changes."""
    return torch.ops.quantized.linear_prepack_fp16(weight.float(), None)


def _linear(x: torch.Tensor, weight: Stored) -> torch.Tensor:
    if x.dtype == weight.dtype:
        return functional.linear(x, weight)
    return functional.linear(x.to(weight.dtype), weight).to(x.dtype)


def _mv(x: torch.Tensor, weight: Stored) -> torch.Tensor:
    return torch.mv(weight, x[0].to(weight.dtype)).to(x.dtype).unsqueeze(0)


def _widened(x: torch.Tensor, weight: Stored) -> torch.Tensor:
    return functional.linear(x.to(weight.dtype).float(), weight.float())


def _transposed(x: torch.Tensor, weight: Stored) -> torch.Tensor:
    return torch.mm(weight, x.t()).t().contiguous()


def _onednn(x: torch.Tensor, weight: Stored) -> torch.Tensor:
    out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return out


def _mm(x: torch.Tensor, weight: Stored) -> torch.Tensor:
    return torch.mm(x, weight)


def _halves(x: torch.Tensor, weight: Stored) -> torch.Tensor:
    """One row: each half of the inputs is a product of its own, which a thread of its own takes."""
    n_in, n_out = weight.shape
    parts = torch.bmm(x.view(2, 1, n_in // 2), weight.view(2, n_in // 2, n_out))
    return parts.sum(0)


@cache
def _packed_script() -> Call:
    """The operator called from TorchScript: from Python, checking the class of a packed weight
    takes 19 microseconds a call, which is a tenth of a decode step of SmolLM2; here 5."""
    unit = torch.jit.CompilationUnit(
        """
def packed(x: Tensor, w: __torch__.torch.classes.quantized.LinearPackedParamsBase) -> Tensor:
    return torch.ops.quantized.linear_dynamic_fp16(x, w)
"""
    )
    call: Call = unit.packed
    return call


def _packed(x: torch.Tensor, weight: Stored) -> torch.Tensor:
    return _packed_script()(x, weight)


STORE: Mapping[str, Callable[[torch.Tensor], Stored]] = {
    "rows": _as_rows,
    "columns": _as_columns,
    "onednn": _as_onednn,
    "packed-fp16": _as_packed_fp16,
}
CALLS: Mapping[str, Call] = {
    "linear": _linear,
    "mv": _mv,
    "widened": _widened,
    "transposed": _transposed,
    "onednn": _onednn,
    "mm": _mm,
    "halves": _halves,
    "packed": _packed,
}
ROUNDS_INPUT = frozenset({"linear", "mv", "widened"})
"""Calls that round their input to the weights' type first (no rounding where that is fp32)."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A storage with the calls that can read it."""

    storage: str
    one: tuple[str, ...]
    more: tuple[str, ...]


def cpu_candidates(dtype: torch.dtype) -> tuple[Candidate, ...]:
    """What `choose` tries for weights of `dtype`, preferred first."""
    if dtype == torch.float32:
        candidates = (
            Candidate("columns", ("mm", "halves"), ("mm",)),
            Candidate("rows", ("linear",), ("linear", "transposed")),
        )
        if onednn_available():
            return (Candidate("onednn", ("onednn",), ("onednn",)), *candidates)
        return candidates
    rows = Candidate("rows", ("linear", "mv"), ("linear", "widened"))
    if packing_available():
        return (Candidate("packed-fp16", ("packed",), ("packed",)), rows)
    return (rows,)


def onednn_available() -> bool:
    """Whether this build of torch can reorder weights for oneDNN."""
    return torch.backends.mkldnn.is_available() and hasattr(  # type: ignore[no-untyped-call]
        torch.ops.mkldnn, "_reorder_linear_weight"
    )


def packing_available() -> bool:
    """Whether this build of torch has FBGEMM's 16-bit weights (x86 only)."""
    return "fbgemm" in torch.backends.quantized.supported_engines and hasattr(
        torch.ops.quantized, "linear_prepack_fp16"
    )


def fits_fp16(weight: torch.Tensor) -> bool:
    """Whether every value of the weight is a float16 too, so that packing changes nothing."""
    if weight.dtype == torch.float16:
        return True
    return bool(torch.equal(weight.to(torch.float16).to(weight.dtype), weight))


class Linear:
    """`x (rows, in) -> (rows, out)` by one stored weight and a bias; x and result of one dtype."""

    __slots__ = ("_bias", "_few", "_many", "_one", "_stored", "in_place", "plan")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, plan: LinearPlan) -> None:
        self.plan = plan
        self._stored = STORE[plan.storage](weight)
        self._bias = bias
        self._one, self._few, self._many = (CALLS[c] for c in (plan.one, plan.few, plan.many))
        self.in_place = bias is None and plan.calls == {"mm"}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The product with the weight, plus the bias: (rows, in) -> (rows, out)."""
        rows = x.shape[0]
        call = self._one if rows == 1 else self._few if rows <= MOST_FEW else self._many
        out = call(x, self._stored)
        return out if self._bias is None else out.add_(self._bias)

    def add_to(self, residual: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """`residual + self(x)`, in the memory of `residual` (rows, out)."""
        if self.in_place:
            return residual.addmm_(x, self._stored)
        return residual.add_(self(x))


def choose(
    shape: tuple[int, int], dtype: torch.dtype, candidates: Sequence[Candidate], many: bool
) -> tuple[LinearPlan, dict[str, float]]:
    """The fastest plan for weights of `shape` (out, in) on the CPU, and seconds of each trial.

    Every call of a storage is timed over several matrices, so that weights come from memory; the
    lower quartile stands, because other load only adds. `many` False leaves launches of more
    than a few rows out (a head reads one row a sequence).
    """
    n_out, n_in = shape
    item = torch.empty(0, dtype=dtype).element_size()
    if n_out * n_in * item < TUNE_FROM_BYTES:
        first = candidates[0]
        return LinearPlan(first.storage, first.one[0], first.more[0], first.more[0]), {}
    copies = max(1, min(_TUNE_COPIES, _TUNE_BYTES // (n_out * n_in * item)))
    best: tuple[float, LinearPlan] | None = None
    seconds: dict[str, float] = {}
    base = torch.full(shape, 2.0**-7, dtype=dtype)  # speed does not depend on the values
    for candidate in candidates:
        stored = [STORE[candidate.storage](base.clone()) for _ in range(copies)]

        def fastest(
            calls: Sequence[str], rows: int, weights: Sequence[Stored], storage: str
        ) -> tuple[str, float]:
            x = torch.full((rows, n_in), 0.5)
            tried = {call: _seconds(CALLS[call], x, weights) for call in calls}
            seconds.update({f"{storage}/{call} x{rows}": s for call, s in tried.items()})
            call = min(tried, key=tried.__getitem__)
            return call, tried[call]

        ones = [c for c in candidate.one if c != "halves" or n_in % 2 == 0]
        one, one_s = fastest(ones, 1, stored, candidate.storage)
        few, few_s = fastest(candidate.more, FEW_ROWS, stored, candidate.storage)
        cost, most = ONE_ROW_WEIGHT * one_s + FEW_WEIGHT * few_s, few
        if many:
            most, many_s = fastest(candidate.more, MANY_ROWS, stored[:2], candidate.storage)
            cost += MANY_WEIGHT * many_s
        if best is None or cost < _CLEARLY * best[0]:
            best = cost, LinearPlan(candidate.storage, one, few, most)
        del stored
    assert best is not None
    return best[1], seconds


def _seconds(
    call: Call, x: torch.Tensor, stored: Sequence[Stored], rounds: int = _TUNE_ROUNDS
) -> float:
    """Lower quartile of the seconds of a call, over rounds that walk through all of `stored`."""
    call(x, stored[-1])
    seconds: list[float] = []
    for weight in (*stored,) * rounds:
        start = time.perf_counter()
        call(x, weight)
        seconds.append(time.perf_counter() - start)
        if sum(seconds) > _TUNE_S and len(seconds) >= _TUNE_LEAST:
            break
    return sorted(seconds)[len(seconds) // 4]
