"""From folders to observations and into the Parquet store."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from chipmark.benchmark_json.stats import stats_of
from chipmark.benchmark_json.store import import_run
from chipmark.errors import BadInputError, BrokenRecordError, NothingToJudgeError, UnknownNameError
from chipmark.history.observations import collect
from chipmark.history.parquet_store import append, read_store

DATA = Path(__file__).parents[1] / "benchmark_json" / "data"
RECORD = Path(__file__).parents[1] / "results" / "data" / "record-1"


def write(folder: Path, name: str, day: int, factor: float = 1.0, **machine: object) -> Path:
    document = json.loads((DATA / "v5.json").read_text(encoding="utf-8"))
    document["datetime"] = f"2026-11-{day:02d}T07:00:00"
    document["machine_info"] |= machine
    for entry in document["benchmarks"]:
        entry["stats"] = stats_of([0.01 * factor * (1 + 0.001 * i) for i in range(5)])
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_imported_runs_plain_files_and_records_are_found(tmp_path):
    import_run(write(tmp_path / "files", "b", 2), tmp_path / "runs")
    write(tmp_path / "runs", "a", 1)
    shutil.copytree(RECORD, tmp_path / "runs" / "record-1")
    found = collect(tmp_path / "runs")
    assert {o.metric for o in found.observations} == {"time_s", "total_tok_s"}
    assert len({o.run for o in found.observations}) == 3
    times = {o.run: o.created for o in found.observations if o.metric == "time_s"}
    assert sorted(times.values())[0].startswith("2026-11-01T07:00:00")
    assert {o.metric for o in collect(tmp_path / "runs", ["decode_tok_s"]).observations} == {
        "decode_tok_s"
    }


def test_a_cut_file_is_named_and_the_others_stand(tmp_path):
    write(tmp_path, "whole", 1)
    (tmp_path / "cut.json").write_text('{"benchmarks": [', encoding="utf-8")
    found = collect(tmp_path)
    assert found.observations
    assert any("cut.json" in note for note in found.notes)


def test_nothing_a_wrong_metric_and_a_missing_folder_are_told(tmp_path):
    with pytest.raises(NothingToJudgeError, match="holds no run"):
        collect(tmp_path)
    with pytest.raises(UnknownNameError, match="decode_tok_s"):
        collect(tmp_path, ["decode_toks"])
    with pytest.raises(BadInputError, match="no such folder"):
        collect(tmp_path / "none")


def test_the_same_run_twice_changes_nothing(tmp_path):
    write(tmp_path / "runs", "a", 1)
    found = collect(tmp_path / "runs").observations
    store = tmp_path / "deep" / "history.parquet"
    assert append(store, found) == len(found)
    before = store.read_bytes()
    assert append(store, found) == 0
    assert store.read_bytes() == before
    write(tmp_path / "runs", "b", 2)
    assert append(store, collect(tmp_path / "runs").observations) == len(found)
    assert set(read_store(store)) == set(collect(tmp_path / "runs").observations)
    assert [p.name for p in store.parent.iterdir()] == ["history.parquet"]


def test_another_file_is_no_store(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(BrokenRecordError, match="not a whole Parquet"):
        read_store(tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "b.parquet")
    with pytest.raises(BrokenRecordError, match=r"not chipmark\.history/1"):
        read_store(tmp_path / "b.parquet")
    other = pa.table({"x": [1]}).replace_schema_metadata({"schema": "chipmark.history/1"})
    pq.write_table(other, tmp_path / "c.parquet")
    with pytest.raises(BrokenRecordError, match="other columns"):
        read_store(tmp_path / "c.parquet")
