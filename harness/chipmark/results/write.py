"""Records from raw folders: metrics derived first, then everything stored at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chipmark.codes import NullReason
from chipmark.errors import BrokenRecordError, UsageError
from chipmark.results.manifest import Manifest, RecomputedFrom, load_manifest
from chipmark.results.meter_files import IDLE_AFTER, IDLE_BEFORE, POWER, power_file
from chipmark.results.record import (
    RECORD_FILE,
    SCHEMA,
    FileEntry,
    Record,
    document_text,
    metrics_of,
)
from chipmark.results.store import file_fault, record_name, whole_folder
from chipmark_models.files import sha256_of_file, sync

if TYPE_CHECKING:
    from chipmark.meters.contract import PowerSamples
    from chipmark.metrics.derive import Derived
    from chipmark.metrics.rawcell import RawCell, RepeatData


CONTRADICTIONS = (ArithmeticError, LookupError, TypeError, ValueError)
"""What arithmetic raises over raw files whose parts do not belong together: each was found whole
by its reader, and no reader knows them all."""


def record_raw(out_dir: Path, raw_dir: Path) -> Path:
    """Derive the metrics of a raw folder and store it as a record under `out_dir`; returns the
    record's folder.

    Raises BrokenRecordError where the raw folder is not whole or its events contradict
    themselves, and what `write_record` raises.
    """
    manifest = load_manifest(raw_dir / "cell.json")
    raw, derived = derived_from(raw_dir, manifest)
    return write_record(out_dir, raw_dir, manifest, raw, derived)


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
    except CONTRADICTIONS as error:
        raise BrokenRecordError(raw_dir, f"events contradict themselves ({error})") from error


def write_record(
    out_dir: Path, raw_dir: Path, manifest: Manifest, raw: RawCell | None, derived: Derived
) -> Path:
    """Store a cell whose metrics were derived, and return the record's folder.

    raw: None for a failed cell. Raises UsageError where the record already exists, OSError where
    it cannot be written; in both cases no half record is left.
    """
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
    return write_anew(
        out_dir, record, record.manifest, lambda _: None, "its metrics were derived anew before"
    )


def write_anew(
    out_dir: Path,
    record: Record,
    manifest: Manifest,
    change: Callable[[Path], None],
    hint: str,
) -> Path:
    """As `write_recomputed`, under another manifest, of files that `change` may change in the
    folder that holds their copies. `hint`: why the result may exist already."""
    check_source(out_dir, record)
    source = RecomputedFrom(
        id=record.id,
        self_sha256=record.self_sha256,
        measured_as=record.measured_as,
        metrics_schema=record.metrics.schema_,
    )
    manifest = manifest.model_copy(update={"recomputed_from": source})
    name = record_name(manifest)
    with whole_folder(out_dir, name, hint) as partial:
        for stored in record.files:
            (partial / stored).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(record.path / stored, partial / stored)
        change(partial)
        try:
            _, derived = derived_from(partial, manifest)
        except BrokenRecordError as error:
            # The copy is gone by the time that someone reads its name.
            where = str(error.path).replace(str(partial), str(record.path), 1)
            raise BrokenRecordError(where, error.problem, field=error.field) from error
        _write_document(partial, name, manifest, derived)
    return out_dir / name


def check_source(out_dir: Path, record: Record) -> None:
    """Raise UsageError where a record's result would lie inside it, BrokenRecordError where one
    of its files is missing or was changed."""
    old = record.path.resolve()
    if out_dir.resolve().is_relative_to(old):
        raise UsageError(f"{out_dir} lies inside the record {record.id}", "give another folder")
    for name, entry in record.files.items():
        if fault := file_fault(record.path, name, entry):
            raise BrokenRecordError(record.path / name, fault.text)


def _write_files(partial: Path, raw_dir: Path, raw: RawCell | None) -> None:
    from chipmark.results.audit import AUDIT_FILE
    from chipmark.results.raw import run_folders

    for name in ("trace.npz", "child.log", AUDIT_FILE):
        if (raw_dir / name).is_file():
            shutil.copyfile(raw_dir / name, partial / name)
    if raw is None:
        return
    for at, name in enumerate((IDLE_BEFORE, IDLE_AFTER)):
        beside = {meter: idle[at] for meter, idle in raw.idle_beside.items()}
        _write_power(partial, name, (raw.idle_before, raw.idle_after)[at], beside)
    for index, folder in enumerate(_repeat_folders(raw_dir)):
        target = partial / f"repeat-{index}"
        repeat = raw.repeats[index]
        for source, run in zip(run_folders(folder), repeat.runs, strict=True):
            _write_run(target / source.relative_to(folder), source, run)
        _write_power(target, POWER, repeat.power, repeat.beside)


def _write_power(
    target: Path,
    name: str,
    own: PowerSamples | None,
    beside: Mapping[str, PowerSamples | None],
) -> None:
    """What the row's meter and the others read over one stretch of time."""
    from chipmark.results.raw import POWER_COLUMNS, write_parquet

    files = {name: own} | {power_file(name, meter): samples for meter, samples in beside.items()}
    for stem, samples in files.items():
        if samples is not None:
            columns = {column: getattr(samples, column) for column in POWER_COLUMNS}
            write_parquet(target / f"{stem}.parquet", columns)


def _write_run(target: Path, source: Path, run: RepeatData) -> None:
    """One replica's part of a repeat."""
    from chipmark.engine.events import COLUMNS
    from chipmark.results.raw import write_parquet

    target.mkdir()
    for table, columns in COLUMNS.items():
        write_parquet(target / f"{table}.parquet", {c: run.events[table][c] for c in columns})
    for name in ("probes.json", "timing.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _repeat_folders(raw_dir: Path) -> Sequence[Path]:
    folders = [p for p in raw_dir.glob("repeat-*") if p.is_dir() and p.name[7:].isdigit()]
    return sorted(folders, key=lambda p: int(p.name[7:]))


def _write_document(partial: Path, name: str, manifest: Manifest, derived: Derived) -> None:
    files = {}
    for path in sorted(p for p in partial.rglob("*") if p.is_file()):
        sync(path)
        entry = FileEntry(sha256=sha256_of_file(path), bytes=path.stat().st_size)
        files[path.relative_to(partial).as_posix()] = asdict(entry)
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
