from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import pytest

from chipmark.results.store import find_records
from chipmark.results.write import record_raw

OLD = Path(__file__).parents[1] / "results" / "data" / "record-1"


@pytest.fixture
def runs(rawcells: ModuleType, tmp_path: Path) -> Path:
    record_raw(tmp_path / "runs", rawcells.write_raw(tmp_path / "raw"))
    shutil.copytree(OLD, tmp_path / "runs" / "old")
    return tmp_path / "runs"


def test_what_changed_is_printed_and_the_table_takes_the_result(
    chipmark, runs: Path, tmp_path: Path
) -> None:
    answer = chipmark("recompute", runs, "-o", tmp_path / "anew")
    assert answer.code == 0
    assert "chipmark.metrics/1" in answer.out
    line = next(line for line in answer.out.splitlines() if line.startswith("decode_tok_s"))
    assert line.split() == ["decode_tok_s", "333.3", "200.0", "-40.00%"]
    assert "0 changed" in answer.out
    assert len(find_records([tmp_path / "anew"])) == 2
    rows = chipmark("table", tmp_path / "anew", "--format", "json").json
    assert [row["decode_tok_s"] for row in rows] == [pytest.approx(200.0, rel=0.01)] * 2


def test_json_is_one_document(chipmark, runs: Path, tmp_path: Path) -> None:
    answer = chipmark("recompute", runs, "-o", tmp_path / "anew", "--format", "json")
    assert answer.code == 0
    old = next(r for r in answer.json["records"] if r["from"]["schema"] == "chipmark.record/1")
    changed = {change["metric"]: change for change in old["changes"]}
    assert changed["decode_tok_s"]["relative"] == pytest.approx(-0.4)
    assert changed["mbu"]["new"] is None
    assert changed["mbu"]["new_reason"] == "over_roof"
    assert answer.json["broken"] == []


def test_a_broken_record_is_exit_2_and_the_others_are_done(
    chipmark, runs: Path, tmp_path: Path
) -> None:
    (runs / "old" / "trace.npz").unlink()
    answer = chipmark("recompute", runs, "-o", tmp_path / "anew", "--format", "json")
    assert answer.code == 2
    assert len(answer.json["records"]) == 1
    assert "trace.npz" in answer.json["broken"][0]["reason"]
    assert len(find_records([tmp_path / "anew"])) == 1
    again = chipmark("recompute", runs, "-o", tmp_path / "anew")
    assert again.code == 2
    assert "already exists" in again.err


def test_a_folder_without_records_is_exit_3(chipmark, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert chipmark("recompute", tmp_path / "empty", "-o", tmp_path / "anew").code == 3


def test_the_folder_of_the_records_is_refused(chipmark, runs: Path) -> None:
    before = find_records([runs])
    answer = chipmark("recompute", runs, "-o", runs)
    assert answer.code == 2
    assert "twice" in answer.err
    assert find_records([runs]) == before
