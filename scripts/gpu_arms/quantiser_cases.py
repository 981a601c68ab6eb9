"""Rows to fp8 with a scale each, with the norm before it and without, beside torch's operators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as functional

from chipmark_kernels.fp8_gemm import E4M3_MAX, quantize_rows_fp8
from chipmark_kernels.manifest import ModelShape
from chipmark_kernels.parity import Parity
from chipmark_kernels.reference.gemm import quantize_rows_fp8_reference
from gpu_arms.cases import Case, Inputs, random

SCALE_LIMIT, STEP_SLACK = 1e-4, 1e-2
"""Relative error of a scale; by how much of half a step a code may miss the nearest one."""

_EPS = 1e-6


def quantiser_check(inputs: Inputs, got: Sequence[torch.Tensor]) -> list[Parity]:
    """Scales and codes against the float64 rows, which are not rounded between norm and scale.

    A code must be a nearest one: e4m3 has three bits below the first, and steps of 2**-9 under
    2**-6. Codes are not compared with another rounding's, for near a tie both are right.
    """
    x, *norm = inputs
    exact = x.double()
    if norm:
        exact = functional.rms_norm(exact, exact.shape[-1:], norm[0].double(), _EPS)
    values, scales = got
    wide = scales.double()[:, None]
    right = exact.abs().amax(-1) / E4M3_MAX
    scale_error = ((scales.double() - right).abs() / right.clamp(min=1e-30)).amax().item()
    # Held against the kernel's own scale, for its error was judged above.
    target = (exact / wide).clamp(-E4M3_MAX, E4M3_MAX)
    step = 2.0 ** (target.abs().clamp(min=2.0**-6).log2().floor() - 3)
    misses = ((values.double() - target).abs() / (step / 2)).amax().item()
    problems = []
    if not scale_error <= SCALE_LIMIT:
        problems.append(f"wrong scale by {scale_error:.1e}")
    if not misses <= 1 + STEP_SLACK:
        problems.append(f"wrong code, {misses:.2f} half steps away")
    return [Parity(scale_error, misses, misses, 1.0, tuple(problems))]


def _torchs(x: torch.Tensor, norm: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    wide = x.float()
    if norm is not None:
        wide = functional.rms_norm(wide, wide.shape[-1:], norm.float(), _EPS)
    scales = wide.abs().amax(-1) / E4M3_MAX
    return (wide / scales[:, None]).to(torch.float8_e4m3fn), scales


def quantiser_cases(s: ModelShape, rows: int) -> Iterator[Case]:
    """The input of qkv and of gate|up, whose norm comes with it, and one that has none."""

    def make(rng: Any, device: Any, dtype: Any) -> Inputs:
        return (random(rng, device, dtype, rows, s.hidden),)

    def make_normed(rng: Any, device: Any, dtype: Any) -> Inputs:
        return *make(rng, device, dtype), random(rng, device, dtype, s.hidden)

    for name, made in (("plain", make), ("norm", make_normed)):
        yield Case(
            "quantize_rows_fp8", f"{s.name} rows={rows} {name}", made, quantize_rows_fp8,
            quantize_rows_fp8_reference, 3 * rows * s.hidden, 0,
            "latency" if rows <= 64 else "memory", {"torch": _torchs, "torch.compile": _torchs},
            check=quantiser_check,
        )  # fmt: skip
