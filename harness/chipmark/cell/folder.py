"""The output folder of a run: usable or not, and which cells it already holds."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chipmark.errors import UsageError
from chipmark.processes import undisturbed
from chipmark.results.store import load_records

MIN_FREE_BYTES = 64 * 1024 * 1024
KEY = "cell_key"
"""Name in a record's `options` under which the identity of its cell is kept."""


def check_output(out: Path) -> None:
    """Make the folder and write to it once; UsageError says what is wrong before a run starts."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".writable-{os.getpid()}"
        try:
            with probe.open("wb") as file:
                file.write(b"\0" * 65_536)
                file.flush()
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"{out} cannot be written to: {error.strerror or error}", "choose another folder: -o"
        ) from error
    free = shutil.disk_usage(out).free
    if free < MIN_FREE_BYTES:
        raise UsageError(
            f"{out} has {free >> 20} MiB left; a run needs {MIN_FREE_BYTES >> 20}",
            "free some space, or choose another folder: -o",
        )


@contextmanager
def scratch(out: Path, *, alone: bool = False) -> Iterator[Path]:
    """A hidden folder next to the records for raw files; gone afterwards, whatever happens.

    What a killed run left is swept. alone: this run holds the folder's lock, so that whatever lies
    there is left over; else a folder is where its process is gone.
    """
    for old in [*out.glob(".raw-*"), *out.glob(".writable-*")]:
        pid = old.name.rpartition("-")[2]
        if alone or (pid.isdigit() and not Path(f"/proc/{pid}").exists()):
            _remove(old)
    folder = out / f".raw-{os.getpid()}"
    try:
        folder.mkdir(exist_ok=True)
        yield folder
    finally:
        with undisturbed():
            _remove(folder)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def cell_key(identity: Mapping[str, Any]) -> str:
    """A short hash of everything that makes two cells the same measurement."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class StoredCells:
    """Cells that a folder already holds: keys of those that are done, and by key the records of
    those that failed, which are measured again."""

    done: frozenset[str]
    failed: Mapping[str, tuple[Path, ...]]

    def drop_failed(self, key: str) -> None:
        """Remove the failed records of a cell that has a new record: they hold no measurement."""
        for path in self.failed.get(key, ()):
            shutil.rmtree(path)


def stored_cells(out: Path, run_s: float) -> StoredCells:
    """What is in the folder; records that cannot be read are left to `chipmark validate`.

    A record with a repeat that was cut by a limit shorter than `run_s` is not done: more time is
    another measurement of it. One with whole repeats is, whatever the limits.
    """
    done: set[str] = set()
    failed: dict[str, tuple[Path, ...]] = {}
    for record in load_records([out]).records:
        key = str(record.manifest.options.get(KEY, ""))
        if record.manifest.status == "done":
            cut = any(repeat.get("complete") == 0 for repeat in record.metrics.per_repeat)
            if not cut or record.manifest.limits.get("run_s", run_s) >= run_s:
                done.add(key)
        else:
            failed[key] = (*failed.get(key, ()), record.path)
    return StoredCells(frozenset(done), failed)
