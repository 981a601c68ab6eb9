"""Joules are compared with joules of like sources, and written-down figures with nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from chipmark.gate.energy import meters_differ
from chipmark.gate.machine_bounds import SessionMargin
from chipmark.gate.stored_series import Value, load_run
from chipmark.gate.stored_verdicts import judge_stored
from chipmark.gate.thresholds import Thresholds
from chipmark.gate.verdict import Verdict
from chipmark.results.record import document_text

RECORD = Path(__file__).parents[1] / "results" / "data" / "record-1"
CALM = SessionMargin(0.005, "a calm machine")


def record(folder: Path, source: str, factor: float, error: float | None = 0.05, **chip: Any):
    document = json.loads((RECORD / "record.json").read_text(encoding="utf-8"))
    one = document["metrics"]["per_repeat"][0]
    document["metrics"]["per_repeat"] = [
        one | {"tok_per_joule": factor * (1 + 0.001 * i)} for i in range(6)
    ]
    document["metrics"]["details"]["energy"] = {"error_rel": error}
    document["manifest"]["parity"]["verdict"] = "pass"
    document["manifest"]["chip"] |= {"used": 1, "of": 1} | chip
    document["manifest"]["meter"] = {
        "name": "m", "source": source, "scope": "board", "method": "x", "update_period_s": 0.1,
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(document_text(document), encoding="utf-8")
    return folder


def judged(*paths: Path):
    base, *new = (load_run(path, ("tok_per_joule",)) for path in paths)
    (row,) = judge_stored([base], new, Thresholds(), CALM).rows
    return row


def three(tmp_path: Path, sources: tuple[str, str], factor: float, error: float | None = 0.05):
    return (
        record(tmp_path / "base", sources[0], 1.0, error),
        record(tmp_path / "one", sources[1], factor, error),
        record(tmp_path / "two", sources[1], factor * 1.001, error),
    )


def test_a_measured_loss_is_found(tmp_path):
    assert judged(*three(tmp_path, ("counter", "counter"), 0.9)).verdict is Verdict.REGRESSED


@pytest.mark.parametrize("source", ["declared", "assumed"])
@pytest.mark.parametrize("side", [0, 1, 2])
def test_declared_and_assumed_meet_nobody(tmp_path, source, side):
    sources = [("counter", source), (source, "counter"), (source, source)][side]
    row = judged(*three(tmp_path, sources, 0.5))
    assert row.verdict is Verdict.UNFIT
    assert f"energy is {source}, not measured" in row.sentence()


def test_unlike_meters_meet_with_both_error_bounds(tmp_path):
    assert judged(*three(tmp_path, ("counter", "polled"), 0.95)).verdict is Verdict.INCONCLUSIVE
    for path in tmp_path.iterdir():
        path.rename(path.with_name(f"first-{path.name}"))
    assert judged(*three(tmp_path, ("counter", "polled"), 0.8)).verdict is Verdict.REGRESSED


def test_an_unknown_bound_of_an_unlike_meter_is_unfit(tmp_path):
    row = judged(*three(tmp_path, ("counter", "wall"), 0.8, None))
    assert row.verdict is Verdict.UNFIT
    assert "counter and wall" in row.sentence()


def test_a_part_of_a_unit_and_another_scope_are_unfit(tmp_path):
    base = record(tmp_path / "base", "counter", 1.0)
    part = record(tmp_path / "part", "counter", 0.99, used=1, of=2)
    part_base = record(tmp_path / "part-base", "counter", 1.0, used=1, of=2)
    assert "a part of the unit" in judged(part_base, part).sentence()
    document = json.loads((base / "record.json").read_text(encoding="utf-8"))
    document["manifest"]["meter"]["scope"] = "package"
    document["metrics"]["per_repeat"][0]["tok_per_joule"] = 1.01
    other = tmp_path / "other"
    other.mkdir()
    (other / "record.json").write_text(document_text(document), encoding="utf-8")
    assert "another power scope" in judged(base, other).sentence()


def test_bounds_of_unlike_meters_add():
    a, b = (Value("1/J", "higher", (1.0,), meter=m, meter_error=0.1) for m in ("counter", "wall"))
    assert meters_differ([a], [a]) == 0.0
    assert meters_differ([a], [b]) == pytest.approx(-2 * math.log(0.9))
