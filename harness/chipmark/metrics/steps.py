"""Time of steps that launches do not account for: what the engine saw beyond a backend's word.

Intervals are half-open stretches of the engine's clock; `covered` is the length of one set of
them inside another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chipmark.metrics.events import EDGE_S, UNFINISHED, Floats, RepeatView
from chipmark.metrics.ratios import Ratio

UNCOVERED_SHARE = 0.15
"""Largest share of the time inside the backend's calls that is neither a launch nor host time.

Seen on two busy cores: torch:cpu 0.9 to 2.2 % on preset `tiny`, whose launches are the shortest,
and 0.01 % on smollm2-135m; ort:cpu nothing on both. Without host time taken off: 1.0 to 3.5 % on
`tiny`. Who reports a third of each launch leaves 66 %."""

UNCOVERED_STEP_S = 150e-6
"""Seconds of a step that are free on top of that share: arrays put together, calls made. Seen: 80
to 260 microseconds in all on a busy machine."""

HOST_SHARE = 0.5
"""The same with host time counted as uncovered, so that device time cannot be called host time: of
a device apart from the host, which really waits for it."""


@dataclass(frozen=True, slots=True)
class Uncovered:
    """Seconds inside `submit` and `wait` in all, those in no launch, and of these the seconds
    beyond what launches call their host time (all of them where the device is the host). n_steps:
    steps they are of."""

    called_s: float
    outside_s: float
    unexplained_s: float
    n_steps: int

    @property
    def text(self) -> str:
        """What is wrong with it, "" where nothing is."""
        free_s = UNCOVERED_STEP_S * self.n_steps
        for name, seconds, share in (
            ("neither launch nor host time", self.unexplained_s, UNCOVERED_SHARE),
            ("no launch", self.outside_s, HOST_SHARE),
        ):
            if seconds > share * self.called_s + free_s:
                return (
                    f"{seconds:.4g} s of {self.called_s:.4g} s inside submit and wait are {name}; "
                    f"{share:.0%} and {UNCOVERED_STEP_S * 1e6:.0f} us a step are allowed"
                )
        return ""


def uncovered(view: RepeatView, *, on_host: bool) -> Uncovered:
    """How much of the time that the engine spent in the backend's calls its launches cover.

    on_host: the device is the host's own processor, so that time of the host explains nothing:
    whatever it computes inside the calls belongs into launches.
    """
    steps, launches = view.tables["steps"], view.tables["launches"]
    starts = np.concatenate([steps["submit_s"], steps["wait_s"]])
    ends = np.concatenate([steps["submitted_s"], steps["visible_s"]])
    called_s = float((ends - starts).sum())
    outside_s = max(0.0, called_s - covered(starts, ends, launches["start_s"], launches["end_s"]))
    host_s = 0.0 if on_host else float(launches["host_s"].sum())
    unexplained_s = max(0.0, outside_s - host_s)
    return Uncovered(called_s, outside_s, unexplained_s, len(steps["step"]))


def idle_seconds(view: RepeatView) -> Ratio:
    """`idle_s_per_step`: seconds of W in which a turn was outstanding and no launch ran, over the
    steps that became visible in W.

    At one session in a closed loop a decode step's launch and this are its time per output token.
    """
    steps, launches, turns = (view.tables[name] for name in ("steps", "launches", "turns"))
    in_window = (steps["visible_s"] > view.start_s - EDGE_S) & (
        steps["visible_s"] <= view.end_s + EDGE_S
    )
    sent = np.isfinite(turns["intended_s"])
    starts = turns["intended_s"][sent]
    ends = np.where(turns["status"] == UNFINISHED, view.end_s, turns["last_token_s"])[sent]
    ends = np.where(np.isfinite(ends), ends, starts)
    starts, ends = union(
        np.clip(starts, view.start_s, view.end_s), np.clip(ends, view.start_s, view.end_s)
    )
    outstanding_s = float((ends - starts).sum())
    busy_s = covered(starts, ends, launches["start_s"], launches["end_s"])
    return Ratio(max(0.0, outstanding_s - busy_s), float(in_window.sum()))


def union(starts: Floats, ends: Floats) -> tuple[Floats, Floats]:
    """Disjoint intervals, ascending, that cover the same as these; empty ones are left out."""
    real = ends > starts
    order = np.argsort(starts[real], kind="stable")
    starts, ends = starts[real][order], ends[real][order]
    if not len(starts):
        return starts, ends
    reach = np.maximum.accumulate(ends)
    first = np.concatenate(([True], starts[1:] > reach[:-1]))
    last = np.concatenate((first[1:], [True]))
    return starts[first], reach[last]


def covered(starts: Floats, ends: Floats, by_starts: Floats, by_ends: Floats) -> float:
    """Seconds of the union of the first intervals that lie in the union of the others."""
    starts, ends = union(starts, ends)
    by_starts, by_ends = union(by_starts, by_ends)
    if not len(starts) or not len(by_starts):
        return 0.0
    # Seconds of the others up to a time: flat between them, rising inside, so linear in between.
    knots = np.stack([by_starts, by_ends], axis=1).ravel()
    reached = np.cumsum(by_ends - by_starts)
    values = np.stack([reached - (by_ends - by_starts), reached], axis=1).ravel()
    return float((np.interp(ends, knots, values) - np.interp(starts, knots, values)).sum())
