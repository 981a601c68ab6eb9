"""Records as sides of the gate: their samples, direction, and what makes them unfit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chipmark.errors import BadInputError, NothingToJudgeError, UnknownNameError
from chipmark.gate.machine_bounds import SessionMargin
from chipmark.gate.stored_series import differences, load_run
from chipmark.gate.stored_verdicts import judge_stored
from chipmark.gate.thresholds import Thresholds
from chipmark.gate.verdict import Verdict
from chipmark.results.record import document_text

RECORD = Path(__file__).parents[1] / "results" / "data" / "record-1"
CALM = SessionMargin(0.005, "a calm machine")


def record(
    folder: Path,
    factor: float,
    change: Callable[[dict[str, Any]], object] = lambda document: None,
    repeats: int = 6,
) -> Path:
    """The stored record with `repeats` repeats of `factor` times its rates."""
    document = json.loads((RECORD / "record.json").read_text(encoding="utf-8"))
    metrics = document["metrics"]
    one = metrics["per_repeat"][0]
    names = ("total_tok_s", "decode_tok_s", "ttft_p50_s")
    metrics["per_repeat"] = [
        one | {n: one[n] * factor * (1 + 0.001 * i) for n in names} for i in range(repeats)
    ]
    document["manifest"]["parity"]["verdict"] = "pass"
    change(document)
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(document_text(document), encoding="utf-8")
    return folder


def judged(base: Path, *new: Path, metrics: tuple[str, ...] = ()):
    runs = [load_run(path, metrics) for path in new]
    return judge_stored([load_run(base, metrics)], runs, Thresholds(), CALM).rows


def test_a_rate_that_falls_is_worse_and_a_time_that_falls_is_better(tmp_path):
    files = [record(tmp_path / n, f) for n, f in (("a", 1.0), ("b", 0.9), ("c", 0.89))]
    rows = judged(*files, metrics=("decode_tok_s", "ttft_p50_s"))
    assert [(r.metric, r.unit, r.verdict) for r in rows] == [
        ("decode_tok_s", "1/s", Verdict.REGRESSED),
        ("ttft_p50_s", "s", Verdict.IMPROVED),
    ]


def test_a_cell_is_named_by_its_work(tmp_path):
    run = load_run(record(tmp_path / "a", 1.0))
    ((name, metric),) = run.values
    assert metric == "total_tok_s"
    assert "equal_n N=" in name


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda d: d["manifest"]["parity"].update(verdict="fail"), "parity fail"),
        (
            lambda d: d["manifest"]["notes"].append({"code": "not_steady", "text": "x"}),
            "not_steady",
        ),
        (lambda d: d["manifest"]["workload"].update(hash="0" * 64), "another workload hash"),
    ],
)
def test_what_may_not_be_compared_is_unfit_with_its_reason(tmp_path, change, word):
    (row,) = judged(record(tmp_path / "a", 1.0), record(tmp_path / "b", 1.1, change))
    assert row.verdict is Verdict.UNFIT
    assert word in row.judgement.reasons[0]


def test_another_chip_is_refused(tmp_path):
    other = record(tmp_path / "b", 1.0, lambda d: d["manifest"]["chip"].update(name="other"))
    with pytest.raises(Exception, match="different machines"):
        judged(record(tmp_path / "a", 1.0), other)


def test_a_null_is_left_out_with_its_reason(tmp_path):
    run = load_run(record(tmp_path / "a", 1.0), ("ttft_p95_s",))
    assert not run.values
    (found,) = run.no_values.values()
    assert found.lost
    assert "95th percentile" in found.reason


def test_the_same_cell_twice_in_a_folder_is_refused(tmp_path):
    record(tmp_path / "runs" / "a", 1.0)
    record(tmp_path / "runs" / "b", 1.1)
    with pytest.raises(BadInputError, match="twice"):
        load_run(tmp_path / "runs")


@pytest.mark.parametrize("name", ["total_toks", "backend"])
def test_a_metric_that_does_not_exist_is_named(name):
    with pytest.raises(UnknownNameError, match=name):
        load_run(RECORD, (name,))


def test_nothing_there_is_said(tmp_path):
    with pytest.raises(NothingToJudgeError, match="no such"):
        load_run(tmp_path / "none")
    with pytest.raises(NothingToJudgeError, match="neither a record"):
        load_run(tmp_path)


def test_unknown_on_one_side_is_no_difference():
    assert list(differences({"a": 1, "b": None, "c": 2}, {"a": 2, "b": 1})) == ["a 1 and 2"]
