from __future__ import annotations

import time

from chipmark.backends.sim.backend import SimBackend
from chipmark.engine.clock import MonotonicClock, VirtualClock
from chipmark.engine.overhead import measure_overhead


def test_overhead_is_the_engines_own_time_of_decode_steps():
    rows = measure_overhead(lambda: SimBackend("null"), (1, 8), n_out=40)
    assert [row.sessions for row in rows] == [1, 8]
    for row in rows:
        assert 30 <= row.steps <= 40
        assert 0 < row.engine_s_median <= row.engine_s_p95 < 1


def test_the_host_clock_never_wakes_early():
    clock = MonotonicClock()
    until = clock.now() + 0.004
    clock.sleep_until(until)
    assert until <= clock.now()
    assert abs(clock.now() - time.perf_counter()) < 1


def test_the_simulated_clock_only_moves_forward():
    clock = VirtualClock()
    clock.sleep_until(5.0)
    clock.sleep_until(3.0)
    assert clock.now() == 5.0
