"""Roofs of a torch device: read bandwidth at a working-set size, and dense matrix rate."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from chipmark.backends.probe_size import DEVICE_SHARE, HOST_SHARE, is_out_of_memory, probe_bytes
from chipmark.backends.torch_device.devices import hardware, release, synchronize
from chipmark.backends.torch_device.memory import free_bytes
from chipmark.errors import UnknownNameError

_READ_S = 0.4  # seconds of repetitions that a probe may take, at least three
_QUEUED = 10
_LEAST_SIDE, _DEVICE_SIDE = 1_024, 8_192
_PRODUCT_S = 0.5
_RATE_DTYPES = ("fp32", "bf16", "fp16")


def largest_probe(device: Any, wanted: int) -> int | None:
    """Bytes that a read probe of `wanted` bytes may take now: all, or the largest safe part of
    what is free; None where that part is too small for a roof of the memory."""
    if device.type == "cpu":
        return probe_bytes(wanted, free_bytes(device), None, HOST_SHARE)
    # What torch keeps for itself is free too, and would otherwise be counted as taken.
    release(device)
    cache = hardware(device).get("l2_cache_bytes")
    return probe_bytes(wanted, free_bytes(device), cache, DEVICE_SHARE)


def read_bandwidth(device: Any, n_bytes: int) -> float | None:
    """Bytes per second of summing `n_bytes` of float32, best of a few; None without the memory."""
    import torch

    def measured() -> float:
        with torch.inference_mode():
            data = torch.ones(max(1, n_bytes // 4), dtype=torch.float32, device=device)
            seconds = _best(lambda: data.sum(), device)
        return data.numel() * 4 / seconds

    return _unless_out_of_memory(measured, device)


def matmul_rate(device: Any, precision: str) -> float | None:
    """FLOP per second of square products in the type computed, best of a few; None without the
    memory for them.

    `fp8` (e4m3 with a scale a row) on CUDA devices only. On a CPU 16-bit weights are widened and
    multiplied in float32, or multiplied as they are where that is faster; the rate is the faster
    one.
    """
    if precision == "fp8" and device.type == "cuda":
        return _unless_out_of_memory(lambda: _fp8_rate(device), device)
    if precision not in _RATE_DTYPES:
        raise UnknownNameError("precision", precision, _RATE_DTYPES)
    return _unless_out_of_memory(lambda: _plain_rate(device, precision), device)


def _plain_rate(device: Any, precision: str) -> float:
    import torch

    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    tried = {dtypes[precision]} | ({torch.float32} if device.type == "cpu" else set())
    rates = []
    with torch.inference_mode():
        for dtype in tried:
            side = _side(device, dtype)
            a, b = (_matrix(side, device).to(dtype) for _ in "ab")
            rates.append(2 * side**3 / _best(_product(a, b), device))
    return max(rates)


def _side(device: Any, dtype: Any) -> int:
    """Side of the square product: on a device the largest of which one takes under `_PRODUCT_S`
    by what a small one takes, since a slow chip would need minutes for that of a fast one."""
    if device.type == "cpu":
        return _LEAST_SIDE
    a, b = (_matrix(_LEAST_SIDE, device).to(dtype) for _ in "ab")
    call = _product(a, b)
    call()
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    seconds = time.perf_counter() - start
    side = _DEVICE_SIDE
    while side > _LEAST_SIDE and seconds * (side / _LEAST_SIDE) ** 3 > _PRODUCT_S:
        side //= 2
    return side


def _fp8_rate(device: Any) -> float:
    import torch

    side = _DEVICE_SIDE
    with torch.inference_mode():
        a, b = (_matrix(side, device).to(torch.float8_e4m3fn) for _ in "ab")
        ones = torch.ones(side, device=device)
        scales = ones[:, None], ones[None, :]

        def call() -> object:
            return torch._scaled_mm(a, b.t(), *scales, out_dtype=torch.bfloat16)

        return 2 * side**3 / _best(call, device)


def _matrix(side: int, device: Any) -> Any:
    """Random values: a card multiplies constants, which toggle few wires, at a clock that it does
    not reach on weights (894 against 788 TFLOP/s were reported of an H200)."""
    import torch

    return torch.randn((side, side), device=device)


def _unless_out_of_memory(probe: Callable[[], float], device: Any) -> float | None:
    """A probe's result. Lack of memory costs the probe, never the cell that it was taken for; and
    what it took is given back, so that the next repeat has it."""
    try:
        return probe()
    except Exception as error:  # vendors' plug-ins have classes of their own
        if not is_out_of_memory(error):
            raise
        return None
    finally:
        if device.type != "cpu":
            release(device)


def _product(a: Any, b: Any) -> Callable[[], object]:
    return lambda: a @ b


def _best(call: Callable[[], object], device: Any) -> float:
    """Least seconds of a call; the first, untimed one warms."""
    call()
    synchronize(device)
    if device.type == "cuda":
        return _best_by_events(call)
    best, begin, done = float("inf"), time.perf_counter(), 0
    while done < 3 or time.perf_counter() - begin < _READ_S:
        start = time.perf_counter()
        call()
        synchronize(device)
        best = min(best, time.perf_counter() - start)
        done += 1
    return best


def _best_by_events(call: Callable[[], object]) -> float:
    """Least seconds of a call of several queued at once, by the device's own counter: the host's
    ten microseconds a launch would be a twentieth of a small read."""
    import torch

    best, begin, done = float("inf"), time.perf_counter(), 0
    while done < 3 or time.perf_counter() - begin < _READ_S:
        first, last = (torch.cuda.Event(enable_timing=True) for _ in "ab")  # type: ignore[no-untyped-call]
        first.record()
        for _ in range(_QUEUED):
            call()
        last.record()
        last.synchronize()
        best = min(best, first.elapsed_time(last) / 1e3 / _QUEUED)
        done += 1
    return best
