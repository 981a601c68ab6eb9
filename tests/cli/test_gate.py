"""`chipmark gate` as a command: exit codes, --ci, files, and bad input that writes nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

DATA = Path(__file__).parents[1] / "benchmark_json" / "data"
RECORD = Path(__file__).parents[1] / "results" / "data" / "record-1"


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHIPMARK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)


def scaled(name: str, factor: float) -> Path:
    """A run whose times are those of v5.json times `factor`, twelve rounds each."""
    document = json.loads((DATA / "v5.json").read_text(encoding="utf-8"))
    for entry in document["benchmarks"]:
        data = [0.01 * factor * (1 + 0.001 * i) for i in range(12)]
        entry["stats"] |= {
            "data": data, "rounds": 12, "min": data[0], "max": data[-1],
            "mean": sum(data) / 12, "median": (data[5] + data[6]) / 2,
        }  # fmt: skip
    path = Path(f"{name}.json")
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_regressed_is_1_and_json_is_one_document(chipmark):
    files = scaled("base", 1), scaled("new", 1.5), scaled("again", 1.51)
    answer = chipmark("gate", *files, "--format", "json", "--junit", "j.xml", "--summary", "s.md")
    assert answer.code == 1
    assert answer.json["headline"] == "3 regressed of 3"
    assert ElementTree.parse("j.xml").getroot().attrib["failures"] == "3"
    assert "3 regressed" in Path("s.md").read_text(encoding="utf-8")


def test_undecided_is_3_and_under_ci_0_until_the_fifth(chipmark):
    base, new = scaled("base", 1), scaled("new", 1.01)
    assert chipmark("gate", base, new).code == 3
    codes = [chipmark("gate", base, new, "--ci").code for _ in range(5)]
    assert codes == [0, 0, 0, 0, 3]
    again = scaled("again", 0.5), scaled("third", 0.51)
    assert chipmark("gate", base, *again, "--ci").code == 0  # decided: counted anew
    assert chipmark("gate", base, new, "--ci").code == 0


def test_undecided_under_ci_is_a_neutral_annotation(chipmark):
    base, new = scaled("base", 1), scaled("new", 1.01)
    answer = chipmark("gate", base, new, "--ci", "--annotations", "github")
    assert answer.code == 0
    assert answer.err.count("::notice ") == 3
    assert "::error" not in answer.err


def test_a_first_run_has_no_baseline(chipmark):
    new = scaled("new", 1)
    answer = chipmark("gate", "store/base.json", new)
    assert answer.code == 3
    assert "--ci" in answer.err
    assert not Path("store").exists()
    answer = chipmark("gate", "store/base.json", new, "--ci")
    assert answer.code == 0
    assert Path("store/base.json").read_bytes() == new.read_bytes()
    assert chipmark("gate", "store/base.json", scaled("next", 1.01), "--ci").code == 0


def test_a_first_baseline_says_what_it_has_no_value_of(chipmark):
    new = scaled("new", 1)
    document = json.loads(new.read_text(encoding="utf-8"))
    entries = document["benchmarks"]
    entries[1]["stats"]["data"][3] = float("nan")
    new.write_text(json.dumps(document), encoding="utf-8")
    answer = chipmark("gate", "base.json", new, "--ci")
    assert answer.code == 0
    assert "the baseline has no value of test_x.py::test_b[1] (time_s)" in answer.err
    for entry in entries:
        entry["stats"]["data"][3] = float("nan")
    new.write_text(json.dumps(document), encoding="utf-8")
    assert chipmark("gate", "none.json", new, "--ci").code == 3
    assert not Path("none.json").exists()


def test_imported_runs_are_judged_as_folders(chipmark):
    for name, factor in (("base", 1.0), ("new", 1.01)):
        assert chipmark("import", scaled(name, factor), "-o", f"runs/{name}").code == 0
    assert chipmark("gate", "runs/base", "runs/new").code == 3


def test_records_are_judged_by_columns_of_the_table(chipmark):
    answer = chipmark("gate", RECORD, RECORD)
    assert answer.code == 2
    assert "same run" in answer.err
    assert (
        "did you mean decode_tok_s"
        in chipmark("gate", RECORD, RECORD, "--metric", "decode_toks").err
    )
    assert chipmark("gate", RECORD, RECORD, "--metric", "cost_per_mtok").code == 2


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        ("", 2, "is empty"),
        ('{"benchmarks": [', 2, "truncated"),
        ('{"context": {}, "benchmarks": []}', 2, "Google Benchmark"),
        ("[1]", 2, "JSON object"),
        ('{"version": "5.2.3", "benchmarks": []}', 3, "no benchmark"),
    ],
)
def test_bad_files_are_named_and_nothing_is_written(chipmark, content, code, named):
    Path("bad.json").write_text(content, encoding="utf-8")
    for pair in (("bad.json", scaled("new", 1)), (scaled("new", 1), "bad.json")):
        answer = chipmark("gate", *pair, "--junit", "j.xml", "--ci")
        assert answer.code == code
        assert "bad.json" in answer.err
        assert named in answer.err
        assert "Traceback" not in answer.err
    assert not Path("j.xml").exists()
    assert not list(Path().glob("*.gate-state.json"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0, "1", None])
def test_an_odd_sample_costs_its_own_benchmark(chipmark, value):
    base, slow = scaled("base", 1), [scaled(name, 1.5 + i / 100) for i, name in enumerate("ab")]
    for path in slow:
        document = json.loads(path.read_text(encoding="utf-8"))
        stats = document["benchmarks"][1]["stats"]
        stats["data"][3] = value
        if value == 0.0:  # a timer too coarse: pytest-benchmark's own figures agree with it
            stats |= {"min": 0.0, "mean": sum(stats["data"]) / 12}
        path.write_text(json.dumps(document), encoding="utf-8")
    answer = chipmark("gate", base, *slow, "--format", "json", "--junit", "j.xml")
    assert answer.code == 1
    assert [row["verdict"] for row in answer.json["rows"]] == ["regressed", "unfit", "regressed"]
    assert "stats.data" in answer.json["rows"][1]["reasons"][0]
    assert chipmark("gate", *slow[::-1]).code == 3  # broken on both sides: nothing is judged


def test_a_bad_baseline_is_not_stored_over(chipmark):
    Path("bad.json").write_text("{", encoding="utf-8")
    assert chipmark("gate", "none.json", "bad.json", "--ci").code == 2
    assert not Path("none.json").exists()


def test_a_broken_state_is_named(chipmark):
    base, new = scaled("base", 1), scaled("new", 1.01)
    Path("base.json.gate-state.json").write_text("[]", encoding="utf-8")
    answer = chipmark("gate", base, new, "--ci")
    assert answer.code == 2
    assert "delete it" in answer.err


def test_a_changed_record_is_refused(chipmark, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(RECORD, copy)
    file = copy / "record.json"
    file.write_text(file.read_text(encoding="utf-8").replace("hand-chip", "hand-chop"))
    answer = chipmark("gate", RECORD, copy)
    assert answer.code == 2
    assert "checksum" in answer.err
