"""Processes that others start and end: output that is drained, signals to a group, families.

The one home for what the parent of a cell, an A/B run and the kernel bench share. Standard
library, and psutil only to look for a family, so that a measured process can import it too.
`chipmark.supervised` starts them, by way of `supervise.py`, a script that imports nothing of ours.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

LOG_BYTES = 256 * 1024
"""What is kept of a process's output: its end."""

FLOOD_BYTES = 64 * 1024 * 1024
"""A process that prints more than this is ended: printing at that rate is part of what is timed."""

_READ = 1 << 16
_JOIN_S = 5.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class LogTail:
    """Drains a process's stdout and stderr on a thread and keeps the last LOG_BYTES."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._chunks: deque[bytes] = deque()
        self._kept = 0
        self.total = 0
        """Bytes printed so far."""
        self._thread = threading.Thread(target=self._drain, name="child-log", daemon=True)
        self._thread.start()

    @property
    def flooded(self) -> bool:
        """Whether more than FLOOD_BYTES were printed."""
        return self.total > FLOOD_BYTES

    def tail(self) -> bytes:
        """The last LOG_BYTES, from the start of a line where the beginning was cut."""
        data = b"".join(self._chunks)[-LOG_BYTES:]
        if self.total > len(data):
            data = data[data.find(b"\n") + 1 :]
            data = b"[%d bytes in all; only the end is kept]\n" % self.total + data
        return data

    def join(self) -> None:
        """Wait until everything that held the pipe has closed it, for at most 5 s."""
        self._thread.join(timeout=_JOIN_S)

    def _drain(self) -> None:
        while chunk := os.read(self._pipe.fileno(), _READ):
            self.total += len(chunk)
            self._chunks.append(chunk)
            self._kept += len(chunk)
            while self._kept - len(self._chunks[0]) > LOG_BYTES:
                self._kept -= len(self._chunks.popleft())
        self._pipe.close()


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends, and to keep what it starts in its
    family: a grandchild whose own parent has ended can still be found, parked and ended.

    Elsewhere than on Linux nothing is set; there the end of a pipe must end the process.
    """
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def signal_group(leader: int, number: signal.Signals) -> bool:
    """Send a signal to the process group of `leader`; False where the whole group has ended."""
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        return False
    return True


def family_of(pid: int) -> list[psutil.Process]:
    """What a process started, and what that started in turn; empty where it has ended."""
    import psutil

    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


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


def how_it_ended(code: int) -> str:
    """An exit code of `subprocess` or `multiprocessing` in words, after "the process"."""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
