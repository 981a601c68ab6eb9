"""A log's clock against this machine's: where its rows belong, and what shows that they do not.

The check needs no word of the logger: power follows work, so the lag at which a log's watts fit
the launches of the run best is the error of its clock. Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chipmark.meters.log_time import zone_text
from chipmark.meters.power_log import PowerLog, moment

Floats = NDArray[np.float64]

QUARTER_S = 900.0
"""Zones differ by whole quarters of an hour."""

_ZONE_SLACK_S = 60.0
"""A clock that is this near to a whole quarter is of another zone, and a little off."""

_QUARTERS = 56
"""Quarters in 14 hours, the largest difference of a zone from UTC."""

_FINE = 2000
"""Periods on each side within which any lag is looked for, at most a quarter of an hour."""

_MOST_PERIODS = 512
"""Periods of the log that one comparison takes."""

_LEAST_PERIODS = 20
_CONTRAST = 0.02
"""Least deviation of a phase's share of time between readings."""

_EXPLAINED = 0.5
"""Least share of the variance of power that work must explain."""

_CHANCE = 1e-3
"""Chance at which noise alone may seem to follow the work at one of all the lags looked at."""

_AS_GOOD = 0.05
"""A lag explains as well as the best one where it explains less by no more than this."""


@dataclass(frozen=True, slots=True)
class Activity:
    """Work of a stretch of time: half-open spans in seconds, of several kinds, and the stretch in
    which all work is known."""

    start_s: float
    end_s: float
    kinds: tuple[tuple[Floats, Floats], ...]
    """Starts and ends of the spans of each kind, in order of time."""

    def moved(self, seconds: float) -> Activity:
        """The same on a clock that reads more by so many seconds."""
        kinds = tuple((starts + seconds, ends + seconds) for starts, ends in self.kinds)
        return Activity(self.start_s + seconds, self.end_s + seconds, kinds)

    def part(self, start_s: float, end_s: float) -> Activity:
        """The same, known within these bounds only."""
        return Activity(max(start_s, self.start_s), min(end_s, self.end_s), self.kinds)


@dataclass(frozen=True, slots=True)
class Lag:
    """By how much a log's clock is ahead of the work: `seconds` at the best fit, which explains
    the share `explained` of the variance of power. None for the reason in `why`."""

    seconds: float | None
    explained: float = 0.0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Flags:
    """How the flags are written that correct a log's clock, and what was applied already.

    naive: its times have no zone of their own, and were read in one that is `zone_s` ahead of
    UTC. offset_s: seconds added to its times, at the start and at the end.
    """

    naive: bool
    zone_s: float = 0.0
    offset_s: tuple[float, float] = (0.0, 0.0)
    style: str = "{}={}"

    def against(self, ahead_s: float) -> str:
        """The flag that takes back by how much the clock is ahead: a zone where whole quarters of
        an hour and no zone in the times make one likely, else an offset."""
        quarters = round(ahead_s / QUARTER_S)
        zone_s = self.zone_s + quarters * QUARTER_S
        near = quarters and abs(ahead_s - quarters * QUARTER_S) <= _ZONE_SLACK_S
        if near and self.naive and abs(zone_s) <= _QUARTERS * QUARTER_S:
            return self._written("zone", zone_text(zone_s))
        return self.offset(ahead_s, ahead_s)

    def offset(self, first_s: float, last_s: float) -> str:
        """The flag for a clock that is ahead by so much at the start and at the end."""
        first, last = (
            f"{applied - ahead:.3f}".rstrip("0").rstrip(".")
            for applied, ahead in zip(self.offset_s, (first_s, last_s), strict=True)
        )
        return self._written("offset", first if first == last else f"{first}..{last}")

    def _written(self, name: str, value: str) -> str:
        return f"{self.style.format(name, value)} would fix it"


def gap_text(log: PowerLog, start_s: float, end_s: float, flags: Flags) -> str:
    """How a log that does not cover a run lies to it, and the flag that would fix it; "" where it
    covers it. Times are Unix time."""
    if not len(log.unix_s):
        return "it holds no reading"
    first, last = float(log.unix_s[0]), float(log.unix_s[-1])
    if first <= start_s and end_s <= last:
        return ""
    spans = (
        f"its readings are from {moment(first)} to {moment(last)}, the run is from "
        f"{moment(start_s)} to {moment(end_s)}"
    )
    covering = [
        shift
        for quarters in sorted(range(-_QUARTERS, _QUARTERS + 1), key=_whole_hours_first)
        if (shift := quarters * QUARTER_S) and first - shift <= start_s and end_s <= last - shift
    ]
    if covering:
        fix = flags.against(covering[0])
        return f"{spans}: its clock is ahead by {_hours(covering[0])}; {fix}"
    if last < start_s:
        return f"{spans}: it ends {start_s - last:.0f} s before"
    if first > end_s:
        return f"{spans}: it begins {first - end_s:.0f} s after"
    return f"{spans}: it covers a part only"


def lag_of(log: PowerLog, activity: Activity) -> Lag:
    """The lag of a log's watts against work, both by Unix time.

    Power, interpolated at each lag, is fitted by the shares of time that each kind of work took
    around each moment; the lag of the best fit is found where power follows work better than
    chance would let it. One within a period that explains as well is taken before others, since
    regular work fits itself again a turn later.
    """
    known = np.isfinite(log.power_w)
    time, power = log.unix_s[known], log.power_w[known]
    if len(time) < _LEAST_PERIODS:
        return Lag(None, why="the log has too few readings of power")
    period = float(np.median(np.diff(time)))
    start_s, end_s = activity.start_s + period / 2, activity.end_s - period / 2
    periods = min((end_s - start_s) / period, _MOST_PERIODS) if period > 0 else 0
    if periods < _LEAST_PERIODS:
        return Lag(None, why=f"the run has under {_LEAST_PERIODS} readings of the log")
    grid: Floats = start_s + period / 2 * np.arange(int(2 * periods), dtype=np.float64)
    basis = _basis(activity, grid, period)
    if basis.shape[1] < 2:
        return Lag(None, why="the work has no contrast: the device was as busy all the time")
    lags = np.array(list(_lags(time, grid, period)))
    explained = np.array([_explained(basis, np.interp(grid + lag, time, power)) for lag in lags])
    best = int(explained.argmax())
    near = np.flatnonzero(np.abs(lags) <= period)
    if len(near):
        nearest = int(near[explained[near].argmax()])
        if explained[nearest] >= explained[best] - _AS_GOOD:
            best = nearest
    freedom = max(1.0, periods - basis.shape[1])
    by_chance = 1 - (_CHANCE / len(lags)) ** (2 / freedom)
    if explained[best] < max(_EXPLAINED, by_chance):
        return Lag(None, float(explained[best]), "the watts do not follow the work")
    return Lag(float(lags[best]), float(explained[best]))


def contradiction(lags: Sequence[Lag], period_s: float, flags: Flags) -> str:
    """What is wrong with the lags at the start and at the end of a run, and the flag that would
    fix it; "" where they are within a period of the log and of each other."""
    found = [lag.seconds for lag in lags if lag.seconds is not None]
    if not found:
        return ""
    first, last = found[0], found[-1]
    if abs(last - first) > period_s:
        return (
            f"its clock drifts against the run: it is ahead by {first:.4g} s at the start and by "
            f"{last:.4g} s at the end; {flags.offset(first, last)}"
        )
    if max(abs(first), abs(last)) <= period_s:
        return ""
    mean = (first + last) / 2
    return f"its clock is ahead of the run's work by {_hours(mean)}; {flags.against(mean)}"


def _basis(activity: Activity, grid: Floats, period_s: float) -> Floats:
    """Orthonormal columns: a constant, and the shares of time of each kind with contrast."""
    columns = [np.ones(len(grid))]
    for starts, ends in activity.kinds:
        share = (
            _seconds_until(starts, ends, grid + period_s / 2)
            - _seconds_until(starts, ends, grid - period_s / 2)
        ) / period_s
        if float(share.std()) > _CONTRAST:
            columns.append(share)
    basis, triangle = np.linalg.qr(np.column_stack(columns))
    # Two kinds that fill all time between them say the same twice.
    own = np.abs(np.diag(triangle)) > 1e-6 * np.sqrt(len(grid))
    return np.asarray(basis[:, own], np.float64)


def _seconds_until(starts: Floats, ends: Floats, at: Floats) -> Floats:
    """Seconds of the spans before each moment; spans do not overlap."""
    if not len(starts):
        return np.zeros(len(at))
    edges = np.column_stack((starts, np.maximum(starts, ends))).ravel()
    seconds = np.repeat(np.concatenate(([0.0], np.cumsum(edges[1::2] - edges[::2]))), 2)[1:-1]
    return np.asarray(np.interp(at, np.maximum.accumulate(edges), seconds), np.float64)


def _explained(basis: Floats, power: Floats) -> float:
    """Share of the variance of power that the columns explain."""
    centred = power - power.mean()
    total = float(centred @ centred)
    if total <= 1e-12 * len(power) * max(1.0, float(power.mean()) ** 2):
        return 0.0
    parts = basis.T @ centred
    return min(1.0, float(parts @ parts) / total)


def _lags(time: Floats, grid: Floats, period: float) -> Iterator[float]:
    """Lags to look at: all near 0 in quarters of a period, and around each quarter of an hour;
    only those for which the log has nearly all moments."""
    reach = min(QUARTER_S, _FINE * period)
    around = max(3 * period, min(10.0, 20 * period))
    seen = [np.arange(-math.ceil(reach / period) * 4, math.ceil(reach / period) * 4 + 1) / 4]
    for quarters in range(-_QUARTERS, _QUARTERS + 1):
        if abs(quarters * QUARTER_S) > reach:
            steps = math.ceil(around / period) * 2
            seen.append(quarters * QUARTER_S / period + np.arange(-steps, steps + 1) / 2)
    slack = 0.1 * (grid[-1] - grid[0])
    for lag in np.concatenate(seen) * period:
        if grid[0] + lag >= time[0] - slack and grid[-1] + lag <= time[-1] + slack:
            yield float(lag)


def _whole_hours_first(quarters: int) -> tuple[bool, int]:
    return quarters % 4 != 0, abs(quarters)


def _hours(seconds: float) -> str:
    if abs(seconds) < 120:
        return f"{seconds:.4g} s"
    sign, minutes = "-" if seconds < 0 else "", abs(seconds) / 60
    if minutes < 120 and abs(seconds) % QUARTER_S:
        return f"{seconds:.0f} s"
    return f"{sign}{int(minutes // 60)} h {minutes % 60:02.0f} min"
