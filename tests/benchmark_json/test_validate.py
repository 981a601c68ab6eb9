"""Every claim of a stored run is held against its file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from chipmark.benchmark_json.store import CONTENT_FILE, RUN_FILE, import_run
from chipmark.benchmark_json.validate import validate_run

DATA = Path(__file__).parent / "data"


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    return import_run(DATA / "v5.json", tmp_path)


def described(folder: Path, **changes: Any) -> None:
    document = json.loads((folder / RUN_FILE).read_text(encoding="utf-8")) | changes
    (folder / RUN_FILE).write_text(json.dumps(document), encoding="utf-8")


def test_a_run_as_imported_has_no_finding(stored: Path) -> None:
    assert validate_run(stored) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"benchmarks": 7}, "benchmarks is 7, the file gives 3"),
        ({"version": "3.1"}, "version is '3.1'"),
        ({"id": "pytest-x"}, "id is 'pytest-x'"),
        ({"schema": "chipmark.benchmark_run/9"}, "is not chipmark.benchmark_run/1"),
        ({"file": None}, "is missing"),
    ],
)
def test_a_wrong_claim_is_named(stored: Path, changes: dict[str, Any], said: str) -> None:
    described(stored, **changes)
    (finding,) = validate_run(stored)
    assert (finding.severity, finding.code) == ("error", "benchmark_run")
    assert said in finding.text
    assert finding.path == stored / RUN_FILE


def test_a_checksum_written_anew_does_not_hide_a_changed_sample(stored: Path) -> None:
    document = json.loads((stored / CONTENT_FILE).read_text(encoding="utf-8"))
    document["benchmarks"][0]["stats"]["data"][0] /= 2
    content = json.dumps(document).encode()
    (stored / CONTENT_FILE).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    described(stored, file={"name": CONTENT_FILE, "sha256": digest, "bytes": len(content)})
    found = {finding.path: finding for finding in validate_run(stored)}
    assert found[stored / CONTENT_FILE].severity == "error"
    assert "its samples give" in found[stored / CONTENT_FILE].text
    assert "id is" in found[stored / RUN_FILE].text


def test_a_missing_file_and_one_too_many(stored: Path) -> None:
    (stored / "more.txt").write_text("x")
    (finding,) = validate_run(stored)
    assert (finding.severity, finding.code) == ("warning", "extra")
    (stored / CONTENT_FILE).unlink()
    (finding,) = validate_run(stored)
    assert "no such file" in finding.text
