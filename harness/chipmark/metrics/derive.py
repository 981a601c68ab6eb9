"""All numbers of a cell that need no price: `derive(raw)`.

Repeats combine as ratios of sums (`ratios.combine`), counts as sums, latencies by pooling their
samples. Everything here is computed again whenever a definition changes; nothing is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chipmark.meters.contract import PowerSamples
from chipmark.metrics import energy as energy_of
from chipmark.metrics import latency, phases, roofline
from chipmark.metrics.attribution import attribute
from chipmark.metrics.events import DONE, RepeatView, view
from chipmark.metrics.intervals import Interval, by_repeat, percentile
from chipmark.metrics.ratios import Ratio, combine, null
from chipmark.metrics.rawcell import CellFacts, RawCell, RepeatData
from chipmark.workload.trace import Trace

SCHEMA = "chipmark.metrics/2"
"""Version of the definitions; rows of different versions are never ranked together."""

STEADY_SPREAD = 1.25
"""Largest ratio of two repeats' total_tok_s at which a cell counts as steady."""

RATIOS: tuple[str, ...] = (
    "prefill_tok_s", "decode_tok_s", "total_tok_s", "slo_attainment", "sessions_per_hour",
    "prefix_hit_ideal", "prefix_hit", "pad_ratio", "mbu", "mfu", "host_s_per_step", "power_w",
    "tok_per_joule", "joule_per_session",
)  # fmt: skip
LATENCIES: tuple[str, ...] = (
    "ttft_p50_s", "ttft_p95_s", "ttft_cold_p50_s", "tpot_p50_s", "tpot_p95_s",
)  # fmt: skip
COUNTS: tuple[str, ...] = ("sessions", "recomputed_tokens")
METRICS: tuple[str, ...] = (*RATIOS, *LATENCIES, *COUNTS)

_SHARES = ("slo_attainment", "prefix_hit", "prefix_hit_ideal")
_EXACT = ("prefix_hit_ideal",)


@dataclass(frozen=True, slots=True)
class Derived:
    """Metrics of a cell, by name of the table's column.

    per_repeat: the same of each repeat (latencies by that repeat's own samples). intervals: 95 %,
    an end None where it is unbounded. null_reasons: a code for every None in `metrics`. notes:
    (code, text). details: what stands in JSON beside the columns (net energy, phase seconds,
    error bounds, joules by session).
    """

    metrics: dict[str, float | int | None]
    per_repeat: tuple[dict[str, float | int | None], ...]
    intervals: dict[str, Interval]
    null_reasons: dict[str, str]
    notes: tuple[tuple[str, str], ...]
    details: dict[str, Any] = field(default_factory=dict)
    schema: str = SCHEMA


@dataclass(frozen=True, slots=True)
class _Repeat:
    view: RepeatView
    work: phases.Work
    ratios: dict[str, Ratio]
    samples: latency.TurnLatencies
    counts: dict[str, int]
    energy: energy_of.WindowEnergy
    power: PowerSamples | None


def derive(raw: RawCell) -> Derived:
    """Compute every metric of a cell. ValueError where the event tables contradict themselves."""
    if not raw.repeats:
        return nothing("cell_failed")
    done = [_repeat(raw, data) for data in raw.repeats]
    metrics: dict[str, float | int | None] = {}
    reasons: dict[str, str] = {}
    intervals: dict[str, Interval] = {}
    notes: list[tuple[str, str]] = []
    for name in RATIOS:
        ratios = [r.ratios[name] for r in done]
        ratio = combine(ratios, every=name == "joule_per_session")
        metrics[name] = ratio.value
        if ratio.value is None:
            reasons[name] = ratio.null_reason
            continue
        valid = [r.value for r in ratios if r.value is not None]
        if len(valid) < len(ratios):
            lost = next(r.null_reason for r in ratios if r.value is None)
            text = f"{name}: {len(ratios) - len(valid)} of {len(ratios)} repeats left out ({lost})"
            notes.append(("repeats_left_out", text))
        interval = by_repeat(ratio.value, valid, positive=name not in _SHARES)
        if interval is not None and name not in _EXACT:
            intervals[name] = _clipped(interval) if name in _SHARES else interval
    for name, value in _latency_quantiles([r.samples for r in done]).items():
        metrics[name] = value.value
        if value.value is None:
            reasons[name] = value.reason
        elif value.interval is not None:
            intervals[name] = value.interval
    for name in COUNTS:
        metrics[name] = sum(r.counts[name] for r in done)
    notes += _notes(raw, done)
    for name, number in metrics.items():
        if number is not None and not np.isfinite(number):
            raise ValueError(f"{name} comes out as {number}: a done turn or launch lacks its time")
    return Derived(
        metrics=metrics,
        per_repeat=tuple(_values(r) for r in done),
        intervals=intervals,
        null_reasons=reasons,
        notes=tuple(notes),
        details=_details(raw, done),
    )


def nothing(reason: str) -> Derived:
    """The metrics of a cell that measured nothing: all None, for one reason."""
    return Derived(
        metrics=dict.fromkeys(METRICS),
        per_repeat=(),
        intervals={},
        null_reasons=dict.fromkeys(METRICS, reason),
        notes=(),
    )


def _repeat(raw: RawCell, data: RepeatData) -> _Repeat:
    facts = raw.facts
    joined = view(data.events)
    work = phases.work(joined)
    hit, ideal = phases.prefix_hits(joined)
    measured = energy_of.window_energy(data.power, facts.meter, joined.start_s, joined.end_s)
    sessions = latency.completed_sessions(joined)
    ratios = {
        **phases.rates(joined, work),
        "slo_attainment": latency.slo_attainment(joined, facts.slo, facts.scenario),
        "sessions_per_hour": latency.sessions_per_hour(joined, facts),
        "prefix_hit": hit,
        "prefix_hit_ideal": ideal,
        "pad_ratio": phases.pad_ratio(joined),
        "mbu": roofline.mbu(joined, raw.trace, facts, data.roofs),
        "mfu": roofline.mfu(joined, facts, data.roofs),
        "host_s_per_step": phases.host_seconds(joined),
        **_energy_ratios(facts, joined, work, measured, sessions),
    }
    counts = {"sessions": sessions, "recomputed_tokens": phases.recomputed_tokens(joined)}
    return _Repeat(joined, work, ratios, latency.latencies(joined), counts, measured, data.power)


def _energy_ratios(
    facts: CellFacts,
    joined: RepeatView,
    work: phases.Work,
    measured: energy_of.WindowEnergy,
    sessions: int,
) -> dict[str, Ratio]:
    names = ("power_w", "tok_per_joule", "joule_per_session")
    if facts.used < facts.of:
        return dict.fromkeys(names, null("unit_partly_used"))
    if measured.energy_j is None:
        return dict.fromkeys(names, null(measured.reason))
    per_session = Ratio(measured.energy_j, float(sessions))
    if (
        facts.loop == "closed"
        and facts.scenario == "equal_n"
        and latency.unfinished_sessions(joined)
    ):
        per_session = null("session_unfinished")
    elif not sessions:
        per_session = null("no_sessions")
    return {
        "power_w": Ratio(measured.energy_j, joined.window_s),
        "tok_per_joule": Ratio(float(work.tokens), measured.energy_j),
        "joule_per_session": per_session,
    }


def _latency_quantiles(samples: Sequence[latency.TurnLatencies]) -> dict[str, latency.Quantile]:
    append = latency.pooled([s.ttft_append_s for s in samples])
    cold = latency.pooled([s.ttft_cold_s for s in samples])
    tpot = latency.pooled([s.tpot_s for s in samples])
    found = {
        "ttft_p50_s": latency.quantile(append, 0.50),
        "ttft_p95_s": latency.quantile(append, 0.95),
        "ttft_cold_p50_s": latency.quantile(cold, 0.50),
        "tpot_p50_s": latency.quantile(tpot, 0.50),
        "tpot_p95_s": latency.quantile(tpot, 0.95),
    }
    if not len(tpot) and len(append) + len(cold):
        one_token = latency.Quantile(None, None, "one_token_turns")
        found["tpot_p50_s"] = found["tpot_p95_s"] = one_token
    return found


def _values(repeat: _Repeat) -> dict[str, float | int | None]:
    values: dict[str, float | int | None] = {n: r.value for n, r in repeat.ratios.items()}
    values |= {n: q.value for n, q in _latency_quantiles([repeat.samples]).items()}
    values |= repeat.counts
    values["window_s"] = repeat.view.window_s
    return values


def _notes(raw: RawCell, done: Sequence[_Repeat]) -> list[tuple[str, str]]:
    notes: list[tuple[str, str]] = []
    rates = [v for r in done if (v := r.ratios["total_tok_s"].value)]
    if len(rates) > 1 and max(rates) / min(rates) > STEADY_SPREAD:
        listed = ", ".join(f"{v:.4g}" for v in rates)
        notes.append(("not_steady", f"total_tok_s of the repeats: {listed}"))
    if len(done) < 3:
        notes.append(("few_repeats", f"{len(done)} of at least 3 repeats"))
    lost = sum(latency.unfinished_sessions(r.view) for r in done)
    if lost and raw.facts.scenario == "equal_n":
        notes.append(("sessions_lost", f"{lost} sessions did not end as they should"))
    meter = raw.facts.meter
    refused = next((r.energy.reason for r in done if r.energy.energy_j is None), "")
    if meter is not None and refused and refused != "not_measured":
        notes.append(("energy_refused", f"{meter.name}: {refused}"))
    if meter is not None and meter.source in ("assumed", "declared"):
        notes.append((f"energy_{meter.source}", meter.method))
    if text := energy_of.idle_power(raw.idle_before, raw.idle_after, meter).note:
        notes.append(("idle_range", text))
    roofs = [d.roofs for d in raw.repeats if d.roofs is not None]
    has_mbu = any(r.ratios["mbu"].value is not None for r in done)
    if has_mbu and any(r.llc_bytes is None for r in roofs):
        notes.append(("llc_unknown", "the size of the last-level cache is not known"))
    return notes


def _details(raw: RawCell, done: Sequence[_Repeat]) -> dict[str, Any]:
    seconds: dict[str, float] = {}
    for repeat in done:
        for name, value in phases.seconds_by_phase(repeat.view).items():
            seconds[name] = seconds.get(name, 0.0) + value
    per_session = [t for r in done for t in _session_tokens(r.view, raw.trace)]
    return {
        "metrics_schema": SCHEMA,
        "window_s": sum(r.view.window_s for r in done),
        "n_new": sum(r.work.n_new for r in done),
        "n_out": sum(r.work.n_out for r in done),
        "work_tokens_per_session": float(np.mean(per_session)) if per_session else None,
        "seconds_by_phase": seconds,
        "energy": _energy_details(raw, done),
    }


def _session_tokens(joined: RepeatView, trace: Trace) -> list[int]:
    """Work tokens of each session that was completed, from the trace."""
    tokens = {s.id: sum(t.n_new + t.n_out for t in s.turns) for s in trace.sessions}
    sessions = joined.tables["sessions"]
    done = sessions["session"][sessions["status"] == DONE].tolist()
    return [tokens[s] for s in done if s in tokens]


def _energy_details(raw: RawCell, done: Sequence[_Repeat]) -> dict[str, Any]:
    """Gross and net joules, their bounds, and what each session drew; {} where not measured."""
    meter = raw.facts.meter
    known = [r for r in done if r.energy.energy_j is not None]
    if meter is None or not known or raw.facts.used < raw.facts.of:
        return {}
    joules = sum(r.energy.energy_j or 0.0 for r in known)
    window_s = sum(r.view.window_s for r in known)
    tokens = sum(r.work.tokens for r in known)
    idle = energy_of.idle_power(raw.idle_before, raw.idle_after, meter)
    net = energy_of.net_energy(joules, idle, window_s)
    errors = [r.energy.error_rel for r in known]
    bound = None if None in errors else max(e for e in errors if e is not None)
    reason = "" if net is not None else idle.reason or "negative_net"
    return {
        "energy_j": joules,
        "method": known[0].energy.method,
        "error_rel": bound,
        "largest_gap_s": max(r.energy.largest_gap_s for r in known),
        "gap_s": sum(r.energy.gap_s for r in known),
        "updates": min(r.energy.updates for r in known),
        "idle_w": None if idle.low_w is None else [idle.low_w, idle.high_w],
        "net_energy_j": None if net is None else list(net),
        "net_null_reason": reason or None,
        "tok_per_joule_net": _net_rate(tokens, net),
        "out_tok_per_joule": sum(r.work.n_out for r in known) / joules if joules > 0 else None,
        "by_session": _by_session(raw, known),
    }


def _net_rate(tokens: int, net: tuple[float, float] | None) -> list[float] | None:
    if net is None or net[0] <= 0:
        return None
    return [tokens / net[1], tokens / net[0]]


def _by_session(raw: RawCell, known: Sequence[_Repeat]) -> Mapping[str, Any]:
    """What sessions drew in the first repeat with energy; all parts sum to its E_W."""
    repeat, meter = known[0], raw.facts.meter
    if repeat.power is None or meter is None:
        return {}
    parts = attribute(repeat.view, repeat.power, meter, raw.facts)
    joules = parts.energy_j
    return {
        "energy_j": repeat.energy.energy_j,
        "sessions": len(joules),
        "min_j": float(joules.min()) if len(joules) else None,
        "p50_j": percentile(joules, 0.5),
        "max_j": float(joules.max()) if len(joules) else None,
        "allocated_j": float(joules.sum()),
        "unallocated_j": parts.unallocated_j,
    }


def _clipped(interval: Interval) -> Interval:
    low, high = interval
    return (None if low is None else max(low, 0.0), None if high is None else min(high, 1.0))
