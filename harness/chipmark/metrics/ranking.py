"""Which metric rows of one kind of work are ranked by, where the user names none."""

from __future__ import annotations


def default_metric(
    scenario: str, *, load_bound: bool, has_p95: bool, has_append: bool = True
) -> str:
    """The column (DEFINITIONS, total_tok_s): in `capacity` sessions an hour; in `equal_n` work
    tokens a second, unless the offered load sets them: then the p95 of TTFT, or its median where
    there are too few turns for a p95; of cold turns where the trace has no others."""
    if scenario == "capacity":
        return "sessions_per_hour"
    if not load_bound:
        return "total_tok_s"
    if not has_append:
        return "ttft_cold_p50_s"
    return "ttft_p95_s" if has_p95 else "ttft_p50_s"
