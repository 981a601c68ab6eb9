"""import -> export -> import gives the same bytes; what is stored is whole or not there."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chipmark.benchmark_json.export import export_of, records_document, write_export
from chipmark.benchmark_json.read import parse_benchmark_json, read_benchmark_json
from chipmark.benchmark_json.stats import stats_of
from chipmark.benchmark_json.store import (
    CONTENT_FILE,
    RUN_FILE,
    find_runs,
    import_run,
    load_run,
    read_runs,
)
from chipmark.errors import BadInputError, BrokenRecordError, NothingToJudgeError, UsageError
from chipmark.results.store import load_record, load_records
from chipmark.results.write import record_raw

DATA = Path(__file__).parent / "data"
RECORD = Path(__file__).parents[1] / "results" / "data" / "record-1"

ANY_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
EXTRA = st.dictionaries(st.text(min_size=1).map(lambda key: f"x-{key}"), ANY_JSON, max_size=3)
SECONDS = st.floats(min_value=1e-9, max_value=1e3)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    benchmarks = []
    for number in range(draw(st.integers(1, 3))):
        data = draw(st.lists(SECONDS, min_size=1, max_size=6))
        stats = stats_of(data) | draw(EXTRA)
        if draw(st.booleans()):
            del stats["data"]
        if draw(st.booleans()):
            del stats["ops"]
        benchmarks.append(
            {"group": draw(st.none() | st.text(max_size=5)), "name": f"t{number}",
             "fullname": f"t.py::t{number}", "params": draw(st.none() | EXTRA), "param": None,
             "extra_info": draw(EXTRA), "options": {}, "stats": stats, **draw(EXTRA)}
        )  # fmt: skip
    return {
        "machine_info": draw(EXTRA), "commit_info": draw(EXTRA), "benchmarks": benchmarks,
        "datetime": "2026-01-01T00:00:00", "version": draw(st.sampled_from(["3.0.0", "5.9"])),
        **draw(EXTRA),
    }  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(documents(), st.sampled_from([None, 4]), st.sampled_from(["", "\r\n"]))
def test_import_export_import_is_the_same(
    document: dict[str, Any], indent: int | None, newline: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, again = Path(folder, "a.json"), Path(folder, "b.json")
        source.write_bytes((json.dumps(document, indent=indent) + newline).encode())
        first = import_run(source, Path(folder, "one"))
        write_export(export_of(Path(folder, "one")).text, again, force=False)
        second = import_run(again, Path(folder, "two"))
        assert again.read_bytes() == source.read_bytes()
        assert first.name == second.name
        assert load_run(first).raw == load_run(second).raw == document


def test_a_stored_run_is_read_like_its_file(tmp_path: Path) -> None:
    folder = import_run(DATA / "v5.json", tmp_path / "runs")
    (run,) = read_runs(tmp_path / "runs")
    assert run.benchmarks == read_benchmark_json(DATA / "v5.json").benchmarks
    assert find_runs([tmp_path]) == [folder]
    assert load_records([tmp_path]).records == ()


def test_a_run_is_stored_once(tmp_path: Path) -> None:
    import_run(DATA / "v5.json", tmp_path)
    with pytest.raises(UsageError, match="is the run that is stored as"):
        import_run(DATA / "v5.json", tmp_path)


def test_a_bad_file_writes_nothing(tmp_path: Path) -> None:
    source = tmp_path / "cut.json"
    source.write_text((DATA / "v5.json").read_text()[:500])
    with pytest.raises(BadInputError, match="cut"):
        import_run(source, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", [RUN_FILE, CONTENT_FILE])
def test_a_changed_or_missing_part_is_named(tmp_path: Path, name: str) -> None:
    folder = import_run(DATA / "v5.json", tmp_path)
    path = folder / name
    path.write_text(path.read_text().replace("1", "2", 1))
    with pytest.raises(BrokenRecordError, match=name):
        load_run(folder)
    path.unlink()
    with pytest.raises(BrokenRecordError, match="no such file"):
        load_run(folder)


def test_two_runs_are_not_exported_as_one(tmp_path: Path) -> None:
    import_run(DATA / "v5.json", tmp_path)
    import_run(DATA / "v4.json", tmp_path)
    with pytest.raises(UsageError, match="more than one run"):
        export_of(tmp_path)


def test_nothing_to_export(tmp_path: Path) -> None:
    with pytest.raises(NothingToJudgeError):
        export_of(tmp_path)
    with pytest.raises(BadInputError):
        export_of(tmp_path / "none")


def test_an_export_replaces_only_when_told(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out.json"
    write_export("a", out, force=False)
    with pytest.raises(UsageError, match="--force"):
        write_export("b", out, force=False)
    assert out.read_text() == "a"
    write_export("b", out, force=True)
    assert [path.name for path in out.parent.iterdir()] == ["out.json"]


def test_records_become_benchmarks_whose_ops_are_the_rates() -> None:
    record = load_record(RECORD)
    document = records_document([record])
    run = parse_benchmark_json(RECORD, json.dumps(document).encode())
    by_group = {benchmark.group: benchmark for benchmark in run.benchmarks}
    total = by_group["chipmark total_s_per_token"]
    rates = [repeat["total_tok_s"] for repeat in record.metrics.per_repeat]
    assert [1 / seconds for seconds in total.data] == pytest.approx(rates)
    assert total.stats["ops"] == pytest.approx(1 / total.stats["mean"])
    assert total.chipmark is not None
    assert total.chipmark["metrics"]["total_tok_s"] == record.metrics.values["total_tok_s"]
    ttft = [repeat["ttft_p50_s"] for repeat in record.metrics.per_repeat]
    assert by_group["chipmark ttft_p50_s"].data == pytest.approx(ttft)


def test_one_cell_in_two_records_is_refused() -> None:
    record = load_record(RECORD)
    other = record.model_copy(update={"path": Path("elsewhere")})
    with pytest.raises(UsageError, match="measured the same cell"):
        records_document([record, other])


@pytest.mark.parametrize("source", ["record", "v3.json", "v5.json"])
def test_pytest_benchmark_compares_what_is_exported(tmp_path: Path, source: str) -> None:
    out = tmp_path / "out.json"
    if source == "record":
        text = export_of(RECORD).text
    else:
        import_run(DATA / source, tmp_path / "runs")
        text = export_of(tmp_path / "runs").text
    write_export(text, out, force=False)
    command = [sys.executable, "-m", "pytest_benchmark", "compare", str(out), "--csv", "out.csv"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
    )
    names = [benchmark.name for benchmark in read_benchmark_json(out).benchmarks]
    assert "Failed to load" not in done.stdout + done.stderr
    table = (tmp_path / "out.csv").read_text()
    assert len(table.splitlines()) >= len(names) + 1
    for name in names:
        assert name.partition("[")[0] in table


def test_stats_of_worked_by_hand() -> None:
    stats = stats_of([4.0, 1.0, 2.0, 3.0, 100.0])
    assert (stats["q1"], stats["median"], stats["q3"]) == (1.5, 3.0, 52.0)
    assert (stats["mean"], stats["ops"], stats["rounds"]) == (22.0, 1 / 22.0, 5)
    assert stats["outliers"] == "1;0"
    with pytest.raises(ValueError, match="a sample"):
        stats_of([])


def test_a_broken_record_is_left_out_of_an_export_and_named(tmp_path: Path, rawcells: Any) -> None:
    out = tmp_path / "out"
    record_raw(out, rawcells.write_raw(tmp_path / "raw"))
    (out / "broken").mkdir()
    (out / "broken" / "record.json").write_text("{")
    found = export_of(out)
    assert json.loads(found.text)["benchmarks"]
    assert [skipped.path.name for skipped in found.skipped] == ["broken"]
    only = tmp_path / "only"
    (out / "broken").rename(only)
    with pytest.raises(BrokenRecordError, match="no record that is whole"):
        export_of(only)
