"""The latency columns: quantiles over distinct work, with the machine's noise as their interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chipmark.codes import NullReason
from chipmark.metrics.intervals import (
    CONFIDENCE,
    Interval,
    by_repeat,
    percentile,
    session_bootstrap,
)
from chipmark.metrics.samples import KINDS, Kind, Samples, by_kind, n_distinct

Repeats = Sequence[Mapping[Kind, Samples]]

QUANTILES: Mapping[str, tuple[Kind, float]] = {
    "ttft_p50_s": ("ttft_append", 0.50),
    "ttft_p95_s": ("ttft_append", 0.95),
    "ttft_cold_p50_s": ("ttft_cold", 0.50),
    "tpot_p50_s": ("tpot", 0.50),
    "tpot_p95_s": ("tpot", 0.95),
    "itl_p50_s": ("itl", 0.50),
    "itl_p95_s": ("itl", 0.95),
    "itl_p99_s": ("itl", 0.99),
    "session_p50_s": ("session", 0.50),
    "session_p95_s": ("session", 0.95),
}
"""Columns, with what they are quantiles of."""

_BETWEEN_TOKENS: tuple[Kind, ...] = ("tpot", "itl")


@dataclass(frozen=True, slots=True)
class Quantile:
    """A quantile in seconds, or the reason why there is none."""

    value: float | None
    reason: NullReason | None = None
    interval: Interval | None = None
    """95 % over the repeats."""


def least_n(q: float) -> int:
    """Distinct samples that the q-quantile needs: from the median up, the least n with
    1 - q^n >= 0.95, where the largest sample is a one-sided 95 % bound (59 for 0.95, 299 for
    0.99); 1 up to the median."""
    return 1 if q <= 0.5 else math.ceil(math.log(1 - CONFIDENCE) / math.log(q))


def quantiles(repeats: Repeats) -> dict[str, Quantile]:
    """Every latency column of some complete repeats.

    The value is that of the distinct work of all repeats together (`samples.by_kind`); the
    interval is Student's t over the same quantile of each repeat, as for rates: all chips run the
    same trace, so what differs between repeats is the machine.
    """
    pooled = {kind: by_kind(repeats, kind) for kind in KINDS}
    distinct = {kind: n_distinct(pooled[kind]) for kind in KINDS}
    each = [{kind: by_kind([repeat], kind) for kind in KINDS} for repeat in repeats]
    turns = distinct["ttft_append"] + distinct["ttft_cold"]
    found: dict[str, Quantile] = {}
    for name, (kind, q) in QUANTILES.items():
        if not distinct[kind]:
            one_token = kind in _BETWEEN_TOKENS and turns > 0
            found[name] = Quantile(
                None, NullReason.ONE_TOKEN_TURNS if one_token else NullReason.NO_SAMPLES
            )
        elif distinct[kind] < least_n(q):
            found[name] = Quantile(None, NullReason.N_TOO_SMALL)
        else:
            value = percentile(pooled[kind].value_s, q)
            own = [percentile(repeat[kind].value_s, q) for repeat in each]
            known = [v for v in own if v is not None]
            interval = None if value is None else by_repeat(value, known)
            found[name] = Quantile(value, None, interval)
    return found


def work_intervals(repeats: Repeats) -> dict[str, Interval]:
    """95 % intervals of the latency columns over other work of this kind, by bootstrap of
    sessions; columns of which that is not known (under 20 sessions, too few samples) are left
    out. They say how far the trace is a sample of its profile, and decide no rank."""
    found: dict[str, Interval] = {}
    pooled = {kind: by_kind(repeats, kind) for kind in KINDS}
    distinct = {kind: n_distinct(pooled[kind]) for kind in KINDS}
    for name, (kind, q) in QUANTILES.items():
        if distinct[kind] >= least_n(q):
            samples = pooled[kind]
            interval = session_bootstrap(samples.session, samples.value_s, q)
            if interval is not None:
                found[name] = interval
    return found
