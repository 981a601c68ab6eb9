"""How much of W had no outstanding turn: every session was in its tool."""

from __future__ import annotations

import numpy as np

from chipmark.metrics.events import UNFINISHED, RepeatView
from chipmark.metrics.steps import covered


def nobody_waits_s(*views: RepeatView) -> float:
    """Seconds of W in which no turn of any replica was outstanding: a turn is, from its intended
    send to its last token, or to the end of W where it was not finished. views: one of each
    replica, all of one W."""
    first = views[0]
    start, end = [], []
    for view in views:
        turns = view.tables["turns"]
        start.append(turns["intended_s"])
        end.append(np.where(turns["status"] == UNFINISHED, view.end_s, turns["last_token_s"]))
    window = np.array([first.start_s]), np.array([first.end_s])
    return first.window_s - covered(*window, np.concatenate(start), np.concatenate(end))
