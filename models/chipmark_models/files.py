"""Files that are written whole or not at all, and the SHA-256 of a file. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chipmark_models.errors import CannotWriteError


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A hidden path next to `path` to write to, which is synced and then takes its place; the
    folder is made.

    Whatever is raised inside leaves `path` as it was, and leaves no partial file. CannotWriteError
    on a disk that is full, read-only or gone.
    """
    target = Path(path)
    # Names of up to 255 bytes are whole; the longest would have no room for what is put around.
    partial = target.with_name(f".{target.name[:200]}.{os.getpid()}.partial")
    with writing(target):
        if target.exists() and not target.is_file():
            # A rename over /dev/stdout would take it away from everybody.
            raise OSError(errno.EINVAL, "is there and is not a regular file")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            sync(partial)
            os.replace(partial, target)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


@contextmanager
def writing(path: str | os.PathLike[str], hint: str = "") -> Iterator[None]:
    """What the system raises inside the block, as CannotWriteError of `path`."""
    try:
        yield
    except OSError as why:
        raise CannotWriteError(os.fspath(path), why, hint) from why


def sync(path: str | os.PathLike[str]) -> None:
    """Have a file or folder on the disk, not only in its cache."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, hexadecimal; OSError where it cannot be read."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
