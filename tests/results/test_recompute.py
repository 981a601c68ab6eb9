"""Stored records under today's definitions: new records beside the old ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from chipmark.cell.audit_record import can_be_audited
from chipmark.errors import BrokenRecordError, UsageError
from chipmark.metrics.names import METRICS
from chipmark.results.recompute import Recomputed, recompute
from chipmark.results.record import document_text
from chipmark.results.store import Skipped, find_records, load_record
from chipmark.results.validate import validate_record
from chipmark.results.write import record_raw, write_recomputed
from chipmark.table.rows import build_rows

OLD = Path(__file__).with_name("data") / "record-1"


def validate(path):
    """Findings on every record under a path."""
    return [found for folder in find_records([path]) for found in validate_record(folder)]


def content(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture
def record(rawcells: ModuleType, tmp_path: Path) -> Path:
    return record_raw(tmp_path / "out", rawcells.write_raw(tmp_path / "raw"))


def test_a_record_of_schema_1_is_derived_anew_with_the_same_raw_files(tmp_path: Path) -> None:
    before = content(OLD)
    (result,) = recompute([OLD], tmp_path / "anew")
    assert isinstance(result, Recomputed)
    assert content(OLD) == before
    new = result.new
    assert new.written_as == "chipmark.record/2"
    assert new.metrics.schema_ == "chipmark.metrics/2"
    after = content(new.path)
    assert {n: b for n, b in after.items() if n != "record.json"} == {
        n: b for n, b in before.items() if n != "record.json"
    }
    source = new.manifest.recomputed_from
    assert source is not None
    assert (source.id, source.measured_as, source.metrics_schema) == (
        result.old.id, "chipmark.record/1", "chipmark.metrics/1",
    )  # fmt: skip
    assert source.self_sha256 == json.loads(before["record.json"])["self_sha256"]
    assert new.id != result.old.id
    # 10 output tokens in 30 ms of decode launches, of which decode sampled 6.
    decode = next(c for c in result.changes if c.metric == "decode_tok_s")
    assert (decode.old, decode.new) == (pytest.approx(10 / 0.030), pytest.approx(6 / 0.030))
    assert decode.relative == pytest.approx(-0.4)
    assert "total_tok_s" not in {c.metric for c in result.changes}
    assert result.unchanged + len(result.changes) == len(METRICS)
    # Its probes are far below what its hand-made launches read.
    assert {f.code for f in validate(new.path)} == {"over_roof"}


def test_a_record_says_what_its_raw_files_can_hold(tmp_path: Path) -> None:
    first = write_recomputed(tmp_path / "one", load_record(OLD))
    again = load_record(write_recomputed(tmp_path / "two", load_record(first)))
    assert (again.written_as, again.measured_as) == ("chipmark.record/2", "chipmark.record/1")
    source = again.manifest.recomputed_from
    assert source is not None
    assert source.id == first.name


def test_a_record_derived_anew_proves_no_more_than_its_raw_files(tmp_path: Path) -> None:
    """Nobody compared its declared power with a nameplate, and its ids have no logits to audit."""
    old = load_record(OLD)
    assert old.manifest.meter is not None
    meter = old.manifest.meter.model_copy(update={"source": "declared"})
    manifest = old.manifest.model_copy(update={"meter": meter})
    new = load_record(
        write_recomputed(tmp_path / "new", old.model_copy(update={"manifest": manifest}))
    )
    (row,) = build_rows([new], None)
    assert row.details["marks"]["tok_per_joule"] == ["assumed"]
    assert row.details["not_ranked"] == [
        "measured as chipmark.record/1, before runs were audited: measure it again"
    ]
    assert not can_be_audited(new)


def test_what_is_up_to_date_comes_out_as_it_was(record: Path, tmp_path: Path) -> None:
    (result,) = recompute([record], tmp_path / "anew")
    assert isinstance(result, Recomputed)
    assert result.changes == ()
    assert validate(result.new.path) == []
    assert result.new.metrics == result.old.metrics


def test_a_failed_cell_stays_one(rawcells: ModuleType, tmp_path: Path) -> None:
    raw = rawcells.write_raw(
        tmp_path / "raw",
        status="failed",
        failure={"code": "crash", "text": "signal 11"},
        load=None,
        parity={"verdict": "unchecked"},
    )
    (result,) = recompute([record_raw(tmp_path / "out", raw)], tmp_path / "anew")
    assert isinstance(result, Recomputed)
    assert set(result.new.metrics.null_reasons.values()) == {"cell_failed"}


def test_a_broken_record_costs_itself_only(record: Path, tmp_path: Path) -> None:
    spoilt = tmp_path / "out" / "spoilt"
    shutil.copytree(record, spoilt)
    path = spoilt / "repeat-1" / "rows.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    results = list(recompute([spoilt, record], tmp_path / "anew"))
    assert isinstance(results[0], Skipped)
    assert "rows.parquet" in results[0].reason
    assert isinstance(results[1], Recomputed)
    assert [p.name for p in (tmp_path / "anew").iterdir()] == [results[1].new.id]


def test_nothing_is_written_into_an_old_record_or_twice(record: Path, tmp_path: Path) -> None:
    old = load_record(record)
    with pytest.raises(UsageError, match="inside the record"):
        write_recomputed(record / "anew", old)
    write_recomputed(tmp_path / "anew", old)
    with pytest.raises(UsageError, match="already exists"):
        write_recomputed(tmp_path / "anew", old)
    # Beside the old one is no fault: the new record has an id of its own.
    beside = write_recomputed(tmp_path / "out", old)
    assert beside.parent == record.parent


def test_a_path_out_of_the_record_is_not_copied(record: Path, tmp_path: Path) -> None:
    (record.parent / "outside").write_text("x")
    document = json.loads((record / "record.json").read_text())
    document["files"]["../outside"] = {"sha256": "0", "bytes": 1}
    (record / "record.json").write_text(document_text(document))
    with pytest.raises(BrokenRecordError, match="leads out of its folder"):
        write_recomputed(tmp_path / "anew", load_record(record))
    assert not (tmp_path / "anew").exists()
