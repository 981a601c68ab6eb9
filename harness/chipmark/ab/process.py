"""One process of an arm, from its start until nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from chipmark.cell.parent import LogTail
from chipmark.errors import ChipmarkError, UsageError

_MARK = "CHIPMARK_AB_PROCESS"
_POLL_S = 0.05
_TERM_S = 3.0


class ArmFailedError(ChipmarkError):
    """A process of an arm ended without a measurement; the message names arm, round and cause."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that ended by itself. wall_s: from its start to its end, interpreter included."""

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
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    try:
        process = subprocess.Popen(
            list(argv),
            cwd=cwd,
            env=dict(env) | {_MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise UsageError(f"{what}: {argv[0]} cannot be started: {error.strerror}") from error
    assert process.stdout is not None
    log = LogTail(process.stdout)
    started = time.perf_counter()
    try:
        while True:
            try:
                code = process.wait(timeout=_POLL_S if log.flooded else min(limit_s, 1.0))
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
        wall_s = time.perf_counter() - started
    finally:
        end_tree(process, mark)
        log.join()
    return Finished(code, wall_s, log.tail().decode(errors="replace"))


def end_tree(process: subprocess.Popen[bytes], mark: str) -> None:
    """End a process, what it started, and what of that left its session or its parent.

    The tree is asked first (a chipmark or a pytest of the arm ends its own children and removes
    its half files), then killed. Processes that have cut every tie are known by a variable of
    their environment.
    """
    family = _family(process.pid, mark)
    if process.poll() is None:
        _signal_group(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=_TERM_S)
        except subprocess.TimeoutExpired:
            family |= _family(process.pid, mark)
    _signal_group(process.pid, signal.SIGKILL)
    family |= _marked(mark)
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(list(family), timeout=_TERM_S)
    process.wait()


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return  # the whole group has ended: what we wanted


def _family(pid: int, mark: str) -> set[psutil.Process]:
    try:
        children = set(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        children = set()
    return children | _marked(mark)


def _marked(mark: str) -> set[psutil.Process]:
    """Processes of this user whose environment bears the mark; others cannot be read."""
    found = set()
    for member in psutil.process_iter():
        try:
            if member.environ().get(_MARK) == mark and member.pid != os.getpid():
                found.add(member)
        except (psutil.Error, OSError):
            continue
    return found


def _tail(log: LogTail) -> str:
    lines = log.tail().decode(errors="replace").splitlines()[-5:]
    return "; the end of its output:\n" + "\n".join(lines) if lines else ""
