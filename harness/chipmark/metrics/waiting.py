"""How much of W had no outstanding turn: every session was in its tool."""

from __future__ import annotations

import numpy as np

from chipmark.metrics.events import UNFINISHED, RepeatView
from chipmark.metrics.steps import covered


def nobody_waits_s(*views: RepeatView, within: tuple[float, float] | None = None) -> float:
    """Seconds of W in which no turn of any replica was outstanding: a turn is, from its intended
    send to its last token, or to the end of W where it was not finished. views: one of each
    replica. within: start and end of W, None for the first view's own."""
    start_s, end_s = within or (views[0].start_s, views[0].end_s)
    start, end = [], []
    for view in views:
        turns = view.tables["turns"]
        start.append(turns["intended_s"])
        end.append(np.where(turns["status"] == UNFINISHED, end_s, turns["last_token_s"]))
    window = np.array([start_s]), np.array([end_s])
    return end_s - start_s - covered(*window, np.concatenate(start), np.concatenate(end))
