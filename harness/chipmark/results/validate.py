"""Is a record whole, consistent, and measured as it says: `validate_record(folder)`.

Checksums, schema, events against the trace and against each other, and every metric computed
again from the raw files and compared with what is stored.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from chipmark.codes import FindingCode, NoteCode
from chipmark.errors import ChipmarkError
from chipmark.metrics.consistency import inconsistencies, untrue_words
from chipmark.metrics.derive import derive
from chipmark.metrics.events import view
from chipmark.metrics.names import ADDED, METRICS, SCHEMA
from chipmark.metrics.rawcell import RawCell
from chipmark.metrics.times import slow_marks
from chipmark.results.audit_check import audit_findings
from chipmark.results.finding import Finding
from chipmark.results.manifest_check import contradictions, lost_state
from chipmark.results.meter_check import meter_findings
from chipmark.results.raw import load_raw
from chipmark.results.record import RECORD_FILE, Record
from chipmark.results.record import SCHEMA as RECORD_SCHEMA
from chipmark.results.store import file_fault, stored_record
from chipmark.results.write import CONTRADICTIONS

RELATIVE_TOLERANCE = 1e-9
"""Sums may be taken in another order by another NumPy; nothing else may differ."""


_OVER_ROOF = {
    NoteCode.OVER_ROOF: FindingCode.OVER_ROOF,
    NoteCode.FAR_OVER_ROOF: FindingCode.FAR_OVER_ROOF,
}
"""Notes of a measurement that cannot be right."""


def validate_record(folder: Path) -> list[Finding]:
    """Findings on one record."""
    try:
        record = stored_record(folder)
    except ChipmarkError as error:
        return [Finding("error", FindingCode.RECORD, folder / RECORD_FILE, error.message)]
    findings = _files(folder, record)
    findings += _notes(folder, record)
    if findings and any(f.severity == "error" for f in findings):
        return findings
    if record.manifest.status == "failed":
        return findings
    try:
        raw = load_raw(folder, record.manifest)
    except ChipmarkError as error:
        return [*findings, Finding("error", FindingCode.RAW, folder, error.message)]
    try:
        return findings + _content(folder, record, raw)
    except CONTRADICTIONS as error:
        text = f"contradict each other: {type(error).__name__}: {error}"
        return [*findings, Finding("error", FindingCode.RAW, folder, text)]


def _content(folder: Path, record: Record, raw: RawCell) -> list[Finding]:
    """What is wrong within raw files that are whole."""
    findings: list[Finding] = []
    if raw.trace.hash != record.manifest.workload.hash:
        text = f"is {raw.trace.hash[:12]}…, the manifest says {record.manifest.workload.hash[:12]}…"
        findings.append(Finding("error", FindingCode.TRACE_HASH, folder / "trace.npz", text))
    engine_times = record.measured_as == RECORD_SCHEMA
    for index, repeat in enumerate(raw.runs):
        where = _place(folder, raw, index)
        contradictions = inconsistencies(repeat.events, raw.trace, raw.facts.scenario)
        if engine_times:
            contradictions += untrue_words(repeat, raw.facts)
        for found in contradictions:
            findings.append(Finding("error", found.code, where, found.text))
    if engine_times:
        findings += _marks(folder, raw)
        findings += _manifest(folder, record, raw)
    findings += meter_findings(folder, raw)
    findings += audit_findings(folder, record, raw)
    findings += _recomputed(folder, record, raw)
    return findings


def _place(folder: Path, raw: RawCell, index: int) -> Path:
    """The folder of a run of `raw.runs`."""
    repeat, replica = divmod(index, raw.facts.replicas)
    where = folder / f"repeat-{repeat}"
    return where / f"replica-{replica}" if replica else where


def _manifest(folder: Path, record: Record, raw: RawCell) -> list[Finding]:
    texts = [
        *contradictions(record.manifest, raw),
        *lost_state(record.manifest, [repeat.timing for repeat in raw.repeats]),
    ]
    return [Finding("error", FindingCode.MANIFEST, folder / RECORD_FILE, text) for text in texts]


def _marks(folder: Path, raw: RawCell) -> list[Finding]:
    """The engine's time of the runs against the parent's, over all repeats."""
    if raw.facts.simulated or any(run.timing is None for run in raw.runs):
        return []
    try:
        views = [view(run.events) for run in raw.runs]
    except ValueError:
        return []  # a finding of its own by now
    text = slow_marks(views, [run.timing for run in raw.runs])
    return [Finding("error", FindingCode.CLOCK, folder, text)] if text else []


def _files(folder: Path, record: Record) -> list[Finding]:
    findings = []
    for name, entry in record.files.items():
        if fault := file_fault(folder, name, entry):
            findings.append(Finding("error", fault.code, folder / name, fault.text))
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    for name in sorted(there - set(record.files) - {RECORD_FILE}):
        findings.append(
            Finding("warning", FindingCode.EXTRA, folder / name, "is not of the record")
        )
    return findings


def _notes(folder: Path, record: Record) -> list[Finding]:
    codes = {n.code for n in (*record.manifest.notes, *record.metrics.notes)}
    return [
        Finding(
            "warning", FindingCode.NOTE_CODE, folder / RECORD_FILE, f"unknown note code {code!r}"
        )
        for code in sorted(codes - set(NoteCode))
    ]


def _recomputed(folder: Path, record: Record, raw: RawCell) -> list[Finding]:
    if record.metrics.schema_ != SCHEMA:
        text = f"metrics are {record.metrics.schema_}, this version computes {SCHEMA} (chipmark "
        text += "recompute derives them anew)"
        return [Finding("warning", FindingCode.METRICS_SCHEMA, folder / RECORD_FILE, text)]
    # The catalogue may have been corrected since; what was known then is in the record.
    bandwidth = record.metrics.details.get("nameplate_bytes_s")
    facts = replace(raw.facts, nameplate_bytes_s=bandwidth)
    try:
        again = derive(replace(raw, facts=facts))
    except CONTRADICTIONS as error:
        return [Finding("error", FindingCode.METRICS, folder, str(error))]
    where, stored = folder / RECORD_FILE, record.metrics
    known = set(stored.values) | set(stored.null_reasons)
    names = [name for name in METRICS if name in known or name not in ADDED]
    texts = [
        f"{name} is stored as {stored.values.get(name)}, computed as {again.metrics[name]}"
        for name in names
        if not _same(stored.values.get(name), again.metrics[name])
    ]
    # A rank hangs on intervals and notes as much as on values.
    for name in sorted(set(stored.intervals) | set(again.intervals)):
        ends, computed = stored.intervals.get(name), again.intervals.get(name)
        if ends is None or computed is None or not all(map(_same, ends, computed)):
            texts.append(f"the interval of {name} is stored as {ends}, computed as {computed}")
    for name in names:
        reason, right = stored.null_reasons.get(name), again.null_reasons.get(name)
        if reason != right:
            texts.append(f"{name} is null because of {reason}, computed as {right}")
    codes = {note.code for note in stored.notes} ^ {code for code, _ in again.notes}
    if codes:
        texts.append(f"the notes differ from those computed: {', '.join(sorted(codes))}")
    findings = [Finding("error", FindingCode.METRICS, where, text) for text in texts]
    return findings + [
        Finding("error", _OVER_ROOF[code], where, text)
        for code, text in again.notes
        if code in _OVER_ROOF
    ]


def _same(a: float | None, b: float | None, tolerance: float = RELATIVE_TOLERANCE) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=1e-12)
