"""The audit of a stored record, for what could not be afforded where it was measured.

The record's raw files were written before these places are drawn, so they cannot know them; and
they must have the checksums of the record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from chipmark.cell.audit_run import (
    Audited,
    Subject,
    audit_by_oracle,
    audit_by_rule,
    captured_in,
)
from chipmark.cell.reference import References, Weights, oracle_here
from chipmark.cell.workloads import ModelInUse, find_model, prepare_model
from chipmark.engine.computed import linear_input_of
from chipmark.errors import BrokenRecordError, CellFailedError, UsageError
from chipmark.registry import is_simulated
from chipmark.results.audit import (
    AUDIT_FILE,
    AuditData,
    audit_text,
    judge,
    load_audit,
)
from chipmark.results.manifest import AuditResult, Manifest
from chipmark.results.raw import load_raw
from chipmark.results.record import Record
from chipmark.results.sidecar import write_sidecar
from chipmark.results.store import file_fault
from chipmark.workload.trace import Trace
from chipmark_models.cache import writable_cache
from chipmark_models.pull import SYNTHETIC_SUFFIX
from chipmark_models.weights.open import source_hash

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Finished:
    """An audit's verdict, and where it was written; None where nothing new was found."""

    audit: AuditResult
    sidecar: Path | None


def can_be_audited(record: Record) -> bool:
    """Whether there is anything to audit: a done cell whose contexts are the trace's, with the
    ids and times of this schema."""
    manifest = record.manifest
    return (
        manifest.status == "done"
        and manifest.feedback == "forced"
        and record.measured_as == record.schema_
    )


def finish_audit(
    record: Record, model: str, device: str, budget_s: float, scratch: Path, say: Say
) -> Finished:
    """Audit a record and write the sidecar next to it, unless it is pending again.

    record: as stored. model: what `-m` means, "" for the record's own. device: where the oracle
    runs. Raises BrokenRecordError for raw files that were changed, UsageError for other weights
    than the record's.
    """
    _check_files(record)
    manifest = record.manifest
    raw = load_raw(record.path, manifest)
    if raw.trace.hash != manifest.workload.hash:
        raise BrokenRecordError(record.path / "trace.npz", "is not the trace of the manifest")
    before = _before(record)
    subject = Subject(
        tuple(run.events for run in raw.runs),
        manifest.precision.class_name,
        linear_input_of(manifest.precision.activation),
        None if before is None or before.compared_rms_rel.size else captured_in(before),
    )
    rms_rel = None
    if is_simulated(manifest.backend):
        found = audit_by_rule(subject, raw.trace)
    else:
        in_use = _weights(manifest, model, say)
        weights = Weights(in_use.spec, in_use.identity.source_hash, manifest.precision.requested)
        say(f"{record.id}: audit against the oracle on {device}")
        with References(writable_cache(), scratch, device=device) as references:
            if device != "cpu" and oracle_here():
                rms_rel = _agreed(references, weights, raw.trace, device, say)
            (found,) = audit_by_oracle(
                [subject], raw.trace, weights, in_use.config, references, budget_s
            )
        if before is not None and before.compared_rms_rel.size:
            found = _with_longest(found, before)
    if found.result.verdict == "pending":
        return Finished(found.result, None)
    path = write_sidecar(record, found.result, audit_text(found.data), device, rms_rel)
    return Finished(found.result, path)


def _agreed(references: References, weights: Weights, trace: Trace, device: str, say: Say) -> float:
    say(f"the oracle on {device} (unverified on hardware) against the CPU's")
    try:
        return references.oracle(weights).agree(trace)
    except CellFailedError as error:
        raise UsageError(f"--device {device}: {error.message}", "use --device cpu") from error


def _check_files(record: Record) -> None:
    for name, entry in record.files.items():
        if fault := file_fault(record.path, name, entry):
            hint = "measure again: what it holds is lost"
            raise BrokenRecordError(record.path / name, fault.text, hint=hint)


def _before(record: Record) -> AuditData | None:
    return load_audit(record.path / AUDIT_FILE) if AUDIT_FILE in record.files else None


def _weights(manifest: Manifest, model: str, say: Say) -> ModelInUse:
    own = manifest.model
    name = model or own.name
    if not model and own.source_kind == "synthetic":
        name += SYNTHETIC_SUFFIX
    ref = find_model(name, int(manifest.options.get("seed", 0)), say)
    found = source_hash(ref)
    if found != own.source_hash:
        raise UsageError(
            f"{name} has the source hash {found[:12]}…, the record's model {own.source_hash[:12]}…",
            f"give the very weights that were measured ({own.name}, {own.source_kind}): -m PATH",
        )
    in_use = prepare_model(ref, manifest.precision.requested, manifest.backend, say)
    if in_use.identity.weights_hash != own.weights_hash:
        raise UsageError(
            f"{name} in {manifest.precision.requested} has other bits than the record's weights",
            "use the version of chipmark that measured it",
        )
    return in_use


def _with_longest(found: Audited, before: AuditData) -> Audited:
    """The comparison of the captured turn that the record's own audit made, with the new places."""
    if found.result.verdict == "pending":
        return found
    kept: dict[str, Any] = {
        name: getattr(before, name)
        for name in (
            "captured_keys",
            "captured_id",
            "captured_margin",
            "captured_repeat",
            "compared",
            "compared_rms_rel",
            "longest_seen_repeat",
            "longest_seen_row",
            "longest_seen_id",
        )
    }
    data = replace(found.data, **kept, captured_logits=np.zeros((0, 0), np.float32))
    tolerance = found.result.tolerance_rms_rel
    assert tolerance is not None
    result = judge(data, tolerance, top2_required=True)
    return Audited(result.model_copy(update={"reference": found.result.reference}), data)
