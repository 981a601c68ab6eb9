"""Stored results as a file that pytest-benchmark reads."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chipmark.benchmark_json.document import NAMESPACE
from chipmark.benchmark_json.stats import stats_of
from chipmark.benchmark_json.store import find_runs, load_run
from chipmark.errors import (
    BadInputError,
    BrokenRecordError,
    NothingToJudgeError,
    UsageError,
)
from chipmark.results.record import Record
from chipmark.results.store import Skipped, find_records, load_records
from chipmark_models.files import whole_file

CELL_SCHEMA = "chipmark.cell_benchmark/1"
VERSION = "5.0.0"
"""The format written; every 5.x reads it."""

TIMES = ("ttft_p50_s", "ttft_cold_p50_s", "tpot_p50_s")
"""Columns of the table that are seconds of a typical event."""

PER_TOKEN = {"total": "total_tok_s", "prefill": "prefill_tok_s", "decode": "decode_tok_s"}
"""Rates whose inverse, seconds a work token, is a time: then `ops` is the rate itself."""


@dataclass(frozen=True, slots=True)
class Export:
    """The JSON text of a folder, and the records that could not be read."""

    text: str
    skipped: tuple[Skipped, ...] = ()


def export_of(folder: Path) -> Export:
    """The JSON text for a folder: that of the one imported run in it, or of all its records.

    Raises BadInputError where the folder is not there, BrokenRecordError where nothing that it
    holds is whole, NothingToJudgeError where it is empty, UsageError where it holds two runs, or
    runs and records.
    """
    if not folder.is_dir():
        raise BadInputError(folder, "there is no such folder")
    runs, records = find_runs([folder]), find_records([folder])
    if len(runs) + bool(records) > 1:
        listed = ", ".join(str(path) for path in (*runs, *records)[:4])
        raise UsageError(f"{folder} holds more than one run: {listed}", "name one of them")
    if runs:
        return Export(load_run(runs[0]).text)
    if not records:
        raise NothingToJudgeError(
            f"there is no stored run and no record under {folder}",
            "chipmark import FILE -o DIR and chipmark run -o DIR make some",
        )
    loaded = load_records([folder])
    if not loaded.records:
        raise BrokenRecordError(
            folder, f"holds no record that is whole: {loaded.skipped[0].reason}"
        )
    document = records_document(loaded.records)
    return Export(json.dumps(document, indent=4, allow_nan=False) + "\n", loaded.skipped)


def write_export(text: str, out: Path, *, force: bool) -> None:
    """Write whole or not at all; `-` is stdout. UsageError where `out` already exists,
    CannotWriteError where it cannot be written."""
    if str(out) == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    if out.exists() and not force:
        raise UsageError(f"{out} already exists", "--force replaces it")
    with whole_file(out) as partial:
        # Bytes: a text file would turn the line ends of an imported one.
        partial.write_bytes(text.encode("utf-8"))


def records_document(records: Sequence[Record]) -> dict[str, Any]:
    """pytest-benchmark's document of measured cells; failed ones are left out.

    A cell gives a benchmark for each of TIMES and PER_TOKEN that was measured, its samples those
    of the repeats. NothingToJudgeError where no cell has one, UsageError where one cell is in
    two records.
    """
    benchmarks: list[dict[str, Any]] = []
    owner: dict[str, Record] = {}
    done = [record for record in records if record.manifest.status == "done"]
    for record in done:
        for entry in _benchmarks(record):
            first = owner.setdefault(entry["fullname"], record)
            if first is not record:
                raise UsageError(
                    f"{first.path} and {record.path} measured the same cell",
                    "export one of the folders: pytest-benchmark's names are unique in a file",
                )
            benchmarks.append(entry)
    if not benchmarks:
        raise NothingToJudgeError("no record holds a measured time", "look at `chipmark table`")
    newest = max(done, key=lambda record: record.manifest.created)
    environment = newest.manifest.environment
    return {
        "machine_info": {
            "node": "",
            "system": str(environment.get("os", "")),
            "python_version": str(environment.get("python", "")),
            "cpu": {},
            NAMESPACE: {"schema": CELL_SCHEMA, "accelerators": _accelerators(done)},
        },
        "commit_info": {},
        "benchmarks": benchmarks,
        "datetime": newest.manifest.created,
        "version": VERSION,
    }


def _benchmarks(record: Record) -> list[dict[str, Any]]:
    found = []
    for name in TIMES:
        found.append((name, _samples(record, name, invert=False)))
    for phase, column in PER_TOKEN.items():
        found.append((f"{phase}_s_per_token", _samples(record, column, invert=True)))
    return [_benchmark(record, name, data) for name, data in found if data]


def _samples(record: Record, column: str, *, invert: bool) -> list[float]:
    """One value a repeat; none where a repeat has no value, so that all repeats count alike."""
    values = [repeat.get(column) for repeat in record.metrics.per_repeat]
    known = [float(value) for value in values if value is not None and value > 0]
    if not known or len(known) != len(values):
        return []
    return [1.0 / value for value in known] if invert else known


def _benchmark(record: Record, name: str, data: Sequence[float]) -> dict[str, Any]:
    manifest = record.manifest
    params: dict[str, Any] = {
        "backend": manifest.backend,
        "model": manifest.model.name,
        "precision": manifest.precision.requested,
        "workload": manifest.workload.name,
        "scale": " ".join(manifest.workload.scale),
        "scenario": manifest.scenario,
    }
    if manifest.scenario != "capacity":  # whose N is what was measured
        params["concurrency"] = manifest.concurrency
    param = "-".join(str(value) for value in params.values())
    return {
        "group": f"chipmark {name}",
        "name": f"{name}[{param}]",
        "fullname": f"chipmark::{name}[{param}]",
        "params": params,
        "param": param,
        "extra_info": {
            NAMESPACE: {
                "schema": CELL_SCHEMA,
                "record": record.id,
                "workload_hash": manifest.workload.hash,
                "weights_hash": manifest.model.weights_hash,
                "chip": manifest.chip.model_dump(mode="json"),
                "concurrency": manifest.concurrency,
                "parity": manifest.parity.verdict,
                "audit": manifest.audit.verdict,
                "notes": sorted({n.code for n in (*manifest.notes, *record.metrics.notes)}),
                "energy_source": manifest.meter.source if manifest.meter else None,
                "metrics": record.metrics.values,
                "null_reasons": record.metrics.null_reasons,
            }
        },
        "options": {"timer": manifest.load.caps.get("clock") if manifest.load else None},
        "stats": stats_of(data),
    }


def _accelerators(records: Sequence[Record]) -> list[dict[str, Any]]:
    unique: dict[str, dict[str, Any]] = {}
    for record in records:
        chip = record.manifest.chip
        entry = {
            "backend": record.manifest.backend,
            "name": chip.name,
            "device_name": chip.device_name,
            "identity": dict(chip.identity),
        }
        unique.setdefault(json.dumps(entry, sort_keys=True), entry)
    return list(unique.values())
