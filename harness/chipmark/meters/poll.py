"""A sampler thread, and how often the value of a sensor changes."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np

from chipmark.errors import ChipmarkError
from chipmark.meters.contract import PowerSamples

Reading = tuple[float, float]
"""(cumulative joules, watts); NaN for what the sensor does not give."""

Stamped = tuple[float, float, float]
"""(seconds of `time.perf_counter()`, cumulative joules, watts): a reading that the sensor itself
dated."""

LATE_CALLS, LATE_TIME = 0.1, 0.02
"""Calls that took longer than their period are reported where they are over this share of all, or
took over this share of the time: one short stall among thousands of calls changes nothing."""

_POLL_S = 0.002


_LONGEST_PERIOD: ContextVar[float] = ContextVar("_LONGEST_PERIOD", default=math.inf)


@contextmanager
def read_at_least_every(seconds: float) -> Iterator[None]:
    """Samplers that are started in the block read so often, or as often as their sensor answers:
    to see what a sensor does between the readings of a run."""
    token = _LONGEST_PERIOD.set(seconds)
    try:
        yield
    finally:
        _LONGEST_PERIOD.reset(token)


class Moments:
    """One moment of reading in each period of a grid, drawn evenly within it.

    A load in step with the meter then cannot hide from it, and the mean rate is the grid's.
    """

    def __init__(self, start_s: float, period_s: float, draw: Callable[[], float]) -> None:
        """draw: gives shares of a period in [0, 1)."""
        self._start_s, self._period_s, self._draw = start_s, period_s, draw
        self._index = -1

    def after(self, now_s: float) -> float:
        """The next moment, at or after `now_s`: of the first period that has had none and is not
        over. Periods that a slow reading took are left out, and the others stay where they are."""
        running = math.floor((now_s - self._start_s) / self._period_s)
        self._index = max(self._index + 1, running)
        return max(now_s, self._start_s + (self._index + self._draw()) * self._period_s)


class Sampler:
    """Calls `read` once in every `period_s` on a thread of its own, between `start` and `stop`.

    Timestamps are `time.perf_counter()` in the middle of the call: on Linux that is
    CLOCK_MONOTONIC, which all processes share. A list of `Stamped` is readings with times of the
    sensor's own. A reading of None, or one that raises OSError, ValueError or ChipmarkError, is a
    gap without a sample; the first problem is kept in `failure`, and `stop` reports it.
    """

    def __init__(
        self,
        read: Callable[[], Reading | list[Stamped] | None],
        period_s: float,
        *,
        jitter: bool = True,
        clock: Callable[[], float] = time.perf_counter,
        wait: Callable[[float], bool] | None = None,
        draw: Callable[[], float] | None = None,
    ) -> None:
        """jitter: whether moments are drawn within their periods, else they are on the grid.
        wait: sleeps so many seconds and says whether to end; None for an event that `stop` sets.
        draw: shares of a period, None for a generator that the system seeds."""
        self._read, self._period_s, self._clock = read, period_s, clock
        self._done = threading.Event()
        self._wait = wait or self._done.wait
        self._draw = draw or (random.Random().random if jitter else lambda: 0.0)
        self._thread: threading.Thread | None = None
        self._begin()

    def _begin(self) -> None:
        self._rows: list[Stamped] = []
        self._calls = self._empty = self._late = 0
        self._late_s = self._longest_s = 0.0
        self._began_s = self._ended_s = self._clock()
        self._every_s = min(self._period_s, _LONGEST_PERIOD.get())
        self.failure = ""

    def start(self) -> None:
        """Begin; the first sample is taken before this returns, and must succeed."""
        self._begin()
        self._done.clear()
        self._sample()
        if self.failure and not self._rows:
            raise ChipmarkError(f"the power sensor cannot be read: {self.failure}")
        self._thread = threading.Thread(target=self._run, name="power-sampler", daemon=True)
        self._thread.start()

    def stop(self) -> PowerSamples:
        """Take a last sample and hand over everything since `start`, wrap already removed, with
        remarks on calls that failed or were slow."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._sample()
        rows = np.array(self._rows, np.float64).reshape(-1, 3)
        time_s, energy_j, power_w = (rows[:, column].copy() for column in range(3))
        return PowerSamples(time_s, energy_j, power_w, self._remarks())

    def _run(self) -> None:
        moments = Moments(self._clock(), self._every_s, self._draw)
        while True:
            now = self._clock()
            if self._wait(moments.after(now) - now):
                return
            self._sample()

    def _sample(self) -> None:
        before = self._clock()
        reading = None
        try:
            reading = self._read()
        except (OSError, ValueError) as error:
            self.failure = self.failure or str(error)
        except ChipmarkError as error:
            self.failure = self.failure or error.message
        after = self._ended_s = self._clock()
        self._calls += 1
        if after - before > self._period_s:
            self._late += 1
            self._late_s += after - before
            self._longest_s = max(self._longest_s, after - before)
        if isinstance(reading, list):
            # An empty list means nothing new since the last call, not a failure.
            self._rows += reading
        elif reading is None:
            self._empty += 1
        else:
            self._rows.append(((before + after) / 2, *reading))

    def _remarks(self) -> tuple[str, ...]:
        remarks = []
        if self._empty:
            why = self.failure or "the sensor gave no value"
            remarks.append(f"{self._empty} of {self._calls} readings of the meter failed: {why}")
        span_s = self._ended_s - self._began_s
        if self._late > LATE_CALLS * self._calls or self._late_s > LATE_TIME * span_s:
            mean_s = span_s / max(1, self._calls - 1)
            remarks.append(
                f"{self._late} of {self._calls} readings of the meter took longer than their "
                f"period of {self._period_s:.3g} s, the longest {self._longest_s:.3g} s; it was "
                f"read every {mean_s:.3g} s"
            )
        return tuple(remarks)


MakeSampler = Callable[[Callable[[], Reading | list[Stamped] | None], float], Sampler]
"""`Sampler`, or one with a clock of its own: what reads, and the seconds between readings."""


@dataclass(frozen=True, slots=True)
class Changes:
    """How often a value changed while it was watched.

    Seconds. period_s: between updates of the sensor. jitter_s: the spread of single updates around
    it, as a standard deviation by the median of deviations; the watch's own grain is in it.
    seen: changes of value. missed: updates that left the value as it was, or came between two
    looks.
    """

    period_s: float
    jitter_s: float
    seen: int
    missed: int


def watch_changes(
    read: Callable[[], float | None],
    *,
    updates: int = 20,
    limit_s: float = 1.0,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Changes | None:
    """Watch one value by reading it every 2 ms, until it has changed `updates` times after the
    first change, or for `limit_s`.

    One value, since a counter and a power of one sensor may move at different rates. None where it
    changed fewer than two times: the power of an idle card may hold one value.
    """
    stop_at = clock() + limit_s
    last: float | None = None
    moments: list[float] = []
    while clock() < stop_at and len(moments) <= updates:
        value = read()
        if value is not None and value != last:
            if last is not None:
                moments.append(clock())
            last = value
        sleep(_POLL_S)
    return changes_of(moments)


def changes_of(moments: list[float]) -> Changes | None:
    """The updates behind the moments (seconds, rising) at which changes were seen; None for fewer
    than two moments.

    Spans between changes are whole multiples of the period. It begins as the lowest tenth of
    them, so that most updates may be missed, and is then the median of spans over their multiples
    and at last the mean over all updates, those that were missed counted.
    """
    spans = np.diff(moments)
    if not len(spans):
        return None
    period = float(np.quantile(spans, 0.1, method="higher"))
    if period <= 0:
        return None
    counts = np.maximum(1, np.rint(spans / period))
    counts = np.maximum(1, np.rint(spans / float(np.median(spans / counts))))
    period = float(spans.sum() / counts.sum())
    deviations = np.abs(spans - counts * period)
    return Changes(
        period_s=period,
        jitter_s=1.4826 * float(np.median(deviations)),
        seen=len(moments),
        missed=int((counts - 1).sum()),
    )


def infer_period(
    read: Callable[[], float | None],
    *,
    updates: int = 20,
    limit_s: float = 1.0,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> float | None:
    """Seconds between updates of one value, see `watch_changes`; None where none were seen."""
    found = watch_changes(read, updates=updates, limit_s=limit_s, clock=clock, sleep=sleep)
    return None if found is None else found.period_s
