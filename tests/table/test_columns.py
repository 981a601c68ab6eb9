from __future__ import annotations

from pathlib import Path

from chipmark.codes import NullReason
from chipmark.metrics.names import METRICS
from chipmark.table.columns import COLUMNS, RANKABLE

ROOT = Path(__file__).parents[2]

DEFINED = [
    "backend", "chip", "model", "workload", "currency",
    "unit",
    "precision",
    "execution", "graph",
    "scale",
    "scenario", "concurrency", "replicas", "sessions",
    "decode_rows",
    "prefill_tok_s",
    "decode_tok_s",
    "total_tok_s",
    "ttft_p50_s", "ttft_p95_s", "ttft_cold_p50_s",
    "tpot_p50_s", "tpot_p95_s",
    "itl_p50_s", "itl_p95_s", "itl_p99_s",
    "session_p50_s", "session_p95_s",
    "goodput_turns_s", "goodput_tok_s",
    "slo_attainment",
    "sessions_per_hour",
    "prefix_hit_ideal",
    "prefix_hit",
    "recomputed_tokens", "pad_ratio",
    "mbu",
    "mbu_nameplate",
    "mfu",
    "host_s_per_step",
    "idle_s_per_step",
    "bus_bytes_per_step",
    "power_w", "energy_source", "power_scope", "power_beside", "meter", "energy_error_rel",
    "tok_per_joule",
    "joule_per_session",
    "cost_per_session", "cost_per_mtok",
    "daily_active_agents",
    "parity",
    "ep_coverage",
    "load_s", "compile_s", "peak_device_bytes",
    "perplexity", "perplexity_source", "perplexity_ratio",
    "comparable",
    "vs_baseline",
    "notes",
]  # fmt: skip
"""The names of the definitions, in their order. They are an API: this list only grows."""


def test_columns_are_those_of_the_definitions_in_their_order() -> None:
    assert list(COLUMNS) == DEFINED


def test_every_column_says_what_it_is() -> None:
    for column in COLUMNS.values():
        assert column.definition
        assert column.title
        if column.type == "number":
            assert column.unit
        assert set(column.null_reasons) <= set(NullReason)


def test_every_metric_is_a_column_and_what_ranks_has_a_kind() -> None:
    assert set(METRICS) <= set(COLUMNS)
    assert {"total_tok_s", "tok_per_joule", "cost_per_session"} <= set(RANKABLE)
    assert "prefix_hit_ideal" not in RANKABLE


def test_a_stuck_counter_and_a_short_window_are_reasons_of_what_hangs_on_them() -> None:
    for name in ("power_w", "tok_per_joule", "joule_per_session", "cost_per_session"):
        assert "counter_stuck" in COLUMNS[name].null_reasons
    for name in ("joule_per_session", "cost_per_session", "daily_active_agents"):
        assert "w_too_short" in COLUMNS[name].null_reasons
