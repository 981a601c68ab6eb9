"""A timed run by the parent's own clock, which nothing in the child can reach."""

from __future__ import annotations

from typing import Any

from chipmark.cell.parent import ChildProcess
from chipmark.results.manifest import Timing

CLOCK_LIMIT_S = 60.0
"""A child that was just asked something else reads its clock within this, or hangs."""


def timed_run(
    child: ChildProcess, limit_s: float, arguments: dict[str, Any]
) -> tuple[dict[str, Any], Timing]:
    """The answer of a `run` command and when its parts were seen here. CellFailedError as `ask`."""
    before = read_clock(child)
    answer = child.ask("run", limit_s, **arguments)
    sent_s, answered_s, marks = child.sent_s, child.answered_s, child.marks
    return answer, Timing(
        sent_s=sent_s,
        started_s=marks.get("started"),
        ended_s=marks.get("ended"),
        answered_s=answered_s,
        complete=bool(answer.get("complete")),
        captured=bool(arguments.get("captured")),
        clock_before=before,
        clock_after=read_clock(child),
    )


def read_clock(child: ChildProcess) -> tuple[float, float, float]:
    """When the child was asked, what its clock said, and when the answer came."""
    answer = child.ask("clock", CLOCK_LIMIT_S)
    return child.sent_s, float(answer["now_s"]), child.answered_s
