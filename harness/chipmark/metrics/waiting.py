"""How much of W had no outstanding turn: every session was in its tool."""

from __future__ import annotations

import numpy as np

from chipmark.metrics.events import UNFINISHED, RepeatView
from chipmark.metrics.steps import covered


def nobody_waits_s(view: RepeatView) -> float:
    """Seconds of W in which no turn was outstanding: a turn is, from its intended send to its last
    token, or to the end of W where it was not finished."""
    turns = view.tables["turns"]
    end = np.where(turns["status"] == UNFINISHED, view.end_s, turns["last_token_s"])
    window = np.array([view.start_s]), np.array([view.end_s])
    return view.window_s - covered(*window, turns["intended_s"], end)
