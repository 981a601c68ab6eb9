"""`chipmark history` as a command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from chipmark.benchmark_json.stats import stats_of

DATA = Path(__file__).parents[1] / "benchmark_json" / "data"


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """Fourteen days of pytest-benchmark, the last seven 20 % slower; file names run backwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHIPMARK_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "runs"
    folder.mkdir()
    document = json.loads((DATA / "v5.json").read_text(encoding="utf-8"))
    for day in range(14):
        document["datetime"] = f"2026-11-{day + 1:02d}T07:00:00"
        document["commit_info"]["id"] = f"{day:040x}"
        for entry in document["benchmarks"]:
            factor = (1.2 if day >= 7 else 1.0) * (1 + 0.001 * (day * 7 % 5))
            entry["stats"] = stats_of([0.01 * factor] * 5)
        (folder / f"{14 - day:02d}.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def test_a_step_is_shown_and_is_exit_1(chipmark, runs):
    answer = chipmark("history", runs, "--format", "json")
    assert answer.code == 1
    assert len(answer.json["worse"]) == len(answer.json["changes"]) == 3
    change = answer.json["changes"][0]
    assert change["first_run_after"]["created"].startswith("2026-11-08")
    assert change["last_run_before"]["commit"] == f"{6:040x}"
    assert 0.17 < change["effect_ln"] < 0.19
    people = chipmark("history", runs)
    assert people.code == 1
    assert "worse step" in people.out
    assert "+20." in people.out


def test_csv_the_store_and_the_plot(chipmark, runs, tmp_path):
    pytest.importorskip("matplotlib")
    answer = chipmark(
        "history", runs, "--format", "csv", "--store", "h.parquet", "--plot", "h.svg",
        "--benchmark", "*",
    )  # fmt: skip
    assert answer.code == 1
    assert len(answer.out.splitlines()) == 1 + 42
    assert (tmp_path / "h.svg").read_text(encoding="utf-8").count("+20.") == 3
    again = chipmark("history", "h.parquet", "--format", "json", "--metric", "time_s")
    assert again.code == 1
    assert len(again.json["changes"]) == 3


def test_bad_input_is_2_and_too_few_runs_is_3(chipmark, runs, monkeypatch):
    assert chipmark("history", runs, "--metric", "times").code == 2
    assert chipmark("history", "nowhere").code == 2
    assert chipmark("history", runs, "--format", "xml").code == 2
    assert chipmark("history", runs, "--plot", "h.gif").code == 2
    assert chipmark("history", runs, "--benchmark", "none*").code == 3
    for path in sorted(runs.glob("*.json"))[:7]:
        path.unlink()
    answer = chipmark("history", runs)
    assert answer.code == 3
    assert "no series has 14 runs yet" in answer.err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    answer = chipmark("history", runs, "--plot", "h.svg")
    assert answer.code == 2
    assert "chipmark[plot]" in answer.err


def test_one_run_below_what_the_correction_demands_is_3_and_not_a_green(chipmark, runs):
    next(runs.glob("01.json")).unlink()  # thirteen of three series; fourteen find the step
    answer = chipmark("history", runs)
    assert answer.code == 3
    assert "no series has 14 runs yet" in answer.err
    assert "3 series of under 14 runs tell nothing yet" in answer.out


def test_an_address_makes_no_series_of_its_own(chipmark, runs):
    for number, path in enumerate(sorted(runs.glob("*.json"))):
        document = json.loads(path.read_text(encoding="utf-8"))
        for entry in document["benchmarks"]:
            entry["params"] = (entry["params"] or {}) | {
                "f": f"UNSERIALIZABLE[<function f at 0x7f3a5c0d{number:04x}>]"
            }
        document["machine_info"]["cpu"] = {"brand" if number % 2 else "brand_raw": "a chip"}
        path.write_text(json.dumps(document), encoding="utf-8")
    answer = chipmark("history", runs, "--format", "json")
    assert answer.code == 1
    assert len(answer.json["series"]) == 3


def test_an_odd_benchmark_costs_its_own_value_in_a_history(chipmark, runs):
    for path in sorted(runs.glob("*.json"))[:3]:
        document = json.loads(path.read_text(encoding="utf-8"))
        document["benchmarks"][1]["stats"]["data"][0] = float("nan")
        path.write_text(json.dumps(document), encoding="utf-8")
    answer = chipmark("history", runs, "--format", "json")
    assert answer.code == 1
    lengths = sorted(len(series["runs"]) for series in answer.json["series"])
    assert lengths == [11, 14, 14]
    assert sum("stats.data[0]" in note for note in answer.json["notes"]) == 3
