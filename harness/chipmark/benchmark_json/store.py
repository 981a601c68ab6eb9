"""Runs of pytest-benchmark stored among chipmark's results: a folder each, never changed.

    NAME/benchmark_run.json      what this is, and the checksum of the other file
    NAME/pytest-benchmark.json   the imported file, byte for byte

It is not a `Record`: that is a measured cell, with events that can be computed again. So `chipmark
table` passes such folders by; `chipmark gate`, `chipmark history` and `chipmark validate` read
both. Nothing is lost because nothing is written anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from chipmark.benchmark_json.document import BenchmarkRun
from chipmark.benchmark_json.read import parse_benchmark_json, read_benchmark_json
from chipmark.errors import BadInputError, BrokenRecordError, UsageError
from chipmark.results.store import whole_folder
from chipmark_models.files import sync
from chipmark_models.foreign_file import DATA_BYTES, SETTINGS_BYTES, read_bytes, read_json

SCHEMA = "chipmark.benchmark_run/1"
RUN_FILE = "benchmark_run.json"
CONTENT_FILE = "pytest-benchmark.json"


def import_run(source: Path, out_dir: Path) -> Path:
    """Store a file of pytest-benchmark under `out_dir`, whole or not at all; returns its folder.

    Raises what `read_benchmark_json` raises, before anything is written, and UsageError where
    this very run is stored there already.
    """
    run = read_benchmark_json(source)
    same = next((p for p in _existing(out_dir) if p.name.endswith(run.sha256[:10])), None)
    if same is not None:
        raise UsageError(f"{source} is the run that is stored as {same}", "nothing was written")
    name = run_name(run)
    with whole_folder(out_dir, name, "an imported run is never written twice") as partial:
        content = run.text.encode("utf-8")
        (partial / CONTENT_FILE).write_bytes(content)
        document = {
            "schema": SCHEMA,
            "id": name,
            "source": source.name,
            "version": run.version,
            "benchmarks": run.size,
            "file": {"name": CONTENT_FILE, "sha256": run.sha256, "bytes": len(content)},
        }
        text = json.dumps(document, indent=1, allow_nan=False) + "\n"
        (partial / RUN_FILE).write_text(text, encoding="utf-8")
        for path in (partial / CONTENT_FILE, partial / RUN_FILE):
            sync(path)
    return out_dir / name


def run_name(run: BenchmarkRun) -> str:
    """Folder of a run: its time, and the hash of the file, so that equal files have one name."""
    digits = re.sub(r"[^0-9]", "", run.datetime.partition(".")[0])[:14]
    return "-".join(part for part in ("pytest", digits, run.sha256[:10]) if part)


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Folders of stored runs under the given paths, sorted; hidden folders are not looked into.

    Raises BadInputError for a path that is not there.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise BadInputError(path, "there is no such folder")
        for root, folders, files in os.walk(path):
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            if RUN_FILE in files:
                found[Path(root)] = None
                folders.clear()
    return list(found)


def load_run(folder: Path) -> BenchmarkRun:
    """A stored run; BrokenRecordError where its file is missing or is not what was stored."""
    described = description(folder / RUN_FILE)
    path = folder / CONTENT_FILE
    content = read_bytes(path, DATA_BYTES, within=folder, error=BrokenRecordError)
    if hashlib.sha256(content).hexdigest() != described["file"].get("sha256"):
        raise BrokenRecordError(
            path,
            "does not match its checksum",
            hint="a stored run is never changed: import its file again",
        )
    return parse_benchmark_json(path, content)


def read_runs(path: Path) -> tuple[BenchmarkRun, ...]:
    """The runs behind a path: of a JSON file the one it is, of a folder every stored one."""
    if path.is_file():
        if path.name == RUN_FILE:
            return (load_run(path.parent),)
        return (read_benchmark_json(path),)
    return tuple(load_run(folder) for folder in find_runs([path]))


def _existing(out_dir: Path) -> list[Path]:
    return [path.parent for path in out_dir.glob(f"*/{RUN_FILE}")] if out_dir.is_dir() else []


def description(path: Path) -> dict[str, Any]:
    """The `benchmark_run.json` at `path`; BrokenRecordError where it is not one."""
    document = read_json(path, SETTINGS_BYTES, within=path.parent, error=BrokenRecordError)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise BrokenRecordError(
            path, f"is not {SCHEMA}", field="schema", hint="a newer chipmark wrote it: upgrade"
        )
    if not isinstance(document.get("file"), dict):
        raise BrokenRecordError(path, "is missing", field="file")
    return document
