"""`record.json`: a measured cell as it is kept. Written once, never changed afterwards.

A record is a folder:

    record.json                    this schema: identity, metrics, checksums of every other file
    trace.npz                      the work
    repeat-K/TABLE.parquet         steps, launches, rows, turns, sessions, window
    repeat-K/power.parquet         time_s, energy_j, power_w (absent: not measured)
    repeat-K/power-NAME.parquet    the same of a meter next to the row's
    repeat-K/probes.json
    repeat-K/timing.json           the parent's clock around the repeat (since record/2)
    repeat-K/replica-R/            tables, probes.json and timing.json of replica R, from 1 on
    audit.npz                      places looked at after the run (absent: not audited)
    idle-before.parquet, idle-after.parquet, and -NAME.parquet
    child.log

An audit that was finished later lies next to the folder (`results.sidecar`).

Schema history

    chipmark.record/1   first. `manifest` is chipmark.cell/1, `metrics.schema` is
                        chipmark.metrics/1. `self_sha256` is the sha256 of the file's bytes with
                        its own 64 digits written as zeros.
    chipmark.record/2   `manifest` is chipmark.cell/2: `lane` is called `scenario`, precision
                        classes name weights and activations, and audit, plug-ins, limits, the
                        sweep's end and chipmark's commit are new. Metrics are chipmark.metrics/2;
                        those of an upgraded record stay chipmark.metrics/1, which is never
                        ranked with newer ones (`chipmark recompute` derives them anew into a
                        record whose manifest names the old one in `recomputed_from`; its raw
                        files are the old one's, byte for byte; only `chipmark power attach`
                        adds the readings of a log, which the manifest's options name).

An older schema is brought up to date by one function a step in `UPGRADES`; a newer one is
refused by name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from chipmark.codes import NullReason
from chipmark.errors import BrokenRecordError
from chipmark.foreign_model import checked_model
from chipmark.results.manifest import Manifest, Note
from chipmark.results.numbers import Count, Number
from chipmark.results.stored_details import check_details
from chipmark.results.stored_part import StoredPart
from chipmark.results.upgrades import record_1_to_2
from chipmark_models.foreign_file import MIB, check_values, parse_json

if TYPE_CHECKING:
    from chipmark.metrics.derive import Derived

SCHEMA = "chipmark.record/2"
UPGRADES: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "chipmark.record/1": record_1_to_2
}
"""From a schema to the next one: takes the document, returns it with its new `schema`."""

RECORD_FILE = "record.json"
RECORD_BYTES = 16 * MIB
"""Most bytes of a `record.json`; that of a sweep over a thousand sessions has a hundredth."""

Reason = Annotated[NullReason | str, Field(union_mode="left_to_right")]
"""Why a number is null; a string only where this version does not know the code."""

_BLANK = "0" * 64
_OWN_KEY = '"self_sha256"'
_OWN_HASH = re.compile(_OWN_KEY + r':\s*"([0-9a-f]{64})"')
_DIGITS = re.compile(r"[0-9a-f]{64}")
_CURRENT = re.compile(r'\{\s*"schema":\s*"chipmark\.record/2"')


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class FileEntry:
    """A file of the record, by its path inside it. Of dozens in each of thousands of records that
    are read together, a model would take three times the memory."""

    sha256: str
    bytes: Count


class Metrics(StoredPart):
    """`chipmark.metrics.derive.Derived` as stored."""

    schema_: str = Field(alias="schema")
    values: dict[str, Number]
    per_repeat: tuple[dict[str, Number], ...] = ()
    intervals: dict[str, tuple[float | None, float | None]] = Field(default_factory=dict)
    null_reasons: dict[str, Reason] = Field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    details: Annotated[dict[str, Any], AfterValidator(check_details)] = Field(default_factory=dict)

    @property
    def energy(self) -> Mapping[str, Any]:
        """What `details` has of energy; {} where none was measured."""
        found: Mapping[str, Any] = self.details.get("energy") or {}
        return found


class Record(StoredPart):
    """A cell's identity, its metrics and the checksums of its raw files.

    `path` is the folder it was read from, `written_as` the schema of the file; neither is stored.
    """

    schema_: Literal["chipmark.record/2"] = Field(alias="schema")
    id: str
    manifest: Manifest
    metrics: Metrics
    files: dict[str, FileEntry]
    self_sha256: str
    path: Path = Field(default=Path(), exclude=True)
    written_as: str = Field(default=SCHEMA, exclude=True)

    @property
    def measured_as(self) -> str:
        """The schema under which the raw files were first written, so what they can hold: that of
        the original where the metrics were recomputed."""
        source = self.manifest.recomputed_from
        return self.written_as if source is None else source.measured_as


def metrics_of(derived: Derived) -> Metrics:
    """Derived numbers in their stored form."""
    return Metrics(
        schema=derived.schema,
        values=derived.metrics,
        per_repeat=derived.per_repeat,
        intervals=derived.intervals,
        null_reasons=dict(derived.null_reasons),
        notes=tuple(Note(code=code, text=text) for code, text in derived.notes),
        details=derived.details,
    )


def document_text(document: Mapping[str, Any]) -> str:
    """The text of `record.json` for a document, its `self_sha256` computed."""
    body = {k: v for k, v in document.items() if k != "self_sha256"}
    # The last key, so that its place is known whatever the other values are.
    text = json.dumps({**body, "self_sha256": _BLANK}, indent=1, allow_nan=False) + "\n"
    return _with_own_hash(text, _digest(text))


def parse_record(path: Path, text: str) -> Record:
    """A record from the text of its `record.json`; `path` names it in errors.

    Raises BrokenRecordError where it is invalid JSON, has an unknown schema, lacks a field, has a
    number that is not finite, or was changed after it was written.
    """
    if not checked_text(text):
        _json_object(path, text)
        raise BrokenRecordError(
            path,
            "does not match its own checksum",
            field="self_sha256",
            hint="a record is never changed after it was written; measure again",
        )
    record, written_as = _at_once(text), SCHEMA
    if record is None:
        document = _json_object(path, text)
        written_as = str(document.get("schema"))
        upgraded = _upgraded(path, document)
        record = checked_model(Record, upgraded, path, error=BrokenRecordError)
    return record.model_copy(update={"path": path.parent, "written_as": written_as})


def _at_once(text: str) -> Record | None:
    """A record of the current schema out of its text, without a document in between: thousands
    are read for one table. None for any other, and for one whose fault is to be named."""
    if not _CURRENT.match(text):
        return None
    try:
        record = Record.model_validate_json(text)
        for values in _free_values(record):
            check_values(values)
    except ValueError:  # of which pydantic's are some
        return None
    return record


def _free_values(record: Record) -> Iterator[dict[str, Any]]:
    """What the models take as it is, numbers that are not finite and any depth with it."""
    m = record.manifest
    yield from (record.metrics.details, m.environment, m.options, m.cache_policy, m.model.config)
    yield from (m.chip.identity, m.chip.context)
    if m.load is not None:
        yield from (m.load.caps, m.load.details)


def checked_text(text: str) -> bool:
    """Whether a text that `document_text` made has the checksum that it holds."""
    found = _OWN_HASH.search(text, max(0, text.rfind(_OWN_KEY)))
    return found is not None and _digest(_with_own_hash(text, _BLANK)) == found[1]


def _with_own_hash(text: str, digest: str) -> str:
    head, key, tail = text.rpartition(_OWN_KEY)
    return head + key + _DIGITS.sub(digest, tail, count=1)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _json_object(path: Path, text: str) -> dict[str, Any]:
    document = parse_json(text, path, error=BrokenRecordError)
    if not isinstance(document, dict):
        raise BrokenRecordError(path, "is not a JSON object")
    return document


def _upgraded(path: Path, document: dict[str, Any]) -> dict[str, Any]:
    schema = str(document.get("schema"))
    while schema != SCHEMA:
        if schema not in UPGRADES:
            known = ", ".join((*UPGRADES, SCHEMA))
            raise BrokenRecordError(
                path,
                f"is {schema!r}; this version reads {known}",
                field="schema",
                hint="a newer chipmark wrote it: upgrade",
            )
        document = UPGRADES[schema](document)
        schema = str(document.get("schema"))
    return document
