"""The cache: weights made ready, models pulled, references and bounds of the machine.

Where its folder cannot be written (a home that is read-only, full, or somebody else's), what is
there is still read, and what is new goes to a folder of this user among the temporary ones.
Standard library only.
"""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from functools import lru_cache
from pathlib import Path

from chipmark_models.errors import CannotWriteError

VARIABLE = "CHIPMARK_CACHE"
"""Environment variable that names the folder."""

_LOG = logging.getLogger("chipmark.cache")


def cache_folder() -> Path:
    """$CHIPMARK_CACHE, else $XDG_CACHE_HOME/chipmark, else ~/.cache/chipmark; it need not exist."""
    own, xdg = os.environ.get(VARIABLE), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own)
    return (Path(xdg) if xdg else Path(os.path.expanduser("~")) / ".cache") / "chipmark"


def cache_path(*parts: str, folder: Path | None = None) -> Path:
    """Where a file or folder of the cache is; where it is not yet there, where it can be written.

    folder: a cache of the caller's own instead. Raises CannotWriteError where no place takes it.
    """
    if folder is not None:
        return folder.joinpath(*parts)
    found = cache_folder().joinpath(*parts)
    return found if found.exists() else writable_cache().joinpath(*parts)


def writable_cache() -> Path:
    """The cache's folder, or the temporary one in its place, which the log says once.

    Raises CannotWriteError where neither takes a file.
    """
    return _writable(cache_folder(), Path(tempfile.gettempdir()))


@lru_cache(maxsize=8)
def _writable(named: Path, temporary: Path) -> Path:
    try:
        _try(named)
    except OSError as why:
        stand_in = temporary / f"chipmark-cache-{os.getuid()}"
        try:
            stand_in.mkdir(mode=0o700, exist_ok=True)
            _check_own(stand_in)
            _try(stand_in)
        except OSError as also:
            hint = f"name a folder that takes files: {VARIABLE}=FOLDER"
            raise CannotWriteError(stand_in, also, hint) from why
        _LOG.warning(
            "%s cannot be written (%s): %s is the cache instead; %s names another",
            named, why.strerror or why, stand_in, VARIABLE,
        )  # fmt: skip
        return stand_in
    return named


def _try(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"\0" * 4096)


def _check_own(folder: Path) -> None:
    # Anybody may make a folder of this name among the temporary ones before we do.
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(13, "is not a folder of this user alone")
