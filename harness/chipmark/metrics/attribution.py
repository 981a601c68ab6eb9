"""Which session drew which joules: E_W shared out by step, the rest is unallocated.

A session's share is, over steps, the step's energy times the session's part of the step's
modelled time, plus idle energy shared by the sessions that were in a tool gap then. What falls
where no session is in a tool gap is unallocated. All shares and `unallocated_j` sum to E_W.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.metrics.energy import energy_at
from chipmark.metrics.events import DECODE, DONE, Floats, Ints, RepeatView
from chipmark.metrics.rawcell import CellFacts
from chipmark_models import costs


@dataclass(frozen=True, slots=True)
class Attribution:
    """Joules by session (ids ascending) and those that no session can be charged with."""

    sessions: Ints
    energy_j: Floats
    unallocated_j: float


def attribute(
    view: RepeatView, samples: PowerSamples, meter: MeterInfo, facts: CellFacts
) -> Attribution:
    """Share the energy of W among sessions; the parts sum to the energy of W."""
    named = [view.tables[name]["session"] for name in ("sessions", "turns", "rows")]
    sessions = np.unique(np.concatenate(named)).astype(np.int64)
    joules = np.zeros(len(sessions))
    spans = step_spans(view)
    unallocated = 0.0
    shares = _step_shares(view, facts, sessions)
    at_start = energy_at(samples, meter, spans[:, 0])
    of_step = energy_at(samples, meter, spans[:, 1]) - at_start
    for index, energy in enumerate(of_step.tolist()):
        share = shares.get(index)
        if share is None:
            unallocated += energy
        else:
            joules[share[0]] += energy * share[1]
    gaps = _tool_gaps(view, sessions)
    for low, high in _idle_spans(spans, view.start_s, view.end_s):
        touching = (gaps[:, 2] > low) & (gaps[:, 1] < high)
        waiting = np.column_stack((gaps[touching, 0], np.clip(gaps[touching, 1:], low, high)))
        cuts = np.unique(np.concatenate(([low, high], waiting[:, 1:].ravel())))
        energies = np.diff(energy_at(samples, meter, cuts))
        for a, b, energy in zip(cuts[:-1], cuts[1:], energies, strict=True):
            here = waiting[(waiting[:, 1] <= a) & (waiting[:, 2] >= b), 0].astype(np.int64)
            if len(here):
                joules[here] += energy / len(here)
            else:
                unallocated += float(energy)
    return Attribution(sessions, joules, unallocated)


def step_spans(view: RepeatView) -> Floats:
    """Per step (start, end) of its host and device time, clipped to W, without overlaps.

    A step begins with the engine's planning and ends when its tokens are visible; of two steps
    in flight the later begins where the earlier ended.
    """
    steps = view.tables["steps"]
    start = np.clip(steps["submit_s"] - steps["engine_s"], view.start_s, view.end_s)
    end = np.clip(steps["visible_s"], view.start_s, view.end_s)
    if len(end):
        end = np.maximum.accumulate(end)
        start = np.maximum(start, np.concatenate(([view.start_s], end[:-1])))
        start = np.minimum(start, end)
    return np.stack((start, end), axis=1)


def _step_shares(
    view: RepeatView, facts: CellFacts, sessions: Ints
) -> dict[int, tuple[Ints, Floats]]:
    """Per step index: (session indices, parts of the step's modelled time that sum to 1)."""
    rows, launches, steps = (view.tables[n] for n in ("rows", "launches", "steps"))
    if not len(rows["launch"]):
        return {}
    weight = _row_weights(view, facts)
    per_launch = np.bincount(view.row_launch, weights=weight, minlength=len(launches["launch"]))
    total = per_launch[view.row_launch]
    seconds = view.launch_seconds[view.row_launch]
    modelled = np.where(total > 0, seconds * weight / np.where(total > 0, total, 1.0), 0.0)
    order = np.argsort(steps["step"], kind="stable")
    step_at = order[np.searchsorted(steps["step"][order], launches["step"])][view.row_launch]
    who = np.searchsorted(sessions, rows["session"])
    result: dict[int, tuple[Ints, Floats]] = {}
    by_step = np.argsort(step_at, kind="stable")
    bounds = np.flatnonzero(np.diff(step_at[by_step])) + 1
    for group in np.split(by_step, bounds):
        whole = float(modelled[group].sum())
        if whole > 0:
            parts = np.bincount(who[group], weights=modelled[group], minlength=len(sessions))
            index = np.flatnonzero(parts)
            result[int(step_at[group[0]])] = (index, parts[index] / whole)
    return result


def _row_weights(view: RepeatView, facts: CellFacts) -> Floats:
    """Modelled work of each row: bytes in decode (its part of the weights and its own KV), FLOPs
    in every other phase; tokens where the model's shape is not known."""
    rows = view.tables["rows"]
    tokens = rows["n_tokens"].astype(np.float64)
    if facts.config is None:
        return tokens
    start = rows["start"].astype(np.float64)
    config = facts.config
    linear = float(costs.linear_flops(config, 1, 0))
    attention = float(costs.attention_flops(config, 1))
    flops = tokens * linear + attention * (tokens * start + tokens * (tokens + 1) / 2)
    known = facts.weights_precision in costs.WEIGHT_PRECISIONS
    if not known or facts.kv_precision not in costs.KV_BYTES:
        return flops
    n_rows = view.tables["launches"]["n_rows"][view.row_launch]
    weights = costs.weight_bytes_per_launch(config, facts.weights_precision, 1)
    kv = costs.kv_bytes_per_token(config, facts.kv_precision)
    decode = weights / np.maximum(n_rows, 1) + kv * (start + tokens)
    return np.where(view.row_phase == DECODE, decode, flops)


def _idle_spans(spans: Floats, start_s: float, end_s: float) -> list[tuple[float, float]]:
    """The stretches of W between steps."""
    edges = [start_s, *np.maximum.accumulate(spans[:, 1]).tolist()] if len(spans) else [start_s]
    begins = [*spans[:, 0].tolist(), end_s]
    return [(a, b) for a, b in zip(edges, begins, strict=True) if b > a]


def _tool_gaps(view: RepeatView, sessions: Ints) -> Floats:
    """(session index, start, end) of every tool gap: from a turn's last token to the next turn's
    intended send."""
    turns = view.tables["turns"]
    order = np.lexsort((turns["turn"], turns["intended_s"], turns["session"]))
    number = turns["turn"][order]
    session, status = turns["session"][order], turns["status"][order]
    follows = (session[1:] == session[:-1]) & (number[1:] == number[:-1] + 1)
    follows &= status[:-1] == DONE
    begin = turns["last_token_s"][order][:-1][follows]
    end = turns["intended_s"][order][1:][follows]
    who = np.searchsorted(sessions, session[1:][follows])
    gaps: Floats = np.column_stack((who, begin, end))[end > begin]
    return gaps
