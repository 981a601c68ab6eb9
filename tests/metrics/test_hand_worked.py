"""Every metric against numbers worked out on paper for the cell of `tests/rawcells.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from chipmark.codes import NoteCode, NullReason
from chipmark.engine.contract import PHASES
from chipmark.meters.contract import MeterInfo
from chipmark.metrics import phases
from chipmark.metrics.derive import Derived, derive, nothing
from chipmark.metrics.events import view
from chipmark.metrics.names import METRICS
from chipmark.metrics.rawcell import (
    RawCell,
    Roofs,
    SloLimits,
)
from chipmark.metrics.samples import samples_of
from chipmark.table.columns import COLUMNS

METER = MeterInfo("hand", "counter", "board", "hand", update_period_s=0.001, error_rel=0.02)

MakeCell = Callable[..., RawCell]
DeriveCell = Callable[..., Derived]


def test_rates_are_work_tokens_over_their_seconds(values: DeriveCell) -> None:
    m = values().metrics
    # 24 prefill rows take 0.240 s, but only 22 of them are new work.
    assert m["prefill_tok_s"] == pytest.approx(22 / 0.240)
    # Of 10 output tokens 4 are the first of their turn, which a prefill launch sampled.
    assert m["decode_tok_s"] == pytest.approx(6 / 0.030)
    assert m["decode_rows"] == 1.0
    assert m["total_tok_s"] == pytest.approx(32 / 0.280)


def test_one_session_decodes_no_slower_than_its_tpot_and_idle_is_the_difference(
    values: DeriveCell,
) -> None:
    m = values().metrics
    rate, tpot, idle = m["decode_tok_s"], m["tpot_p50_s"], m["idle_s_per_step"]
    assert rate is not None
    assert tpot is not None
    assert 1 / rate <= tpot
    # Every step of the cell has 1 ms of host before its launch, so the mean is the difference.
    assert idle == pytest.approx(0.001)
    assert tpot - 1 / rate == pytest.approx(idle)


def test_latencies_are_medians_of_a_turns_repeats_from_the_intended_send(
    values: DeriveCell,
) -> None:
    m = values(slows=(1.0, 1.2, 0.9)).metrics
    # Append turns: 1 ms of host and 4 or 6 tokens of prefill, at the middle speed of three; the
    # first of two is the median.
    assert m["ttft_p50_s"] == pytest.approx(0.041)
    # Cold turns: 10 and 4 tokens.
    assert m["ttft_cold_p50_s"] == pytest.approx(0.041)
    # Three turns have a second token: one decode launch and 1 ms of host a token.
    assert m["tpot_p50_s"] == pytest.approx(0.006)
    # Two repeats: the mean of both, not the better one.
    assert values(slows=(1.0, 1.2)).metrics["ttft_p50_s"] == pytest.approx(0.041 * 1.1)


def test_gaps_between_tokens_are_pooled_and_show_a_stall(
    cell: MakeCell, values: DeriveCell
) -> None:
    m = values().metrics
    assert m["itl_p50_s"] == pytest.approx(0.006)
    assert m["itl_p95_s"] is None
    raw = cell()
    gaps = samples_of(view(raw.repeats[0].events), raw.trace)["itl"]
    assert list(zip(gaps.session, gaps.turn, gaps.position, strict=True)) == [
        (0, 0, 10), (0, 0, 11), (0, 0, 12), (0, 1, 17), (1, 0, 12), (1, 0, 13),
    ]  # fmt: skip
    assert gaps.value_s == pytest.approx([0.006] * 6)
    # The second gap of the first turn lasts 40 ms more; everything after it is later.
    events = raw.repeats[0].events
    events["steps"]["visible_s"][2:] += 0.040
    events["turns"]["last_token_s"] += 0.040
    events["turns"]["first_token_s"][1:] += 0.040
    events["turns"]["intended_s"][1:] += 0.040
    events["window"]["end_s"] += 0.040
    stalled = samples_of(view(events), raw.trace)["itl"].value_s
    assert stalled == pytest.approx([0.006, 0.046, 0.006, 0.006, 0.006, 0.006])


def test_sessions_last_from_their_first_send_to_their_last_token(
    rawcells: ModuleType, values: DeriveCell
) -> None:
    m = values().metrics
    # Session 0: 14 prefill rows, 4 decode launches, 6 steps of 1 ms; session 1: 10, 2 and 4.
    both = (0.140 + 0.020 + 0.006, 0.100 + 0.010 + 0.004)
    assert m["session_p50_s"] == pytest.approx(min(both))
    found = samples_of(view(rawcells.tables()), rawcells.trace())["session"]
    assert found.value_s == pytest.approx(both)


def test_copies_of_a_turn_never_make_a_percentile(values: DeriveCell) -> None:
    d = values(slows=(1.0,) * 40)
    for name in ("ttft_p95_s", "tpot_p95_s", "itl_p95_s", "itl_p99_s", "session_p95_s"):
        assert d.metrics[name] is None
        assert d.null_reasons[name] == "n_too_small"
    assert d.details["distinct_samples"] == {
        "ttft_append": 2, "ttft_cold": 2, "tpot": 3, "itl": 6, "session": 2,
    }  # fmt: skip


def test_goodput_counts_what_met_the_objective(values: DeriveCell) -> None:
    m = values().metrics
    assert m["goodput_turns_s"] == pytest.approx(4 / 0.280)
    assert m["goodput_tok_s"] == pytest.approx(32 / 0.280)
    # Only the append turn of session 1 (6 tokens, 61 ms) is late: it has 5 new and 1 output token.
    tight = values(slo=SloLimits(0.05, 10.0, 0.050)).metrics
    assert tight["goodput_turns_s"] == pytest.approx(3 / 0.280)
    assert tight["goodput_tok_s"] == pytest.approx(26 / 0.280)


def test_prefix_hits_and_waste(values: DeriveCell) -> None:
    m = values().metrics
    assert m["prefix_hit_ideal"] == pytest.approx(37 / 59)
    assert m["prefix_hit"] == pytest.approx(35 / 59)
    assert m["recomputed_tokens"] == 0
    assert m["pad_ratio"] == 1.0


def test_recomputation_and_padding_only_make_a_row_worse(cell: MakeCell) -> None:
    raw = cell()
    events = raw.repeats[0].events
    # Session 1 finds nothing of its prefix: 8 positions more, in a bucket of 16.
    row = int(np.flatnonzero(events["rows"]["session"] == 1)[0])
    events["rows"]["start"][row], events["rows"]["n_tokens"][row] = 0, 12
    events["launches"]["n_tokens"][row], events["launches"]["n_positions"][row] = 12, 16
    again = derive(raw)
    assert again.metrics["recomputed_tokens"] == 8
    assert again.metrics["pad_ratio"] == pytest.approx((30 - 4 + 16) / (30 - 4 + 12))
    assert again.metrics["prefill_tok_s"] == pytest.approx(22 / 0.240)


def test_nothing_is_padded_where_every_position_is_useful(cell: MakeCell) -> None:
    raw = cell()
    launches = raw.repeats[0].events["launches"]
    # A ragged launch: two rows of 10 and 2 tokens in a step without buckets, 12 positions.
    launches["n_tokens"][0], launches["n_positions"][0] = 12, 12
    launches["batch_bucket"][0], launches["chunk_bucket"][0] = 2, 10
    assert phases.pad_ratio(view(raw.repeats[0].events)).value == 1.0
    # A log of before events/2 has the buckets only: 20 places for 12 of 32 tokens.
    launches["n_positions"][:] = -1
    assert phases.pad_ratio(view(raw.repeats[0].events)).value == pytest.approx((30 - 10 + 20) / 32)


def test_mbu_counts_weights_once_a_launch_and_the_live_rows(values: DeriveCell) -> None:
    m = values().metrics
    # Layer: q 64, o 64, k and v 32 each, gate, up, down 128 each, two norms of 8: 592; two layers
    # and the final norm 1192, the tied head 800. Decode rows at 10 11 12, 17, 12 13, one new each.
    weights = 4 * (2 * 592 + 8 + 800)
    kv = 2 * 2 * 4 * 4
    moved = 6 * weights + kv * (10 + 11 + 12 + 17 + 12 + 13 + 6)
    assert m["mbu"] == pytest.approx(moved / (0.030 * 2e6))
    plate = values(nameplate_bytes_s=4e6).metrics
    assert plate["mbu_nameplate"] == pytest.approx(moved / (0.030 * 4e6))
    assert values().null_reasons["mbu_nameplate"] == "no_nameplate"


def test_a_share_above_its_roof_is_no_number_and_is_said(values: DeriveCell) -> None:
    low = values(roofs=Roofs(10**6, 1e6, 1e6, 1e5, 1e5, 1000), nameplate_bytes_s=1e6)
    for name in ("mbu", "mbu_nameplate", "mfu"):
        assert low.metrics[name] is None
        assert low.null_reasons[name] == "over_roof"
        assert name not in low.intervals
        assert (low.per_repeat[0][name] or 0.0) > 1
    assert [t.split()[0] for c, t in low.notes if c == "over_roof"] == [
        "mbu", "mbu_nameplate", "mfu",
    ]  # fmt: skip


def test_a_share_far_above_a_measured_roof_bars_the_row(values: DeriveCell) -> None:
    def far(read: float, matmul: float, nameplate: float) -> list[str]:
        roofs = Roofs(10**6, read, read, matmul, matmul, 1000)
        d = values(roofs=roofs, nameplate_bytes_s=nameplate)
        return [t.split()[0] for code, t in d.notes if code == "far_over_roof"]

    # 52,992 bytes in 0.030 s: 3.2 of 5.5e5 bytes/s, 2.9 of 6e5.
    assert far(5.5e5, 1e6, 1.0) == ["mbu"]
    assert far(6e5, 1e6, 1.0) == []
    assert far(2e6, 1e4, 1.0) == ["mfu"]


def test_a_working_set_under_four_caches_has_no_share(values: DeriveCell) -> None:
    # A decode launch of the cell moves 8,832 bytes in the mean: 6 launches, 52,992 bytes.
    for llc, reason in ((2207, ""), (2209, "in_cache")):
        d = values(roofs=Roofs(10**6, 2e6, 2e6, 1e6, 1e6, llc), nameplate_bytes_s=4e6)
        assert d.null_reasons.get("mbu", "") == reason
        assert d.null_reasons.get("mbu_nameplate", "") == reason
    small_probe = Roofs(3999, 2e6, 2e6, 1e6, 1e6, 1000)
    assert values(roofs=small_probe).null_reasons["mbu"] == "in_cache"


def test_a_probe_of_another_size_is_said(values: DeriveCell) -> None:
    for wanted, said in ((None, False), (10**6, False), (2 * 10**6, True)):
        roofs = Roofs(10**6, 2e6, 2e6, 1e6, 1e6, 1000, wanted)
        notes = {code for code, _ in values(roofs=roofs).notes}
        assert ("probe_size" in notes) == said


def test_mfu_counts_new_tokens_with_their_context_and_one_head_row_a_prompt(
    values: DeriveCell,
) -> None:
    m = values().metrics
    new = [*range(10), *range(14, 17), *range(8, 12), *range(15, 20)]
    flops = 2 * 1192 * len(new) + 4 * 2 * 8 * sum(p + 1 for p in new) + 2 * 800 * 4
    assert m["mfu"] == pytest.approx(flops / (0.240 * 1e6))


def test_host_time_that_the_device_waited_for(cell: MakeCell, values: DeriveCell) -> None:
    m = values().metrics
    assert m["host_s_per_step"] == pytest.approx(0.001)
    hidden = cell()
    hidden.repeats[0].events["steps"]["engine_s"][:] = 1e-5
    hidden.repeats[0].events["launches"]["host_s"][:] = 1e-5
    assert derive(hidden).metrics["host_s_per_step"] == pytest.approx(2e-5)


def test_energy_of_the_window(values: DeriveCell) -> None:
    d = values()
    assert d.metrics["power_w"] == pytest.approx(20.0)
    assert d.metrics["tok_per_joule"] == pytest.approx(32 / 5.6)
    assert d.metrics["joule_per_session"] == pytest.approx(2.8)
    assert d.details["energy"]["out_tok_per_joule"] == pytest.approx(10 / 5.6)
    # 199 readings of the counter over 1.2 W; W begins 7/12 after a reading and ends 7/12 before
    # one, which is under a period of the counter away, so that only the next is surely later.
    unread = (7 + 7 + 12) / 12 * 1.2 / 199
    assert d.details["energy"]["error_rel"] == pytest.approx(0.02 + 1.02 * unread)


def test_sessions_per_hour_and_slo(values: DeriveCell) -> None:
    m = values().metrics
    assert m["sessions_per_hour"] == pytest.approx(2 / 0.280 * 3600)
    assert m["slo_attainment"] == 1.0
    tight = values(slo=SloLimits(0.05, 10.0, 0.050)).metrics
    assert tight["slo_attainment"] == pytest.approx(3 / 4)
    assert values(slo=SloLimits(tpot_s=0.001)).metrics["slo_attainment"] == 1 / 4


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"meter": None}, {"power_w": "not_measured", "tok_per_joule": "not_measured"}),
        ({"power": None}, {"joule_per_session": "not_measured"}),
        ({"used": 1, "of": 2}, {"tok_per_joule": "unit_partly_used"}),
        (
            {"unit": "cpu-share"},
            {"tok_per_joule": "unit_partly_used", "power_w": "unit_partly_used"},
        ),
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
    values: DeriveCell, changes: dict[str, Any], reasons: dict[str, str]
) -> None:
    d = values(**changes)
    for name, reason in reasons.items():
        assert d.metrics[name] is None
        assert d.null_reasons[name] == reason


LOW_ROOF = Roofs(10**6, 1e5, 1e5, 1e5, 1e5, 1000)


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"meter": None}, {"roofs": None}, {"config": None}, {"weights_precision": "odd"},
        {"used": 1, "of": 2}, {"roofs": LOW_ROOF, "nameplate_bytes_s": 1e5},
        {"roofs": Roofs(1000, 1e6, 1e6, 1e6, 1e6, 2000), "nameplate_bytes_s": 1e9},
        {"scale": (Fraction(1), Fraction(1), Fraction(1, 10))}, {"scenario": "capacity"},
    ],
)  # fmt: skip
def test_every_null_has_a_reason_that_its_column_knows(
    values: DeriveCell, changes: dict[str, Any]
) -> None:
    check_reasons(values(**changes))


def test_nulls_of_odd_events_have_reasons_that_their_columns_know(cell: MakeCell) -> None:
    check_reasons(nothing("cell_failed"))
    for spoil in (
        lambda e: e["turns"]["status"].__setitem__(0, 3),
        lambda e: e["launches"]["phase"].__setitem__(slice(None), PHASES.index("mixed")),
        lambda e: e["launches"]["phase"].__setitem__(slice(None), PHASES.index("kv")),
        lambda e: e["turns"]["n_out"].__setitem__(slice(None), 1),
        lambda e: e["turns"]["cold"].__setitem__(slice(None), 1),
    ):
        raw = cell()
        spoil(raw.repeats[0].events)
        check_reasons(derive(raw))


def check_reasons(d: Derived) -> None:
    assert set(d.metrics) == set(METRICS)
    for name, value in d.metrics.items():
        assert (value is None) == (name in d.null_reasons)
        assert d.null_reasons.get(name, "cell_failed") in COLUMNS[name].null_reasons, name
    assert set(d.null_reasons.values()) <= set(NullReason)
    assert {code for code, _ in d.notes} <= set(NoteCode)
