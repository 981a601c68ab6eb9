"""What is in a record's JSON with the columns: net energy, seconds by phase, joules by session,
intervals over other work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from chipmark.metrics import phases
from chipmark.metrics.beside import beside_details
from chipmark.metrics.energy_details import energy_details
from chipmark.metrics.events import DONE, RepeatView
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
        "energy": energy_details(raw, done) | beside_details(raw, done),
        "state": state_details(raw.repeats),
    }


def _session_tokens(joined: RepeatView, trace: Trace) -> list[float]:
    """Work tokens of each session that was completed, from the trace."""
    tokens = {s.id: float(sum(t.n_new + t.n_out for t in s.turns)) for s in trace.sessions}
    sessions = joined.tables["sessions"]
    done = trace_ids(trace, sessions["session"][sessions["status"] == DONE].astype(np.int64))
    return [tokens[s] for s in done.tolist() if s in tokens]
