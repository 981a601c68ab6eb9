"""The parent's side of a worker: every step has a deadline, and a late or dead worker is replaced.

The parent only waits on a pipe meanwhile, so it takes nothing from what is being timed.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Literal

from chipmark.errors import MissingBackendError
from chipmark.kernel_bench.worker import serve
from chipmark.processes import how_it_ended, signal_group

READY_S = 120.0
"""A first import of torch and Triton from a slow disk, and a CUDA context."""

_END_S = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request brought. parts: results by step. ended: done; or late, died (a crash), lost
    (the device does not answer), out of budget, and then `step` was under way."""

    parts: Mapping[str, Any]
    ended: Literal["done", "late", "died", "lost", "budget"]
    step: str = ""
    reason: str = ""


@dataclass(slots=True)
class Worker:
    """One measuring process at a time; use as a context manager, which leaves none behind.

    environment: variables that the process has before it imports the module of `factory`.
    """

    factory: str
    options: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)
    _process: Any = None
    _pipe: Connection | None = None

    def __enter__(self) -> Worker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, limit_s: float = READY_S) -> None:
        """Start the process. Raises MissingBackendError where it cannot measure."""
        # Not forked: CUDA and threads do not survive that.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(theirs, self.factory, dict(self.options), dict(self.environment))
        )
        self._process.start()
        theirs.close()
        if not self._pipe.poll(limit_s):
            self.stop()
            raise MissingBackendError(f"the measuring process did not start in {limit_s:.0f} s")
        try:
            kind, told = self._pipe.recv()
        except EOFError:
            kind, told = "failed", self._end()
        if kind != "ready":
            self.stop()
            raise MissingBackendError(
                f"the measuring process cannot start: {told}",
                "`chipmark doctor` says what is missing",
            )
        self.identity = told

    def stop(self) -> None:
        """End the process and what it started at once; what it has told is with the caller."""
        if self._process is not None:
            self._process.kill()
            # Compilers that it started share its session; none is left where it died before that.
            signal_group(self._process.pid, signal.SIGKILL)
            self._process.join(_END_S)
            if self._process.exitcode is not None:
                self._process.close()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def ask(
        self,
        request: Mapping[str, Any],
        step_s: float,
        until_s: float,
        told: Callable[[str, Any], None] | None = None,
    ) -> Answer:
        """Answer a request whose steps take at most `step_s` each, up to `time.monotonic` until_s.

        told: called with each part as it comes, by name, for who saves it at once. A worker that is
        late, dead or without its device is ended; the next request starts another.
        """
        if self._pipe is None:
            left = until_s - time.monotonic()
            try:
                self.start(max(0.0, min(READY_S, left)))
            except MissingBackendError:
                if left < READY_S:
                    return Answer({}, "budget", "start", "the call's time was over")
                raise
        pipe = self._pipe
        assert pipe is not None
        parts: dict[str, Any] = {}
        step, begun = "", time.monotonic()
        try:
            pipe.send(dict(request))
            while True:
                late = begun + step_s
                if not pipe.poll(max(0.0, min(late, until_s) - time.monotonic())):
                    self.stop()
                    if until_s <= late:
                        return Answer(parts, "budget", step, "the call's time was over")
                    return Answer(parts, "late", step, f"over its time of {step_s:g} s")
                kind, *what = pipe.recv()
                if kind == "step":
                    step, begun = what[0], time.monotonic()
                elif kind == "part":
                    parts[what[0]] = what[1]
                    if told is not None:
                        told(what[0], what[1])
                elif kind == "broken":
                    self.stop()
                    return Answer(parts, "lost", step, "the device did not answer after it")
                else:
                    return Answer(parts, "done")
        except (EOFError, OSError):
            reason = self._end()
            self.stop()
            return Answer(parts, "died", step, reason)

    def _end(self) -> str:
        self._process.join(_END_S)
        code = self._process.exitcode
        return f"the measuring process {how_it_ended(code)}"
