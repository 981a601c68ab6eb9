from __future__ import annotations

import numpy as np
import pytest

from chipmark.meters.clock_alignment import (
    Activity,
    Flags,
    contradiction,
    gap_text,
    lags_of,
)
from chipmark.meters.power_log import PowerLog

T = 1795770000.0


def bursts(seed: int, start_s: float, seconds: float) -> Activity:
    """Decode and prefill launches with waits between them, of unequal length."""
    rng = np.random.default_rng(seed)
    edges = start_s + np.cumsum(rng.exponential(4.0, int(seconds)))
    edges = edges[edges < start_s + seconds]
    edges = edges[: len(edges) // 3 * 3]
    prefill, decode, idle = edges[0::3], edges[1::3], edges[2::3]
    return Activity(start_s, start_s + seconds, ((prefill, decode), (decode, idle)))


def log_of(
    activity: Activity, ahead_s: float, period_s: float = 1.0, noise_w: float = 3.0
) -> PowerLog:
    """Watts of that work as a logger shows them whose clock is ahead."""
    time = np.arange(activity.start_s - 30, activity.end_s + 30, period_s)
    power = np.full(len(time), 100.0)
    for watts, (starts, ends) in zip((300.0, 180.0), activity.kinds, strict=True):
        for a, b in zip(starts, ends, strict=True):
            share = np.clip(np.minimum(time, b) - np.maximum(time - period_s, a), 0, None)
            power += watts * share / period_s
    power += np.random.default_rng(1).normal(0, noise_w, len(time))
    return PowerLog(time + ahead_s, np.full(len(time), np.nan), power)


@pytest.mark.parametrize("ahead_s", [0.0, 0.7, -0.6, 3.5, -12.0, 240.0, 7 * 3600.0 + 2])
@pytest.mark.parametrize("period_s", [0.2, 1.0])
def test_the_lag_of_a_clock_is_found(ahead_s: float, period_s: float) -> None:
    work = bursts(3, T, 300.0)
    log = log_of(work, ahead_s, period_s)
    whole = log if abs(ahead_s) < 60 else within_a_day(log, ahead_s)
    found = lags_of(whole, [work])[0]
    assert found.seconds is not None
    assert found.explained > 0.7
    assert found.seconds == pytest.approx(ahead_s, abs=period_s)


def within_a_day(log: PowerLog, ahead_s: float) -> PowerLog:
    """The log with idle hours around it, so that it covers the run, whatever its clock says."""
    before = np.arange(log.unix_s[0] - 26_000, log.unix_s[0] - 1, 1.0)
    after = np.arange(log.unix_s[-1] + 1, log.unix_s[-1] + 26_000, 1.0)
    time = np.concatenate((before, log.unix_s, after))
    idle = np.random.default_rng(2).normal(100, 3, len(time))
    idle[len(before) : len(before) + len(log.unix_s)] = log.power_w
    return PowerLog(time, np.full(len(time), np.nan), idle)


def test_noise_and_steady_work_have_no_lag() -> None:
    for seed in range(8):
        work = bursts(seed, T, 120.0)
        noise = np.random.default_rng(seed).normal(400, 50, 900)
        log = PowerLog(T - 400 + np.arange(900.0), np.full(900, np.nan), noise)
        assert lags_of(log, [work])[0].seconds is None
    steady = Activity(T, T + 120, ((np.array([T - 1]), np.array([T + 200])),))
    found = lags_of(log_of(bursts(0, T, 120.0), 0.0), [steady])[0]
    assert (found.seconds, "no contrast" in found.why) == (None, True)
    constant = PowerLog(T - 50 + np.arange(400.0), np.full(400, np.nan), np.full(400, 77.0))
    assert "do not follow" in lags_of(constant, [bursts(0, T, 120.0)])[0].why
    assert "under 20 readings" in lags_of(constant, [bursts(0, T, 12.0)])[0].why
    assert "too few" in lags_of(constant.within(T, T + 3), [bursts(0, T, 120.0)])[0].why


def test_regular_work_keeps_the_lag_near_zero() -> None:
    """A pulse a 10 s fits itself at every 10 s; the clock is not off by one of them."""
    starts = T + 10.0 * np.arange(12)
    work = Activity(T, T + 120, ((starts, starts + 4),))
    time = np.arange(T - 300, T + 400, 0.5)
    power = 100 + 200.0 * ((time - T) % 10 < 4)
    found = lags_of(PowerLog(time, np.full(len(time), np.nan), power), [work])[0]
    assert found.seconds == pytest.approx(0.0, abs=0.5)


def test_a_clock_that_is_off_or_drifts_is_refused_with_the_flag() -> None:
    work = bursts(5, T, 600.0)
    repeats = [work.part(T + a, T + a + 150) for a in (0, 200, 450)]
    flags = Flags(naive=False)

    def text(log: PowerLog, flags: Flags = flags) -> str:
        return contradiction(lags_of(log, repeats), 1.0, flags)

    good = log_of(work, 0.4)
    assert text(good) == ""
    assert "ahead of the run's work by 5" in text(log_of(work, 5.0))
    assert "offset=-" in text(log_of(work, 5.0))
    written = text(log_of(work, 5.0), Flags(False, style="--{} {}"))
    assert "--offset -" in written
    drifting = PowerLog(T + (good.unix_s - T) * 1.01 + 0.5, good.energy_j, good.power_w)
    assert "drifts" in text(drifting)
    found = text(drifting)
    first, last = map(float, found.split("offset=")[1].split(" ")[0].split(".."))
    assert first == pytest.approx(-2.15, abs=0.5)
    assert last == pytest.approx(-6.65, abs=0.5)
    # What was applied already is added to.
    assert "offset=-15" in text(log_of(work, 5.0), Flags(False, offset_s=(-10.0, -10.0)))
    assert contradiction([], 1.0, flags) == ""


def test_another_zone_is_found_where_nothing_overlaps() -> None:
    log = PowerLog(T + 8 * 3600 + np.arange(600.0), np.full(600, np.nan), np.full(600, 5.0))
    naive = Flags(naive=True)
    found = gap_text(log, T + 10, T + 500, naive)
    assert "ahead by 8 h 00 min" in found
    assert "zone=+08:00 would fix it" in found
    assert "2026-11-27 17:00:00Z" in found
    # Read in +08:00 already, a log that is behind was of UTC.
    back = gap_text(log.moved(-16 * 3600), T + 10, T + 500, Flags(True, zone_s=8 * 3600.0))
    assert "zone=+00:00" in back
    assert "offset=-28800" in gap_text(log, T + 10, T + 500, Flags(naive=False))
    assert gap_text(log.moved(-8 * 3600), T + 10, T + 500, naive) == ""
    assert "covers a part" in gap_text(log.moved(-8 * 3600), T + 10, T + 700, naive)
    assert "ends 99401 s before" in gap_text(
        log, T + 8 * 3600 + 100_000, T + 8 * 3600 + 100_100, naive
    )
    assert "begins" in gap_text(log.moved(1e6), T, T + 10, naive)
    nothing = PowerLog(np.zeros(0), np.zeros(0), np.zeros(0))
    assert gap_text(nothing, T, T + 1, naive) == "it holds no reading"
