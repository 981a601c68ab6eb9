"""Roofs of a torch device: read bandwidth at a working-set size, and dense matrix rate."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from chipmark.backends.torch_device.devices import synchronize
from chipmark.errors import UnknownNameError

_READ_S = 0.4  # seconds of repetitions that a probe may take, at least three
_MATMUL_SIDE = {"cpu": 1_024}
_DEVICE_SIDE = 8_192
_RATE_DTYPES = ("fp32", "bf16", "fp16")


def read_bandwidth(device: Any, n_bytes: int) -> float:
    """Bytes per second of summing `n_bytes` of float32, best of a few.

    Small working sets are repeated within one timing, so that the call itself does not count.
    """
    import torch

    with torch.inference_mode():
        data = torch.ones(max(1, n_bytes // 4), dtype=torch.float32, device=device)
        seconds = _best(lambda: data.sum(), device)
    return data.numel() * 4 / seconds


def matmul_rate(device: Any, precision: str) -> float:
    """FLOP per second of square products in the type computed, best of a few.

    `fp8` (e4m3 with a scale a row) on CUDA devices only. On a CPU 16-bit weights are widened and
    multiplied in float32, or multiplied as they are where that is faster; the rate is the faster
    one.
    """
    import torch

    if precision == "fp8" and device.type == "cuda":
        return _fp8_rate(device)
    if precision not in _RATE_DTYPES:
        raise UnknownNameError("precision", precision, _RATE_DTYPES)
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    tried = {dtypes[precision]} | ({torch.float32} if device.type == "cpu" else set())
    side = _MATMUL_SIDE.get(device.type, _DEVICE_SIDE)
    rates = []
    with torch.inference_mode():
        for dtype in tried:
            a = torch.full((side, side), 0.5, dtype=dtype, device=device)
            b = torch.full((side, side), 0.25, dtype=dtype, device=device)
            rates.append(2 * side**3 / _best(_product(a, b), device))
    return max(rates)


def _fp8_rate(device: Any) -> float:
    import torch

    side = _DEVICE_SIDE
    with torch.inference_mode():
        a, b = (torch.full((side, side), 0.5, device=device).to(torch.float8_e4m3fn) for _ in "ab")
        ones = torch.ones(side, device=device)
        scales = ones[:, None], ones[None, :]

        def call() -> object:
            return torch._scaled_mm(a, b.t(), *scales, out_dtype=torch.bfloat16)

        return 2 * side**3 / _best(call, device)


def _product(a: Any, b: Any) -> Callable[[], object]:
    return lambda: a @ b


def _best(call: Callable[[], object], device: Any) -> float:
    """Least seconds of a call; the first, untimed one warms."""
    call()
    synchronize(device)
    best, begin, done = float("inf"), time.perf_counter(), 0
    while done < 3 or time.perf_counter() - begin < _READ_S:
        start = time.perf_counter()
        call()
        synchronize(device)
        best = min(best, time.perf_counter() - start)
        done += 1
    return best
