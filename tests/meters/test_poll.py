from __future__ import annotations

import math
import time

import numpy as np
import pytest

from chipmark.errors import ChipmarkError
from chipmark.meters.poll import Sampler, infer_period


def test_sampler_reads_first_and_last_and_in_between() -> None:
    readings = iter(range(10_000))
    sampler = Sampler(lambda: (float(next(readings)), math.nan), 0.01)
    before = time.perf_counter()
    sampler.start()
    time.sleep(0.1)
    samples = sampler.stop()
    after = time.perf_counter()
    assert len(samples.time_s) >= 4
    assert before <= samples.time_s[0] < samples.time_s[-1] <= after
    assert (np.diff(samples.time_s) > 0).all()
    assert samples.energy_j.tolist() == sorted(samples.energy_j.tolist())
    assert np.isnan(samples.power_w).all()


def test_missing_reading_is_no_sample_and_never_a_zero() -> None:
    values = iter([(math.nan, 5.0), None, None, (math.nan, 7.0)])
    sampler = Sampler(lambda: next(values, (math.nan, 9.0)), 10.0)
    sampler.start()
    samples = sampler.stop()
    assert samples.power_w.tolist() == [5.0]


def test_sensor_that_cannot_be_read_is_said_at_the_start() -> None:
    def broken() -> tuple[float, float]:
        raise PermissionError("no")

    with pytest.raises(ChipmarkError, match="cannot be read"):
        Sampler(broken, 1.0).start()


def test_a_failing_read_in_the_middle_is_a_gap_and_is_kept() -> None:
    calls = iter([(1.0, math.nan)])

    def read() -> tuple[float, float]:
        for value in calls:
            return value
        raise OSError("gone")

    sampler = Sampler(read, 10.0)
    sampler.start()
    assert len(sampler.stop().time_s) == 1
    assert sampler.failure == "gone"


def test_period_of_a_counter_is_inferred_from_its_changes() -> None:
    now = 0.0

    def clock() -> float:
        return now

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    found = infer_period(lambda: math.floor(now / 0.05), clock=clock, sleep=sleep)
    assert found == pytest.approx(0.05, abs=0.004)


def test_period_of_a_sensor_that_never_moves_is_unknown() -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    assert infer_period(lambda: 7.0, clock=lambda: now, sleep=sleep) is None
