"""What is in a record's JSON with the columns: net energy, seconds by phase, joules by session,
intervals over other work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from chipmark.codes import NullReason
from chipmark.metrics import energy as energy_of
from chipmark.metrics import phases
from chipmark.metrics.attribution import attribute
from chipmark.metrics.beside import beside_details
from chipmark.metrics.events import DONE, RepeatView
from chipmark.metrics.intervals import percentile
from chipmark.metrics.names import SCHEMA
from chipmark.metrics.one_repeat import OneRepeat
from chipmark.metrics.quantiles import work_intervals
from chipmark.metrics.rawcell import RawCell
from chipmark.metrics.samples import KINDS, by_kind, n_distinct
from chipmark.metrics.states import state_details
from chipmark.metrics.waiting import nobody_waits_s
from chipmark.workload.passes import trace_ids
from chipmark.workload.trace import Trace


def details(raw: RawCell, done: Sequence[OneRepeat]) -> dict[str, Any]:
    """Details of a cell over its complete repeats, as JSON."""
    seconds: dict[str, float] = {}
    for joined in (joined for repeat in done for joined in repeat.views):
        for name, value in phases.seconds_by_phase(joined).items():
            seconds[name] = seconds.get(name, 0.0) + value
    if raw.facts.scenario == "capacity":
        # Whole passes: what a session of the trace has on average.
        totals = raw.trace.totals
        per_session = [(totals.n_new + totals.n_out) / totals.sessions]
    else:
        per_session = [t for r in done for v in r.views for t in _session_tokens(v, raw.trace)]
    window_s = sum(r.window_s for r in done)
    waiting = sum(nobody_waits_s(*r.views, within=r.window) for r in done)
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
        "energy": _energy_details(raw, done) | beside_details(raw, done),
        "state": state_details(raw.repeats),
    }


def _session_tokens(joined: RepeatView, trace: Trace) -> list[float]:
    """Work tokens of each session that was completed, from the trace."""
    tokens = {s.id: float(sum(t.n_new + t.n_out for t in s.turns)) for s in trace.sessions}
    sessions = joined.tables["sessions"]
    done = trace_ids(trace, sessions["session"][sessions["status"] == DONE].astype(np.int64))
    return [tokens[s] for s in done.tolist() if s in tokens]


def _energy_details(raw: RawCell, done: Sequence[OneRepeat]) -> dict[str, Any]:
    """Gross and net joules, their bounds, and what each session drew; {} where not measured."""
    meter = raw.facts.meter
    known = [r for r in done if r.energy.energy_j is not None]
    if meter is None or not known or raw.facts.used < raw.facts.of:
        return {}
    joules = sum(r.energy.energy_j or 0.0 for r in known)
    window_s = sum(r.window_s for r in known)
    tokens = sum(r.metered.tokens for r in known)
    idle = energy_of.idle_power(raw.idle_before, raw.idle_after, meter)
    net = energy_of.net_energy(joules, idle, window_s)
    errors = [r.energy.error_rel for r in known]
    bound = None if None in errors else max(e for e in errors if e is not None)
    reason = None if net is not None else idle.reason or NullReason.NEGATIVE_NET
    return {
        "energy_j": joules,
        "method": known[0].energy.method,
        "error_rel": bound,
        "largest_gap_s": max(r.energy.largest_gap_s for r in known),
        "gap_s": sum(r.energy.gap_s for r in known),
        "updates": min(r.energy.updates for r in known),
        "idle_w": None if idle.low_w is None else [idle.low_w, idle.high_w],
        "net_energy_j": None if net is None else list(net),
        "net_null_reason": reason,
        "tok_per_joule_net": _net_rate(tokens, net),
        "out_tok_per_joule": sum(r.metered.n_out for r in known) / joules if joules > 0 else None,
        "by_session": _by_session(raw, known),
    }


def _net_rate(tokens: int, net: tuple[float, float] | None) -> list[float] | None:
    if net is None or net[0] <= 0:
        return None
    return [tokens / net[1], tokens / net[0]]


def _by_session(raw: RawCell, known: Sequence[OneRepeat]) -> Mapping[str, Any]:
    """What sessions drew in the first repeat with energy; all parts sum to its E_W. {} of several
    replicas: one meter cannot tell which device drew what."""
    repeat, meter = known[0], raw.facts.meter
    if repeat.power is None or meter is None or len(repeat.views) > 1:
        return {}
    parts = attribute(repeat.views[0], repeat.power, meter, raw.facts)
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
