"""Which repeats count, what was lost, and whether the repeats drift."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chipmark.metrics.distributions import student_t
from chipmark.metrics.events import DONE, DROPPED, FAILED, UNFINISHED, RepeatView
from chipmark.metrics.rawcell import CellFacts, RepeatData, Scenario
from chipmark.workload.trace import Trace

DRIFT_CONFIDENCE = 0.99
"""Of the two-sided interval that a drift of the repeats must leave."""

LEAST_DRIFT = 0.01
"""A relative drift up to this never bars: no rank turns on it, and a simulated device repeats
itself up to rounding."""


def is_complete(view: RepeatView, data: RepeatData, trace: Trace, facts: CellFacts) -> bool:
    """Whether a repeat counts: what did not complete does not.

    By the events: in `equal_n` every turn of the trace is done; in `capacity`, where the window
    is cut while all clients are busy, a session was completed. The engine's own word, where it
    is stored, must agree.
    """
    if data.timing is not None and not data.timing.complete:
        return False
    if facts.scenario == "capacity":
        return bool((view.tables["sessions"]["status"] == DONE).any())
    turns = view.tables["turns"]
    done = turns["status"] == DONE
    have = set(zip(turns["session"][done].tolist(), turns["turn"][done].tolist(), strict=True))
    return all((session.id, turn.index) in have for session, turn in trace.walk())


def lost_turns(view: RepeatView, scenario: Scenario) -> int:
    """Turns that failed or were dropped, and in `equal_n`, which owes all, those unfinished."""
    lost = (FAILED, DROPPED, UNFINISHED) if scenario == "equal_n" else (FAILED, DROPPED)
    return int(np.isin(view.tables["turns"]["status"], lost).sum())


@dataclass(frozen=True, slots=True)
class Drift:
    """Last third of the repeats over the first one, and the interval that noise allows it."""

    ratio: float
    allowed: tuple[float, float]

    @property
    def beyond(self) -> bool:
        """Whether the drift lies beyond its interval, and beyond LEAST_DRIFT."""
        low, high = self.allowed
        small = abs(math.log(self.ratio)) <= math.log1p(LEAST_DRIFT)
        return not small and not low <= self.ratio <= high


def drift(values: Sequence[float]) -> Drift | None:
    """Whether repeats rise or fall beyond their noise; None under 3 repeats or without a log.

    The mean log of the last third of the repeats against that of the first third (one repeat each
    up to 5). The noise is what scatters about a straight line through all repeats, with n - 2
    degrees of freedom, so that a drift does not hide in a spread of its own making; Student's t.
    The spread alone never counts. Simulated for independent noise of 3 to 12 repeats (200,000
    each): it lies beyond in 0.8 to 1.0 % where the noise is normal, in 0.5 to 1.1 % where it is
    uniform, exponential or Student's with 3 degrees of freedom. At 3 repeats only an almost
    perfect line can be distinguished from noise; what such a row pays is its wide interval.
    """
    x = np.asarray(values, dtype=np.float64)
    n = len(x)
    if n < 3 or not np.isfinite(x).all() or (x <= 0).any():
        return None
    logs, time = np.log(x), np.arange(n) - (n - 1) / 2
    third = max(1, n // 3)
    moved = float(logs[-third:].mean() - logs[:third].mean())
    slope = float((logs * time).sum() / (time * time).sum())
    residuals = logs - logs.mean() - slope * time
    noise = math.sqrt(float((residuals**2).sum()) / (n - 2))
    half = student_t(n - 2, 0.5 + DRIFT_CONFIDENCE / 2) * noise * math.sqrt(2 / third)
    half = min(half, 700.0)  # exp stays finite
    return Drift(math.exp(moved), (math.exp(-half), math.exp(half)))
