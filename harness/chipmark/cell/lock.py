"""One run at a time into a folder: two that measure side by side would disturb each other.

The kernel holds the lock of a file and drops it with its process, so nothing is ever left locked,
and no process id has to be believed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from chipmark.errors import UsageError
from chipmark.processes import undisturbed

LOCK_FILE = ".running"
"""Hidden, and gone when the run is."""

_HELD = (errno.EWOULDBLOCK, errno.EACCES)
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_HOLDER_BYTES = 1000


@contextmanager
def locked(out: Path, say: Callable[[str], None]) -> Iterator[bool]:
    """Hold the folder for the run; False where its file system has no locks, which `say` gets.

    Raises UsageError that names the process that holds it.
    """
    handle = _acquired(out, say)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            with undisturbed():
                # While it is held: who opens it from now on finds another file, or none.
                (out / LOCK_FILE).unlink(missing_ok=True)
                os.close(handle)


def _acquired(out: Path, say: Callable[[str], None]) -> int | None:
    path = out / LOCK_FILE
    while True:
        # Not inherited by what is started; not followed where somebody has put a link.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(handle)
            os.close(handle)
            if error.errno in _NO_LOCKS:
                path.unlink(missing_ok=True)
                say(f"{out}: this file system has no locks; start no second run into it")
                return None
            if error.errno not in _HELD:
                raise
            raise UsageError(
                f"{out} is being measured into by {holder}",
                "wait for its end, or choose another folder: -o",
            ) from error
        if _same(handle, path):
            break
        os.close(handle)  # the run that held it has just ended and removed it
    about = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(about).encode() + b"\n", 0)
    return handle


def _same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _holder(handle: int) -> str:
    """The process that holds the lock, as it has written itself down."""
    try:
        about = json.loads(os.pread(handle, _HOLDER_BYTES, 0))
        pid, host, since = int(about["pid"]), str(about["host"]), str(about["since"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"
    return f"process {pid} on {host!a} since {since!a}".replace("'", "")
