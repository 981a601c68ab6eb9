"""Rows to fp8 with a scale each, with the norm before it and without, with torch's operators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as functional

from chipmark.kernel_bench.case import Case, Inputs, random
from chipmark_kernels.formats import E4M3_MAX
from chipmark_kernels.fp8_gemm import quantize_rows_fp8
from chipmark_kernels.manifest import ModelShape
from chipmark_kernels.parity import Parity, compare_fp8_rows
from chipmark_kernels.reference.gemm import quantize_rows_fp8_reference

_EPS = 1e-6


def quantiser_check(inputs: Inputs, got: Sequence[torch.Tensor]) -> list[Parity]:
    """Scales and codes against the float64 rows, which are not rounded between norm and scale."""
    x, *norm = inputs
    exact = x.double()
    if norm:
        exact = functional.rms_norm(exact, exact.shape[-1:], norm[0].double(), _EPS)
    return [compare_fp8_rows(got[0], got[1], exact)]


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
