"""Writing a model's tensors in a precision to one safetensors file, in parallel, tensor by tensor.

At no time is more than one source tensor a thread in memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chipmark_models.weights.plain import StoredArray, thread_count
from chipmark_models.weights.quality import WeightError, squares, weight_error
from chipmark_models.weights.quantise import QuantisedTensor
from chipmark_models.weights.source import WeightSource
from chipmark_models.weights.stored import arrays_of, encode, hash_line, hash_lines, parts_of

ALIGNMENT = 64
PAD = "_pad."


@dataclass(frozen=True, slots=True)
class Written:
    """What `write` and `encode_all` found."""

    precision_hash: str
    """Hash of all stored arrays (`stored.hash_lines`)."""

    weight_error: WeightError | None
    """What quantising cost; None where nothing was quantised."""


def encode_all(
    source: WeightSource,
    precision: str,
    keep: Callable[[str, StoredArray], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Written:
    """Encode every tensor in parallel threads: hand its arrays to `keep`, hash and compare them.

    `progress` gets the bytes of each tensor that is done. Raises BadInputError for a value
    that cannot be quantised.
    """
    lines: dict[str, str] = {}
    sums: dict[str, tuple[float, float]] = {}

    def one(name: str) -> int:
        array = source.read(name)
        stored = encode(array, precision, name)
        if isinstance(stored, QuantisedTensor):
            sums[name] = squares(array, stored)
        n_bytes = 0
        for part, values in arrays_of(name, stored).items():
            lines[part] = hash_line(part, values)
            if keep:
                keep(part, values)
            n_bytes += values.nbytes
        return n_bytes

    with ThreadPoolExecutor(thread_count()) as pool:
        for n_bytes in pool.map(one, source.names()):
            if progress:
                progress(n_bytes)
    return Written(hash_lines(lines), weight_error(sums))


def write(
    source: WeightSource,
    precision: str,
    path: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Write all tensors to `path`. `progress` gets (bytes done, bytes in all)."""
    header, total = _header(source, precision)
    entries = json.loads(header)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        start = 8 + len(header)
        file.truncate(start + total)
        done = 0

        def put(part: str, array: StoredArray) -> None:
            left = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            at = start + entries[part]["data_offsets"][0]
            while left:
                n = os.pwrite(file.fileno(), left, at)
                at, left = at + n, left[n:]

        def tell(n_bytes: int) -> None:
            nonlocal done
            done += n_bytes
            if progress:
                progress(done, total)

        stored = encode_all(source, precision, put, tell)
        file.flush()
        os.fsync(file.fileno())
    return stored


def _header(source: WeightSource, precision: str) -> tuple[bytes, int]:
    """A safetensors header whose length aligns the data, and the data's bytes with its padding."""
    entries: dict[str, Any] = {}
    at = 0
    for name in source.names():
        for part, expected in parts_of(precision, name, source.shape(name)).items():
            entries[part] = {
                "dtype": expected.dtype,
                "shape": list(expected.shape),
                "data_offsets": [at, at + expected.n_bytes],
            }
            at += expected.n_bytes
            if gap := -at % ALIGNMENT:
                # Readers of safetensors refuse holes, so the gap is a tensor of its own.
                pad = {"dtype": "U8", "shape": [gap], "data_offsets": [at, at + gap]}
                entries[f"{PAD}{len(entries)}"] = pad
                at += gap
    header = json.dumps(entries, separators=(",", ":")).encode()
    return header + b" " * (-(8 + len(header)) % ALIGNMENT), at
