"""Is a record whole, consistent, and measured as it says: `validate(path)`.

Checksums, schema, events against the trace and against each other, and every metric computed
again from the raw files and compared with what is stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chipmark.errors import ChipmarkError
from chipmark.metrics.codes import NOTE_CODES
from chipmark.metrics.consistency import inconsistencies
from chipmark.metrics.derive import METRICS, SCHEMA, derive
from chipmark.metrics.rawcell import RawCell
from chipmark.results.audit_check import audit_remarks
from chipmark.results.raw import load_raw
from chipmark.results.record import RECORD_FILE, Record
from chipmark.results.store import file_hash, find_records, stored_record

RELATIVE_TOLERANCE = 1e-9
"""Sums may be taken in another order by another NumPy; nothing else may differ."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a record. `error`: it cannot be believed; `warning`: it may mislead."""

    severity: Literal["error", "warning"]
    code: str
    path: Path
    text: str


def validate(path: Path, *, closed_form: bool = False) -> list[Finding]:
    """Findings on every record under `path`; an empty list says that they are as they claim.

    With `closed_form` the records of `sim:` backends are also compared with the closed form of
    their simulated device; one of another backend is then a finding.
    """
    findings: list[Finding] = []
    for folder in find_records([path]):
        findings += validate_record(folder, closed_form=closed_form)
    return findings


def validate_record(folder: Path, *, closed_form: bool = False) -> list[Finding]:
    """Findings on one record."""
    try:
        record = stored_record(folder)
    except ChipmarkError as error:
        return [Finding("error", "record", folder / RECORD_FILE, error.message)]
    findings = _files(folder, record)
    findings += _notes(folder, record)
    if findings and any(f.severity == "error" for f in findings):
        return findings
    if record.manifest.status == "failed":
        return findings
    try:
        raw = load_raw(folder, record.manifest)
    except ChipmarkError as error:
        return [*findings, Finding("error", "raw", folder, error.message)]
    if raw.trace.hash != record.manifest.workload.hash:
        text = f"is {raw.trace.hash[:12]}…, the manifest says {record.manifest.workload.hash[:12]}…"
        findings.append(Finding("error", "trace_hash", folder / "trace.npz", text))
    for index, repeat in enumerate(raw.repeats):
        where = folder / f"repeat-{index}"
        for found in inconsistencies(repeat.events, raw.trace):
            findings.append(Finding("error", found.code, where, found.text))
    findings += [Finding(*remark) for remark in audit_remarks(folder, record, raw)]
    findings += _recomputed(folder, record, raw)
    if closed_form:
        findings += _closed_form(folder, record, raw)
    return findings


def _files(folder: Path, record: Record) -> list[Finding]:
    findings = []
    for name, entry in record.files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            findings.append(Finding("error", "path", path, "lies outside the record"))
        elif not path.is_file():
            findings.append(Finding("error", "missing", path, "is missing"))
        elif path.stat().st_size != entry.bytes:
            text = f"has {path.stat().st_size} bytes, not {entry.bytes}"
            findings.append(Finding("error", "checksum", path, text))
        elif file_hash(path) != entry.sha256:
            findings.append(Finding("error", "checksum", path, "was changed after it was written"))
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    for name in sorted(there - set(record.files) - {RECORD_FILE}):
        findings.append(Finding("warning", "extra", folder / name, "is not of the record"))
    return findings


def _notes(folder: Path, record: Record) -> list[Finding]:
    codes = {n.code for n in (*record.manifest.notes, *record.metrics.notes)}
    return [
        Finding("warning", "note_code", folder / RECORD_FILE, f"unknown note code {code!r}")
        for code in sorted(codes - set(NOTE_CODES))
    ]


def _recomputed(folder: Path, record: Record, raw: RawCell) -> list[Finding]:
    if record.metrics.schema_ != SCHEMA:
        text = f"metrics are {record.metrics.schema_}, this version computes {SCHEMA}"
        return [Finding("warning", "metrics_schema", folder / RECORD_FILE, text)]
    try:
        again = derive(raw)
    except ValueError as error:
        return [Finding("error", "metrics", folder, str(error))]
    findings = []
    for name in METRICS:
        stored, computed = record.metrics.values.get(name), again.metrics[name]
        if not _same(stored, computed):
            text = f"{name} is stored as {stored}, computed as {computed}"
            findings.append(Finding("error", "metrics", folder / RECORD_FILE, text))
    return findings


def _closed_form(folder: Path, record: Record, raw: RawCell) -> list[Finding]:
    """The metrics of a simulated cell against its device's closed form."""
    kind, _, device = record.manifest.backend.partition(":")
    where = folder / RECORD_FILE
    if kind != "sim":
        text = f"{record.manifest.backend} has no closed form; only sim: backends do"
        return [Finding("error", "closed_form", where, text)]
    from chipmark.results.closed_form import expected_metrics

    try:
        expected = expected_metrics(device, raw, record.manifest)
    except ChipmarkError as error:
        return [Finding("error", "closed_form", where, error.message)]
    return [
        Finding("error", "closed_form", where, text)
        for text in _differences(expected, record.metrics.values)
    ]


def _differences(expected: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} is {stored.get(name)}, the closed form says {value}"
        for name, value in expected.items()
        if not _same(stored.get(name), value, 1e-6)
    ]


def _same(a: float | None, b: float | None, tolerance: float = RELATIVE_TOLERANCE) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=1e-12)
