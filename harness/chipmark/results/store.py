"""Records on disk: written whole or not at all, found, loaded, never changed.

A record is built in a hidden folder next to its place, every file and the folder are synced, and
one rename makes it a record. What a killed run leaves is such a hidden folder; the next write
sweeps it. Reading needs neither NumPy nor Parquet, so that a table over a thousand records is
quick; what computes metrics is imported by the writer alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chipmark.codes import NullReason
from chipmark.errors import BadInputError, BrokenRecordError, UsageError
from chipmark.results.manifest import Manifest, RecomputedFrom, load_manifest
from chipmark.results.record import (
    RECORD_FILE,
    SCHEMA,
    FileEntry,
    Record,
    document_text,
    metrics_of,
    parse_record,
)
from chipmark.results.sidecar import with_sidecar
from chipmark_models.files import sha256_of_file, sync

if TYPE_CHECKING:
    from chipmark.metrics.derive import Derived
    from chipmark.metrics.rawcell import RawCell

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


def write_record(out_dir: Path, raw_dir: Path) -> Path:
    """Turn a raw folder into a record under `out_dir` and return the record's folder.

    Raises BrokenRecordError where the raw folder is not whole or its events contradict
    themselves, UsageError where the record already exists, OSError where it cannot be written;
    in every case no half record is left.
    """
    manifest = load_manifest(raw_dir / "cell.json")
    raw, derived = derived_from(raw_dir, manifest)
    name = record_name(manifest)
    with whole_folder(out_dir, name, "a record is never written twice") as partial:
        _write_files(partial, raw_dir, raw)
        _write_document(partial, name, manifest, derived)
    return out_dir / name


def write_recomputed(out_dir: Path, record: Record) -> Path:
    """Derive a record's metrics anew from its raw files, write the result under `out_dir` as a
    record of its own with the same files, and return its folder.

    Its manifest names the record that it comes from. Raises BrokenRecordError where a file is
    missing or was changed, UsageError where the result already exists or would lie inside the
    old record; in every case no half record is left, and the old one is not touched.
    """
    old = record.path.resolve()
    if out_dir.resolve().is_relative_to(old):
        raise UsageError(f"{out_dir} lies inside the record {record.id}", "give another folder")
    for name, entry in record.files.items():
        if fault := file_fault(record.path, name, entry):
            raise BrokenRecordError(record.path / name, fault)
    source = RecomputedFrom(
        id=record.id,
        self_sha256=record.self_sha256,
        measured_as=record.measured_as,
        metrics_schema=record.metrics.schema_,
    )
    manifest = record.manifest.model_copy(update={"recomputed_from": source})
    _, derived = derived_from(record.path, manifest)
    name = record_name(manifest)
    with whole_folder(out_dir, name, "its metrics were derived anew before") as partial:
        for stored in record.files:
            (partial / stored).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(record.path / stored, partial / stored)
        _write_document(partial, name, manifest, derived)
    return out_dir / name


def file_fault(folder: Path, name: str, entry: FileEntry) -> str:
    """What is wrong with a file of a record, "" where it is as it was written."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        return "lies outside the record"
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != entry.bytes:
        return f"has {path.stat().st_size} bytes, not {entry.bytes}"
    return "" if sha256_of_file(path) == entry.sha256 else "was changed after it was written"


@contextmanager
def whole_folder(out_dir: Path, name: str, hint: str) -> Iterator[Path]:
    """A hidden folder to write into, which becomes `out_dir / name` by one rename, all synced.

    Raises UsageError with `hint` where that folder already exists. Whatever else is raised
    inside leaves nothing behind.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    sweep(out_dir)
    final = out_dir / name
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
    try:
        return parse_record(path, path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BrokenRecordError(path, "is missing") from None
    except UnicodeDecodeError as error:
        raise BrokenRecordError(path, f"is not UTF-8 ({error})") from error


def load_records(paths: Iterable[Path]) -> Loaded:
    """Every record under the paths; a broken one is left out, with its reason in `skipped`."""
    records: list[Record] = []
    skipped: list[Skipped] = []
    for folder in find_records(paths):
        try:
            records.append(load_record(folder))
        except (BrokenRecordError, OSError) as error:
            skipped.append(Skipped(folder, str(error)))
    return Loaded(tuple(records), tuple(skipped))


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


def derived_from(raw_dir: Path, manifest: Manifest) -> tuple[RawCell | None, Derived]:
    """The raw data of a folder of either form and the metrics that follow from it; a failed cell
    has no raw data. BrokenRecordError where the folder is not whole or contradicts itself."""
    from chipmark.metrics import derive as metrics
    from chipmark.results.raw import load_raw

    if manifest.status == "failed":
        return None, metrics.nothing(NullReason.CELL_FAILED)
    raw = load_raw(raw_dir, manifest)
    if len(raw.repeats) != manifest.repeats:
        raise BrokenRecordError(
            raw_dir, f"{len(raw.repeats)} repeats lie here, not {manifest.repeats}", field="repeats"
        )
    try:
        return raw, metrics.derive(raw)
    except ValueError as error:
        raise BrokenRecordError(raw_dir, f"events contradict themselves ({error})") from error


def _write_files(partial: Path, raw_dir: Path, raw: RawCell | None) -> None:
    from chipmark.engine.events import COLUMNS
    from chipmark.results.audit import AUDIT_FILE
    from chipmark.results.raw import POWER_COLUMNS, write_parquet

    for name in ("trace.npz", "child.log", AUDIT_FILE):
        if (raw_dir / name).is_file():
            shutil.copyfile(raw_dir / name, partial / name)
    if raw is None:
        return
    for name, samples in (("idle-before", raw.idle_before), ("idle-after", raw.idle_after)):
        if samples is not None:
            write_parquet(
                partial / f"{name}.parquet", {c: getattr(samples, c) for c in POWER_COLUMNS}
            )
    for index, folder in enumerate(_repeat_folders(raw_dir)):
        target = partial / f"repeat-{index}"
        target.mkdir()
        repeat = raw.repeats[index]
        for table, columns in COLUMNS.items():
            write_parquet(
                target / f"{table}.parquet", {c: repeat.events[table][c] for c in columns}
            )
        if repeat.power is not None:
            write_parquet(
                target / "power.parquet", {c: getattr(repeat.power, c) for c in POWER_COLUMNS}
            )
        for name in ("probes.json", "timing.json"):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, target / name)


def _repeat_folders(raw_dir: Path) -> Sequence[Path]:
    folders = [p for p in raw_dir.glob("repeat-*") if p.is_dir() and p.name[7:].isdigit()]
    return sorted(folders, key=lambda p: int(p.name[7:]))


def _write_document(partial: Path, name: str, manifest: Manifest, derived: Derived) -> None:
    files = {}
    for path in sorted(p for p in partial.rglob("*") if p.is_file()):
        sync(path)
        entry = FileEntry(sha256=sha256_of_file(path), bytes=path.stat().st_size)
        files[path.relative_to(partial).as_posix()] = entry.model_dump()
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "id": name,
        "manifest": manifest.model_dump(mode="json", by_alias=True),
        "metrics": metrics_of(derived).model_dump(mode="json", by_alias=True),
        "files": files,
    }
    target = partial / RECORD_FILE
    target.write_text(document_text(document), encoding="utf-8")
    sync(target)


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
