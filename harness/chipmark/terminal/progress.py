"""Lines of progress where stderr is not a terminal: one each half minute of long work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread

INTERVAL_S = 30.0
"""Seconds from one line to the next, and to the first."""


class Heartbeat:
    """Knows the stage and the steps of a piece of work, and writes a line when one is due.

    A stage may take many minutes and report nothing, so `beating` has a thread write the lines. It
    wakes when one is due, and never in between: it must not disturb what is timed.
    """

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write, self._clock = write, clock
        self._start = self._last = clock()
        self._stage, self._done, self._total = "starting", 0, 0
        self._lock = Lock()

    def stage(self, text: str) -> None:
        """Set what is being done now."""
        with self._lock:
            self._stage = text

    def steps(self, total: int) -> None:
        """Add steps that are ahead."""
        with self._lock:
            self._total += total

    def step(self) -> None:
        """Count one step as done."""
        with self._lock:
            self._done += 1

    def beat(self) -> None:
        """Write a line where one is due, as `progress: STAGE; step 3 of 20; 1 min 30 s`."""
        with self._lock:
            now = self._clock()
            if now - self._last < INTERVAL_S:
                return
            self._last = now
            parts = [f"progress: {self._stage}"]
            if self._total:
                number = min(self._done + 1, self._total)
                parts.append(f"step {number} of {self._total}")
            parts.append(duration(now - self._start))
            self._write("; ".join(parts))

    def due_in(self) -> float:
        """Seconds until a line is due, 0 where it is."""
        with self._lock:
            return max(0.0, self._last + INTERVAL_S - self._clock())

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Write lines from a thread until the block ends."""
        ended = Event()

        def beats() -> None:
            while not ended.wait(self.due_in()):
                self.beat()

        thread = Thread(target=beats, name="chipmark-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def duration(seconds: float) -> str:
    """Whole seconds as `45 s`, `2 min 5 s` or `1 h 2 min`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
