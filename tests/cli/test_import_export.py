from __future__ import annotations

import json
from pathlib import Path

from chipmark.results.write import record_raw

DATA = Path(__file__).parents[1] / "benchmark_json" / "data"


def test_there_and_back(chipmark, tmp_path: Path) -> None:
    answer = chipmark("import", DATA / "v5.json", "-o", tmp_path / "runs", "--format", "json")
    assert answer.code == 0
    assert answer.json[0]["benchmarks"] == 3
    out = tmp_path / "out.json"
    assert chipmark("export", tmp_path / "runs", "-o", out).code == 0
    assert out.read_bytes() == (DATA / "v5.json").read_bytes()
    assert chipmark("export", tmp_path / "runs", "-o", "-").out == out.read_text()


def test_a_bad_file_among_good_ones_writes_nothing(chipmark, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text("")
    answer = chipmark("import", DATA / "v5.json", bad, "-o", tmp_path / "runs")
    assert answer.code == 2
    assert str(bad) in answer.err
    assert not (tmp_path / "runs").exists()


def test_two_files_of_the_same_run(chipmark, tmp_path: Path) -> None:
    copy = tmp_path / "copy.json"
    copy.write_bytes((DATA / "v5.json").read_bytes())
    answer = chipmark("import", DATA / "v5.json", copy, "-o", tmp_path / "runs")
    assert answer.code == 2
    assert "the same run" in answer.err
    assert not (tmp_path / "runs").exists()


def test_table_passes_imported_runs_by(chipmark, tmp_path: Path) -> None:
    chipmark("import", DATA / "v5.json", "-o", tmp_path)
    answer = chipmark("table", tmp_path)
    assert answer.code == 3
    assert "no record" in answer.err


def test_validate_checks_imported_runs(chipmark, tmp_path: Path) -> None:
    for name in ("v3.json", "v5.json"):
        chipmark("import", DATA / name, "-o", tmp_path)
    answer = chipmark("validate", tmp_path, "--format", "json")
    assert answer.code == 0
    assert answer.json == {"records": 0, "imported_runs": 2, "errors": 0, "findings": []}
    run = next(tmp_path.glob("pytest-*"))
    (run / "note.txt").write_text("x")
    answer = chipmark("validate", tmp_path)
    assert answer.code == 0
    assert "2 imported runs, 0 errors, 1 warnings" in answer.out
    with (run / "pytest-benchmark.json").open("a") as file:
        file.write(" ")
    answer = chipmark("validate", tmp_path, "--format", "json")
    assert answer.code == 1
    assert answer.json["errors"] == 1
    (finding, *_) = answer.json["findings"]
    assert finding["path"] == str(run / "pytest-benchmark.json")
    assert "does not match its checksum" in finding["text"]


def test_an_exported_capacity_is_named_by_its_work(chipmark, rawcells, tmp_path: Path) -> None:
    """N is what the capacity scenario measured: with another N it is the same benchmark. What bars
    a record from a ranking goes with it."""
    names = []
    for n in (4, 8):
        raw = rawcells.write_raw(tmp_path / f"raw-{n}", scenario="capacity", concurrency=n)
        record_raw(tmp_path / f"runs-{n}", raw)
        out = tmp_path / f"{n}.json"
        assert chipmark("export", tmp_path / f"runs-{n}", "-o", out).code == 0
        benchmarks = json.loads(out.read_text())["benchmarks"]
        names.append([benchmark["fullname"] for benchmark in benchmarks])
        block = benchmarks[0]["extra_info"]["chipmark"]
        assert block["concurrency"] == n
        assert (block["parity"], block["audit"]) == ("pass", "none")
        assert "slo_not_met" in block["notes"]
    assert names[0] == names[1] != []
