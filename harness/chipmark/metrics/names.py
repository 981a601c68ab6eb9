"""The metrics by name: columns of the table that need no price, and what they are."""

from __future__ import annotations

from chipmark.metrics.quantiles import QUANTILES

SCHEMA = "chipmark.metrics/2"
"""Version of the definitions; rows of different versions are never ranked together."""

RATIOS: tuple[str, ...] = (
    "decode_rows", "prefill_tok_s", "decode_tok_s", "total_tok_s", "goodput_turns_s",
    "goodput_tok_s", "slo_attainment", "sessions_per_hour", "prefix_hit_ideal", "prefix_hit",
    "pad_ratio", "mbu", "mbu_nameplate", "mfu", "host_s_per_step", "idle_s_per_step",
    "bus_bytes_per_step", "power_w", "tok_per_joule", "joule_per_session",
)  # fmt: skip
LATENCIES: tuple[str, ...] = tuple(QUANTILES)
COUNTS: tuple[str, ...] = ("sessions", "recomputed_tokens")
METRICS: tuple[str, ...] = (*RATIOS, *LATENCIES, *COUNTS)

OF_ROOFS: tuple[str, ...] = ("mbu", "mbu_nameplate", "mfu")
"""Shares of a roof: above 1 the measurement is wrong."""

PROBED_ROOFS: tuple[str, ...] = ("mbu", "mfu")
"""Those of them whose roof was measured, so that no catalogue can have it wrong."""

ADDED: tuple[str, ...] = ("bus_bytes_per_step",)
"""Those that records of today's schema may lack, for they were written before."""
