"""A sampler thread, and how often the value of a sensor changes."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable

import numpy as np

from chipmark.errors import ChipmarkError
from chipmark.meters.contract import PowerSamples

Reading = tuple[float, float]
"""(cumulative joules, watts); NaN for what the sensor does not give."""


class Sampler:
    """Calls `read` every `period_s` on a thread of its own, between `start` and `stop`.

    Timestamps are `time.perf_counter()` in the middle of the call: on Linux that is
    CLOCK_MONOTONIC, which all processes share. A reading of None, or one that raises OSError, is
    a gap and no sample; what went wrong first is kept in `failure`. `jitter`: each is due at a
    moment drawn within its period, so that a load in step with the sampler cannot hide from it.
    """

    def __init__(
        self, read: Callable[[], Reading | None], period_s: float, *, jitter: bool = False
    ) -> None:
        self._read = read
        self._period_s = period_s
        self._draw: Callable[[], float] = random.Random().random if jitter else lambda: 0.0
        self._rows: list[tuple[float, float, float]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.failure = ""

    def start(self) -> None:
        """Begin; the first sample is taken before this returns, and must succeed."""
        self._rows, self.failure = [], ""
        self._stop.clear()
        self._sample()
        if self.failure and not self._rows:
            raise ChipmarkError(f"the power sensor cannot be read: {self.failure}")
        self._thread = threading.Thread(target=self._run, name="power-sampler", daemon=True)
        self._thread.start()

    def stop(self) -> PowerSamples:
        """Take a last sample and hand over everything since `start`, wrap already removed."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._sample()
        rows = np.array(self._rows, np.float64).reshape(-1, 3)
        return PowerSamples(rows[:, 0].copy(), rows[:, 1].copy(), rows[:, 2].copy())

    def _run(self) -> None:
        # Samples are due on a grid, one a period: a slow read does not move all later ones.
        began, slot = time.perf_counter(), 1
        due = began + self._period_s * (1 + self._draw())
        while not self._stop.wait(max(0.0, due - time.perf_counter())):
            self._sample()
            now = time.perf_counter()
            slot = max(slot + 1, math.ceil((now - began) / self._period_s))
            due = began + self._period_s * (slot + self._draw())

    def _sample(self) -> None:
        before = time.perf_counter()
        try:
            reading = self._read()
        except OSError as error:
            self.failure = self.failure or str(error)
            return
        if reading is not None:
            middle = (before + time.perf_counter()) / 2
            self._rows.append((middle, *reading))


def infer_period(
    read: Callable[[], float | None],
    *,
    updates: int = 5,
    limit_s: float = 1.0,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> float | None:
    """Median seconds between changes of one value, by reading it every 2 ms.

    One value, since a counter and a power of one sensor may move at different rates. None where it
    changed fewer than two times in `limit_s`: the power of an idle card may hold one value.
    """
    stop_at = clock() + limit_s
    last: float | None = None
    changes: list[float] = []
    while clock() < stop_at and len(changes) <= updates:
        value = read()
        if value is not None and value != last:
            if last is not None:
                changes.append(clock())
            last = value
        sleep(0.002)
    return float(np.median(np.diff(changes))) if len(changes) > 1 else None
