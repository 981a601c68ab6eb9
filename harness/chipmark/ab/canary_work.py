"""Fixed work that neither arm built: `python -I canary_work.py` prints seconds as JSON.

A benchmark's process is disturbed by what takes the CPU, the caches or the memory's bandwidth, so
the canary asks for all three: hashing (one core), a matrix product (vector units, caches) and a
copy larger than the last-level cache. Standard library and NumPy.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time

REPEATS = 15
_HASH_BYTES = 1 << 20
_MATRIX = 192
_COPY_FLOATS = 4 << 20


def once(matrix: object, source: object, target: object) -> float:
    """Seconds of one pass."""
    import numpy as np

    assert isinstance(matrix, np.ndarray)
    assert isinstance(source, np.ndarray)
    assert isinstance(target, np.ndarray)
    start = time.perf_counter()
    digest = bytes(_HASH_BYTES)
    for _ in range(6):
        hashlib.sha256(digest).digest()
    for _ in range(6):
        matrix @ matrix
    np.copyto(target, source)
    return time.perf_counter() - start


def main() -> None:
    """REPEATS timed passes after a warm one; the median tells, as it does for a benchmark."""
    import numpy as np

    matrix = np.full((_MATRIX, _MATRIX), 0.5, np.float32)
    source = np.ones(_COPY_FLOATS, np.float32)
    target = np.zeros_like(source)
    once(matrix, source, target)
    seconds = [once(matrix, source, target) for _ in range(REPEATS)]
    sys.stdout.write(json.dumps({"seconds": seconds}) + "\n")


if __name__ == "__main__":
    main()
