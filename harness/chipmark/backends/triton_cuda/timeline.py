"""When launches ran, in the host's seconds, from what the device says of the time between them.

A device counts its own time between marks; the host knows when it submitted and when it saw the
end. A step that was submitted to a device with nothing to do began then. One that waited behind
another began where the device says, after the other's end. No step began before it was submitted,
and none ended after it was seen to have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """Device seconds from the step's first mark to a launch's start and end."""

    start_s: float
    end_s: float


class Timeline:
    """Places steps one behind another; nothing overlaps by more than the clocks' rates differ."""

    def __init__(self) -> None:
        self._end_s = float("-inf")

    def place(
        self,
        spans: Sequence[Span],
        submitted_s: float,
        visible_s: float,
        after_last_s: float | None = None,
    ) -> list[Span]:
        """Launches of the step that the host submitted and saw finished at these times.

        after_last_s: device seconds from the end of the step before to this step's first mark,
        None where the device had nothing to do. A step on an idle device begins some microseconds
        after it was submitted, so that it is placed early, and so would all be that wait behind it:
        each is moved forward to its own `submitted_s`. The two clocks' rates differ by millionths:
        where the sum of device times would pass `visible_s`, the step is moved back to end there.
        """
        if not spans:
            return []
        start = submitted_s if after_last_s is None else self._end_s + after_last_s
        start = min(max(start, submitted_s), visible_s - spans[-1].end_s)
        placed = [Span(start + span.start_s, start + span.end_s) for span in spans]
        self._end_s = placed[-1].end_s
        return placed
