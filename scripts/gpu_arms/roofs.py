"""The limits of this very device: copy bandwidth and dense bf16 matrix rate, measured."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from gpu_arms.timing import Device, Timed, measure


def copy_bytes_per_s(timed: Timed, n_bytes: int) -> float:
    """Bytes read and written a second, of a copy of n_bytes."""
    return 2 * n_bytes / timed.median_s


def matrix_flops(timed: Timed, size: int) -> float:
    """FLOP/s of a product of two square matrices."""
    return 2.0 * size**3 / timed.median_s


def measured_roofs(
    device: Device, where: torch.device, *, n_bytes: int = 2**31, size: int = 8192
) -> Mapping[str, object]:
    """Both roofs with their raw samples; random data, for zeros draw less power and run faster."""
    source = torch.empty(n_bytes, dtype=torch.uint8, device=where).random_()
    target = torch.empty_like(source)
    copied = measure(device, target.copy_, [(source,)] * 2)
    del source, target
    a, b = (torch.randn(size, size, device=where).bfloat16() for _ in range(2))
    multiplied = measure(device, torch.mm, [(a, b)] * 2, repeats=10)
    return {
        "copy_bytes_per_s": copy_bytes_per_s(copied, n_bytes),
        "copy_samples_s": copied.samples_s,
        "bf16_flops": matrix_flops(multiplied, size),
        "bf16_samples_s": multiplied.samples_s,
    }
