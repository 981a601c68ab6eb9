"""The state of a device watched through a repeat, on a thread of its own."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence

from chipmark.chips.state import DeviceState, RepeatState, Sample, StateSource, UnderLoad

_COST_SHARE = 0.01
"""The most of one core that watching may take: what a library's meter is allowed."""

_UNCAPPED_SHARE = 0.2
"""Of the samples under load: with fewer free of the power limit, these are its edges, and the clock
without the limit is not known."""


class StateWatch:
    """Looks at a device at `start` and `stop`, and in between as often as its source bears."""

    def __init__(self, source: StateSource) -> None:
        self._source = source
        self._before = DeviceState()
        self._samples: list[tuple[float, Sample]] = []
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look, and begin; both before this returns."""
        self._before = self._source.read()
        self._samples = []
        self._done.clear()
        if self._source.period_s is None:
            return
        self._ask()
        self._thread = threading.Thread(target=self._run, name="state-watch", daemon=True)
        self._thread.start()

    def stop(self) -> RepeatState:
        """End, and look once more."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self._ask()
        after = self._source.read()
        during = summary(self._samples) if self._samples else None
        source = self._source
        return RepeatState(source.name, self._before, during, after, remarks=source.remarks)

    def _run(self) -> None:
        assert self._source.period_s is not None
        wait_s = self._source.period_s
        while not self._done.wait(wait_s):
            # A read that costs more is asked for less often.
            wait_s = max(self._source.period_s, self._ask() / _COST_SHARE)

    def _ask(self) -> float:
        """Take a sample; seconds of a core that it took."""
        began = time.thread_time()
        self._samples.append((time.perf_counter(), self._source.sample()))
        return time.thread_time() - began


def summary(samples: Sequence[tuple[float, Sample]]) -> UnderLoad:
    """What at least one sample, each with its time in seconds, says of a repeat."""
    told = [sample for _, sample in samples]
    times = [at for at, _ in samples]
    by_load = [sample for sample in told if sample.loaded]
    judged = by_load or [sample for sample in told if sample.loaded is None]
    clocks = [sample.clock_mhz for sample in judged if sample.clock_mhz is not None]
    free = [s.clock_mhz for s in judged if s.clock_mhz is not None and not s.capped]
    if len(free) < _UNCAPPED_SHARE * len(clocks):
        free = []
    reasons = [sample.throttle for sample in told if sample.throttle is not None]
    others = [s.other_processes for s in told if s.other_processes is not None]
    middle = statistics.median if by_load else max
    return UnderLoad(
        samples=len(told),
        period_s=(times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None,
        clock_least_mhz=min(clocks, default=None),
        clock_median_mhz=statistics.median(clocks) if clocks else None,
        clock_uncapped_mhz=float(middle(free)) if free else None,
        temperature_most_c=max(
            (s.temperature_c for s in told if s.temperature_c is not None), default=None
        ),
        throttle=tuple(sorted({name for seen in reasons for name in seen})) if reasons else None,
        other_processes=max(others, default=None),
        other_pids=tuple(sorted({pid for sample in told for pid in sample.other_pids})),
    )
