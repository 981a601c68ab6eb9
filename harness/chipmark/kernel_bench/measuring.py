"""Parity of a case and of its peers, and their times; pure of files and processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch

from chipmark.backends.torch_device.devices import synchronize
from chipmark.kernel_bench.case import Case, Inputs
from chipmark.kernel_bench.rotation import COLD_FACTOR, n_copies
from chipmark.kernel_bench.timing import Device, Timed, measure
from chipmark_kernels.parity import MAX_LIMIT, RMS_LIMIT, Parity, compare

SEED = 20_261
PEER_FACTOR = 2.0
"""A peer of several operators rounds after each: it has this many times the limits of one kernel,
and not the third, which is a bound by the reference's own roundings."""


def wide(value: Any) -> Any:
    """bf16 and fp16 tensors in float64, all else as it is."""
    is_float = torch.is_tensor(value) and value.dtype in (torch.bfloat16, torch.float16)
    return value.double() if is_float else value


def clones(inputs: Inputs) -> Inputs:
    """The same inputs in memory of their own."""
    return tuple(v.clone() if torch.is_tensor(v) else v for v in inputs)


def results(value: Any) -> list[torch.Tensor]:
    """The results of a call as a list."""
    return [value] if torch.is_tensor(value) else list(value)


def oracle_of(case: Case, inputs: Inputs) -> list[torch.Tensor]:
    """The float64 results: low-precision inputs are made once and widened."""
    found = results((case.oracle or case.reference)(*map(wide, clones(inputs))))
    return [c.double() if c.is_floating_point() else c for c in found]


def check(case: Case, inputs: Inputs, oracle: Sequence[torch.Tensor] | None = None) -> list[Parity]:
    """Parity of each result, by the case's own rule where it has one; the oracle is made where it
    is not given."""
    mine = clones(inputs)
    for device in {v.device for v in mine if torch.is_tensor(v)}:
        # A launch that begins early reads lengths, tables and weights that in use were there long
        # before: no copy of them may be under way.
        synchronize(device)
    got = results(case.ours(*mine))
    if case.check is not None:
        return list(case.check(inputs, got))
    oracle = oracle_of(case, inputs) if oracle is None else oracle
    torchs = results(case.reference(*clones(inputs)))
    return [compare(a, b, c) for a, b, c in zip(got, torchs, oracle, strict=True)]


def parity_row(found: Sequence[Parity]) -> dict[str, Any]:
    """As JSON: no number where an error is not finite."""
    rows = []
    for p in found:
        fields = {k: _finite(v) for k, v in asdict(p).items()}
        rows.append(fields | {"ok": p.ok})
    return {"ok": all(p.ok for p in found), "results": rows}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def peer_problem(case: Case, inputs: Inputs, got: Any, oracle: Sequence[torch.Tensor]) -> str:
    """Why a peer does not compute what the case does, or "" where it does."""
    mine = results(got)
    if case.check is not None:
        found = list(case.check(inputs, mine))
    elif len(mine) != len(oracle):
        return f"{len(mine)} results, not {len(oracle)}"
    else:
        found = [compare(a, a, c) for a, c in zip(mine, oracle, strict=True)]
    return "; ".join(dict.fromkeys(q for p in found for q in _peer_problems(p)))


def _peer_problems(p: Parity) -> list[str]:
    rounding = (
        p.rms_relative <= PEER_FACTOR * RMS_LIMIT and p.max_relative <= PEER_FACTOR * MAX_LIMIT
    )
    return [q for q in p.problems if not (rounding and q.startswith(("(a)", "(b)", "(c)")))]


def rotating(
    case: Case, inputs: Inputs, device: Device, rng: torch.Generator
) -> tuple[list[Inputs], bool]:
    """Copies of the inputs to go round in, and whether they turn the L2 over (a cold cache)."""
    again: Callable[[Inputs, torch.Generator], Inputs] = case.again or (lambda i, _: clones(i))
    second = again(inputs, rng)
    mine = {t.data_ptr() for t in inputs if torch.is_tensor(t)}
    own = sum(
        t.numel() * t.element_size()
        for t in second
        if torch.is_tensor(t) and t.data_ptr() not in mine
    )
    n = n_copies(case.bytes, own, device.l2_bytes)
    copies = [inputs, second] + [again(inputs, rng) for _ in range(n - 2)]
    return copies, n * case.bytes >= COLD_FACTOR * device.l2_bytes


def timed_row(device: Device, call: Callable[..., Any], copies: Sequence[Inputs]) -> dict[str, Any]:
    """Raw seconds a call, and their median."""
    timed: Timed = measure(device, call, copies)
    return {"median_s": timed.median_s, "copies": timed.copies, "samples_s": timed.samples_s}
