"""Readers of records and of what belongs to them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import chipmark
from chipmark.results.record import document_text
from hostile.trial import Subject

_STORED = Path(__file__).parent.parent.parent / "results"


def good_record(folder: Path) -> Path:
    """A copy of the first published record; returns its record.json."""
    source = min(_STORED.glob("*/*/record.json")).parent
    shutil.copytree(source, folder / "record")
    return folder / "record" / "record.json"


def seal(path: Path) -> None:
    """The record's own checksum, computed again."""
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(document_text(document), encoding="utf-8")


def show(path: Path) -> None:
    """The tables in every format; a broken record must be named and cost only itself."""
    records = chipmark.load(path.parent)
    for name in ("md", "csv", "json", "html"):
        print(records.render(name))


SUBJECTS = [
    Subject(
        "record", "json", good_record, show, ("results/record.py", "results/store.py"), seal, 4.0
    ),
]
