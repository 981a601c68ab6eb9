"""The two clocks: the host's monotonic one, and one that moves only on request."""

from __future__ import annotations

import time
from time import perf_counter

SPIN_S = 0.002
"""The last stretch of a sleep is spun: a sleeping thread may wake a scheduler tick late, and a
turn would be sent late by as much."""


class MonotonicClock:
    """Seconds of `time.perf_counter`, which on Linux is CLOCK_MONOTONIC: the clock that a meter
    in another process of the same machine reads too."""

    def now(self) -> float:
        """Seconds now."""
        return perf_counter()

    def sleep_until(self, time_s: float) -> None:
        """Return no earlier than `time_s`; at once where it has passed."""
        while (left := time_s - perf_counter()) > 0:
            time.sleep(left - SPIN_S if left > SPIN_S else 0)


class VirtualClock:
    """A clock of simulated seconds; sleeping moves it and takes no time."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now = start_s

    def now(self) -> float:
        """Seconds now."""
        return self._now

    def sleep_until(self, time_s: float) -> None:
        """Move to `time_s`; never backwards."""
        self._now = max(self._now, time_s)
