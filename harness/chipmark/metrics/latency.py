"""Latencies of turns as their user sees them, the SLO's attainment, and sessions an hour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chipmark.metrics.events import (
    DONE,
    DROPPED,
    EDGE_S,
    FAILED,
    UNFINISHED,
    Bools,
    Floats,
    RepeatView,
)
from chipmark.metrics.intervals import P95_MIN_SAMPLES, Interval, percentile, rank_interval
from chipmark.metrics.ratios import Ratio, null
from chipmark.metrics.rawcell import CellFacts, SloLimits


@dataclass(frozen=True, slots=True)
class TurnLatencies:
    """Samples of one repeat in seconds: TTFT of append and of cold turns, from the intended send
    to the first token the host could see; TPOT of turns with at least two tokens."""

    ttft_append_s: Floats
    ttft_cold_s: Floats
    tpot_s: Floats


@dataclass(frozen=True, slots=True)
class Quantile:
    """A percentile with its interval, or the reason why there is none."""

    value: float | None
    interval: Interval | None
    reason: str = ""


def latencies(view: RepeatView) -> TurnLatencies:
    """Latencies of the turns that were done inside W."""
    turns = view.tables["turns"]
    use = _in_window(view) & (turns["status"] == DONE)
    ttft = turns["first_token_s"] - turns["intended_s"]
    cold = turns["cold"] != 0
    more = use & (turns["n_out"] > 1)
    span = (turns["last_token_s"] - turns["first_token_s"])[more]
    return TurnLatencies(ttft[use & ~cold], ttft[use & cold], span / (turns["n_out"][more] - 1))


def pooled(samples: Sequence[Floats]) -> Floats:
    """Samples of all repeats together: percentiles are never averaged."""
    return np.concatenate(samples) if len(samples) else np.zeros(0)


def quantile(samples: Floats, q: float) -> Quantile:
    """The q-quantile by order statistics; p95 and above need 59 samples."""
    if not len(samples):
        return Quantile(None, None, "no_samples")
    if q >= 0.95 and len(samples) < P95_MIN_SAMPLES:
        return Quantile(None, None, "n_too_small")
    return Quantile(percentile(samples, q), rank_interval(samples, q))


def slo_attainment(view: RepeatView, slo: SloLimits, scenario: str) -> Ratio:
    """Turns inside the SLO over turns; failed and dropped turns are misses.

    A turn that had not finished when the run ended is a miss in the `equal_n` scenario (the run
    owed it); in the `capacity` scenario, which is cut while all lanes run, it counts only when it
    was late already.
    """
    turns = view.tables["turns"]
    status = turns["status"]
    limit = np.where(turns["cold"] != 0, slo.ttft_cold_s, slo.ttft_append_s)
    gaps = np.maximum(turns["n_out"] - 1, 1)
    tpot = np.where(
        turns["n_out"] > 1, (turns["last_token_s"] - turns["first_token_s"]) / gaps, 0.0
    )
    ttft = turns["first_token_s"] - turns["intended_s"]
    met = (status == DONE) & (ttft <= limit) & (tpot <= slo.tpot_s)
    counted = np.isin(status, (DONE, FAILED, DROPPED)) & _in_window(view)
    open_ = status == UNFINISHED
    if scenario == "equal_n":
        counted |= open_
    else:
        seen = turns["first_token_s"] > turns["intended_s"]
        waited = np.where(seen, ttft, view.end_s - turns["intended_s"])
        counted |= open_ & (waited > limit)
    return Ratio(float((met & counted).sum()), float(counted.sum()))


def completed_sessions(view: RepeatView) -> int:
    """Sessions that ended, with all their turns, inside W."""
    sessions = view.tables["sessions"]
    end = sessions["end_s"]
    inside = (end > view.start_s - EDGE_S) & (end <= view.end_s + EDGE_S)
    return int(((sessions["status"] == DONE) & inside).sum())


def unfinished_sessions(view: RepeatView) -> int:
    """Sessions that did not end as they should."""
    return int((view.tables["sessions"]["status"] != DONE).sum())


def sessions_per_hour(view: RepeatView, facts: CellFacts) -> Ratio:
    """Completed sessions per hour of W; null where the tool-time scale is neither 0 nor 1."""
    if facts.scale[2] not in (0, 1):
        return null("tool_time_scaled")
    return Ratio(3600.0 * completed_sessions(view), view.window_s)


def _in_window(view: RepeatView) -> Bools:
    """Turns that were sent and, where they ended, ended inside W."""
    turns = view.tables["turns"]
    # A turn that was dropped was never sent and has no times.
    sent = (turns["intended_s"] >= view.start_s - EDGE_S) | np.isnan(turns["intended_s"])
    ended = turns["last_token_s"] <= view.end_s + EDGE_S
    return np.asarray(sent & (ended | (turns["status"] != DONE)), dtype=np.bool_)
