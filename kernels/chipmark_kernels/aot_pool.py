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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from chipmark_kernels.aot_jobs import Job
from chipmark_kernels.compile_ahead import Compiled, compile_for

JOB_LIMIT_S = 300.0
"""The slowest of the manifest take some 20 s on a slow core; a compiler that hangs is stopped."""

Made = Compiled | str
"""What the compiler gave, or why it gave nothing."""


def compile_job(job: Job) -> Made:
    """Compile one job here."""
    if job.spec is None:
        return job.problem
    try:
        kernel = getattr(importlib.import_module(job.module), job.kernel)
        # Triton prints the whole PTX where the assembler fails; the report gives the reason.
        with contextlib.redirect_stdout(io.StringIO()):
            return compile_for(kernel, job.spec, job.device)
    except Exception as error:  # Triton raises many kinds; the report shows each of them.
        return f"does not compile: {type(error).__name__}: {error}".replace("\n", " ")[:300]


def _work(connection: Connection) -> None:
    """Compile what comes until the other end closes or says None."""
    os.setpgrp()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while (job := connection.recv()) is not None:
            connection.send(compile_job(job))


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection
    index: int | None = None
    started_s: float = 0.0

    def give(self, index: int, job: Job) -> None:
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


def _started() -> _Worker:
    # Fork would take over the threads of torch and triton, half of them.
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there,), daemon=True)
    # Ctrl-C is for the parent, which ends its workers; an ignored signal stays so in a new process.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, before)
    there.close()
    return _Worker(process, here)


def _outcome(worker: _Worker) -> Made | None:
    """What came of a worker's job; None while it is under way."""
    try:
        if worker.connection.poll():
            made: Made = worker.connection.recv()
            return made
    except (EOFError, ConnectionResetError):
        worker.process.join()
        return f"does not compile: the compiler ended with {worker.process.exitcode}"
    if time.monotonic() - worker.started_s > JOB_LIMIT_S:
        return f"does not compile within {JOB_LIMIT_S:.0f} s"
    return None


def compile_all(jobs: Sequence[Job], n_processes: int) -> Iterator[tuple[int, Made]]:
    """(position in `jobs`, what came of it) as they end, in up to `n_processes` at once."""
    waiting = deque(enumerate(jobs))
    workers: list[_Worker] = []
    try:
        workers += (_started() for _ in range(min(n_processes, len(jobs))))
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
                    workers[place] = _started()
                assert index is not None
                yield index, made
    finally:
        for worker in workers:
            worker.kill()
