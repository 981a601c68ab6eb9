"""What BASE has and NEW has lost is MISSING, by name; what BASE never had is no news."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from chipmark.cli.main import main
from chipmark.errors import NothingToJudgeError
from chipmark.gate.machine_bounds import SessionMargin
from chipmark.gate.stored_series import load_run
from chipmark.gate.stored_verdicts import judge_stored
from chipmark.gate.thresholds import Thresholds
from chipmark.gate.verdict import Verdict
from chipmark.results.record import document_text

RECORD = Path(__file__).parents[1] / "results" / "data" / "record-1"
CALM = SessionMargin(0.005, "a calm machine")
NAMES = ("t.py::test_decode", "t.py::test_gone[1]")


def failed(document: dict[str, Any]) -> None:
    """As `chipmark run` writes a cell that crashed."""
    document["manifest"] |= {
        "status": "failed", "load": None, "failure": {"code": "cell", "text": "killed by SIGKILL"},
    }  # fmt: skip
    document["metrics"] |= {"values": {}, "per_repeat": [], "intervals": {}, "null_reasons": {}}


def cell(
    folder: Path, n: int, factor: float = 1.0, change: Callable[[Any], object] = lambda d: None
) -> Path:
    """A record of a cell with n sessions, five repeats of `factor` times the stored one."""
    document = json.loads((RECORD / "record.json").read_text(encoding="utf-8"))
    one = document["metrics"]["per_repeat"][0]
    document["metrics"]["per_repeat"] = [
        one | {"total_tok_s": one["total_tok_s"] * factor * (1 + 0.001 * i)} for i in range(5)
    ]
    document["manifest"]["parity"]["verdict"] = "pass"
    document["manifest"]["concurrency"] = n
    change(document)
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(document_text(document), encoding="utf-8")
    return folder


def judged(base: Path, *new: Path, thresholds: Thresholds | None = None):
    runs = [load_run(path) for path in new]
    findings = judge_stored([load_run(base)], runs, thresholds or Thresholds(), CALM)
    return findings, [row.verdict for row in findings.rows]


def test_a_cell_that_crashed_is_missing_with_its_cause(tmp_path):
    for name, change in (("base", lambda d: None), ("new", failed)):
        cell(tmp_path / name / "one", 1, 1.0 if name == "base" else 1.001)
        cell(tmp_path / name / "two", 2, 1.0, change)
    findings, found = judged(tmp_path / "base", tmp_path / "new")
    assert sorted(found) == [Verdict.EQUIVALENT, Verdict.MISSING]
    assert findings.exit_code == 1
    (row,) = (row for row in findings.rows if row.verdict is Verdict.MISSING)
    assert "N=2" in row.benchmark
    assert "killed by SIGKILL" in row.sentence()
    assert row.new is None
    assert row.base is not None


def test_a_cell_that_is_not_there_and_a_null_are_missing(tmp_path):
    cell(tmp_path / "base" / "one", 1)
    cell(tmp_path / "base" / "two", 2)
    cell(tmp_path / "new" / "one", 1, 1.001)
    assert sorted(judged(tmp_path / "base", tmp_path / "new")[1]) == [
        Verdict.EQUIVALENT, Verdict.MISSING,
    ]  # fmt: skip

    def null(document):
        document["metrics"]["per_repeat"][2]["total_tok_s"] = None
        document["metrics"]["null_reasons"]["total_tok_s"] = "no_sessions"

    cell(tmp_path / "null" / "one", 1, 1.001, null)
    cell(tmp_path / "null" / "two", 2, 1.001)
    assert judged(tmp_path / "base", tmp_path / "null")[1].count(Verdict.MISSING) == 1


def test_all_cells_crashed_is_red_and_not_nothing_to_judge(tmp_path):
    findings, found = judged(cell(tmp_path / "a", 1), cell(tmp_path / "b", 1, 1.0, failed))
    assert found == [Verdict.MISSING]
    assert findings.exit_code == 1


def test_a_cell_that_failed_in_base_too_is_no_news(tmp_path):
    for name in ("base", "new"):
        cell(tmp_path / name / "one", 1, 1.0 if name == "base" else 1.001)
        cell(tmp_path / name / "two", 2, 1.0, failed)
    findings, found = judged(tmp_path / "base", tmp_path / "new")
    assert found == [Verdict.EQUIVALENT]
    assert findings.exit_code == 0
    assert any("not measured in BASE" in note and "N=2" in note for note in findings.notes)
    with pytest.raises(NothingToJudgeError, match="no benchmark and metric with a value"):
        judged(tmp_path / "base" / "two", tmp_path / "new" / "one")


def capacity(document: dict[str, Any]) -> None:
    n = document["manifest"]["concurrency"]
    document["manifest"] |= {"lane": "capacity"}
    document["metrics"]["values"] |= {"slo_attainment": 1.0}
    document["metrics"]["per_repeat"] = [
        repeat | {"sessions_per_hour": 100.0 * n * (1 + 0.0001 * i)}
        for i, repeat in enumerate(document["metrics"]["per_repeat"])
    ]


def test_a_cell_whose_capacity_rose_is_not_a_missing_one(tmp_path):
    """N is what the capacity scenario measures, so it names no cell; its rate is what is gated."""
    base = cell(tmp_path / "base" / "one", 4, 1.0, capacity)
    findings, found = judged(base, cell(tmp_path / "new" / "one", 8, 1.0, capacity))
    (row,) = findings.rows
    assert row.metric == "sessions_per_hour"
    assert (row.base, row.new) == (pytest.approx(400, rel=1e-3), pytest.approx(800, rel=1e-3))
    assert found != [Verdict.MISSING]
    assert findings.exit_code != 1


def test_what_the_load_sets_is_no_equivalence(tmp_path):
    """A device that became ten times slower still serves the sessions that arrive."""

    def bound(document: dict[str, Any]) -> None:
        note = {"code": "load_bound", "text": "no turn was outstanding in 70% of W"}
        document["metrics"]["notes"] = [note]

    base = cell(tmp_path / "base", 1, 1.0, bound)
    findings, found = judged(base, cell(tmp_path / "new", 1, 1.0001, bound))
    assert found == [Verdict.UNFIT]
    assert findings.exit_code == 3
    assert "the offered load sets total_tok_s" in findings.rows[0].sentence()


def test_an_open_loop_is_gated_by_its_ttft(tmp_path):
    def arrivals(document: dict[str, Any]) -> None:
        document["manifest"]["workload"]["loop"] = "open"

    (key,) = load_run(cell(tmp_path / "open", 1, 1.0, arrivals)).values
    assert key[1] in ("ttft_p50_s", "ttft_p95_s")


def test_a_failed_cell_that_was_measured_again_has_its_value(tmp_path):
    cell(tmp_path / "new" / "first", 1, 1.001, failed)
    cell(tmp_path / "new" / "second", 1, 1.001)
    assert judged(cell(tmp_path / "base", 1), tmp_path / "new")[1] == [Verdict.EQUIVALENT]


def test_lost_in_the_confirming_run_is_missing_too(write):
    base, first = write("base", names=NAMES), write("first", names=NAMES)
    _, found = judged(base, first, write("second", names=NAMES[:1]))
    assert found == [Verdict.EQUIVALENT, Verdict.MISSING]


def test_what_only_new_has_is_a_note(write):
    findings, found = judged(write("base", names=NAMES[:1]), write("new", names=NAMES))
    assert found == [Verdict.EQUIVALENT]
    assert f"not in BASE, so not judged: {NAMES[1]} (time_s)" in findings.notes


def test_records_and_pytest_files_have_nothing_in_common(write, tmp_path):
    with pytest.raises(NothingToJudgeError, match="no metric in common"):
        judged(write("base"), cell(tmp_path / "new", 1))


def test_what_moved_together_leaves_missing_as_it_is(write):
    names = [f"t.py::test_{i}" for i in range(6)]
    new = [write(n, 1.4, names=names[:5]) for n in ("first", "second")]
    _, found = judged(write("base", names=names), *new)
    assert found == [Verdict.UNFIT] * 5 + [Verdict.MISSING]


IGNORE = """
[[ignore]]
benchmark = "*gone*"
reason = "moved to the nightly run"
"""


@pytest.mark.parametrize("ci", [(), ("--ci",)])
def test_missing_is_exit_1_by_name_in_every_output(write, tmp_path, monkeypatch, capfd, ci):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHIPMARK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    files = [str(write("base", names=NAMES)), str(write("new", names=NAMES[:1]))]
    outputs = ["--junit", "j.xml", "--summary", "s.md", "--annotations", "github"]
    assert main(["gate", *files, *ci, *outputs]) == 1
    out, err = capfd.readouterr()
    assert "test_gone[1]" in out
    assert "1 missing" in out
    assert "::error title=missing%3A t.py%3A%3Atest_gone[1] (time_s)::" in err
    suite = ElementTree.parse("j.xml").getroot()
    assert suite.attrib["failures"] == "1"
    (case,) = suite.iterfind(".//failure/..")
    assert case.attrib["classname"] == NAMES[1]
    summary = Path("s.md").read_text(encoding="utf-8")
    assert "**missing**" in summary
    assert main(["gate", *files, *ci, "--format", "json"]) == 1
    rows = json.loads(capfd.readouterr().out)["rows"]
    assert [(row["benchmark"], row["verdict"]) for row in rows][1] == (NAMES[1], "missing")
    Path("rules.toml").write_text(IGNORE, encoding="utf-8")
    code = main(["gate", *files, *ci, *outputs, "--thresholds", "rules.toml"])
    assert code == (0 if ci else 3)  # the other benchmark is undecided across sessions
    out, err = capfd.readouterr()
    assert "moved to the nightly run" in out
    assert "::error" not in err
    assert ElementTree.parse("j.xml").getroot().attrib["failures"] == "0"


def test_an_imported_run_loses_a_benchmark_as_its_file_does(write, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("CHIPMARK_CACHE", str(tmp_path / "cache"))
    for name, names in (("base", NAMES), ("new", NAMES[:1])):
        main(["import", str(write(name, names=names)), "-o", str(tmp_path / "runs" / name)])
    assert main(["gate", str(tmp_path / "runs/base"), str(tmp_path / "runs/new"), "--ci"]) == 1
    shutil.rmtree(tmp_path / "runs")
