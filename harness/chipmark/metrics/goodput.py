"""Goodput: turns, and work tokens of turns, that met the SLO, per second of W."""

from __future__ import annotations

import numpy as np

from chipmark.metrics.events import DONE, EDGE_S, Bools, RepeatView
from chipmark.metrics.ratios import Ratio
from chipmark.metrics.rawcell import SloLimits


def goodput_turns(view: RepeatView, slo: SloLimits, scenario: str) -> Ratio:
    """Turns that were done inside W and met the SLO, over W.

    The scenario changes which turns are misses (`latency.slo_attainment`), not which are met.
    """
    return Ratio(float(_met(view, slo).sum()), view.window_s)


def goodput_tokens(view: RepeatView, slo: SloLimits, scenario: str) -> Ratio:
    """Work tokens (n_new + n_out) of the turns that were done inside W and met the SLO, over W."""
    turns = view.tables["turns"]
    tokens = (turns["n_new"].astype(np.int64) + turns["n_out"])[_met(view, slo)]
    return Ratio(float(tokens.sum()), view.window_s)


def _met(view: RepeatView, slo: SloLimits) -> Bools:
    turns = view.tables["turns"]
    limit = np.where(turns["cold"] != 0, slo.ttft_cold_s, slo.ttft_append_s)
    ttft = turns["first_token_s"] - turns["intended_s"]
    tpot = (turns["last_token_s"] - turns["first_token_s"]) / np.maximum(turns["n_out"] - 1, 1)
    in_time = (ttft <= limit) & ((tpot <= slo.tpot_s) | (turns["n_out"] <= 1))
    inside = (turns["intended_s"] >= view.start_s - EDGE_S) & (
        turns["last_token_s"] <= view.end_s + EDGE_S
    )
    return np.asarray(in_time & inside & (turns["status"] == DONE), dtype=np.bool_)
