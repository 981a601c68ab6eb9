"""What a record's audit, parity, plug-ins and bytes contradict or say against it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from chipmark.codes import FindingCode, NoteCode
from chipmark.errors import ChipmarkError
from chipmark.metrics.rawcell import RawCell
from chipmark.registry import BUILT_IN, is_simulated
from chipmark.results.audit import (
    AUDIT_FILE,
    AuditData,
    audit_of_text,
    judge,
    load_audit,
    seen_at,
)
from chipmark.results.finding import Finding
from chipmark.results.manifest import AuditResult
from chipmark.results.manifest_check import wrong_tolerance
from chipmark.results.record import RECORD_FILE, Record
from chipmark.results.sidecar import load_sidecar, sidecar_path
from chipmark.results.stored_bytes import too_few_kv_bytes, too_few_weight_bytes
from chipmark_models.config import ModelConfig

_JUDGED = (
    "verdict",
    "ids_checked",
    "ids_clear",
    "ids_wrong",
    "longest_turn",
    "longest_positions",
    "captured_ids_equal",
)


def audit_findings(folder: Path, record: Record, raw: RawCell) -> Iterator[Finding]:
    """Everything that is wrong; `record` is as it was stored, without what lies next to it."""
    where = folder / RECORD_FILE
    manifest = record.manifest
    if manifest.parity.verdict == "fail":
        yield Finding(
            "error", FindingCode.PARITY, where, f"parity failed: {manifest.parity.reason}"
        )
    final = manifest.audit
    yield from _own_audit(folder, record, raw)
    try:
        sidecar = load_sidecar(record)
    except ChipmarkError as error:
        yield Finding("error", FindingCode.AUDIT, sidecar_path(folder), error.message)
        sidecar = None
    if sidecar is not None:
        path = sidecar_path(folder)
        try:
            data = audit_of_text(path, sidecar.data)
        except ChipmarkError as error:
            yield Finding("error", FindingCode.AUDIT, path, error.message)
        else:
            yield from _contradictions(path, record, sidecar.audit, data, raw)
        if final.verdict != "fail":
            final = sidecar.audit
    if final.verdict == "fail":
        yield Finding("error", FindingCode.AUDIT, where, f"the audit failed: {final.reason}")
    elif final.verdict == "pending":
        text = f"the audit is pending: {final.reason}; `chipmark audit` finishes it"
        yield Finding("warning", FindingCode.AUDIT_PENDING, where, text)
    yield from _plugin(where, record)
    yield from _stored_bytes(where, record)


def _own_audit(folder: Path, record: Record, raw: RawCell) -> Iterator[Finding]:
    audit = record.manifest.audit
    if audit.verdict == "none":
        return
    path = folder / AUDIT_FILE
    if AUDIT_FILE not in record.files:
        yield Finding(
            "error", FindingCode.AUDIT, path, "is missing, so the audit cannot be checked"
        )
        return
    try:
        data = load_audit(path)
    except ChipmarkError as error:
        yield Finding("error", FindingCode.AUDIT, path, error.message)
        return
    yield from _contradictions(path, record, audit, data, raw)


def _contradictions(
    path: Path, record: Record, audit: AuditResult, data: AuditData, raw: RawCell
) -> Iterator[Finding]:
    """The ids that were audited against the events, and the verdict against its arrays."""
    events = [run.events for run in raw.runs]
    for name, keys, seen in (
        ("places", data.keys, (data.seen_repeat, data.seen_place, data.seen_id)),
        (
            "the longest turn",
            data.captured_keys,
            (data.longest_seen_repeat, data.longest_seen_row, data.longest_seen_id),
        ),
    ):
        now = seen_at(events, keys)
        before = sorted(zip(*(column.tolist() for column in seen), strict=True))
        after = sorted(zip(now.repeat.tolist(), now.place.tolist(), now.id.tolist(), strict=True))
        if before != after:
            changed = len(set(before) ^ set(after))
            text = f"ids of {name} in the events are not those that were audited ({changed} differ)"
            yield Finding("error", FindingCode.AUDIT_EVENTS, path, text)
    if audit.verdict == "pending":
        return
    if audit.tolerance_rms_rel is None:
        yield Finding("error", FindingCode.AUDIT, path, "the verdict has no tolerance")
        return
    if text := wrong_tolerance(record.manifest, audit):
        yield Finding("error", FindingCode.AUDIT, path, text)
    simulated = is_simulated(record.manifest.backend)
    again = judge(data, audit.tolerance_rms_rel, top2_required=not simulated)
    for field in _JUDGED:
        stored, computed = getattr(audit, field), getattr(again, field)
        if stored != computed:
            text = f"{field} of the audit is stored as {stored}, its arrays give {computed}"
            yield Finding("error", FindingCode.AUDIT, path, text)
    for field in ("logits_worst_rel", "longest_rms_rel"):
        stored, computed = getattr(audit, field), getattr(again, field)
        if not _near(stored, computed):
            text = f"{field} of the audit is stored as {stored}, its arrays give {computed}"
            yield Finding("error", FindingCode.AUDIT, path, text)


def _plugin(where: Path, record: Record) -> Iterator[Finding]:
    noted = [note.text for note in record.manifest.notes if note.code == NoteCode.PLUGIN]
    yield from (Finding("error", FindingCode.PLUGIN, where, text) for text in noted)
    if noted:
        return
    backend = record.manifest.plugins.get("backend")
    kind = record.manifest.backend.partition(":")[0]
    if backend is None or kind not in BUILT_IN["chipmark.backends"]:
        return
    module = BUILT_IN["chipmark.backends"][kind].partition(":")[0]
    if not backend.built_in or backend.module != module:
        text = f"{kind} is built in, but the module {backend.module} was measured"
        yield Finding("error", FindingCode.PLUGIN, where, text)


def _stored_bytes(where: Path, record: Record) -> Iterator[Finding]:
    manifest = record.manifest
    load = manifest.load
    if load is None or not manifest.model.config or record.measured_as != record.schema_:
        return
    config = ModelConfig.from_dict(manifest.model.config)
    peak = load.peak_rss_bytes if manifest.backend.endswith(":cpu") else None
    precision = manifest.precision
    found = {
        FindingCode.WEIGHT_BYTES: too_few_weight_bytes(
            config, precision.weights, load.weight_bytes, peak
        ),
        FindingCode.KV_BYTES: too_few_kv_bytes(config, precision.kv, load.kv_bytes, load.caps),
    }
    for code, text in found.items():
        if text:
            yield Finding("error", code, where, text)


def _near(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return bool(np.isclose(a, b, rtol=1e-5, atol=1e-12))
