"""The rules of comparison, one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chipmark.errors import UnknownNameError
from chipmark.prices.book import EXAMPLE, load_book
from chipmark.results.record import Record
from chipmark.table.rows import TableRow, build_rows

Make = Callable[..., Record]


def second(make_record: Make, **changes: Any) -> TableRow:
    """The row of a cell beside a plain baseline, which comes first."""
    base = make_record()
    other = make_record(1.1, **{"backend": "ort:cpu", **changes})
    return build_rows([base, other], None, baseline="torch:cpu")[1]


def test_equal_work_is_comparable_in_speed_and_energy(make_record: Make) -> None:
    row = second(make_record)
    assert row.values["comparable"] == ["perf", "energy"]
    assert row.values["vs_baseline"] == pytest.approx(1 / 1.1)
    assert row.details["not_comparable"]["cost"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"workload__hash": "0" * 64}, "workload hash"),
        ({"concurrency": 2}, "number of sessions"),
        ({"scenario": "capacity"}, "scenario"),
        ({"model__source_hash": "other"}, "source weights"),
        ({"precision__class_name": "16-bit"}, "precision class"),
        ({"feedback": "sampled"}, "feedback"),
        ({"cache_policy": {"policy": "other"}}, "cache policy"),
        ({"parity": {"verdict": "fail", "reason": "rms 0.5"}}, "parity fail: rms 0.5"),
        ({"parity": {"verdict": "unchecked"}}, "parity unchecked"),
        ({"audit": {"verdict": "fail", "reason": "3 of 64 ids"}}, "audit failed: 3 of 64 ids"),
        ({"audit": {"verdict": "pending", "reason": "too long"}}, "audit_pending: too long"),
        ({"audit": {"verdict": "none"}}, "not audited"),
        ({"load__ep_coverage": None}, "ep_coverage is unknown"),
        ({"load__emulated": "HTP of QNN on x86-64"}, "emulated: HTP of QNN on x86-64"),
        ({"notes": [{"code": "repeat_incomplete", "text": "1 of 3"}]}, "repeat_incomplete: 1 of 3"),
        ({"notes": [{"code": "turns_lost", "text": "2 of 12"}]}, "turns_lost: 2 of 12"),
        ({"notes": [{"code": "clock", "text": "launch 3"}]}, "clock: launch 3"),
        ({"notes": [{"code": "far_over_roof", "text": "mbu 3"}]}, "far_over_roof: mbu 3"),
        ({"notes": [{"code": "plugin", "text": "another module"}]}, "plugin: another module"),
        ({"notes": [{"code": "weight_bytes", "text": "half"}]}, "weight_bytes: half"),
        ({"notes": [{"code": "kv_bytes", "text": "half"}]}, "kv_bytes: half"),
        ({"notes": [{"code": "not_steady", "text": "9, 8, 7"}]}, "not_steady: 9, 8, 7"),
        ({"backend": "sim:golden"}, "kind of device: simulated, the baseline's is real"),
        ({"workload__sessions": 3}, "6 of 9 sessions ended"),
        ({"load__ep_coverage": 0.98}, "ep_coverage 0.98"),
        (
            {"quality": {"reason": None, "tokens": 1000, "nll": 2400.0, "nll_source": 2300.0}},
            "quality_lost: perplexity 11.02 is 10.5% over the source's 9.974; up to 5% is ranked",
        ),
        ({"notes": [{"code": "throttled_thermal", "text": "slowed"}]}, "throttled_thermal"),
        ({"notes": [{"code": "throttled_hardware", "text": "power"}]}, "throttled_hardware"),
        ({"notes": [{"code": "not_steady", "text": "drifts"}]}, "not_steady"),
        ({"notes": [{"code": "clock_below_nominal", "text": "80 %"}]}, "clock_below_nominal"),
        ({"notes": [{"code": "other_processes", "text": "pid 7"}]}, "other_processes: pid 7"),
        ({"notes": [{"code": "ecc_errors", "text": "2 more"}]}, "ecc_errors: 2 more"),
        ({"notes": [{"code": "state_changed", "text": "700 W to 400 W"}]}, "state_changed"),
        ({"notes": [{"code": "shared_device", "text": "vGPU"}]}, "shared_device: vGPU"),
    ],
)
def test_what_bars_a_row_from_every_ranking(
    make_record: Make, change: dict[str, Any], reason: str
) -> None:
    row = second(make_record, **change)
    assert row.values["comparable"] == []
    assert row.rank is None
    assert row.values["vs_baseline"] is None
    assert row.null_reasons["vs_baseline"] == "not_comparable"
    assert reason in " ".join(row.details["not_comparable"]["perf"])


@pytest.mark.parametrize(
    "change",
    [
        {"model__weights_hash": "rounded otherwise"},
        {"precision__weights": "bf16"},
        {"quality": {"reason": None, "tokens": 1000, "nll": 2348.0, "nll_source": 2300.0}},
        {"quality": {"reason": "no_tokenizer"}},
        {"load__ep_coverage": 0.99},
        {"chip__name": "another-chip"},
        {"load__graph": "contrib"},
        {"notes": [{"code": "throttle_unknown", "text": "not readable"}]},
        {"notes": [{"code": "power_limit", "text": "500 W of 700 W"}]},
        {"load__execution": "graph"},
    ],
)
def test_what_never_bars_a_row(make_record: Make, change: dict[str, Any]) -> None:
    assert second(make_record, **change).values["comparable"] == ["perf", "energy"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"meter__scope": "wall"}, "power scope wall"),
        ({"meter__source": "declared"}, "declared, not measured"),
        ({"meter__source": "assumed"}, "assumed, not measured"),
        ({"chip__of": 2}, "not known"),
        ({"meter": None}, "not known"),
        ({"notes": [{"code": "host_load", "text": "30 %"}]}, "host_load: 30 %"),
    ],
)
def test_what_bars_energy_only(make_record: Make, change: dict[str, Any], reason: str) -> None:
    row = second(make_record, **change)
    assert row.values["comparable"] == ["perf"]
    assert reason in " ".join(row.details["not_comparable"]["energy"])


def test_declared_and_assumed_are_not_even_ranked_alone(make_record: Make) -> None:
    records = [make_record(meter__source="assumed")]
    row = build_rows(records, None, rank_by="tok_per_joule")[0]
    assert row.values["tok_per_joule"] is not None
    assert row.rank is None


def test_cost_is_ranked_in_the_capacity_scenario_only(make_record: Make) -> None:
    book = load_book(EXAMPLE)
    chip = {"chip__name": "nvidia-h200-sxm"}
    for scenario, kinds in (
        ("equal_n", ["perf", "energy"]),
        ("capacity", ["perf", "energy", "cost"]),
    ):
        records = [
            make_record(scenario=scenario, **chip),
            make_record(1.2, scenario=scenario, **chip),
        ]
        rows = build_rows(records, book, rank_by="cost_per_session")
        assert rows[1].values["comparable"] == kinds
        assert rows[1].values["cost_per_session"] is not None
        assert [r.rank for r in rows] == ([1, 2] if scenario == "capacity" else [None, None])


def test_an_unfit_baseline_compares_with_nothing(make_record: Make) -> None:
    records = [make_record(parity={"verdict": "fail"}), make_record(1.1, backend="ort:cpu")]
    rows = build_rows(records, None, baseline="torch:cpu")
    assert [r.values["comparable"] for r in rows] == [[], []]
    assert "baseline: parity fail" in rows[1].details["not_comparable"]["perf"]
    assert "baseline: parity fail" in rows[1].details["not_ranked"]


def test_without_a_name_the_first_fit_row_of_each_kind_of_work_is_the_baseline(
    make_record: Make,
) -> None:
    records = [
        make_record(parity={"verdict": "fail"}),
        make_record(1.1, backend="ort:cpu"),
        make_record(1.2, concurrency=4),
        make_record(1.3, backend="ort:cpu", concurrency=4),
    ]
    rows = build_rows(records, None)
    bases = [r.details["baseline"] for r in rows]
    assert bases == [records[1].id, records[1].id, records[2].id, records[2].id]
    assert [r.details["not_ranked"] for r in rows] == [["parity fail"], [], [], []]
    assert [r.rank for r in rows] == [None, 1, 1, 2]


def test_an_unknown_baseline_and_metric_have_near_names(make_record: Make) -> None:
    records = [make_record()]
    with pytest.raises(UnknownNameError, match="torch:cpu"):
        build_rows(records, None, baseline="torch:cpo")
    with pytest.raises(UnknownNameError, match="total_tok_s"):
        build_rows(records, None, rank_by="total_tok")


def test_overlapping_intervals_share_a_rank(make_record: Make) -> None:
    records = [
        make_record(1.00, backend="a:1"),
        make_record(1.01, backend="b:1", spread=0.02),
        make_record(1.30, backend="c:1"),
    ]
    rows = build_rows(records, None)
    assert [r.rank for r in rows] == [1, 1, 3]
    by_latency = build_rows(records, None, rank_by="tpot_p50_s")
    assert by_latency[2].values["vs_baseline"] == pytest.approx(1 / 1.3, rel=1e-2)


def test_eager_is_ranked_in_a_group_of_its_own(make_record: Make) -> None:
    records = [
        make_record(1.0),
        make_record(1.2, backend="e:1", load__execution="eager"),
        make_record(1.4, backend="e:2", load__execution="eager"),
    ]
    rows = build_rows(records, None)
    assert [r.rank for r in rows] == [1, 1, 2]
    assert rows[1].values["comparable"] == ["perf", "energy"]
    assert {"code": "execution_eager", "text": "ranked in a group of its own"} in rows[1].values[
        "notes"
    ]


def test_the_ratio_has_an_interval_that_holds_it(make_record: Make) -> None:
    row = second(make_record)
    low, high = row.intervals["vs_baseline"]
    assert low is not None
    assert high is not None
    assert low < row.values["vs_baseline"] < high


def test_measured_sources_meet_and_their_stated_errors_widen_the_interval(
    make_record: Make,
) -> None:
    counter = make_record(watts=20.0)
    wide = make_record(watts=20.5, backend="b:1", meter__source="wall", meter__error_rel=0.1)
    rows = build_rows([counter, wide], None, rank_by="tok_per_joule")
    assert rows[1].values["comparable"] == ["perf", "energy"]
    assert [row.rank for row in rows] == [1, 1]
    error = rows[1].details["energy"]["error_rel"]
    assert error >= 0.1
    stored = wide.metrics.intervals["tok_per_joule"]
    low, high = rows[1].intervals["tok_per_joule"]
    assert low == pytest.approx((stored[0] or 0) / (1 + error))
    assert high == pytest.approx((stored[1] or 0) / (1 - error))
    joules = rows[1].intervals["joule_per_session"]
    assert joules[0] == pytest.approx(
        (wide.metrics.intervals["joule_per_session"][0] or 0) * (1 - error)
    )


def test_costs_of_energy_without_a_bound_have_no_interval(make_record: Make) -> None:
    book = load_book(EXAMPLE)
    chip = {"chip__name": "nvidia-h200-sxm"}
    known, unknown = make_record(**chip), make_record(meter__error_rel=None, **chip)
    assert "error_null_reason" in unknown.metrics.details["energy"]
    assert any("no bound of the error" in note.text for note in unknown.metrics.notes)
    for record, has in ((known, True), (unknown, False)):
        row = build_rows([record], book)[0]
        assert row.values["cost_per_session"] is not None
        assert ("cost_per_session" in row.intervals) is has
        assert ("tok_per_joule" in row.intervals) is has


def test_a_meter_without_a_stated_error_ranks_nobody(make_record: Make) -> None:
    records = [make_record(), make_record(backend="b:1", watts=5.0, meter__error_rel=None)]
    rows = build_rows(records, None, rank_by="tok_per_joule")
    assert [row.rank for row in rows] == [1, None]
    assert "the meter states no error" in rows[1].details["not_ranked"][0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"chip__unit": "package", "meter__scope": "package"}, "unit package"),
        (
            {"chip__unit": "cpu-share", "meter__scope": "package"},
            "energy is not known",
        ),
        ({"chip__unit": "cpu-share", "meter__scope": "cpu-share"}, "a part of the unit was used"),
    ],
)
def test_a_unit_is_compared_with_its_like_and_a_share_with_nothing(
    make_record: Make, change: dict[str, Any], reason: str
) -> None:
    row = second(make_record, **change)
    assert row.values["comparable"] == ["perf"]
    assert reason in " ".join(row.details["not_comparable"]["energy"])
