"""Triton's cache on disk filled ahead of a run, without a device.

The run then finds every kernel there, where compiling would take it minutes. What is filled is
given as recorded launches; whether the run will find it is seen by calling the kernels' own
launchers a second time. A launcher in C, which Triton 3.6 builds by the system's compiler on the
first launch of each signature (0.4 s), is not among it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chipmark_kernels.aot_pool import fill_job, in_processes
from chipmark_kernels.compile_ahead import Specialisation, counting_hits, specialise, warm_up
from chipmark_kernels.device import DeviceFacts
from chipmark_kernels.launch import Launch
from chipmark_kernels.no_device import standing_in

VARIABLE = "TRITON_CACHE_DIR"
"""Names Triton's cache."""


@dataclass(frozen=True, slots=True)
class Fill:
    """One specialisation that the cache is to hold, in plain data that another process can take."""

    device: DeviceFacts
    module: str
    kernel: str
    spec: Specialisation
    problem: str = ""

    def __str__(self) -> str:
        constants = (f"{name}={value}" for name, value in self.spec.constants)
        return " ".join((self.kernel, *constants))


@dataclass(frozen=True, slots=True)
class Filled:
    """What came of filling a cache. made: compiled now. found: there before. failed: why not."""

    made: int
    found: int
    failed: Mapping[Fill, str]
    seconds: float


def distinct(launches: Iterable[Launch], device: DeviceFacts) -> dict[Fill, Launch]:
    """Each different kernel, specialisation and options once, with a launch that has it."""
    found: dict[Fill, Launch] = {}
    for launch in launches:
        kernel = launch.kernel
        spec = specialise(launch, device)
        found.setdefault(Fill(device, kernel.fn.__module__, kernel.__name__, spec), launch)
    return found


def fill(
    wanted: Iterable[Fill],
    folder: Path,
    n_processes: int,
    advance: Callable[[bool], None] = lambda failed: None,
) -> Filled:
    """Compile into `folder` what it does not hold, in processes of their own.

    advance: called after each with whether it failed.
    """
    jobs = list(wanted)
    begin = time.monotonic()
    found = 0
    failed: dict[Fill, str] = {}
    with using(folder):
        for index, outcome in in_processes(fill_job, jobs, n_processes):
            if isinstance(outcome, str):
                failed[jobs[index]] = outcome
            else:
                found += outcome
            advance(isinstance(outcome, str))
    return Filled(len(jobs) - found - len(failed), found, failed, time.monotonic() - begin)


def hits(launches: Iterable[Launch], device: DeviceFacts, folder: Path) -> int:
    """How many of these launches, each of another specialisation, their kernels' own launchers
    find in the cache in `folder`; what they do not find they compile."""
    with using(folder), standing_in(device), counting_hits() as found:
        for launch in launches:
            warm_up(launch)
    return sum(found)


@contextmanager
def using(folder: Path) -> Iterator[None]:
    """Triton's cache is `folder`, here and in processes that are started."""
    before = os.environ.get(VARIABLE)
    # Triton keeps an absolute path of every file.
    os.environ[VARIABLE] = str(folder.resolve())
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
