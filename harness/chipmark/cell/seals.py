"""Files of a cell as they were when they were written.

The process that is measured runs as the same user, so it can write to everything that the parent
keeps of earlier repeats; what it changed is found by hash and costs the cell.
"""

from __future__ import annotations

from pathlib import Path

from chipmark.errors import CellFailedError
from chipmark_models.files import sha256_of_file


class Seals:
    """Hashes of files of one folder, by path."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._hashes: dict[Path, str] = {}

    def add(self, *paths: Path) -> None:
        """Remember these files as they are now; one that is not there is to stay away."""
        for path in paths:
            self._hashes[path] = _hash(path)

    def check(self) -> None:
        """CellFailedError names the first file that is not what it was."""
        for path, was in self._hashes.items():
            if _hash(path) != was:
                name = path.relative_to(self._folder).as_posix()
                raise CellFailedError(
                    f"{name} was changed by another process after it had been written",
                    "measure again; nothing but chipmark may write there while it runs",
                )


def _hash(path: Path) -> str:
    """Hex sha256 of a file, "" where there is none."""
    return sha256_of_file(path) if path.is_file() else ""
