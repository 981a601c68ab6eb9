"""How the time of one call is taken: by the device's events, or by the host around a sync."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

Timed = Callable[[Callable[[], Any]], tuple[float, Any]]
"""Runs a call and returns its seconds and its result."""


class DeviceEvent(Protocol):
    """An event as torch has it for cuda, npu, musa, mlu and xpu; elapsed_time is in ms."""

    def record(self) -> Any:
        """Mark this point of the device's queue."""
        ...

    def synchronize(self) -> Any:
        """Return when the device has passed it."""
        ...

    def elapsed_time(self, end: Any, /) -> float:
        """Milliseconds from this event to `end`."""
        ...


def by_events(event: Callable[[], DeviceEvent]) -> Timed:
    """Device time between two events: launch overhead that the device hides is not in it."""

    def timed(call: Callable[[], Any]) -> tuple[float, Any]:
        start, end = event(), event()
        start.record()
        result = call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3, result

    return timed


def by_host(sync: Callable[[], Any] | None) -> Timed:
    """Host time with the device idle before and after; without `sync` that of the call alone."""

    def timed(call: Callable[[], Any]) -> tuple[float, Any]:
        if sync is not None:
            sync()
        start = time.perf_counter()
        result = call()
        if sync is not None:
            sync()
        return time.perf_counter() - start, result

    return timed
