"""Starts a process, times it, and ends whatever it left, also when who asked for it is killed.

    python -I -S supervise.py RESULT_FD PARENT_PID ARGV..

Between `chipmark ab` and an arm, which is somebody else's program. The kernel sends SIGTERM when
the parent dies (PR_SET_PDEATHSIG), however it dies, and gives this process every orphan of the
arm (PR_SET_CHILD_SUBREAPER), so that a daemon with a session of its own is found as well. The arm
gets SIGKILL when this process dies. All of it is set between fork and exec of a process with one
thread, which a `preexec_fn` of a parent with several cannot do safely.

The answer on RESULT_FD is {"code", "wall_s"} or {"errno"}; with `-` for RESULT_FD there is none,
and the exit code is that of the process. Standard library only. Without Linux nothing is set, and
what is left is the parent's to end.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from types import FrameType

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_END_S = 3.0
_NOT_STARTED = 127
_RESTORED = ("SIGPIPE", "SIGXFSZ")
"""Signals that Python ignores and that a program expects as they were."""


def supervise(result: int | None, parent: int, argv: list[str]) -> int:
    """Run `argv` to its end; returns the exit code of this process."""
    interrupt = signal.getsignal(signal.SIGINT)

    def terminate(number: int, frame: FrameType | None) -> None:
        # Of the group, the arm has it too and is given the time to clean up; the parent kills.
        if os.getppid() != parent:
            end_descendants()
            os._exit(128 + number)

    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return _NOT_STARTED
    started = time.perf_counter()
    arm, error = _start(argv, interrupt)
    if error:
        _answer(result, {"errno": error})
        return _NOT_STARTED
    code = _wait(arm)
    wall_s = time.perf_counter() - started
    end_descendants()
    _answer(result, {"code": code, "wall_s": wall_s})
    return code if code >= 0 else 128 - code


def descendants(of: int) -> list[int]:
    """Process ids below a process, by /proc; none where that is not there."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    # The name is in brackets and may hold blanks and brackets itself.
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue  # it has ended meanwhile
            children.setdefault(int(fields[1]), []).append(int(name))
    found, todo = [], [of]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def end_descendants() -> None:
    """Kill everything below this process and wait until it is gone, or until _END_S have passed."""
    deadline = time.monotonic() + _END_S
    while time.monotonic() < deadline:
        for pid in descendants(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def _start(argv: list[str], interrupt: object) -> tuple[int, int]:
    """The process id, and the errno of exec (0 where the program runs)."""
    me = os.getpid()
    reader, writer = os.pipe()  # closed on exec
    pid = os.fork()
    if pid == 0:
        try:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != me:
                os._exit(_NOT_STARTED)
            if interrupt is not signal.SIG_IGN:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
            for name in _RESTORED:
                if hasattr(signal, name):
                    signal.signal(getattr(signal, name), signal.SIG_DFL)
            os.execvpe(argv[0], argv, _environment())
        except OSError as error:
            os.write(writer, str(error.errno).encode())
        finally:
            os._exit(_NOT_STARTED)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        told = file.read()
    return pid, int(told) if told else 0


def _environment() -> dict[bytes, bytes]:
    """The variables as they were given: Python's start-up adds LC_CTYPE where the locale is C."""
    try:
        with open("/proc/self/environ", "rb") as file:
            pairs = [pair.partition(b"=") for pair in file.read().split(b"\0") if pair]
    except OSError:
        return dict(os.environb)
    return {name: value for name, _, value in pairs}


def _wait(arm: int) -> int:
    """The exit code of the arm, minus the signal where one ended it; orphans are reaped."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == arm:
            return os.waitstatus_to_exitcode(status)


def _prctl(option: int, value: int) -> None:
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(option, value, 0, 0, 0)


def _answer(result: int | None, answer: dict[str, float]) -> None:
    if result is not None:
        os.write(result, json.dumps(answer).encode())


if __name__ == "__main__":
    _result = None if sys.argv[1] == "-" else int(sys.argv[1])
    if _result is not None:
        os.set_inheritable(_result, False)
    # `os._exit`: nothing is to be flushed, and no orphan is to be waited for.
    os._exit(supervise(_result, int(sys.argv[2]), sys.argv[3:]))
