from __future__ import annotations

from pathlib import Path

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


def test_table_and_validate_pass_imported_runs_by(chipmark, tmp_path: Path) -> None:
    chipmark("import", DATA / "v5.json", "-o", tmp_path)
    for command in ("table", "validate"):
        answer = chipmark(command, tmp_path)
        assert answer.code == 3
        assert "no record" in answer.err
