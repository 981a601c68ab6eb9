"""Readers of records and of what belongs to them."""

from __future__ import annotations

import hashlib
import json
import shutil
from functools import partial
from pathlib import Path

import chipmark
import rawcells
from chipmark.benchmark_json.export import records_document
from chipmark.foreign_text import one_line
from chipmark.prices.book import EXAMPLE, load_book
from chipmark.results.raw import load_raw
from chipmark.results.record import document_text
from chipmark.results.store import load_record, load_records
from chipmark.results.validate import validate_record
from chipmark.results.write import record_raw
from chipmark.table.cost_table import cost_text
from chipmark.table.rows import build_rows
from hostile.trial import Subject

_STORED = Path(__file__).parent.parent.parent / "results"
_OLD = Path(__file__).parent.parent / "results" / "data" / "record-1"


def good_record(folder: Path, source: Path | None = None, name: str = "record.json") -> Path:
    """A copy of a published record; returns one file of it."""
    source = source or min(_STORED.glob("*/*/record.json")).parent
    shutil.copytree(source, folder / "record")
    return folder / "record" / name


def small_record(folder: Path, name: str = "record.json") -> Path:
    """A record of a cell made by hand, which is quick to validate; returns one file of it."""
    raw = rawcells.write_raw(folder / "raw")
    record = record_raw(folder, raw)
    shutil.rmtree(raw)
    return record / name


def seal(path: Path) -> None:
    """The record's checksums, computed again: of the file that was changed, and its own."""
    record = next(p for p in path.parents if (p / "record.json").is_file()) / "record.json"
    document = json.loads(record.read_text(encoding="utf-8"))
    if path != record:
        content = path.read_bytes()
        entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        document["files"][path.relative_to(record.parent).as_posix()] = entry
    record.write_text(document_text(document), encoding="utf-8")


def show(path: Path) -> None:
    """The tables in every format, costs and an export; a broken record is named."""
    records = chipmark.load(path.parent, strict=False)
    for skipped in records.skipped:
        print(skipped.reason)
    for name in ("md", "csv", "json", "html", "rich"):
        print(records.render(name, all_columns=True) if len(records) else "")
    stored = load_records([path.parent]).records
    print(cost_text(build_rows(stored, load_book(EXAMPLE)), 100) if stored else "")
    if not len(records):
        load_record(path.parent)
    if stored:
        records_document(stored)


def read(path: Path) -> None:
    """The record alone."""
    load_record(path.parent)


def read_raw(path: Path) -> None:
    """The raw files alone."""
    folder = next(p for p in path.parents if (p / "record.json").exists())
    load_raw(folder, load_record(folder).manifest)


def validate(path: Path) -> None:
    """What `chipmark validate` says; a finding of the reading is the reader's refusal."""
    folder = next(p for p in path.parents if (p / "record.json").exists())
    for finding in validate_record(folder):
        print(finding.severity, finding.code, one_line(finding.text))
    load_raw(folder, load_record(folder).manifest)


_TABLE = ("results/record.py", "results/store.py", "table/rows.py", "table/sheet.py")
_VALIDATE = ("results/validate.py", "results/manifest_check.py", "results/raw.py")
_RAW = ("results/raw.py", "engine/events.py", "workload/trace.py")
_FILES = {
    "trace.npz": "npz",
    "repeat-0/turns.parquet": "parquet",
    "repeat-0/launches.parquet": "parquet",
    "repeat-0/rows.parquet": "parquet",
    "repeat-0/steps.parquet": "parquet",
    "repeat-0/sessions.parquet": "parquet",
    "repeat-0/window.parquet": "parquet",
    "repeat-0/power.parquet": "parquet",
    "repeat-0/probes.json": "json",
    "repeat-0/timing.json": "json",
}

SUBJECTS = [
    Subject("record", "json", good_record, read, _TABLE, seal, 5.0),
    Subject("record: table", "json", good_record, show, _TABLE, seal, 1.0),
    Subject("record: validate", "json", small_record, validate, _VALIDATE, seal, 0.1),
    Subject(
        "record of schema 1", "json", partial(good_record, source=_OLD), show,
        ("results/upgrades.py",), seal, 0.2,
    ),
    *(
        Subject(
            f"record: {name}", kind, partial(small_record, name=name), read_raw, _RAW, seal, 0.4
        )
        for name, kind in _FILES.items()
    ),
    *(
        Subject(
            f"validate: {name}", kind, partial(small_record, name=name), validate, _VALIDATE, seal,
            0.02,
        )
        for name, kind in _FILES.items()
    ),
]  # fmt: skip
