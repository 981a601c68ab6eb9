"""What a rank needs, and by which metric rows of one kind of work are ranked by default."""

from __future__ import annotations

from collections.abc import Callable

MIN_REPEATS = 3
"""Complete repeats that a rank needs."""


TTFTS = ("ttft_p95_s", "ttft_p50_s", "ttft_cold_p50_s")
"""What ranks where the load sets the rates, in this order: the first that every row has."""


def default_metric(scenario: str, *, load_bound: bool, has: Callable[[str], bool]) -> str:
    """The column (DEFINITIONS, total_tok_s): in `capacity` sessions an hour; in `equal_n` work
    tokens a second, unless the offered load sets them: then the p95 of TTFT, or its median where
    there are too few turns for a p95, and that of cold turns in a trace that has no others (each
    request of its own). has: whether every row has a column."""
    if scenario == "capacity":
        return "sessions_per_hour"
    if not load_bound:
        return "total_tok_s"
    return next((name for name in TTFTS if has(name)), "ttft_p50_s")
