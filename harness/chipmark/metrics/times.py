"""The law of times: what the engine, the parent and a backend say of one run fits together.

The engine reads its clock around every call of the backend, and the parent reads its own around
the command; a backend's launches must lie inside. Each function gives texts that name what does
not fit, none where all does. Records of before chipmark.events/2 do not hold these times.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chipmark.codes import NoteCode
from chipmark.engine.times import slack_s
from chipmark.metrics.events import DONE, EDGE_S, Bools, RepeatView
from chipmark.metrics.rawcell import CellFacts, RawCell, RunTiming
from chipmark.metrics.steps import uncovered

Column = NDArray[Any]

CLOCK_EDGE_S = 1e-6
"""Two processes read one clock of the machine; what was written as text may be rounded."""

DRIFT_REL = 0.005
"""Share of W by which the engine's time of a run may differ from the parent's."""

MARK_S = 1.0
"""Seconds on top of that share: a mark waits until both processes get a core. Of 200 marks on two
cores with over eight busy processes the slowest took 0.06 s."""

BEST_MARK_S = 0.1
"""The same for the repeat whose marks were the fastest; there, of any three repeats the best was
within 0.025 s."""


def has_engine_times(view: RepeatView) -> bool:
    """Whether the events hold the engine's times, as all since chipmark.events/2 do."""
    window = view.tables["window"]
    return int(window["simulated"][0]) >= 0


def contradictions(view: RepeatView, facts: CellFacts, timing: RunTiming | None) -> list[str]:
    """What in one repeat's times does not fit together. Without `timing` the parent's clock is
    left out; so it is on a virtual clock, which is not a time of the machine."""
    if not has_engine_times(view):
        return ["the events hold no times of the engine's clock"]
    found = _steps(view)
    if found:
        return found
    found = [*_launches(view, facts), *_turns(view), *_window(view, facts)]
    if timing is not None and not facts.simulated:
        found += _parent(view, timing)
    return found


def slow_marks(views: Sequence[RepeatView], timings: Sequence[RunTiming | None]) -> str:
    """Whether not even in the best repeat the engine's time of the run is the parent's: a machine
    under load delays single marks, a clock of another rate is off in all. "" where it is not."""
    known = [(v, t) for v, t in zip(views, timings, strict=True) if t is not None]
    lags = [lag for v, t in known if (lag := _lag(v, t)) is not None]
    if not lags or any(lag <= BEST_MARK_S + DRIFT_REL * span for lag, span in lags):
        return ""
    least, of = min(lags)
    return f"the parent saw the run last at least {least:.3g} s beyond the engine's {of:.4g} s"


def run_name(facts: CellFacts, index: int) -> str:
    """How a run of `RawCell.runs` is named to people."""
    repeat, replica = divmod(index, facts.replicas)
    return f"repeat {repeat}" + (f", replica {replica}" if facts.replicas > 1 else "")


def clock_notes(raw: RawCell, views: Sequence[RepeatView]) -> list[tuple[NoteCode, str]]:
    """The note `clock`, which bars a row from comparison, where times contradict each other.
    views: one of each run of `raw.runs`, in the W of its own engine."""
    found = []
    for index, (view, data) in enumerate(zip(views, raw.runs, strict=True)):
        texts = contradictions(view, raw.facts, data.timing)
        if not texts and (text := uncovered(view, on_host=raw.facts.on_host).text):
            texts = [text]
        found += [f"{run_name(raw.facts, index)}: {text}" for text in texts]
    if not found and not raw.facts.simulated:
        text = slow_marks(views, [data.timing for data in raw.runs])
        found += [text] if text else []
    more = f" ({len(found)} such)" if len(found) > 1 else ""
    return [(NoteCode.CLOCK, found[0] + more)] if found else []


def _steps(view: RepeatView) -> list[str]:
    steps = view.tables["steps"]
    names = ("submit_s", "submitted_s", "wait_s", "visible_s")
    found = []
    for early, late in pairwise(names):
        bad = ~(steps[early] <= steps[late] + EDGE_S)
        found += _first(bad, steps["step"], "step {}: " + f"{early} is after {late}")
    for name in ("submit_s", "visible_s"):
        bad = np.concatenate(([False], ~(steps[name][:-1] <= steps[name][1:] + EDGE_S)))
        found += _first(bad, steps["step"], "step {}: " + f"{name} is before the last step's")
    return found


def _launches(view: RepeatView, facts: CellFacts) -> list[str]:
    """Each inside its step, and behind the one before."""
    launches, steps = view.tables["launches"], view.tables["steps"]
    if not len(launches["launch"]):
        return []
    order = np.argsort(steps["step"], kind="stable")
    at = order[np.searchsorted(steps["step"][order], launches["step"])]
    slack = slack_s(facts.clock, view.launch_seconds)
    start, end = launches["start_s"], launches["end_s"]
    first, last = steps["submit_s"][at], steps["visible_s"][at]
    found = _first(
        ~((start >= first - slack) & (end <= last + slack)),
        launches["launch"],
        "launch {} runs {:.6f} to {:.6f} s, its step was outstanding {:.6f} to {:.6f} s",
        start,
        end,
        first,
        last,
    )
    before = np.concatenate(([-np.inf], end[:-1]))[: len(end)]
    room = np.maximum(slack, np.concatenate(([0.0], slack[:-1])))
    return found + _first(
        ~(start >= before - room),
        launches["launch"],
        "launch {} starts at {:.6f} s, the one before it runs to {:.6f} s",
        start,
        before,
    )


def _turns(view: RepeatView) -> list[str]:
    """Tokens of done turns became visible when some step did."""
    turns, visible = view.tables["turns"], view.tables["steps"]["visible_s"]
    done = turns["status"] == DONE
    found = []
    for name in ("first_token_s", "last_token_s"):
        found += _first(
            done & ~np.isin(turns[name], visible),
            turns["session"],
            "session {}, turn {}: no step became visible at its " + name,
            turns["turn"],
        )
    return found


def _window(view: RepeatView, facts: CellFacts) -> list[str]:
    """W inside the engine's run, steps too, on the clock that the backend has."""
    window, steps = view.tables["window"], view.tables["steps"]
    entered_s, left_s = float(window["entered_s"][0]), float(window["left_s"][0])
    found = []
    if bool(window["simulated"][0]) != facts.simulated:
        kind = "a virtual" if window["simulated"][0] else "the host's"
        found.append(f"the run was timed by {kind} clock, which is not that of this backend")
    if not (entered_s <= view.start_s + EDGE_S and view.end_s <= left_s + EDGE_S):
        found.append(
            f"W {view.start_s:.6f} to {view.end_s:.6f} s is not inside the engine's run "
            f"{entered_s:.6f} to {left_s:.6f} s"
        )
    if len(steps["step"]) and not (
        entered_s <= steps["submit_s"][0] + EDGE_S and steps["visible_s"][-1] <= left_s + EDGE_S
    ):
        found.append(f"steps lie outside the engine's run {entered_s:.6f} to {left_s:.6f} s")
    return found


def _parent(view: RepeatView, timing: RunTiming) -> list[str]:
    """The engine's run inside the command, and as long as the parent saw it last."""
    window = view.tables["window"]
    entered_s, left_s = float(window["entered_s"][0]), float(window["left_s"][0])
    found = []
    if not (
        timing.sent_s <= entered_s + CLOCK_EDGE_S and left_s <= timing.answered_s + CLOCK_EDGE_S
    ):
        found.append(
            f"the engine's run {entered_s:.6f} to {left_s:.6f} s is not inside the command "
            f"{timing.sent_s:.6f} to {timing.answered_s:.6f} s"
        )
    for name, seen in (("before", timing.clock_before), ("after", timing.clock_after)):
        if seen is not None and not (
            seen[0] <= seen[1] + CLOCK_EDGE_S and seen[1] <= seen[2] + CLOCK_EDGE_S
        ):
            found.append(
                f"the child's clock said {seen[1]:.6f} s {name} the command, between the parent's "
                f"{seen[0]:.6f} and {seen[2]:.6f} s"
            )
    if timing.started_s is None or timing.ended_s is None:
        return [*found, "the child did not mark the start and the end of the engine's run"]
    grace_s = MARK_S + DRIFT_REL * view.window_s
    started = abs(entered_s - timing.started_s) <= grace_s
    ended = -CLOCK_EDGE_S <= timing.ended_s - left_s <= grace_s
    if not (started and ended):
        found.append(
            f"the engine ran {entered_s:.6f} to {left_s:.6f} s, the parent saw it start at "
            f"{timing.started_s:.6f} and end at {timing.ended_s:.6f} s"
        )
    return found


def _lag(view: RepeatView, timing: RunTiming) -> tuple[float, float] | None:
    """By how much the parent's time of the run differs from the engine's, and the latter."""
    if timing.started_s is None or timing.ended_s is None:
        return None
    window = view.tables["window"]
    span = float(window["left_s"][0] - window["entered_s"][0])
    return abs(timing.ended_s - timing.started_s - span), span


def _first(bad: Bools, key: Column, text: str, *columns: Column) -> list[str]:
    """`text` filled with the first bad row's key and columns, and how many such rows there are."""
    rows = np.flatnonzero(bad)
    if not len(rows):
        return []
    values = [column[rows[0]] for column in (key, *columns)]
    more = f" ({len(rows)} such)" if len(rows) > 1 else ""
    return [text.format(*values) + more]
