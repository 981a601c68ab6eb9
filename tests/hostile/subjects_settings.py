"""Readers of what people and tools write: books, suites, thresholds, bounds, runs, journals."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from chipmark.ab.between_sessions import DOCUMENT, load_session
from chipmark.ab.journal import SCHEMA as JOURNAL_SCHEMA
from chipmark.ab.journal import SLOTS_FILE, START_FILE, journal
from chipmark.ab.machine import MachineState
from chipmark.ab.readings import Reading
from chipmark.benchmark_json.export import export_of
from chipmark.benchmark_json.stats import stats_of
from chipmark.benchmark_json.store import import_run
from chipmark.benchmark_json.validate import validate_run
from chipmark.cell.suite import Overrides, load_suite
from chipmark.errors import UsageError
from chipmark.foreign_text import plain_text
from chipmark.gate.baseline import undecided_in_a_row
from chipmark.gate.machine_bounds import SessionMargin, load_bound
from chipmark.gate.outputs.annotations import github_annotations
from chipmark.gate.outputs.console import print_findings
from chipmark.gate.outputs.junit import junit_xml
from chipmark.gate.outputs.markdown import markdown
from chipmark.gate.stored_series import load_run
from chipmark.gate.stored_verdicts import judge_stored
from chipmark.gate.thresholds import Thresholds, load_thresholds
from chipmark.history.changes import scan_history
from chipmark.history.observations import collect, series_of
from chipmark.history.parquet_store import append, read_store
from chipmark.history.report import as_csv, as_json, print_history, regressed
from chipmark.kernel_bench.document import read as read_kernels
from chipmark.prices.book import EXAMPLE, load_book
from chipmark.results.record import Record
from chipmark.results.store import load_records
from chipmark.table.cost_table import cost_text
from chipmark.table.rows import build_rows
from hostile.trial import Subject

_RESULTS = Path(__file__).parent.parent.parent / "results"

SUITE = """
[mine]
title = "of the trial"
repeats = 3
budget_s = 60.0
idle_s = 31.0
slo = { name = "x", ttft_append_s = 1.0, tpot_s = 0.05, share = 0.9 }

[[mine.cells]]
workload = ["agent-code-32k", "chat-4k"]
model = "tiny"
scale = "1/16,1/16,0"
precision = ["fp32"]
concurrency = [1, 4]
backend = ["sim:golden"]
sessions = 4
scenario = "equal_n"
options = { graph = "plain", inner = { a = 1 } }
"""

THRESHOLDS = """
delta_red = 0.03
delta_eq = 0.02
absolute_floor = 0.0001
metrics = ["time_s"]

[[rule]]
benchmark = "*decode*"
metric = "time_s"
delta_red = 0.05
absolute_floor = 1e-4

[[ignore]]
benchmark = "*first*"
reason = "compiles"
"""


def written(name: str, text: str) -> Callable[[Path], Path]:
    """A maker of a good file with this text."""

    def make(folder: Path) -> Path:
        path = folder / name
        path.write_text(text, encoding="utf-8")
        return path

    return make


@cache
def records() -> tuple[Record, ...]:
    """The published records."""
    return load_records([_RESULTS]).records


def use_book(path: Path) -> None:
    """Costs by the book."""
    rows = build_rows(records(), load_book(path))
    print(cost_text(rows, 100))
    json.dumps([row.to_dict() for row in rows], allow_nan=False, default=str)


def use_suite(path: Path) -> None:
    """The cells of the suite."""
    for cell in load_suite(str(path), Overrides(), ["sim:golden"]).cells:
        print(cell.title)


def use_thresholds(path: Path) -> None:
    """Margins of a benchmark."""
    rules = load_thresholds(path, path.parent)
    print(rules.margins("decode", "time_s"), plain_text(rules.not_gated("first", "time_s")))


def benchmark_run(factor: float, day: int) -> str:
    """A run of pytest-benchmark."""
    entries = [
        {
            "fullname": f"t.py::test_{i}", "name": f"test_{i}", "group": None, "params": None,
            "param": None, "extra_info": {"note": "x"},
            "options": {"disable_gc": False, "min_rounds": 5, "timer": "perf_counter"},
            "stats": stats_of([factor * (1 + 0.001 * j + 0.01 * i) for j in range(8)]),
        }
        for i in range(3)
    ]  # fmt: skip
    document = {
        "version": "5.2.3",
        "datetime": f"2026-01-{day:02}T00:00:00+00:00",
        "machine_info": {"node": "n", "machine": "x86_64", "cpu": {"brand_raw": "CPU", "count": 2}},
        "commit_info": {"id": "0" * 40, "time": "2026-01-01T00:00:00+00:00", "dirty": False},
        "benchmarks": entries,
    }
    return json.dumps(document, indent=1)


def use_run(path: Path) -> None:
    """Import, validation, export, the gate's verdict in every form, and history."""
    other = path.with_name("other.json")
    other.write_text(benchmark_run(1.01, 2), encoding="utf-8")
    after, before = load_run(path), load_run(other)
    with TemporaryDirectory() as store:
        for finding in validate_run(import_run(path, Path(store))):
            print(finding.code)
        assert export_of(Path(store)).text
    found = judge_stored([before], [after], Thresholds(), SessionMargin(0.05, "a margin"))
    print(markdown(found), junit_xml(found), *github_annotations(found), sep="\n")
    print_findings(found, Console(file=io.StringIO(), width=100))
    json.dumps(found.to_dict(), allow_nan=False)
    history(path.parent)


def history(folder: Path) -> None:
    """A look back in every form."""
    collected = collect(folder)
    series = series_of(collected.observations, "*", 0)
    found = scan_history(series)
    worse = regressed(found, Thresholds())
    print(as_csv(series))
    json.dumps(as_json(found, worse, collected.notes), allow_nan=False)
    print_history(found, worse, Console(file=io.StringIO(), width=100))


def good_store(folder: Path) -> Path:
    """A Parquet store of three runs."""
    runs = folder / "runs"
    runs.mkdir()
    for day in range(1, 4):
        (runs / f"{day}.json").write_text(benchmark_run(1 + day / 100, day), encoding="utf-8")
    append(folder / "store.parquet", collect(runs).observations)
    shutil.rmtree(runs)
    return folder / "store.parquet"


def use_store(path: Path) -> None:
    """A look back over the store."""
    series = series_of(read_store(path), "*", 0)
    print(as_csv(series))
    json.dumps(as_json(scan_history(series), (), ()), allow_nan=False)


def good_journal(folder: Path, name: str) -> Path:
    """An interrupted A/B run of one round; returns one of its files."""
    state = asdict(MachineState(1.0, 2000.0, 0.0, 1.0, 2.0, 0.5))
    reading = asdict(Reading("b", "time_s", "s", "lower", 1.0, 3, (1.0, 1.1, 0.9)))
    lines = [
        {
            "session": 0, "round": 0, "slot": slot, "arm": arm, "attempt": 0, "canary_s": 0.1,
            "wall_s": 2.0, "before": state, "after": state, "readings": [reading], "lost": [],
        }
        for slot, arm in enumerate("AB")
    ]  # fmt: skip
    lines.append({"session": 0, "last_canary_s": 0.2})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / SLOTS_FILE).write_text(text, encoding="utf-8")
    start = {
        "schema": JOURNAL_SCHEMA, "plan": {"rounds": 3}, "identity": {"machine": "m"},
        "names": {"A": ["b"], "B": ["b"]}, "first_files": {}, "modules": {"A": [], "B": []},
    }  # fmt: skip
    (folder / START_FILE).write_text(json.dumps(start), encoding="utf-8")
    return folder / name


def use_journal(path: Path) -> None:
    """Resume; another plan is what a changed one must be."""
    with suppress(UsageError), journal(path.parent, {"rounds": 3}) as found:
        assert found.rounds <= 1


def good_across(folder: Path) -> Path:
    """A finished A/A run."""
    reading = {"benchmark": "b", "metric": "time_s", "value": 1.0}
    document = {
        "run": "r1", "machine": {"machine": "m"}, "findings": {"faults": []},
        "slots": [{"readings": [reading]}, {"readings": [reading]}],
    }  # fmt: skip
    (folder / DOCUMENT).write_text(json.dumps(document), encoding="utf-8")
    return folder / DOCUMENT


def use_state(path: Path) -> None:
    """The count of undecided runs."""
    undecided_in_a_row(path, undecided=True)


def use_bound(path: Path) -> None:
    """The bound of the machine."""
    load_bound(path.stem, path.parent)


BOUND = {
    "schema": "chipmark.aa/1", "fingerprint": "0" * 16, "within": 0.01, "across": 0.03,
    "pairs": 12, "created": "2026-01-01",
}  # fmt: skip
STATE = {"schema": "chipmark.gate-state/1", "undecided_in_a_row": 2}
KERNELS = {"format": 3, "identity": {}, "roofs": {}, "rows": []}

SUBJECTS = [
    Subject(
        "price book", "toml", written("book.toml", EXAMPLE.read_text("utf-8")), use_book,
        ("prices/book.py", "table/costing.py"), share=4.0,
    ),
    Subject(
        "suite", "toml", written("suite.toml", SUITE), use_suite, ("cell/suite.py",), share=6.0
    ),
    Subject(
        "thresholds", "toml", written("t.toml", THRESHOLDS), use_thresholds,
        ("gate/thresholds.py",), share=6.0,
    ),
    Subject(
        "pytest-benchmark run", "json", written("run.json", benchmark_run(1.0, 1)), use_run,
        ("benchmark_json/read.py", "gate/stored_series.py"), share=2.0,
    ),
    Subject(
        "history store", "parquet", good_store, use_store, ("history/parquet_store.py",), share=0.3
    ),
    Subject(
        "ab readings", "jsonl", lambda folder: good_journal(folder, SLOTS_FILE), use_journal,
        ("ab/journal.py",), share=3.0,
    ),
    Subject(
        "ab plan", "json", lambda folder: good_journal(folder, START_FILE), use_journal,
        ("ab/journal.py",), share=3.0,
    ),
    Subject(
        "aa run", "json", good_across, lambda path: print(load_session(path.parent).path),
        ("ab/between_sessions.py",), share=3.0,
    ),
    Subject(
        "gate state", "json", written("state.json", json.dumps(STATE)), use_state,
        ("gate/baseline.py",), share=3.0,
    ),
    Subject(
        "bound of the machine", "json", written(f"{'0' * 16}.json", json.dumps(BOUND)), use_bound,
        ("gate/machine_bounds.py",), share=3.0,
    ),
    Subject(
        "kernel results", "json", written("k.json", json.dumps(KERNELS)),
        lambda path: print(len(read_kernels(path))), ("kernel_bench/document.py",), share=0.5,
    ),
]  # fmt: skip
