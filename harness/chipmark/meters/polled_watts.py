"""Watts that are asked for over and over, where an answer may be a reason instead."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from chipmark.meters.contract import PowerSamples
from chipmark.meters.poll import Reading, Sampler, Stamped

Answer = tuple[float | None, str]
"""(watts, "") or (None, why there are none)."""

MOST_REMARKS = 5
"""Different reasons that one series reports."""


class PolledWatts:
    """A sampler of `ask` every `period_s`; what it could not read is a gap, and its reasons are
    the remarks of the samples."""

    def __init__(self, ask: Callable[[], Answer], period_s: float) -> None:
        self._ask = ask
        self._asked = 0
        self._reasons: Counter[str] = Counter()
        self._sampler = Sampler(self._read, period_s)

    def start(self) -> None:
        """Begin sampling."""
        self._asked = 0
        self._reasons.clear()
        self._sampler.start()

    def stop(self) -> PowerSamples:
        """End sampling; watts without a counter."""
        samples = self._sampler.stop()
        remarks = tuple(
            f"{times} of {self._asked} readings were none: {reason}"
            for reason, times in self._reasons.most_common(MOST_REMARKS)
        )
        return replace(samples, remarks=(*remarks, *samples.remarks))

    def _read(self) -> Reading | list[Stamped]:
        self._asked += 1
        watts, reason = self._ask()
        if watts is None:
            self._reasons[reason] += 1
            return []  # a gap whose reason is kept here, not with the sampler's
        return math.nan, watts
