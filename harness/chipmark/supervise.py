"""Starts a program, times it, and ends whatever it left, also when who asked for it is killed.

    python -I -S supervise.py RESULT_FD PARENT_PID ARGV..

Between chipmark and every program that it starts: a cell's child, an arm of `ab`, a probe. The
kernel sends SIGTERM when the parent dies (PR_SET_PDEATHSIG), however it dies, and gives this
process every orphan of the program (PR_SET_CHILD_SUBREAPER), so that a daemon with a session of its
own is found as well. The program has a session of its own, so that what it sends to its group, a
stop too, passes this process by; it gets SIGKILL when this process dies. All of it is set between
fork and exec of a process with one thread, which a `preexec_fn` of a parent with several cannot do
safely.

While the parent lives, SIGTERM, SIGINT and SIGHUP are handed on to the program's group, and SIGUSR1
ends all of it at once. On RESULT_FD come lines of JSON: {"pid"} or {"errno"}, then {"code",
"wall_s"} when the program has ended and before what it left is; with `-` for RESULT_FD there are
none, and the exit code is that of the program. Standard library only. Without Linux nothing is set,
and what is left is the parent's to end.
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

_HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""To the program, which has them as the parent had."""


def supervise(result: int | None, parent: int, argv: list[str]) -> int:
    """Run `argv` to its end; returns the exit code of this process."""
    ignored = [n for n in _HANDED_ON if signal.getsignal(n) is signal.SIG_IGN]

    def terminate(number: int, frame: FrameType | None) -> None:
        if os.getppid() != parent:
            end_descendants()
            os._exit(128 + number)
        # The program is given the time to clean up; the parent says when it is over.
        for pid in _children():
            _signal_group(pid, number)

    def end(number: int, frame: FrameType | None) -> None:
        found = descendants(os.getpid())
        if not found:
            os._exit(128 + number)
        _kill(found)

    for number in _HANDED_ON:
        signal.signal(number, terminate)
    signal.signal(signal.SIGUSR1, end)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return _NOT_STARTED
    started = time.perf_counter()
    program, error = _start(argv, ignored)
    if error:
        _answer(result, {"errno": error})
        return _NOT_STARTED
    _answer(result, {"pid": program})
    _close_all_but(result)
    code = _wait(program)
    wall_s = time.perf_counter() - started
    _answer(result, {"code": code, "wall_s": wall_s})
    end_descendants()
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
        _kill(descendants(os.getpid()))
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def _kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def _children() -> list[int]:
    """The program, and orphans that came here."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return descendants(os.getpid())


def _signal_group(pid: int, number: int) -> None:
    """To the group that a process leads, or to it alone where it leads none."""
    try:
        if os.getpgid(pid) == pid:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def _close_all_but(result: int | None) -> None:
    """Close what was passed through to the program: its end of a pipe is its own to close."""
    try:
        opened = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        opened = list(range(256))
    for number in opened:
        if number > 2 and number != result:
            try:
                os.close(number)
            except OSError:
                continue  # the folder itself was one of those listed


def _start(argv: list[str], ignored: list[signal.Signals]) -> tuple[int, int]:
    """The process id, and the errno of exec (0 where the program runs)."""
    me = os.getpid()
    reader, writer = os.pipe()  # closed on exec
    pid = os.fork()
    if pid == 0:
        try:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != me:
                os._exit(_NOT_STARTED)
            os.setsid()
            for number in _HANDED_ON:
                signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
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


def _wait(program: int) -> int:
    """The exit code of the program, minus the signal where one ended it; orphans are reaped."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == program:
            return os.waitstatus_to_exitcode(status)


def _prctl(option: int, value: int) -> None:
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(option, value, 0, 0, 0)


def _answer(result: int | None, answer: dict[str, float]) -> None:
    if result is not None:
        try:
            os.write(result, json.dumps(answer).encode() + b"\n")
        except BrokenPipeError:
            return  # the parent has gone, and the signal of it is on its way


if __name__ == "__main__":
    _result = None if sys.argv[1] == "-" else int(sys.argv[1])
    if _result is not None:
        os.set_inheritable(_result, False)
    # `os._exit`: nothing is to be flushed, and no orphan is to be waited for.
    os._exit(supervise(_result, int(sys.argv[2]), sys.argv[3:]))
