"""A timed run by the parent's own clock, which nothing in the child can reach."""

from __future__ import annotations

import time
from collections.abc import Callable

from chipmark.cell.parent import ChildProcess
from chipmark.cell.protocol import Clock, Run, RunAnswer
from chipmark.results.manifest import Timing


def timed_run(
    child: ChildProcess,
    limit_s: float,
    run: Run,
    clock_s: float,
    gate: Callable[[], object] | None = None,
) -> tuple[RunAnswer, Timing]:
    """The answer to a `run` and when its parts were seen here; `clock_s` is the limit of reading
    the child's clock. gate: returns when all replicas are ready, of a run that starts `together`
    with others. CellFailedError as `request`."""
    before = read_clock(child, clock_s)
    if gate is None:
        answer = child.request(run, limit_s)
    else:
        child.send_request(run)
        child.await_ready(limit_s)
        gate()
        child.go()
        answer = child.answer_to(run, limit_s)
    sent_s, answered_s, marks = child.sent_s, child.answered_s, child.marks
    return answer, Timing(
        sent_s=sent_s,
        started_s=marks.get("started"),
        ended_s=marks.get("ended"),
        answered_s=answered_s,
        complete=answer.complete,
        captured=bool(run.captured),
        clock_before=before,
        clock_after=read_clock(child, clock_s),
        unix_s=time.time() - time.perf_counter(),
    )


def read_clock(child: ChildProcess, limit_s: float) -> tuple[float, float, float]:
    """When the child was asked, what its clock said, and when the answer came."""
    answer = child.request(Clock(), limit_s)
    return child.sent_s, answer.now_s, child.answered_s
