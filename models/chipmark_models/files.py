"""Files that are written whole or not at all, and the SHA-256 of a file. Standard library only."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A hidden path next to `path` to write to, which is synced and then takes its place.

    Whatever is raised inside leaves `path` as it was, and leaves no partial file. OSError where
    the folder cannot be written to.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield partial
        sync(partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


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
