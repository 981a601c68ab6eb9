from __future__ import annotations

import math
import random
import time
from collections.abc import Callable

import numpy as np
import pytest

from chipmark.errors import ChipmarkError
from chipmark.meters.poll import (
    Moments,
    Reading,
    Sampler,
    Stamped,
    changes_of,
    infer_period,
    read_at_least_every,
    watch_changes,
)


class Time:
    """A clock that only sleeping and reading move."""

    def __init__(self, limit_s: float = math.inf) -> None:
        self.now, self.limit_s = 0.0, limit_s

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, seconds: float) -> bool:
        """As an event that is set when the limit has come."""
        self.now = min(self.now + seconds, self.limit_s)
        return self.now >= self.limit_s


def sampled(
    read: Callable[[Time], Reading | list[Stamped] | None], period_s: float, limit_s: float
) -> tuple[Sampler, Time]:
    over = Time(limit_s)
    sampler = Sampler(
        lambda: read(over),
        period_s,
        clock=over.clock,
        wait=over.wait,
        draw=random.Random(7).random,
    )
    return sampler, over


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
    over = Time()
    found = infer_period(lambda: over.now // 0.05, clock=over.clock, sleep=over.sleep)
    assert found == pytest.approx(0.05, rel=0.01)


def test_period_of_a_sensor_that_never_moves_is_unknown() -> None:
    over = Time()
    assert infer_period(lambda: 7.0, clock=over.clock, sleep=over.sleep) is None
    assert over.now == pytest.approx(1.0, abs=0.003)
    stepped = iter([1.0] * 200 + [2.0] * 10_000)
    assert watch_changes(lambda: next(stepped), clock=over.clock, sleep=over.sleep) is None
    assert watch_changes(lambda: None, clock=over.clock, sleep=over.sleep) is None


def test_watch_ends_with_enough_changes() -> None:
    over = Time()
    found = watch_changes(lambda: over.now // 0.01, clock=over.clock, sleep=over.sleep)
    assert found is not None
    assert (found.seen, found.missed) == (21, 0)
    assert over.now == pytest.approx(0.22, abs=0.02)


@pytest.mark.parametrize("hidden", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("period_s", [0.02, 0.1])
def test_missed_updates_do_not_lengthen_the_period(hidden: float, period_s: float) -> None:
    for seed in range(20):
        draws = random.Random(seed)
        updates = [(k + draws.gauss(0, 0.05)) * period_s for k in range(60)]
        seen = [at for at in updates if draws.random() >= hidden]
        found = changes_of(seen)
        assert found is not None
        assert found.period_s == pytest.approx(period_s, rel=0.02)
        assert found.seen + found.missed == 1 + round((seen[-1] - seen[0]) / period_s)
        # The difference of two moments has the spread of both.
        assert found.jitter_s == pytest.approx(0.07 * period_s, rel=0.6)


def test_one_late_update_does_not_move_the_period() -> None:
    moments = [0.02 * k for k in range(21)]
    moments[-1] += 0.35
    found = changes_of(moments)
    assert found is not None
    assert found.period_s == pytest.approx(0.02, rel=0.05)
    assert changes_of([1.0]) is None


def test_moments_are_one_in_each_period_and_not_in_step() -> None:
    moments = Moments(10.0, 0.1, random.Random(1).random)
    now, found = 10.0, []
    for _ in range(400):
        now = moments.after(now)
        found.append(now)
    places = (np.array(found) - 10.0) / 0.1
    assert np.floor(places).tolist() == list(range(400))
    shares = places - np.floor(places)
    assert np.histogram(shares, 4, (0.0, 1.0))[0].min() > 70


def test_a_slow_reading_leaves_periods_out_and_the_grid_stays() -> None:
    moments = Moments(0.0, 1.0, lambda: 0.5)
    assert moments.after(0.0) == 0.5
    assert moments.after(2.2) == 2.5
    assert moments.after(4.7) == 4.7  # the moment of this period went by while it was read
    assert moments.after(4.8) == 5.5


def test_readings_are_jittered_at_the_rate_that_was_asked_for() -> None:
    sampler, _ = sampled(lambda over: (over.now, math.nan), 0.1, 20.0)
    sampler.start()
    samples = sampler.stop()
    assert len(samples.time_s) == pytest.approx(202, abs=2)
    assert np.diff(samples.time_s).std() > 0.02
    assert samples.remarks == ()


def test_readings_without_jitter_are_on_the_grid() -> None:
    over = Time(2.0)
    sampler = Sampler(
        lambda: (math.nan, over.now), 0.25, jitter=False, clock=over.clock, wait=over.wait
    )
    sampler.start()
    assert sampler.stop().power_w.tolist() == [0.0, 0.0, *np.arange(0.25, 2.0, 0.25), 2.0]


def test_a_sensor_slower_than_its_period_lowers_the_rate_and_is_told() -> None:
    def read(over: Time) -> Reading:
        over.sleep(0.25)
        return math.nan, 5.0

    sampler, _ = sampled(read, 0.1, 10.0)
    sampler.start()
    samples = sampler.stop()
    assert len(samples.time_s) < 42
    (remark,) = samples.remarks
    assert "took longer than their period of 0.1 s" in remark
    assert "the longest 0.25 s" in remark
    sampler, over = sampled(lambda over: (math.nan, 5.0), 0.1, 10.0)
    sampler.start()
    assert over.now == 10.0
    assert sampler.stop().remarks == ()


def test_one_slow_call_among_many_is_told_where_it_took_a_part_of_the_time() -> None:
    def stalled(stall_s: float) -> Callable[[Time], Reading]:
        calls = iter(range(10_000))

        def read(over: Time) -> Reading:
            over.sleep(stall_s if next(calls) == 50 else 0.001)
            return math.nan, 5.0

        return read

    for stall_s, told in ((0.15, 0), (0.25, 1)):
        sampler, _ = sampled(stalled(stall_s), 0.1, 10.0)
        sampler.start()
        assert len(sampler.stop().remarks) == told


def test_failures_are_told_once_with_their_number() -> None:
    calls = iter(range(10_000))

    def read(over: Time) -> Reading | None:
        number = next(calls)
        if number % 10 == 3:
            raise OSError("the bus is busy")
        if number % 10 == 4:
            raise ChipmarkError("no card", "look")
        return None if number % 10 == 5 else (math.nan, 5.0)

    sampler, _ = sampled(read, 0.1, 10.0)
    sampler.start()
    samples = sampler.stop()
    assert np.isfinite(samples.power_w).all()
    (remark,) = samples.remarks
    assert remark.startswith("30 of 1")
    assert remark.endswith("the bus is busy")
    sampler.start()  # a second span begins anew
    assert "30 of 1" not in "".join(sampler.stop().remarks)


def test_readings_that_the_sensor_dated_keep_their_times() -> None:
    told = iter([[(0.5, math.nan, 1.0)], [], [(0.7, math.nan, 2.0), (0.9, math.nan, 3.0)]])
    sampler, _ = sampled(lambda over: next(told, []), 0.1, 1.0)
    sampler.start()
    samples = sampler.stop()
    assert samples.time_s.tolist() == [0.5, 0.7, 0.9]
    assert samples.power_w.tolist() == [1.0, 2.0, 3.0]
    assert samples.remarks == ()


def test_a_sampler_reads_more_often_where_it_is_asked_to_and_never_less() -> None:
    def readings(every_s: float | None) -> int:
        sampler, over = sampled(lambda at: (math.nan, at.now), 0.5, limit_s=10.0)
        if every_s is None:
            sampler.start()
        else:
            with read_at_least_every(every_s):
                sampler.start()
        while over.now < over.limit_s:
            time.sleep(0.001)
        return len(sampler.stop().time_s)

    assert readings(None) == readings(2.0)
    assert readings(0.1) == pytest.approx(5 * readings(None), rel=0.1)
