"""Records on disk: written whole or not at all, found, loaded, never changed.

A record is built in a hidden folder next to its place, every file and the folder are synced, and
one rename makes it a record. What a killed run leaves is such a hidden folder; the next write
sweeps it. Reading needs neither NumPy nor Parquet, so that a table over a thousand records is
quick; `chipmark.results.write` makes records.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chipmark.codes import FindingCode
from chipmark.errors import BadInputError, BrokenRecordError, UsageError
from chipmark.results.manifest import Manifest
from chipmark.results.many_records import many_objects
from chipmark.results.record import (
    RECORD_BYTES,
    RECORD_FILE,
    FileEntry,
    Record,
    parse_record,
)
from chipmark.results.sidecar import with_sidecar
from chipmark_models.files import sync, writing
from chipmark_models.foreign_file import lies_in, open_foreign, read_text, size_of

_PARTIAL = re.compile(r"\.(?P<name>.+)\.(?P<host>[^.]+)\.(?P<pid>\d+)\.partial")
STALE_S = 24 * 3600.0
"""A half-written folder of another host is swept after this long."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record that could not be read, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """Records in the order of their paths, and what had to be left out."""

    records: tuple[Record, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True, slots=True)
class FileFault:
    """What is wrong with a file of a record."""

    code: FindingCode
    text: str


def file_fault(folder: Path, name: str, entry: FileEntry) -> FileFault | None:
    """What is wrong with a file of a record, None where it is as it was written."""
    path = folder / name
    try:
        if not lies_in(path, folder):
            return FileFault(FindingCode.PATH, "leads out of its folder")
        if not os.path.lexists(path):
            return FileFault(FindingCode.MISSING, "is missing")
        with open_foreign(path, within=folder) as file:
            size = size_of(file)
            if size != entry.bytes:
                return FileFault(FindingCode.CHECKSUM, f"has {size} bytes, not {entry.bytes}")
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except BadInputError as error:
        return FileFault(FindingCode.PATH, error.problem)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        return FileFault(FindingCode.PATH, f"cannot be read: {error}")
    if digest != entry.sha256:
        return FileFault(FindingCode.CHECKSUM, "was changed after it was written")
    return None


@contextmanager
def whole_folder(out_dir: Path, name: str, hint: str) -> Iterator[Path]:
    """A hidden folder to write into, which becomes `out_dir / name` by one rename, all synced.

    Raises UsageError with `hint` where that folder already exists, CannotWriteError on a disk that
    is full, read-only or gone. Whatever else is raised inside leaves nothing behind.
    """
    final = out_dir / name
    with writing(final):
        out_dir.mkdir(parents=True, exist_ok=True)
        sweep(out_dir)
        if final.exists():
            raise UsageError(f"{final} already exists", hint)
        partial = out_dir / f".{name}.{_host()}.{os.getpid()}.partial"
        try:
            partial.mkdir()
            yield partial
            for folder in {path.parent for path in partial.rglob("*")} | {partial}:
                sync(folder)
            os.rename(partial, final)
            sync(out_dir)
        except BaseException:
            # An interrupt, too, must leave nothing half behind.
            shutil.rmtree(partial, ignore_errors=True)
            raise


def record_name(manifest: Manifest) -> str:
    """Name of a record's folder: what was measured, when, and a hash of the whole identity."""
    text = manifest.model_dump_json(by_alias=True)
    parts = (manifest.backend, manifest.model.name, manifest.workload.name, manifest.scenario)
    slug = re.sub(r"[^A-Za-z0-9]+", "-", "-".join(parts)).strip("-").lower()
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return f"{slug[:80]}-n{manifest.concurrency}-{digest}"


def find_records(paths: Iterable[Path]) -> list[Path]:
    """Record folders under the given paths (a record, its `record.json` or any folder), sorted.

    Hidden folders (half-written records, scratch) are not looked into. Raises BadInputError for
    a path that is not there.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.name == RECORD_FILE and path.is_file():
            found[path.parent] = None
        elif not path.is_dir():
            raise BadInputError(path, "there is no such record or folder")
        elif (path / RECORD_FILE).is_file():
            found[path] = None
        else:
            found.update(dict.fromkeys(_below(path)))
    return list(found)


def load_record(folder: Path) -> Record:
    """Read one record, with an audit that lies next to it; BrokenRecordError where either is not
    whole or the audit is another record's. Raw files are not opened."""
    return with_sidecar(stored_record(folder))


def stored_record(folder: Path) -> Record:
    """The record as it was written, whatever lies next to it."""
    path = folder / RECORD_FILE
    return parse_record(path, read_text(path, RECORD_BYTES, within=folder, error=BrokenRecordError))


def load_records(paths: Iterable[Path]) -> Loaded:
    """Every record under the paths; a broken one is left out, with its reason in `skipped`."""
    skipped: list[Skipped] = []
    with many_objects():
        records = tuple(each_record(find_records(paths), skipped))
    return Loaded(records, tuple(skipped))


def each_record(folders: Iterable[Path], skipped: list[Skipped]) -> Iterator[Record]:
    """The records of folders one by one, for what keeps little of each; a broken one is added to
    `skipped`."""
    for folder in folders:
        try:
            record = load_record(folder)
        except BrokenRecordError as error:
            skipped.append(Skipped(folder, str(error)))
        else:
            yield record


def sweep(out_dir: Path) -> list[Path]:
    """Remove half-written folders whose writer is gone; returns what was removed."""
    removed = []
    for path in out_dir.glob(".*.partial"):
        match = _PARTIAL.fullmatch(path.name)
        if match is None or not path.is_dir():
            continue
        ours = match["host"] == _host()
        age_s = time.time() - path.stat().st_mtime
        if (ours and not _alive(int(match["pid"]))) or age_s > STALE_S:
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path)
    return removed


def _below(folder: Path) -> list[Path]:
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        if RECORD_FILE in files:
            found.append(Path(root))
            folders.clear()
    return found


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()) or "host"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
