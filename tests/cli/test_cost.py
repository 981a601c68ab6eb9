"""`chipmark cost` and `chipmark table` on stored records."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from chipmark.cli.main import main
from chipmark.results.write import record_raw

OLD = Path(__file__).parents[1] / "results" / "data" / "record-1"
CARD = {"chip__name": "nvidia-h200-sxm", "audit": {"verdict": "pass"}}
CAPACITY = {**CARD, "scenario": "capacity", "capacity": {"concurrency": 1, "cut": False}}


@pytest.fixture
def stored(rawcells: ModuleType, tmp_path: Path):
    """Write a hand-made cell as a record below `tmp_path/NAME`, and give that folder."""

    def store(name: str, **changes: Any) -> Path:
        raw = rawcells.write_raw(tmp_path / "raw" / name, **changes)
        out = tmp_path / name
        out.mkdir()
        record_raw(out, raw)
        return out

    return store


def test_no_break_even_between_two_scales_of_one_device(chipmark, stored) -> None:
    base = stored("base", **CARD)
    other = stored("other", workload__scale=["1/4", "1/4", "0"], workload__hash="9" * 64, **CARD)
    answer = chipmark("cost", base, other, "--format", "json")
    assert answer.code == 0, answer.err
    for row in answer.json:
        assert row["cost_per_session"] > 0
        assert row["break_even_chip_price"] is None
        assert row["null_reasons"]["break_even_chip_price"] == "not_comparable"
        assert "cost is ranked in the capacity scenario only" in row["refusals"]
    refusals = " ".join(answer.json[1]["refusals"])
    assert "another workload hash: scale (1/4, 1/4, 0) against (1/16, 1/16, 0)" in refusals
    shown = chipmark("cost", base, other)
    assert "no break-even price: another workload hash: scale (1/4, 1/4, 0)" in shown.out


@pytest.fixture(scope="module")
def capacities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two simulated devices at the most sessions that each serves within the objective."""
    out = tmp_path_factory.mktemp("capacity") / "runs"
    words = "run quick -b sim:golden -b sim:slow --scenario capacity --sessions 12"
    words += " --scale 1/64,1/16,0 --concurrency 64 --format csv"
    assert main([*words.split(), "-o", str(out)]) == 0
    return out


@pytest.mark.long
def test_the_break_even_price_of_like_rows(chipmark, capacities: Path) -> None:
    rows = chipmark("cost", capacities, "--format", "json").json
    assert [row["backend"] for row in rows] == ["sim:golden", "sim:slow"]
    assert [row["rank"] for row in rows] == [1, 2]
    assert rows[0]["break_even_chip_price"] == pytest.approx(20_000)
    assert 0 < rows[1]["break_even_chip_price"] < 6_000
    assert [row["baseline"] for row in rows] == [rows[0]["id"]] * 2
    for name in ("--baseline", "--reference"):
        turned = chipmark("cost", capacities, name, "sim:slow", "--format", "json").json
        assert turned[1]["break_even_chip_price"] == pytest.approx(6_000)
        assert turned[0]["break_even_chip_price"] > 20_000
    unknown = chipmark("cost", capacities, "--baseline", "sim:goldn")
    assert unknown.code == 2
    assert "sim:golden" in unknown.err
    assert chipmark("validate", capacities).code == 0


def test_the_notes_of_the_record_stand_below_the_prices(chipmark, stored) -> None:
    failed = stored("failed", **CAPACITY | {"parity": {"verdict": "fail", "reason": "rms 0.5"}})
    missed = stored("missed", slows=(20.0, 20.1, 19.9), backend="ort:cuda", **CAPACITY)
    text = chipmark("cost", failed, missed).out
    assert "1: parity_failed: rms 0.5" in text
    assert "1: no break-even price: parity fail: rms 0.5" in text
    assert "2: slo_not_met: 25.0% of 4 turns are inside the SLO" in text
    assert "2: no cost_per_session, cost_per_mtok" in text


def test_cost_at_80_columns_cuts_nothing(chipmark, stored, monkeypatch: pytest.MonkeyPatch) -> None:
    base = stored("base", **CAPACITY)
    other = stored("other", slows=(1.2, 1.21, 1.19), backend="ort:openvino-plugin:0", **CAPACITY)
    monkeypatch.setenv("COLUMNS", "80")
    text = chipmark("cost", base, other).out
    assert "ort:openvino-plugin:0" in text
    assert "nvidia-h200-sxm" in text
    assert "…" not in text
    tables = text[: text.index("~ rests on")]
    assert max(map(len, tables.splitlines()[1:])) <= 80


def test_a_record_of_schema_1_is_shown_and_not_ranked(chipmark) -> None:
    rows = chipmark("table", OLD, "--format", "json").json
    assert rows
    for row in rows:
        assert row["total_tok_s"] is not None
        assert row["rank"] is None
        assert row["comparable"] == []
        assert row["decode_rows"] is None
        assert row["null_reasons"]["decode_rows"] == "not_in_schema_1"
        assert len(row["details"]["not_ranked"]) == 1
        assert "chipmark.record/1" in row["details"]["not_ranked"][0]
    text = chipmark("table", OLD).out
    assert "not ranked by total_tok_s: measured as chipmark.record/1" in text
    cost = chipmark("cost", OLD)
    assert cost.code == 0
    assert "no break-even price: measured as chipmark.record/1" in cost.out


def test_ratios_across_precisions_are_asked_for(chipmark, stored) -> None:
    base = stored("base", **CARD)
    half = {"precision__class_name": "16-bit", "precision__weights": "bf16"}
    other = stored("other", slows=(0.5, 0.505, 0.495), backend="ort:cuda", **CARD | half)
    plain = chipmark("table", base, other, "--format", "json").json
    assert [row["vs_baseline"] for row in plain] == [1.0, 1.0]
    across = chipmark("table", base, other, "--across-precision", "--format", "json").json
    assert across[1]["vs_baseline"] == pytest.approx(2.0)
    assert [row["rank"] for row in across] == [1, None]
