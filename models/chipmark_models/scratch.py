"""Folders for a while: gone when they are left, and swept by the next one where their process was
killed.

Each is locked by the process that made it. The kernel drops the lock with the process, so what can
be locked has no owner, whoever has its process id by now.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType


class Scratch:
    """A folder of its own under `parent`, the system's place for such where none is given.

    prefix: of its name; what killed processes left under it is removed first. Raises OSError where
    no folder can be made. Use as a context manager, or call `remove`.
    """

    def __init__(self, prefix: str, parent: Path | None = None) -> None:
        above = Path(tempfile.gettempdir()) if parent is None else parent
        sweep(above, prefix)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=above))
            # A sweep of another process may come between making and locking it.
            try:
                self._lock = _locked(self.path)
            except (BlockingIOError, FileNotFoundError):
                continue
            if self._lock is None or _is(self._lock, self.path):
                break
            os.close(self._lock)

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


def sweep(above: Path, prefix: str) -> None:
    """Remove folders of this prefix whose process has ended. Other users' are left, and all where
    the file system has no locks."""
    for path in above.glob(f"{prefix}*"):
        try:
            if path.is_symlink() or not path.is_dir() or path.stat().st_uid != os.getuid():
                continue
            lock = _locked(path)
        except OSError:
            continue  # its process runs, or another one has removed it
        if lock is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _locked(path: Path) -> int | None:
    """A descriptor that holds the folder, None where the file system has no locks.
    BlockingIOError where another process holds it, FileNotFoundError where it is gone."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError:
        os.close(handle)
        return None
    return handle


def _is(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
