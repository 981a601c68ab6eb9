"""A log's clock against this machine's: where its rows belong, and what shows that they do not.

The check needs no word of the logger: power follows work, so the lag at which a log's watts fit
the launches of the run best is the error of its clock. Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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

_MOST_STRETCHES = 6
_ABOUT = 0.1
"""Share of a stretch by which the lag of one end may differ from that of the whole run."""

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


def lags_of(log: PowerLog, repeats: Sequence[Activity]) -> tuple[Lag, Lag]:
    """The lags of a log's watts against work, at the start and at the end of a run; all by Unix
    time.

    Power, interpolated at each lag, is fitted by the shares of time that each kind of work took
    around each moment. All repeats together tell which is which, since each does the same work:
    the lag is where they fit best, each by itself within a tenth of its length, for a clock may
    drift. It is found where power follows work better than chance would let it. One near 0 that
    explains as well is taken before others, since regular work fits itself again a turn later.
    """
    time, power = _watts(log)
    if len(time) < _LEAST_PERIODS:
        return _unknown("the log has too few readings of power")
    period = float(np.median(np.diff(time)))
    work = _stretches(repeats, period)
    grids = [_grid(part, period) for part in work]
    periods = min(map(len, grids)) / 2
    if periods < _LEAST_PERIODS:
        return _unknown(f"a repeat has under {_LEAST_PERIODS} readings of the log")
    bases = [_basis(part, grid, period) for part, grid in zip(work, grids, strict=True)]
    if min(basis.shape[1] for basis in bases) < 2:
        return _unknown("the work has no contrast: the device was as busy all the time")
    lags = _lags(period)
    fits = np.array(
        [_fits(lags, time, power, basis, grid) for basis, grid in zip(bases, grids, strict=True)]
    )
    about = _ABOUT * min(float(grid[-1] - grid[0]) for grid in grids) + period
    low = np.searchsorted(lags, lags - about, side="left")
    high = np.searchsorted(lags, lags + about, side="right")
    together = np.mean([_most_within(fit, low, high) for fit in fits], axis=0)
    at = _best(together, np.abs(lags) <= period)
    freedom = max(1.0, periods - max(basis.shape[1] for basis in bases))
    by_chance = 1 - (_CHANCE / len(lags)) ** (2 / freedom)
    if together[at] < max(_EXPLAINED, by_chance):
        return _unknown("the watts do not follow the work", float(together[at]))
    near = slice(int(low[at]), int(high[at]))
    found = [near.start + _best(fit[near], np.abs(lags[near]) <= period) for fit in fits]
    first, last = found[0], found[-1]
    return (
        Lag(float(lags[first]), float(fits[0][first])),
        Lag(float(lags[last]), float(fits[-1][last])),
    )


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


def _watts(log: PowerLog) -> tuple[Floats, Floats]:
    """Times and watts of a log: as read, else the mean between two readings of its counter."""
    known = np.isfinite(log.power_w)
    if known.any():
        return log.unix_s[known], log.power_w[known]
    counted = np.isfinite(log.energy_j)
    time, joules = log.unix_s[counted], log.energy_j[counted]
    return (time[1:] + time[:-1]) / 2, np.diff(joules) / np.diff(time)


def _unknown(why: str, explained: float = 0.0) -> tuple[Lag, Lag]:
    return Lag(None, explained, why), Lag(None, explained, why)


def _stretches(repeats: Sequence[Activity], period_s: float) -> list[Activity]:
    """Some of the repeats, the first and the last among them; of a single one its halves, where
    they are long enough."""
    if len(repeats) > 1:
        count = min(len(repeats), _MOST_STRETCHES)
        return [repeats[round(at)] for at in np.linspace(0, len(repeats) - 1, count)]
    (whole,) = repeats
    middle = (whole.start_s + whole.end_s) / 2
    if middle - whole.start_s < (_LEAST_PERIODS + 1) * period_s:
        return [whole]
    return [whole.part(whole.start_s, middle), whole.part(middle, whole.end_s)]


def _grid(activity: Activity, period_s: float) -> Floats:
    """Moments in a stretch, two a period, around each of which its work is known."""
    if period_s <= 0:
        return np.zeros(0)
    seconds = activity.end_s - activity.start_s - period_s
    count = int(2 * min(max(seconds, 0.0) / period_s, _MOST_PERIODS))
    return activity.start_s + period_s / 2 * np.arange(1, count + 1, dtype=np.float64)


def _basis(activity: Activity, grid: Floats, period_s: float) -> Floats:
    """Orthonormal columns: a constant, and the shares of time of each kind with contrast."""
    columns, half = [np.ones(len(grid))], period_s / 2
    for starts, ends in activity.kinds:
        until = _seconds_until(starts, ends, np.concatenate((grid - half, grid + half)))
        share = (until[len(grid) :] - until[: len(grid)]) / period_s
        if float(share.std()) > _CONTRAST:
            columns.append(share)
    basis, triangle = np.linalg.qr(np.column_stack(columns))
    # Two kinds that fill all time between them say the same twice.
    own = np.abs(np.diag(triangle)) > 1e-6 * np.sqrt(len(grid))
    return np.asarray(basis[:, own], np.float64)


def _fits(lags: Floats, time: Floats, power: Floats, basis: Floats, grid: Floats) -> Floats:
    """How much of the variance of power work explains at each lag; 0 where the log has not nearly
    all moments."""
    slack = _ABOUT * (grid[-1] - grid[0])
    found = np.zeros(len(lags))
    reached = (grid[0] + lags >= time[0] - slack) & (grid[-1] + lags <= time[-1] + slack)
    for at in np.flatnonzero(reached):
        found[at] = _explained(basis, np.interp(grid + lags[at], time, power))
    return found


def _most_within(fit: Floats, low: NDArray[np.int64], high: NDArray[np.int64]) -> Floats:
    """The best fit between two indices, for each pair of them."""
    return np.array([fit[a:b].max() for a, b in zip(low, high, strict=True)])


def _best(fit: Floats, near: NDArray[np.bool_]) -> int:
    """Index of the best fit; of the best one that is near, where it explains as well."""
    best = int(fit.argmax())
    if near.any():
        nearest = int(np.where(near, fit, -1.0).argmax())
        if fit[nearest] >= fit[best] - _AS_GOOD:
            return nearest
    return best


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


def _lags(period: float) -> Floats:
    """Lags to look at in halves of a period, in order: those near 0, and those around each quarter
    of an hour."""
    reach = min(QUARTER_S, _FINE * period)
    fine = math.ceil(reach / period) * 2
    seen = [np.arange(-fine, fine + 1) * period / 2]
    steps = math.ceil(max(3 * period, min(10.0, 20 * period)) / period) * 2
    for quarters in range(-_QUARTERS, _QUARTERS + 1):
        if abs(quarters * QUARTER_S) > reach:
            seen.append(quarters * QUARTER_S + np.arange(-steps, steps + 1) * period / 2)
    return np.unique(np.concatenate(seen))


def _whole_hours_first(quarters: int) -> tuple[bool, int]:
    return quarters % 4 != 0, abs(quarters)


def _hours(seconds: float) -> str:
    if abs(seconds) < 120:
        return f"{seconds:.4g} s"
    sign, minutes = "-" if seconds < 0 else "", round(abs(seconds) / 60)
    if minutes < 120 and abs(seconds) % QUARTER_S:
        return f"{seconds:.0f} s"
    return f"{sign}{minutes // 60} h {minutes % 60:02d} min"
