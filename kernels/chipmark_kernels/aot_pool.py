"""Compile jobs in processes of their own: the compilers take one core each, and may crash.

A job whose process dies is reported as such, and the others continue.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, TypeVar

from chipmark_kernels.compile_ahead import (
    Compiled,
    Specialisation,
    compile_for,
    compile_kernel,
    counting_hits,
)
from chipmark_kernels.device import DeviceFacts

JOB_LIMIT_S = 300.0
"""The slowest of the manifest take some 20 s on a slow core; a compiler that hangs is stopped."""

Made = Compiled | str
"""What the compiler gave, or why it gave nothing."""


class Work(Protocol):
    """What a job asks for: a specialisation of `kernel`, a `triton.jit` function of `module`."""

    @property
    def device(self) -> DeviceFacts:
        """Compiled for it."""

    @property
    def module(self) -> str:
        """Where the kernel is found."""

    @property
    def kernel(self) -> str:
        """Its name there."""

    @property
    def spec(self) -> Specialisation | None:
        """None where there is nothing to compile."""

    @property
    def problem(self) -> str:
        """Why there is nothing to compile."""


J = TypeVar("J", bound=Work)
T = TypeVar("T")


def _compiled(job: Work, make: Callable[[Any, Specialisation, DeviceFacts], T]) -> T | str:
    if job.spec is None:
        return job.problem
    try:
        kernel = getattr(importlib.import_module(job.module), job.kernel)
        # Triton prints the whole PTX where the assembler fails; the report gives the reason.
        with contextlib.redirect_stdout(io.StringIO()):
            return make(kernel, job.spec, job.device)
    except Exception as error:  # Triton raises many kinds; the report shows each of them.
        return f"does not compile: {type(error).__name__}: {error}".replace("\n", " ")[:300]


def compile_job(job: Work) -> Made:
    """Compile one job here."""
    return _compiled(job, compile_for)


def fill_job(job: Work) -> bool | str:
    """Have Triton's cache on disk hold one job; whether it did before, or why it does not."""
    with counting_hits() as hits:
        made = _compiled(job, compile_kernel)
    return made if isinstance(made, str) else hits == [True]


def _work(connection: Connection, do: Callable[[J], T]) -> None:
    """Do what comes until the other end closes or says None."""
    os.setpgrp()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while (job := connection.recv()) is not None:
            connection.send(do(job))


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection
    index: int | None = None
    started_s: float = 0.0

    def give(self, index: int, job: Work) -> None:
        self.index, self.started_s = index, time.monotonic()
        # One that died before shows as one that died of this job.
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(job)

    def kill(self) -> None:
        """End the process and the assembler that it may have started."""
        if self.process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.connection.close()


def _started(do: Callable[[J], T]) -> _Worker:
    # Fork would take over the threads of torch and triton, half of them.
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there, do), daemon=True)
    # Ctrl-C is for the parent, which ends its workers; an ignored signal stays so in a new process.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, before)
    there.close()
    return _Worker(process, here)


def _outcome(worker: _Worker) -> Any:
    """What came of a worker's job; None while it is under way."""
    try:
        if worker.connection.poll():
            return worker.connection.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join()
        return f"does not compile: the compiler ended with {worker.process.exitcode}"
    if time.monotonic() - worker.started_s > JOB_LIMIT_S:
        return f"does not compile within {JOB_LIMIT_S:.0f} s"
    return None


def compile_all(jobs: Sequence[Work], n_processes: int) -> Iterator[tuple[int, Made]]:
    """(position in `jobs`, what came of it) as they end, in up to `n_processes` at once."""
    return in_processes(compile_job, jobs, n_processes)


def in_processes(
    do: Callable[[J], T | str], jobs: Sequence[J], n_processes: int
) -> Iterator[tuple[int, T | str]]:
    """(position in `jobs`, what `do` gave or why it gave nothing) as they end, in up to
    `n_processes` at once; `do` is a function that another process can import."""
    waiting = deque(enumerate(jobs))
    workers: list[_Worker] = []
    try:
        workers += (_started(do) for _ in range(min(n_processes, len(jobs))))
        while waiting or any(worker.index is not None for worker in workers):
            for worker in workers:
                if worker.index is None and waiting:
                    worker.give(*waiting.popleft())
            wait([w.connection for w in workers if w.index is not None], timeout=1.0)
            for place, worker in enumerate(workers):
                made = None if worker.index is None else _outcome(worker)
                if made is None:
                    continue
                index, worker.index = worker.index, None
                lost = isinstance(made, str) and not worker.process.is_alive()
                if lost or time.monotonic() - worker.started_s > JOB_LIMIT_S:
                    worker.kill()
                    workers[place] = _started(do)
                assert index is not None
                yield index, made
    finally:
        for worker in workers:
            worker.kill()
