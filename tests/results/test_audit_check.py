"""What `chipmark validate` finds in edited records whose checksums were made to fit again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chipmark.errors import BrokenRecordError
from chipmark.results.audit import audit_text, load_audit, save_audit
from chipmark.results.record import document_text
from chipmark.results.sidecar import sidecar_path, write_sidecar
from chipmark.results.store import find_records, load_record, load_records, stored_record
from chipmark.results.validate import validate_record
from chipmark_models.files import sha256_of_file


def validate(path):
    """Findings on every record under a path."""
    return [found for folder in find_records([path]) for found in validate_record(folder)]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record of `sim:golden` as `chipmark run` writes it."""
    from chipmark.cli.main import main

    out = tmp_path_factory.mktemp("runs")
    arguments = "run quick -b sim:golden --sessions 2 --concurrency 2 --repeats 2 --format json"
    assert main([*arguments.split(), "-o", str(out)]) == 0
    (record,) = find_records([out])
    return record


@pytest.fixture
def record(simulated: Path, tmp_path: Path) -> Path:
    """A copy that may be edited."""
    folder = tmp_path / simulated.name
    shutil.copytree(simulated, folder)
    return folder


def _seal(folder: Path, **manifest: Any) -> None:
    """Make every checksum fit what now lies in the folder; `audit__field=value` edits."""
    path = folder / "record.json"
    document = json.loads(path.read_text())
    for name in document["files"]:
        file = folder / name
        document["files"][name] = {"sha256": sha256_of_file(file), "bytes": file.stat().st_size}
    for key, value in manifest.items():
        target = document["manifest"]
        *parents, last = key.split("__")
        for parent in parents:
            target = target[parent]
        target[last] = value
    path.write_text(document_text(document))


def _codes(folder: Path) -> set[str]:
    return {finding.code for finding in validate(folder) if finding.severity == "error"}


def test_an_audited_record_is_clean(record: Path) -> None:
    assert validate(record) == []
    audit = load_record(record).manifest.audit
    assert (audit.verdict, audit.ids_wrong) == ("pass", 0)


def test_ids_that_were_set_to_zero_are_found(record: Path) -> None:
    path = record / "repeat-1" / "rows.parquet"
    table = pq.read_table(path)
    at = table.column_names.index("sampled")
    zeros = pa.array(np.zeros(table.num_rows, np.int32))
    pq.write_table(table.set_column(at, "sampled", zeros), path)
    _seal(record)
    assert _codes(record) == {"audit_events", "ids"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"concurrency": 1}, "concurrency is 1, repeat 0 ran 2"),
        ({"precision__class_name": "fp8"}, "precision.class_name is fp8"),
        ({"precision__kv": "int8"}, "gives fp32+kv8"),
        ({"workload__sessions": 4}, "workload.sessions is 4"),
        ({"workload__seed": 7}, "workload.seed is 7"),
        ({"workload__n_out": 1}, "workload.n_out is 1"),
        ({"load__execution": "eager"}, "load.execution is eager"),
        ({"repeats": 3}, "repeats is 3"),
        ({"parity__tolerance_rms_rel": 0.5}, "parity.tolerance_rms_rel is 0.5"),
        ({"audit__tolerance_rms_rel": 0.4}, "audit.tolerance_rms_rel is 0.4"),
    ],
)
def test_an_edited_manifest_contradicts_the_rest(
    record: Path, change: dict[str, Any], words: str
) -> None:
    _seal(record, **change)
    texts = [f.text for f in validate(record) if f.severity == "error"]
    assert any(words in text for text in texts), texts


def test_parity_that_its_own_numbers_do_not_pass_is_found(record: Path) -> None:
    _seal(record, parity__rms_rel=0.5, parity__tolerance_rms_rel=1e-3)
    assert _codes(record) == {"manifest"}


def test_throttling_that_a_repeat_saw_cannot_be_left_out(record: Path) -> None:
    path = record / "repeat-1" / "timing.json"
    timing = json.loads(path.read_text())
    path.write_text(json.dumps(timing | {"throttle": ["sw_thermal_slowdown"]}))
    _seal(record)
    assert _codes(record) == {"manifest"}


def test_a_state_that_a_repeat_saw_cannot_be_left_out(record: Path) -> None:
    path = record / "repeat-1" / "timing.json"
    timing = json.loads(path.read_text())
    other = {"other_processes": 1, "other_pids": [7]}
    state = {"source": "NVML", "before": {}, "during": None, "after": other}
    path.write_text(json.dumps(timing | {"state": state}))
    _seal(record)
    texts = [f.text for f in validate(record) if f.severity == "error"]
    assert len(texts) == 1
    assert "repeat 1 was other_processes" in texts[0]
    _seal(record, notes=[{"code": "other_processes", "text": "pid 7"}])
    assert _codes(record) == set()
    path.write_text(json.dumps(timing | {"state": state | {"befor": {}}}))
    _seal(record)
    assert _codes(record) == {"raw"}


def test_a_capacity_that_its_sweep_did_not_find_is_a_contradiction(record: Path) -> None:
    _seal(record, scenario="capacity", capacity={"concurrency": 8, "cut": False})
    texts = [f.text for f in validate(record) if f.severity == "error"]
    assert any("the sweep found 8" in text for text in texts), texts


def test_a_verdict_that_its_arrays_do_not_give_is_found(record: Path) -> None:
    data = load_audit(record / "audit.npz")
    wrong = data.seen_id.copy()
    wrong[0] += 1
    save_audit(record / "audit.npz", _with(data, seen_id=wrong))
    _seal(record)
    assert {"audit", "audit_events"} <= _codes(record)
    _seal(record, audit__ids_clear=3)
    assert "audit" in _codes(record)


def test_an_audit_without_its_arrays_is_found(record: Path) -> None:
    (record / "audit.npz").unlink()
    path = record / "record.json"
    document = json.loads(path.read_text())
    del document["files"]["audit.npz"]
    path.write_text(document_text(document))
    assert _codes(record) == {"audit"}


@pytest.mark.parametrize(
    ("edits", "code"),
    [
        ({"audit__verdict": "fail", "audit__reason": "x"}, "audit"),
        ({"parity__verdict": "fail", "parity__reason": "x"}, "parity"),
        ({"plugins__backend__built_in": False}, "plugin"),
        ({"plugins__backend__module": "elsewhere"}, "plugin"),
        ({"notes": [{"code": "plugin", "text": "the child's file is another"}]}, "plugin"),
    ],
)
def test_what_a_manifest_says_against_itself_is_an_error(
    record: Path, edits: dict[str, Any], code: str
) -> None:
    _seal(record, **edits)
    assert code in _codes(record)


def test_a_pending_audit_is_a_warning_until_a_sidecar_ends_it(record: Path) -> None:
    done = load_record(record).manifest.audit
    _seal(record, audit__verdict="pending", audit__reason="too long")
    assert [(f.severity, f.code) for f in validate(record)] == [("warning", "audit_pending")]
    stored = stored_record(record)
    text = audit_text(load_audit(record / "audit.npz"))
    path = write_sidecar(stored, done, text, "cpu", None)
    assert path == record.with_name(f"{record.name}.audit.json")
    assert load_record(record).manifest.audit == done
    assert stored_record(record).manifest.audit.verdict == "pending"
    assert validate(record) == []


def test_a_failed_audit_is_not_undone_by_a_sidecar(record: Path) -> None:
    done = load_record(record).manifest.audit
    _seal(record, audit__verdict="fail", audit__reason="x")
    write_sidecar(
        stored_record(record), done, audit_text(load_audit(record / "audit.npz")), "cpu", None
    )
    assert load_record(record).manifest.audit.verdict == "fail"
    assert "audit" in _codes(record)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("edited", "does not match its own checksum"),
        ("another", "is the audit of another record"),
        ("text", "does not match its own checksum"),
        ("schema", "chipmark.audit/1"),
    ],
)
def test_a_sidecar_that_is_not_the_records_is_refused_by_name(
    record: Path, fault: str, message: str
) -> None:
    done = load_record(record).manifest.audit
    text = audit_text(load_audit(record / "audit.npz"))
    path = write_sidecar(stored_record(record), done, text, "cpu", None)
    document = json.loads(path.read_text())
    if fault == "edited":
        document["audit"]["ids_wrong"] = 5
        path.write_text(json.dumps(document))
    elif fault == "text":
        path.write_text("not JSON")
    elif fault == "schema":
        path.write_text(document_text(document | {"schema": "chipmark.audit/9"}))
    else:
        _seal(record, concurrency=1)
    with pytest.raises(BrokenRecordError) as caught:
        load_record(record)
    assert message in caught.value.message
    assert path.name in caught.value.message
    assert "chipmark audit --again" in caught.value.hint
    (skipped,) = load_records([record]).skipped
    assert path.name in skipped.reason
    assert any(path.name in str(f.path) for f in validate(record))


def test_a_sidecar_whose_arrays_contradict_it_is_found(record: Path) -> None:
    done = load_record(record).manifest.audit
    data = load_audit(record / "audit.npz")
    write_sidecar(
        stored_record(record),
        done.model_copy(update={"ids_wrong": 2}),
        audit_text(data),
        "cpu",
        None,
    )
    assert sidecar_path(record).is_file()
    assert "audit" in _codes(record)


def _with(data: Any, **changes: Any) -> Any:
    from dataclasses import replace

    return replace(data, **changes)
