"""Roofs measured on the host CPU's threads, for providers whose device is the CPU."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chipmark_models.onnx_graphs.builder import Graph, GraphBuilder

_REPEATS = 5
_MATRIX = 1024


_LEAST_BYTES = 256_000_000
_CACHE = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")


def _largest_useful_bytes() -> int:
    """Eight times the last-level cache, at least 256 MB: more is read from memory just the same,
    and would only add to the process's peak."""
    size = _CACHE.read_text().strip() if _CACHE.exists() else ""
    cache = int(size[:-1]) * 1024 if size.endswith("K") and size[:-1].isdigit() else 0
    return max(_LEAST_BYTES, 8 * cache)


def host_read_bandwidth(n_bytes: int, threads: int) -> float:
    """Bytes per second of reading a working set of `n_bytes`, best of five; a slice a thread.

    The maximum of float32: it releases the interpreter's lock, and of NumPy's reductions it does
    the least beside reading (a pairwise sum is about a tenth slower).
    """
    size = max(threads, min(n_bytes, _largest_useful_bytes()) // 4)
    data = np.ones(size, np.float32)
    slices = np.array_split(data, threads)

    def read(part: npt.NDArray[np.float32]) -> float:
        return float(np.maximum.reduce(part))

    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_REPEATS):
            start = time.perf_counter()
            list(pool.map(read, slices))
            best = max(best, data.nbytes / (time.perf_counter() - start))
    return best


def matmul_graph(dtype: str) -> Graph:
    """c = a b, square, of `_MATRIX` rows."""
    builder = GraphBuilder()
    shape = (_MATRIX, _MATRIX)
    builder.op("MatMul", [builder.input(n, dtype, shape) for n in ("a", "b")], out="c")
    builder.output("c", dtype, shape)
    return builder.build("matmul", "plain", dtype)


def session_matmul_rate(session: Any, dtype: str) -> float:
    """FLOP per second of a square product (`matmul_graph`), best of five."""
    a = np.ones((_MATRIX, _MATRIX), dtype)
    session.run(None, {"a": a, "b": a})
    best = 0.0
    for _ in range(_REPEATS):
        start = time.perf_counter()
        session.run(None, {"a": a, "b": a})
        best = max(best, 2.0 * _MATRIX**3 / (time.perf_counter() - start))
    return best
