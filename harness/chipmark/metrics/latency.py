"""The SLO's attainment, goodput, and sessions an hour. Latencies are `metrics.samples`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chipmark.codes import NullReason
from chipmark.engine.window import spread
from chipmark.metrics.events import (
    DONE,
    DROPPED,
    EDGE_S,
    FAILED,
    UNFINISHED,
    Bools,
    RepeatView,
)
from chipmark.metrics.intervals import Interval
from chipmark.metrics.phases import work
from chipmark.metrics.ratios import Ratio, null
from chipmark.metrics.rawcell import CellFacts, Scenario, SloLimits
from chipmark.workload.trace import Trace

MAX_SPREAD = 0.02
"""Largest difference of the three estimates of a capacity, over their mean (DEFINITIONS,
sessions_per_hour)."""


@dataclass(frozen=True, slots=True)
class JudgedTurns:
    """Per row of the table `turns`: whether it counts for the SLO, and whether it met it."""

    counted: Bools
    met: Bools


def judged_turns(view: RepeatView, slo: SloLimits, scenario: Scenario) -> JudgedTurns:
    """Which turns of a repeat met the SLO.

    Failed and dropped turns are misses, and so are turns that were not finished when the run was
    cut but already late by then: no first token within the limit of TTFT, or decoding for longer
    than all their gaps may take together. Other unfinished turns do not count. The cut is the end
    of W in the `capacity` scenario, and in `equal_n` the moment when the engine stopped.
    """
    turns = view.tables["turns"]
    status = turns["status"]
    cut_s = view.end_s
    if scenario == "equal_n":
        cut_s = float(np.fmax(cut_s, view.tables["window"]["left_s"][0]))
    limit = np.where(turns["cold"] != 0, slo.ttft_cold_s, slo.ttft_append_s)
    ttft = turns["first_token_s"] - turns["intended_s"]
    decoding = turns["last_token_s"] - turns["first_token_s"]
    gaps = turns["n_out"] - 1
    tpot = np.where(gaps > 0, decoding / np.maximum(gaps, 1), 0.0)
    met = (status == DONE) & (ttft <= limit) & (tpot <= slo.tpot_s)
    # Comparisons with NaN, the time of what has not happened, are false.
    waits = cut_s - turns["intended_s"] > limit
    seen = turns["first_token_s"] <= cut_s
    late = np.where(seen, ttft > limit, waits)
    late |= seen & (gaps > 0) & (cut_s - turns["first_token_s"] > gaps * slo.tpot_s)
    counted = view.turn_in & np.isin(status, (DONE, FAILED, DROPPED))
    counted |= (status == UNFINISHED) & late
    return JudgedTurns(counted, met & counted)


def slo_attainment(view: RepeatView, slo: SloLimits, scenario: Scenario) -> Ratio:
    """Turns inside the SLO over turns, as `judged_turns` counts them."""
    judged = judged_turns(view, slo, scenario)
    return Ratio(float(judged.met.sum()), float(judged.counted.sum()))


def goodput_turns(view: RepeatView, slo: SloLimits, scenario: Scenario) -> Ratio:
    """Turns that met the SLO, per second of W."""
    return Ratio(float(judged_turns(view, slo, scenario).met.sum()), view.window_s)


def goodput_tokens(view: RepeatView, slo: SloLimits, scenario: Scenario) -> Ratio:
    """Work tokens (n_new + n_out) of turns that met the SLO, per second of W."""
    turns = view.tables["turns"]
    tokens = turns["n_new"].astype(np.int64) + turns["n_out"]
    return Ratio(float(tokens[judged_turns(view, slo, scenario).met].sum()), view.window_s)


def completed_sessions(view: RepeatView) -> int:
    """Sessions that ended, with all their turns, inside W; not those whose end began it."""
    sessions = view.tables["sessions"]
    end = sessions["end_s"]
    inside = (end > view.start_s + EDGE_S) & (end <= view.end_s + EDGE_S)
    return int(((sessions["status"] == DONE) & inside).sum())


def unfinished_sessions(view: RepeatView) -> int:
    """Sessions that did not end as they should."""
    return int((view.tables["sessions"]["status"] != DONE).sum())


def capacity_estimates(view: RepeatView, trace: Trace) -> tuple[float, float, float]:
    """Sessions done in W of the capacity scenario, estimated in three ways: sessions that ended,
    n_new and n_out each over its mean a session of the trace."""
    totals = trace.totals
    done = work(view)
    return (
        float(completed_sessions(view)),
        done.n_new * totals.sessions / totals.n_new,
        done.n_out * totals.sessions / totals.n_out,
    )


def sessions_per_hour(view: RepeatView, facts: CellFacts, trace: Trace) -> Ratio:
    """Sessions per hour of W; null where the tool-time scale is neither 0 nor 1.

    equal_n: completed sessions. capacity: X, the mean of the three `capacity_estimates`; null where
    W is not whole passes over the trace's sessions, or the three differ by over 2 %.
    """
    if facts.scale[2] not in (0, 1):
        return null(NullReason.TOOL_TIME_SCALED)
    if facts.scenario == "equal_n":
        return Ratio(3600.0 * completed_sessions(view), view.window_s)
    return capacity_rate(view, trace)


def capacity_rate(view: RepeatView, trace: Trace) -> Ratio:
    """X in sessions an hour of one run in the capacity scenario; null as `sessions_per_hour`."""
    estimates = capacity_estimates(view, trace)
    passes, rest = divmod(int(estimates[0]), len(trace.sessions))
    if not passes or rest or spread(estimates) > MAX_SPREAD:
        return null(NullReason.W_TOO_SHORT)
    return Ratio(3600.0 * sum(estimates) / len(estimates), view.window_s)


def with_spread(
    interval: Interval | None, views: Sequence[RepeatView], trace: Trace
) -> Interval | None:
    """The interval of the capacity scenario's sessions_per_hour, widened by how far the three
    estimates of a repeat lie from their mean, at most over the repeats."""
    if interval is None or interval[0] is None or interval[1] is None:
        return interval
    low = high = 1.0
    for view in views:
        estimates = capacity_estimates(view, trace)
        mean = sum(estimates) / len(estimates)
        low, high = min(low, min(estimates) / mean), max(high, max(estimates) / mean)
    return interval[0] * low, interval[1] * high
