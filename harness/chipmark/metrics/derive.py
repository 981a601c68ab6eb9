"""All numbers of a cell that need no price: `derive(raw)`.

Complete repeats combine as ratios of sums (`ratios.combine`), counts as sums, latencies over
their distinct work (`quantiles`). Everything here is computed again whenever a definition
changes; nothing is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chipmark.meters.contract import PowerSamples
from chipmark.metrics import energy as energy_of
from chipmark.metrics import latency, phases, roofline
from chipmark.metrics.attainment import slo_bound, slo_notes
from chipmark.metrics.attribution import attribute
from chipmark.metrics.events import DONE, RepeatView, view
from chipmark.metrics.intervals import Interval, by_repeat, percentile
from chipmark.metrics.quantiles import QUANTILES, quantiles, work_intervals
from chipmark.metrics.ratios import Ratio, combine, null
from chipmark.metrics.rawcell import CellFacts, RawCell, RepeatData
from chipmark.metrics.remarks import Seen, remarks
from chipmark.metrics.repeats import is_complete, lost_turns
from chipmark.metrics.samples import KINDS, Kind, Samples, by_kind, n_distinct, samples_of
from chipmark.metrics.steps import idle_seconds
from chipmark.metrics.times import clock_notes
from chipmark.metrics.waiting import nobody_waits_s
from chipmark.workload.passes import trace_ids
from chipmark.workload.trace import Trace

SCHEMA = "chipmark.metrics/2"
"""Version of the definitions; rows of different versions are never ranked together."""

RATIOS: tuple[str, ...] = (
    "decode_rows", "prefill_tok_s", "decode_tok_s", "total_tok_s", "goodput_turns_s",
    "goodput_tok_s", "slo_attainment", "sessions_per_hour", "prefix_hit_ideal", "prefix_hit",
    "pad_ratio", "mbu", "mbu_nameplate", "mfu", "host_s_per_step", "idle_s_per_step", "power_w",
    "tok_per_joule", "joule_per_session",
)  # fmt: skip
LATENCIES: tuple[str, ...] = tuple(QUANTILES)
COUNTS: tuple[str, ...] = ("sessions", "recomputed_tokens")
METRICS: tuple[str, ...] = (*RATIOS, *LATENCIES, *COUNTS)

OF_ROOFS: tuple[str, ...] = ("mbu", "mbu_nameplate", "mfu")
"""Shares of a roof: above 1 the measurement is wrong."""

PROBED_ROOFS: tuple[str, ...] = ("mbu", "mfu")
"""Those of them whose roof was measured, so that no catalogue can have it wrong."""

_OF_ALL_REPEATS = ("slo_attainment",)
"""Ratios that repeats which did not complete are in: their turns are the misses that it counts."""

_SHARES = ("slo_attainment", "prefix_hit", "prefix_hit_ideal")
_EXACT = ("prefix_hit_ideal",)


@dataclass(frozen=True, slots=True)
class Derived:
    """Metrics of a cell, by name of the table's column.

    per_repeat: the same of each repeat, with its `window_s` and `complete` (1 or 0); all None but
    these two where it did not complete. intervals: 95 %, an end None where it is unbounded.
    null_reasons: a code for every None in `metrics`. notes: (code, text). details: what stands in
    JSON beside the columns (net energy, phase seconds, error bounds, joules by session, intervals
    over other work).
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
    complete: bool
    work: phases.Work
    ratios: dict[str, Ratio]
    samples: Mapping[Kind, Samples]
    counts: dict[str, int]
    energy: energy_of.WindowEnergy
    power: PowerSamples | None


def derive(raw: RawCell) -> Derived:
    """Compute every metric of a cell. ValueError where the event tables contradict themselves."""
    if not raw.repeats:
        return nothing("cell_failed")
    every = [_repeat(raw, data) for data in raw.repeats]
    done = [repeat for repeat in every if repeat.complete]
    metrics: dict[str, float | int | None] = {}
    reasons: dict[str, str] = {}
    intervals: dict[str, Interval] = {}
    notes: list[tuple[str, str]] = []
    for name in RATIOS:
        ratio, interval, left_out = _combined(name, every, done)
        if name == "sessions_per_hour" and raw.facts.scenario == "capacity":
            used = [r.view for r in done if r.ratios[name].value is not None]
            interval = latency.with_spread(interval, used, raw.trace)
        metrics[name] = ratio.value
        if ratio.value is None:
            reasons[name] = ratio.null_reason
        if interval is not None:
            intervals[name] = interval
        if left_out:
            notes.append(("repeats_left_out", left_out))
    for name, found in quantiles([r.samples for r in done]).items():
        metrics[name] = found.value if done else None
        if metrics[name] is None:
            reasons[name] = found.reason if done else "repeat_incomplete"
        elif found.interval is not None:
            intervals[name] = found.interval
    for name in COUNTS:
        metrics[name] = sum(r.counts[name] for r in done) if done else None
        if not done:
            reasons[name] = "repeat_incomplete"
    for name, number in metrics.items():
        if number is not None and not np.isfinite(number):
            raise ValueError(f"{name} comes out as {number}: a done turn or launch has no time")
    per_repeat = tuple(_values(repeat) for repeat in every)
    seen = [
        _seen(raw, r, data, v) for r, data, v in zip(every, raw.repeats, per_repeat, strict=True)
    ]
    over = [(name, _shares(name, done)) for name in OF_ROOFS if reasons.get(name) == "over_roof"]
    probed = [(name, _shares(name, done)) for name in PROBED_ROOFS]
    views = [r.view for r in every]
    notes += clock_notes(raw, views)
    notes += remarks(raw.facts, seen, over, probed)
    if text := energy_of.idle_power(raw.idle_before, raw.idle_after, raw.facts.meter).note:
        notes.append(("idle_range", text))
    if raw.facts.scenario == "capacity":
        notes += slo_notes(views, raw.facts, raw.trace)
    return Derived(
        metrics=metrics,
        per_repeat=per_repeat,
        intervals=intervals,
        null_reasons=reasons,
        notes=tuple(notes),
        details=_details(raw, done) | {"slo_bound": slo_bound(views, raw.facts, raw.trace)},
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


def _combined(
    name: str, every: Sequence[_Repeat], done: Sequence[_Repeat]
) -> tuple[Ratio, Interval | None, str]:
    """A ratio over repeats, its interval, and what must be said of repeats without a value.

    A share of a roof is judged over the repeats together, because a probe scatters by some
    percent: above 1 it is no number.
    """
    ratios = [r.ratios[name] for r in (every if name in _OF_ALL_REPEATS else done)]
    if not ratios:
        return null("repeat_incomplete"), None, ""
    ratio = combine(ratios, every=name == "joule_per_session")
    if ratio.value is None:
        return ratio, None, ""
    if name in OF_ROOFS and ratio.value > 1:
        return null("over_roof"), None, ""
    valid = [r.value for r in ratios if r.value is not None]
    left_out = ""
    if len(valid) < len(ratios):
        lost = next(r.null_reason for r in ratios if r.value is None)
        left_out = f"{name}: {len(ratios) - len(valid)} of {len(ratios)} repeats left out ({lost})"
    interval = by_repeat(ratio.value, valid, positive=name not in _SHARES)
    if interval is None or name in _EXACT:
        return ratio, None, left_out
    return ratio, _clipped(interval) if name in _SHARES else interval, left_out


def _repeat(raw: RawCell, data: RepeatData) -> _Repeat:
    facts = raw.facts
    joined = view(data.events)
    work = phases.work(joined)
    hit, ideal = phases.prefix_hits(joined)
    measured = energy_of.window_energy(data.power, facts.meter, joined.start_s, joined.end_s)
    sessions = latency.completed_sessions(joined)
    reads = roofline.decode_reads(joined, raw.trace, facts)
    ratios = {
        **phases.rates(joined, work),
        "goodput_turns_s": latency.goodput_turns(joined, facts.slo, facts.scenario),
        "goodput_tok_s": latency.goodput_tokens(joined, facts.slo, facts.scenario),
        "slo_attainment": latency.slo_attainment(joined, facts.slo, facts.scenario),
        "sessions_per_hour": latency.sessions_per_hour(joined, facts, raw.trace),
        "prefix_hit": hit,
        "prefix_hit_ideal": ideal,
        "pad_ratio": phases.pad_ratio(joined),
        "mbu": roofline.mbu(reads, data.roofs),
        "mbu_nameplate": roofline.mbu_nameplate(reads, facts, data.roofs),
        "mfu": roofline.mfu(joined, facts, data.roofs),
        "host_s_per_step": phases.host_seconds(joined),
        "idle_s_per_step": idle_seconds(joined),
        **_energy_ratios(facts, joined, work, measured, sessions),
    }
    whole = (
        facts.scenario == "equal_n" or latency.capacity_rate(joined, raw.trace).value is not None
    )
    if not whole and ratios["joule_per_session"].value is not None:
        ratios["joule_per_session"] = null("w_too_short")
    return _Repeat(
        view=joined,
        complete=is_complete(joined, data, raw.trace, facts),
        work=work,
        ratios=ratios,
        samples=samples_of(joined, raw.trace),
        counts={"sessions": sessions, "recomputed_tokens": phases.recomputed_tokens(joined)},
        energy=measured,
        power=data.power,
    )


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


def _values(repeat: _Repeat) -> dict[str, float | int | None]:
    if not repeat.complete:
        head: dict[str, float | int | None] = dict.fromkeys(METRICS)
        return head | {"window_s": repeat.view.window_s, "complete": 0}
    values: dict[str, float | int | None] = {n: r.value for n, r in repeat.ratios.items()}
    values |= {n: q.value for n, q in quantiles([repeat.samples]).items()}
    return values | repeat.counts | {"window_s": repeat.view.window_s, "complete": 1}


def _shares(name: str, done: Sequence[_Repeat]) -> list[float]:
    return [v for r in done if (v := r.ratios[name].value) is not None]


def _seen(
    raw: RawCell, repeat: _Repeat, data: RepeatData, values: Mapping[str, float | int | None]
) -> Seen:
    return Seen(
        complete=repeat.complete,
        lost_turns=lost_turns(repeat.view, raw.facts.scenario),
        lost_sessions=latency.unfinished_sessions(repeat.view),
        window_s=repeat.view.window_s,
        nobody_waits_s=nobody_waits_s(repeat.view),
        energy_refused="" if repeat.energy.energy_j is not None else repeat.energy.reason,
        has_mbu=repeat.ratios["mbu"].value is not None,
        roofs=data.roofs,
        values=values,
    )


def _details(raw: RawCell, done: Sequence[_Repeat]) -> dict[str, Any]:
    seconds: dict[str, float] = {}
    for repeat in done:
        for name, value in phases.seconds_by_phase(repeat.view).items():
            seconds[name] = seconds.get(name, 0.0) + value
    if raw.facts.scenario == "capacity":
        # Whole passes: what a session of the trace has on average.
        totals = raw.trace.totals
        per_session = [(totals.n_new + totals.n_out) / totals.sessions]
    else:
        per_session = [t for r in done for t in _session_tokens(r.view, raw.trace)]
    window_s = sum(r.view.window_s for r in done)
    waiting = sum(nobody_waits_s(r.view) for r in done)
    samples = [r.samples for r in done]
    return {
        "metrics_schema": SCHEMA,
        "window_s": window_s,
        "tool_time_share": waiting / window_s if window_s > 0 else None,
        "n_new": sum(r.work.n_new for r in done),
        "n_out": sum(r.work.n_out for r in done),
        "n_decoded": sum(r.work.n_decoded for r in done),
        "work_tokens_per_session": float(np.mean(per_session)) if per_session else None,
        "seconds_by_phase": seconds,
        "distinct_samples": {kind: n_distinct(by_kind(samples, kind)) for kind in KINDS},
        "work_intervals": {name: list(ends) for name, ends in work_intervals(samples).items()},
        "nameplate_bytes_s": raw.facts.nameplate_bytes_s,
        "energy": _energy_details(raw, done),
    }


def _session_tokens(joined: RepeatView, trace: Trace) -> list[float]:
    """Work tokens of each session that was completed, from the trace."""
    tokens = {s.id: float(sum(t.n_new + t.n_out for t in s.turns)) for s in trace.sessions}
    sessions = joined.tables["sessions"]
    done = trace_ids(trace, sessions["session"][sessions["status"] == DONE].astype(np.int64))
    return [tokens[s] for s in done.tolist() if s in tokens]


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
