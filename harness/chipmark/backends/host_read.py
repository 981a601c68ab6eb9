"""Read bandwidth of the host's memory by NumPy."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

_READ_S = 0.4  # seconds of repetitions, at least three


def read_bandwidth(n_bytes: int, threads: int) -> float:
    """Bytes per second of reading `n_bytes` of float32, best of a few; a slice a thread.

    The maximum of float32: it lets go of the interpreter's lock, and of NumPy's reductions it does
    the least besides reading (a pairwise sum is about a tenth slower).
    """
    data = np.ones(max(threads, n_bytes // 4), np.float32)
    slices = np.array_split(data, threads)

    def read(part: npt.NDArray[np.float32]) -> float:
        return float(np.maximum.reduce(part))

    best, done, begin = 0.0, 0, time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        while done < 3 or time.perf_counter() - begin < _READ_S:
            start = time.perf_counter()
            list(pool.map(read, slices))
            best = max(best, data.nbytes / (time.perf_counter() - start))
            done += 1
    return best
