"""The limits of this very device, measured: copy and read bandwidth, bf16 and fp8 matrix rates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from chipmark.kernel_bench.timing import Device, Timed, measure
from chipmark.kernel_bench.worker import Step


def copy_bytes_per_s(timed: Timed, n_bytes: int) -> float:
    """Bytes read and written a second, of a copy of n_bytes."""
    return 2 * n_bytes / timed.median_s


def read_bytes_per_s(timed: Timed, n_bytes: int) -> float:
    """Bytes read a second, of a sum of n_bytes."""
    return n_bytes / timed.median_s


def matrix_flops(timed: Timed, size: int) -> float:
    """FLOP/s of a product of two square matrices."""
    return 2.0 * size**3 / timed.median_s


def roof_steps(
    device: Device, where: torch.device, *, n_bytes: int = 2**31, size: int = 8192
) -> Iterator[Step]:
    """A step a roof, each with its raw samples; random data, for zeros draw less power and run
    faster. fp8 fails where the device has none, which is then the reason for a missing share."""
    yield "copy", lambda: _copy(device, where, n_bytes)
    yield "read", lambda: _read(device, where, n_bytes)
    yield "bf16", lambda: _bf16(device, where, size)
    yield "fp8", lambda: _fp8(device, where, size)


def _copy(device: Device, where: torch.device, n_bytes: int) -> dict[str, Any]:
    source = torch.empty(n_bytes, dtype=torch.uint8, device=where).random_()
    target = torch.empty_like(source)
    timed = measure(device, target.copy_, [(source,)] * 2)
    rate = copy_bytes_per_s(timed, n_bytes)
    return {"copy_bytes_per_s": rate, "copy_samples_s": timed.samples_s}


def _read(device: Device, where: torch.device, n_bytes: int) -> dict[str, Any]:
    """Of a sum, which writes next to nothing: what a decode step does with its weights."""
    source = torch.rand(n_bytes // 4, device=where)
    timed = measure(device, torch.sum, [(source,)] * 2)
    rate = read_bytes_per_s(timed, source.nbytes)
    return {"read_bytes_per_s": rate, "read_samples_s": timed.samples_s}


def _bf16(device: Device, where: torch.device, size: int) -> dict[str, Any]:
    a, b = (torch.randn(size, size, device=where).bfloat16() for _ in range(2))
    timed = measure(device, torch.mm, [(a, b)] * 2, repeats=10)
    return {"bf16_flops": matrix_flops(timed, size), "bf16_samples_s": timed.samples_s}


def _fp8(device: Device, where: torch.device, size: int) -> dict[str, Any]:
    """By cuBLAS with a scale a matrix and fast sums, the fastest that it has: a limit of the units,
    not a product that a model would take."""
    a, b = (torch.randn(size, size, device=where).to(torch.float8_e4m3fn) for _ in range(2))
    one = torch.ones((), device=where)

    def multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch._scaled_mm(
            a, b.T, one, one, out_dtype=torch.bfloat16, use_fast_accum=True
        )
        return product

    timed = measure(device, multiply, [(a, b)] * 2, repeats=10)
    return {"fp8_flops": matrix_flops(timed, size), "fp8_samples_s": timed.samples_s}
