"""Thousands of valid records of honest size out of a published one, in seconds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chipmark.results.record import RECORD_FILE, document_text

PUBLISHED = sorted((Path(__file__).parents[1] / "results" / "amd-epyc-zen4").glob("*/record.json"))
BACKENDS = ("torch:cpu", "ort:cpu", "torch:cuda", "one:npu")
NOT_STEADY = "not_steady"
BROKEN = 77
"""The record of this number was changed after it was written."""

_RATE = 123456.875
"""Stands for a rate of the record."""
_MARKS = ("@id@", "@created@", "@backend@", "@model@", "@weights@", "@note@")


def make_records(folder: Path, count: int, *, series: bool = False, first: int = 0) -> Path:
    """Write `count` records into a new folder; every fiftieth is of a failed cell.

    series: of 20 cells that were measured again and again; else each is another cell.
    """
    folder.mkdir()
    done = [_template(path, failed=False) for path in PUBLISHED]
    failed = [_template(path, failed=True) for path in PUBLISHED]
    for number in range(first, first + count):
        templates = failed if number % 50 == 1 else done
        values = dict(zip(_MARKS, _values(number, series=series), strict=True))
        text = templates[number % len(templates)]
        for mark, value in values.items():
            text = text.replace(mark, value)
        text = text.replace(str(_RATE), repr(1000.0 + _noise(number)))
        blank = text.encode()
        text = text.replace("0" * 64, hashlib.sha256(blank).hexdigest())
        if number == BROKEN:
            text = text.replace('"total_tok_s"', '"total_tok_S"', 1)
        place = folder / values["@id@"]
        place.mkdir()
        (place / RECORD_FILE).write_text(text, encoding="utf-8")
    return folder


def _noise(number: int) -> float:
    """0 to 100, without a trend."""
    return int.from_bytes(hashlib.sha256(str(number).encode()).digest()[:4]) / 2**32 * 100


def _values(number: int, *, series: bool) -> Iterator[str]:
    cell = number % 20 if series else number
    yield f"cell-{number:06d}"
    minute = number // 20 if series else number
    yield f"2026-{1 + minute // 40320:02d}-{1 + minute // 1440 % 28:02d}T" + (
        f"{minute // 60 % 24:02d}:{minute % 60:02d}:{number % 20:02d}.000+00:00"
    )
    yield BACKENDS[cell % len(BACKENDS)]
    yield f"model-{cell // len(BACKENDS)}"
    yield hashlib.sha256(str(cell // len(BACKENDS)).encode()).hexdigest()
    yield f"seen {number % 30} times"


def _template(path: Path, *, failed: bool) -> str:
    """The text of a record with marks in it, its own checksum left blank."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    manifest, metrics = document["manifest"], document["metrics"]
    document["id"], manifest["created"], manifest["backend"] = "@id@", "@created@", "@backend@"
    manifest["model"] |= {"name": "@model@", "source_hash": "@weights@"}
    manifest["notes"] = [n for n in manifest["notes"] if n["code"] != NOT_STEADY]
    metrics["notes"] = [n for n in metrics["notes"] if n["code"] != NOT_STEADY]
    manifest["notes"].append({"code": "a_note", "text": "@note@"})
    if failed:
        manifest |= {"status": "failed", "load": None}
        manifest["failure"] = {"code": "cell_failed", "text": "out of memory"}
        metrics["null_reasons"] = dict.fromkeys(metrics["values"], "cell_failed")
        metrics |= {"values": dict.fromkeys(metrics["values"]), "per_repeat": [], "intervals": {}}
    else:
        for values in (metrics["values"], *metrics["per_repeat"]):
            values["total_tok_s"] = _RATE
        metrics["intervals"]["total_tok_s"] = [999.0, 2100.0]
    head, key, tail = document_text(document).rpartition('"self_sha256": "')
    return head + key + "0" * 64 + tail[64:]
