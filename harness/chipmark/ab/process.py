"""One process of an arm, from its start until nothing of it is left.

A process is started by `supervise.py`, so that it ends with this one even where this one is killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from chipmark.errors import ChipmarkError, UsageError
from chipmark.processes import LogTail, family_of, signal_group

MARK = "CHIPMARK_AB_PROCESS"
"""Variable by which processes of one tree are known that have cut every tie."""

_SUPERVISOR = Path(__file__).with_name("supervise.py")
_POLL_S = 0.05
_TERM_S = 3.0


class ArmFailedError(ChipmarkError):
    """A process of an arm ended without a measurement; the message names arm, round and cause."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that ended by itself. wall_s: from its start to its end, interpreter included,
    without what supervises it."""

    code: int
    wall_s: float
    log: str


def run_process(
    argv: Sequence[str], cwd: Path, env: Mapping[str, str], limit_s: float, what: str
) -> Finished:
    """Run to the end in a session of its own; whatever happens, its whole tree is gone afterwards.

    `what` names arm and round in errors. Raises UsageError where it cannot be started,
    ArmFailedError where it takes longer than `limit_s` or floods its output.
    """
    mark = new_mark()
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as result:
        try:
            process = subprocess.Popen(
                [*supervised(writer), *argv],
                cwd=cwd,
                env=dict(env) | {MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(writer,),
            )
        except OSError as error:
            raise UsageError(f"{what}: cannot be started: {error.strerror}") from error
        finally:
            os.close(writer)
        return _finished(process, mark, result, argv[0], limit_s, what)


def _finished(
    process: subprocess.Popen[bytes],
    mark: str,
    result: IO[bytes],
    program: str,
    limit_s: float,
    what: str,
) -> Finished:
    assert process.stdout is not None
    log = LogTail(process.stdout)
    started = time.perf_counter()
    try:
        while True:
            try:
                process.wait(timeout=_POLL_S if log.flooded else min(limit_s, 1.0))
                break
            except subprocess.TimeoutExpired:
                if log.flooded:
                    raise ArmFailedError(
                        f"{what}: flooded its output with {log.total >> 20} MiB"
                    ) from None
                if time.perf_counter() - started > limit_s:
                    raise ArmFailedError(
                        f"{what}: no end within {limit_s:g} s{_tail(log)}",
                        "a longer one: --limit-s",
                    ) from None
    finally:
        with undisturbed():
            end_tree(process, mark)
            log.join()
    answer = json.loads(result.read() or b"{}")
    if "errno" in answer:
        reason = os.strerror(answer["errno"])
        raise UsageError(f"{what}: {program} cannot be started: {reason}")
    # Without an answer something has killed the supervisor, and with it the process.
    code = answer.get("code", process.returncode)
    wall_s = answer.get("wall_s", time.perf_counter() - started)
    return Finished(code, wall_s, log.tail().decode(errors="replace"))


def supervised(result: int | None = None) -> list[str]:
    """The words before a command that is to end with this process. result: the file descriptor
    to answer on, None for the exit code alone."""
    answer = "-" if result is None else str(result)
    return [sys.executable, "-I", "-S", str(_SUPERVISOR), answer, str(os.getpid())]


def new_mark() -> str:
    """A value of MARK that no other process tree has."""
    return f"{os.getpid()}-{time.monotonic_ns()}"


@contextmanager
def undisturbed() -> Iterator[None]:
    """Signals that end a run wait until the block is left: a runner that is cancelled gets two or
    three of them, and a clean-up that is broken off leaves what it was to remove."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # A handler and not SIG_IGN, which programs started inside would inherit.
    before = {n: signal.signal(n, lambda number, frame: received.append(number)) for n in numbers}
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, signal.SIG_DFL if handler is None else handler)
    for number in received:
        signal.raise_signal(number)


def end_tree(process: subprocess.Popen[Any], mark: str) -> None:
    """End a process, what it started, and what of that left its session or its parent.

    The tree is asked first (a chipmark or a pytest of the arm ends its own children and removes
    its half files), then killed. Processes that have cut every tie are known by a variable of
    their environment.
    """
    family = _family(process.pid, mark)
    if process.poll() is None:
        signal_group(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=_TERM_S)
        except subprocess.TimeoutExpired:
            family |= _family(process.pid, mark)
    signal_group(process.pid, signal.SIGKILL)
    family |= _marked(mark)
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(list(family), timeout=_TERM_S)
    process.wait()


def _family(pid: int, mark: str) -> set[psutil.Process]:
    return {*family_of(pid), *_marked(mark)}


def _marked(mark: str) -> set[psutil.Process]:
    """Processes of this user whose environment bears the mark; others cannot be read."""
    found = set()
    for member in psutil.process_iter():
        try:
            if member.environ().get(MARK) == mark and member.pid != os.getpid():
                found.add(member)
        except (psutil.Error, OSError):
            continue
    return found


def _tail(log: LogTail) -> str:
    lines = log.tail().decode(errors="replace").splitlines()[-5:]
    return "; the end of its output:\n" + "\n".join(lines) if lines else ""
