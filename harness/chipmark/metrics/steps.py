"""What W holds beyond launches: idle time per step, and time in which nobody waited."""

from __future__ import annotations

import numpy as np

from chipmark.metrics.events import UNFINISHED, Floats, RepeatView
from chipmark.metrics.ratios import Ratio
from chipmark.metrics.spans import length_s, shared_s, union


def outstanding(view: RepeatView) -> Floats:
    """The spans of W in which a turn was outstanding: from its intended send to its last token,
    or to the end of W where it was not finished. Rows (start, end), disjoint."""
    turns = view.tables["turns"]
    end = np.where(turns["status"] == UNFINISHED, view.end_s, turns["last_token_s"])
    return union(turns["intended_s"], end, view.start_s, view.end_s)


def idle_per_step(view: RepeatView) -> Ratio:
    """Seconds of W beyond launches while a turn was outstanding, over steps.

    A turn that is outstanding has a step that is planned, queued or running, so this is what the
    host (and a clock that is too kind to the device) adds to a step; tool time is not in it. With
    one session it is what separates 1 / decode_tok_s from TPOT. Overlapping launches count once.
    """
    launches = view.tables["launches"]
    busy = union(launches["start_s"], launches["end_s"], view.start_s, view.end_s)
    waiting = outstanding(view)
    steps = np.isin(view.tables["steps"]["step"], launches["step"][view.launch_in])
    return Ratio(length_s(waiting) - shared_s(waiting, busy), float(steps.sum()))


def nobody_waits_s(view: RepeatView) -> float:
    """Seconds of W in which no turn was outstanding (every session was in its tool)."""
    return view.window_s - length_s(outstanding(view))
