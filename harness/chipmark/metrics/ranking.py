"""What a rank needs, and by which metric rows of one kind of work are ranked by default."""

from __future__ import annotations

MIN_REPEATS = 3
"""Complete repeats that a rank needs."""


def default_metric(scenario: str, *, load_bound: bool, has_p95: bool) -> str:
    """The column (DEFINITIONS, total_tok_s): in `capacity` sessions an hour; in `equal_n` work
    tokens a second, unless the offered load sets them: then the p95 of TTFT, or its median where
    there are too few turns for a p95."""
    if scenario == "capacity":
        return "sessions_per_hour"
    if not load_bound:
        return "total_tok_s"
    return "ttft_p95_s" if has_p95 else "ttft_p50_s"
