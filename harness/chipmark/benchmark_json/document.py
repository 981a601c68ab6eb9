"""A run of pytest-benchmark as its JSON file holds it, versions 3.x to 5.x.

`raw` and `text` are the whole file, so that keys unknown here are never lost. What chipmark works
with is kept with them, checked by `chipmark.benchmark_json.read`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMESPACE = "chipmark"
"""The key of chipmark's own block in `extra_info` and `machine_info`."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark.

    stats: what the file has of `min`, `max`, `mean`, `median`, `stddev`, `q1`, `q3`, `iqr`,
    `ld15iqr`, `hd15iqr` and `total` (seconds) and `ops` (1/s), which is computed as 1/mean where
    the file is older than 3.1 and lacks it (0 for a mean of 0). data: seconds a round, () where
    the file was saved without; each is a mean over `iterations` calls, so a percentile of calls
    exists only where `iterations` is 1. `params` is None for a test without parameters. `raw` is
    the benchmark's whole object.
    """

    fullname: str
    name: str
    group: str | None
    param: str | None
    params: Mapping[str, Any] | None
    stats: Mapping[str, float]
    data: tuple[float, ...]
    iterations: int
    rounds: int
    extra_info: Mapping[str, Any]
    options: Mapping[str, Any]
    raw: Mapping[str, Any] = field(repr=False)

    @property
    def chipmark(self) -> Mapping[str, Any] | None:
        """chipmark's own block of `extra_info`; None where another fixture made the benchmark."""
        block = self.extra_info.get(NAMESPACE)
        return block if isinstance(block, Mapping) else None


@dataclass(frozen=True, slots=True)
class Fault:
    """A benchmark that cannot be used. index: its place in the file. fullname: "" where the file
    names none. field: where the fault is; problem: what it is, in words."""

    index: int
    fullname: str
    field: str
    problem: str


@dataclass(frozen=True, slots=True)
class BenchmarkRun:
    """One file of pytest-benchmark. `text` is its exact content and `sha256` that of its bytes.

    benchmarks: the sound ones; `faults`: every other one, so that each entry of the file is in
    one of the two.
    """

    path: Path
    version: str
    datetime: str
    machine_info: Mapping[str, Any]
    commit_info: Mapping[str, Any]
    benchmarks: tuple[Benchmark, ...]
    sha256: str
    raw: Mapping[str, Any] = field(repr=False)
    text: str = field(repr=False)
    faults: tuple[Fault, ...] = ()

    @property
    def size(self) -> int:
        """Benchmarks of the file, sound or not."""
        return len(self.benchmarks) + len(self.faults)

    @property
    def accelerators(self) -> tuple[Mapping[str, Any], ...] | None:
        """Identities that chipmark's plug-in wrote into `machine_info`; None where it did not."""
        block = self.machine_info.get(NAMESPACE)
        found = block.get("accelerators") if isinstance(block, Mapping) else None
        if not isinstance(found, list):
            return None
        return tuple(entry for entry in found if isinstance(entry, Mapping))
