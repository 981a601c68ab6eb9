"""`RECORD.audit.json` next to a record's folder: an audit that was finished after the record.

A record is never changed, so what could not be afforded while it was measured is added next to it,
bound to the record by the checksum of its `record.json`. Reading needs no NumPy: `data` is opened
by `chipmark validate` alone.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from chipmark import __version__
from chipmark.errors import BrokenRecordError
from chipmark.foreign_model import parse_model
from chipmark.results.manifest import AuditResult
from chipmark.results.record import Record, checked_text, document_text
from chipmark_models.files import whole_file
from chipmark_models.foreign_file import MIB, read_text

SCHEMA: Literal["chipmark.audit/1"] = "chipmark.audit/1"
SIDECAR_BYTES = 64 * MIB
"""Most bytes of a sidecar: it holds the audit's arrays, a few thousand places at most."""

_SUFFIX = ".audit.json"
_AGAIN = "remove it, or audit the record again: chipmark audit --again RECORD"


class Sidecar(BaseModel):
    """An audit of one record, made later or on another machine."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False
    )

    schema_: Literal["chipmark.audit/1"] = Field(SCHEMA, alias="schema")
    record: str
    """Id of the record."""
    record_sha256: str
    """Its `self_sha256`."""
    created: str
    chipmark_version: str
    device: str
    """Where the oracle ran: cpu, or torch's name of an accelerator."""
    device_rms_rel: float | None = None
    """How far an accelerator was from the CPU's oracle on the start of the longest session."""
    audit: AuditResult
    data: str
    """Base64 of an `audit.npz`, see `results.audit`."""
    self_sha256: str


def sidecar_path(folder: Path) -> Path:
    """Where the audit of a record's folder lies."""
    place = folder.resolve()
    return place.with_name(place.name + _SUFFIX)


def _has_none(folder: Path) -> bool:
    """Whether no audit lies next to a folder, told at once where its name is its own: of many
    thousands of records hardly one has an audit."""
    if folder.name in ("", "..") or os.path.islink(folder):
        return False
    return not os.path.lexists(f"{folder}{_SUFFIX}")


def write_sidecar(
    record: Record, audit: AuditResult, data: str, device: str, device_rms_rel: float | None
) -> Path:
    """Write the audit of a record next to it, whole or not at all; an older one is replaced."""
    path = sidecar_path(record.path)
    document = {
        "schema": SCHEMA,
        "record": record.id,
        "record_sha256": record.self_sha256,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "chipmark_version": __version__,
        "device": device,
        "device_rms_rel": device_rms_rel,
        "audit": audit.model_dump(mode="json"),
        "data": data,
    }
    with whole_file(path) as partial:
        partial.write_text(document_text(document), encoding="utf-8")
    return path


def load_sidecar(record: Record) -> Sidecar | None:
    """The audit next to a record, None where there is none. BrokenRecordError where it is not
    whole, was changed, or belongs to another record."""
    if _has_none(record.path):
        return None
    path = sidecar_path(record.path)
    if not os.path.lexists(path):
        return None
    text = read_text(path, SIDECAR_BYTES, error=BrokenRecordError, hint=_AGAIN)
    if not checked_text(text):
        raise BrokenRecordError(
            path, "does not match its own checksum", field="self_sha256", hint=_AGAIN
        )
    found = parse_model(Sidecar, text, path, error=BrokenRecordError, hint=_AGAIN)
    if (found.record, found.record_sha256) != (record.id, record.self_sha256):
        raise BrokenRecordError(
            path, "is the audit of another record", field="record_sha256", hint=_AGAIN
        )
    return found


def with_sidecar(record: Record) -> Record:
    """The record with the audit next to it. A record that failed its own audit stays failed."""
    if record.manifest.audit.verdict == "fail":
        return record
    found = load_sidecar(record)
    if found is None:
        return record
    manifest = record.manifest.model_copy(update={"audit": found.audit})
    return record.model_copy(update={"manifest": manifest})
