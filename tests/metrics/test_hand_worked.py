"""Every metric against numbers worked out on paper for the cell of `tests/rawcells.py`."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from chipmark.meters.contract import MeterInfo
from chipmark.metrics.derive import METRICS, Derived, derive
from chipmark.metrics.rawcell import CellFacts, RawCell, RepeatData, Roofs, SloLimits
from chipmark.table.columns import NULL_REASONS
from chipmark_models.config import ModelConfig

METER = MeterInfo("hand", "counter", "board", "hand", update_period_s=0.001, error_rel=0.02)


def cell(rawcells: ModuleType, slows: tuple[float, ...] = (1.0,), **changes: Any) -> RawCell:
    roofs = changes.pop("roofs", Roofs(10**6, 1e6, 1e6, 1e6, 1e6, 1000))
    power = changes.pop("power", lambda a, b: rawcells.counter(20.0, a, b))
    facts = CellFacts(
        scenario="equal_n",
        concurrency=1,
        slo=SloLimits(),
        scale=(Fraction(1, 16), Fraction(1, 16), Fraction(0)),
        loop="closed",
        meter=METER,
        unit="card",
        used=1,
        of=1,
        config=ModelConfig.from_dict(rawcells.TINY),
        weights_precision="fp32",
        kv_precision="fp32",
    )
    repeats = []
    for index, slow in enumerate(slows):
        events = rawcells.tables(slow, 100.0 + 10 * index)
        bounds = (float(events["window"][c][0]) for c in ("start_s", "end_s"))
        repeats.append(RepeatData(events, power(*bounds) if power else None, roofs))
    return RawCell(replace(facts, **changes), rawcells.trace(), tuple(repeats))


def values(rawcells: ModuleType, **changes: Any) -> Derived:
    return derive(cell(rawcells, **changes))


def test_rates_are_work_tokens_over_their_seconds(rawcells: ModuleType) -> None:
    m = values(rawcells).metrics
    # 24 prefill rows take 0.240 s, but only 22 of them are new work.
    assert m["prefill_tok_s"] == pytest.approx(22 / 0.240)
    assert m["decode_tok_s"] == pytest.approx(10 / 0.030)
    assert m["total_tok_s"] == pytest.approx(32 / 0.280)


def test_repeats_combine_as_ratios_of_sums(rawcells: ModuleType) -> None:
    m = values(rawcells, slows=(1.0, 1.2)).metrics
    assert m["total_tok_s"] == pytest.approx(64 / (0.280 * 2.2))
    assert m["sessions"] == 4


def test_latencies_are_pooled_from_the_intended_send(rawcells: ModuleType) -> None:
    m = values(rawcells, slows=(1.0, 1.2, 0.9)).metrics
    # Append turns: 1 ms of host and 4 or 6 tokens of prefill; the third smallest of six is
    # 0.041 x 1.2 (0.0369, 0.041, 0.0492, 0.0549, 0.061, 0.0732).
    assert m["ttft_p50_s"] == pytest.approx(0.041 * 1.2)
    assert m["ttft_cold_p50_s"] == pytest.approx(0.041 * 1.2)
    # Three turns have a second token: one decode launch and 1 ms of host a token.
    assert m["tpot_p50_s"] == pytest.approx(0.006)


def test_p95_needs_59_samples(rawcells: ModuleType) -> None:
    short = values(rawcells, slows=(1.0,) * 29)
    assert short.metrics["ttft_p95_s"] is None
    assert short.null_reasons["ttft_p95_s"] == "n_too_small"
    enough = values(rawcells, slows=(1.0,) * 30)
    assert enough.metrics["ttft_p95_s"] == pytest.approx(0.061)


def test_prefix_hits_and_waste(rawcells: ModuleType) -> None:
    m = values(rawcells).metrics
    assert m["prefix_hit_ideal"] == pytest.approx(37 / 59)
    assert m["prefix_hit"] == pytest.approx(35 / 59)
    assert m["recomputed_tokens"] == 0
    assert m["pad_ratio"] == 1.0


def test_recomputation_and_padding_only_make_a_row_worse(rawcells: ModuleType) -> None:
    raw = cell(rawcells)
    events = raw.repeats[0].events
    # Session 1 finds nothing of its prefix: 8 positions more, in a bucket of 16.
    row = int(np.flatnonzero(events["rows"]["session"] == 1)[0])
    events["rows"]["start"][row], events["rows"]["n_tokens"][row] = 0, 12
    events["launches"]["n_tokens"][row], events["launches"]["chunk_bucket"][row] = 12, 16
    again = derive(raw)
    assert again.metrics["recomputed_tokens"] == 8
    assert again.metrics["pad_ratio"] == pytest.approx((30 - 4 + 16) / (30 - 4 + 12))
    assert again.metrics["prefill_tok_s"] == pytest.approx(22 / 0.240)


def test_mbu_counts_weights_once_a_launch_and_the_live_rows(rawcells: ModuleType) -> None:
    m = values(rawcells).metrics
    # Layer: q 64, o 64, k and v 32 each, gate, up, down 128 each, two norms of 8: 592; two layers
    # and the final norm 1192, the tied head 800. Decode rows at 10 11 12, 17, 12 13, one new each.
    weights = 4 * (2 * 592 + 8 + 800)
    kv = 2 * 2 * 4 * 4
    moved = 6 * weights + kv * (10 + 11 + 12 + 17 + 12 + 13 + 6)
    assert m["mbu"] == pytest.approx(moved / (0.030 * 1e6))


def test_mfu_counts_new_tokens_with_their_context_and_one_head_row_a_prompt(
    rawcells: ModuleType,
) -> None:
    m = values(rawcells).metrics
    new = [*range(10), *range(14, 17), *range(8, 12), *range(15, 20)]
    flops = 2 * 1192 * len(new) + 4 * 2 * 8 * sum(p + 1 for p in new) + 2 * 800 * 4
    assert m["mfu"] == pytest.approx(flops / (0.240 * 1e6))


def test_host_time_that_the_device_waited_for(rawcells: ModuleType) -> None:
    m = values(rawcells).metrics
    assert m["host_s_per_step"] == pytest.approx(0.001)
    hidden = cell(rawcells)
    hidden.repeats[0].events["steps"]["engine_s"][:] = 1e-5
    hidden.repeats[0].events["launches"]["host_s"][:] = 1e-5
    assert derive(hidden).metrics["host_s_per_step"] == pytest.approx(2e-5)


def test_energy_of_the_window(rawcells: ModuleType) -> None:
    d = values(rawcells)
    assert d.metrics["power_w"] == pytest.approx(20.0)
    assert d.metrics["tok_per_joule"] == pytest.approx(32 / 5.6)
    assert d.metrics["joule_per_session"] == pytest.approx(2.8)
    assert d.details["energy"]["out_tok_per_joule"] == pytest.approx(10 / 5.6)
    # 199 steps of the counter over 1.2 W; W begins 7/12 after a reading and ends 7/12 before one.
    unread = 2 * (7 / 12) * 1.2 / 199
    assert d.details["energy"]["error_rel"] == pytest.approx(0.02 + 2 * 0.001 / 0.28 + unread)


def test_sessions_per_hour_and_slo(rawcells: ModuleType) -> None:
    m = values(rawcells).metrics
    assert m["sessions_per_hour"] == pytest.approx(2 / 0.280 * 3600)
    assert m["slo_attainment"] == 1.0
    tight = values(rawcells, slo=SloLimits(0.05, 10.0, 0.050)).metrics
    assert tight["slo_attainment"] == pytest.approx(3 / 4)
    assert values(rawcells, slo=SloLimits(tpot_s=0.001)).metrics["slo_attainment"] == 1 / 4


def test_failed_and_dropped_turns_are_misses_and_earn_nothing(rawcells: ModuleType) -> None:
    raw = cell(rawcells)
    turns = raw.repeats[0].events["turns"]
    turns["status"][3] = 1
    turns["status"][1] = 2
    for name in ("intended_s", "first_token_s", "last_token_s"):
        turns[name][1] = np.nan
    d = derive(raw)
    assert d.metrics["slo_attainment"] == pytest.approx(2 / 4)
    assert d.metrics["total_tok_s"] == pytest.approx((10 + 4 + 4 + 3) / 0.280)


def test_intervals_by_repeat_hold_the_combined_value(rawcells: ModuleType) -> None:
    d = values(rawcells, slows=(1.0, 1.02, 0.98))
    low, high = d.intervals["total_tok_s"]
    assert low is not None
    assert high is not None
    assert low < d.metrics["total_tok_s"] < high  # type: ignore[operator]
    # t(2) = 4.303, s of the logs of 1, 1.02, 0.98 is 0.0200.
    assert np.log(high / low) / 2 == pytest.approx(4.303 * 0.0200 / 3**0.5, rel=1e-3)


def test_a_cell_that_swings_is_not_steady(rawcells: ModuleType) -> None:
    assert "not_steady" in {c for c, _ in values(rawcells, slows=(1.0, 1.0, 1.4)).notes}
    assert "not_steady" not in {c for c, _ in values(rawcells, slows=(1.0, 1.0, 1.1)).notes}


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"meter": None}, {"power_w": "not_measured", "tok_per_joule": "not_measured"}),
        ({"power": None}, {"joule_per_session": "not_measured"}),
        ({"used": 1, "of": 2}, {"tok_per_joule": "unit_partly_used"}),
        ({"roofs": None}, {"mbu": "no_probe", "mfu": "no_probe"}),
        ({"roofs": Roofs(10**6, 1.0, 1.2, 1.0, 1.2)}, {"mbu": "roof_unsteady"}),
        ({"roofs": Roofs(1000, 1.0, 1.0, 1.0, 1.0, 2000)}, {"mbu": "in_cache"}),
        ({"config": None}, {"mbu": "no_model_config", "mfu": "no_model_config"}),
        ({"weights_precision": "odd"}, {"mbu": "precision_unknown"}),
        (
            {"scale": (Fraction(1, 4), Fraction(1, 4), Fraction(1, 10))},
            {"sessions_per_hour": "tool_time_scaled"},
        ),
        (
            {"meter": replace(METER, update_period_s=0.02)},
            {"tok_per_joule": "counter_too_coarse"},
        ),
    ],
)
def test_nulls_have_their_reason(
    rawcells: ModuleType, changes: dict[str, Any], reasons: dict[str, str]
) -> None:
    d = values(rawcells, **changes)
    for name, reason in reasons.items():
        assert d.metrics[name] is None
        assert d.null_reasons[name] == reason


def test_every_null_has_a_known_reason(rawcells: ModuleType) -> None:
    for changes in ({}, {"meter": None}, {"roofs": None}, {"config": None}):
        d = values(rawcells, **changes)
        assert set(d.metrics) == set(METRICS)
        for name, value in d.metrics.items():
            assert (value is None) == (name in d.null_reasons)
        assert set(d.null_reasons.values()) <= set(NULL_REASONS)


def test_a_session_that_did_not_end_takes_its_joules_away(rawcells: ModuleType) -> None:
    raw = cell(rawcells)
    raw.repeats[0].events["sessions"]["status"][1] = 3
    d = derive(raw)
    assert d.metrics["joule_per_session"] is None
    assert d.null_reasons["joule_per_session"] == "session_unfinished"
    assert d.metrics["tok_per_joule"] is not None


def test_a_minority_of_repeats_may_lack_a_roof_and_it_is_said(rawcells: ModuleType) -> None:
    raw = cell(rawcells, slows=(1.0, 1.0, 1.0))
    bad = replace(raw.repeats[0], roofs=Roofs(10**6, 1e6, 2e6, 1e6, 1e6, 1000))
    one = derive(replace(raw, repeats=(bad, *raw.repeats[1:])))
    assert one.metrics["mbu"] == pytest.approx(derive(raw).metrics["mbu"])
    assert any(c == "repeats_left_out" and t.startswith("mbu") for c, t in one.notes)
    two = derive(replace(raw, repeats=(bad, bad, raw.repeats[2])))
    assert two.null_reasons["mbu"] == "roof_unsteady"
