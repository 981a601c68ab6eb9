"""Sessions of a trace by the ids under which its passes ran them.

The capacity scenario runs a trace's sessions over and over; events name session s of pass k by
s + k x stride, where the stride is one more than the trace's largest id. In `equal_n` there is one
pass, so the ids are the trace's own.
"""

from __future__ import annotations

from chipmark.metrics.events import Ints
from chipmark.workload.trace import Trace


def trace_ids(trace: Trace, run_ids: Ints) -> Ints:
    """The trace's session ids, whatever their pass."""
    return run_ids % _stride(trace)


def pass_numbers(trace: Trace, run_ids: Ints) -> Ints:
    """The passes that run ids belong to."""
    return run_ids // _stride(trace)


def _stride(trace: Trace) -> int:
    return 1 + max((session.id for session in trace.sessions), default=0)
