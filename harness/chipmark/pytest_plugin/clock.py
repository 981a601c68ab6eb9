"""A timer for pytest-benchmark that moves only by the device's time."""

from __future__ import annotations


class DeviceClock:
    """Seconds that it was given. pytest-benchmark reads it before and after a round, so the
    round lasts what the device took, and its statistics, table and files need no change."""

    def __init__(self) -> None:
        self._now_s = 0.0
        # What pytest-benchmark writes as the name of the timer.
        self.__name__ = "device_clock"

    def __call__(self) -> float:
        """Seconds now."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Move by a device time. ValueError where it is negative or no number."""
        if not 0.0 <= seconds < float("inf"):
            raise ValueError(f"a device took {seconds!r} seconds, which is not a duration")
        self._now_s += seconds
