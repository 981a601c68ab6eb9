"""A power log by Unix time: what a logger of its own clock wrote."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chipmark.errors import BadInputError
from chipmark.meters.contract import PowerSamples
from chipmark.meters.replay import load_samples

_UNIX_LEAST_S = 1e8  # 1973: a clock that began with the measurement is far below
_UNIX_MOST_S = 1e10


@dataclass(frozen=True, slots=True)
class PowerLog:
    """Rows of a log in the order of time, each time once.

    `unix_s` seconds since 1970, `energy_j` a cumulative counter or NaN, `power_w` watts or NaN.
    `missing`: rows that had neither, which are left out.
    """

    unix_s: NDArray[np.float64]
    energy_j: NDArray[np.float64]
    power_w: NDArray[np.float64]
    missing: int = 0

    @property
    def period_s(self) -> float | None:
        """Median seconds between rows; None under three rows."""
        return float(np.median(np.diff(self.unix_s))) if len(self.unix_s) > 2 else None

    @property
    def resolution_w(self) -> float | None:
        """The least difference between two watts that differ; None where none do."""
        steps = np.diff(np.unique(self.power_w[np.isfinite(self.power_w)]))
        return float(steps.min()) if len(steps) else None

    def moved(self, offset_s: float) -> PowerLog:
        """The same with seconds added to its times."""
        return replace(self, unix_s=self.unix_s + offset_s) if offset_s else self

    def integrated(self) -> PowerLog:
        """The same with a counter, of watts that are each the mean since the row before: their
        sums lose nothing, however long a row took. Without change where there is a counter, or a
        row without a reading, for then the sum does not hold what that row would have."""
        if self.missing or np.isfinite(self.energy_j).any() or len(self.unix_s) < 2:
            return self
        steps = self.power_w[1:] * np.diff(self.unix_s)
        return replace(self, energy_j=np.concatenate(([0.0], np.cumsum(steps))))

    def within(self, start_s: float, end_s: float) -> PowerLog:
        """The rows from the last before `start_s` to the first after `end_s`, both by Unix time:
        the edges of a window between two rows are interpolated."""
        first = max(0, int(np.searchsorted(self.unix_s, start_s, side="right")) - 1)
        last = int(np.searchsorted(self.unix_s, end_s, side="left")) + 1
        cut = slice(first, last)
        return replace(
            self, unix_s=self.unix_s[cut], energy_j=self.energy_j[cut], power_w=self.power_w[cut]
        )

    def samples(self, minus_s: float) -> PowerSamples:
        """On a clock that reads Unix time minus `minus_s`."""
        return PowerSamples(self.unix_s - minus_s, self.energy_j, self.power_w)


def merged(unix_s: ArrayLike, energy_j: ArrayLike, power_w: ArrayLike) -> PowerLog:
    """A log of rows whose times do not fall. Rows of one time (a logger that writes whole seconds
    twice) become one: their mean watts, their last joules. Rows without any reading are left out.
    """
    time = np.array(unix_s, np.float64)
    joules, watts = np.array(energy_j, np.float64), np.array(power_w, np.float64)
    read = np.isfinite(joules) | np.isfinite(watts)
    missing = int((~read).sum())
    time, joules, watts = time[read], joules[read], watts[read]
    if len(time) < 2 or (np.diff(time) > 0).all():
        return PowerLog(time, joules, watts, missing)
    first = np.flatnonzero(np.concatenate(([True], np.diff(time) > 0)))
    known = np.isfinite(watts)
    count = np.add.reduceat(known.astype(np.float64), first)
    total = np.add.reduceat(np.where(known, watts, 0.0), first)
    mean = np.full(len(first), np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    last = np.append(first[1:], len(time)) - 1
    return PowerLog(time[first], joules[last], mean, missing)


def stored_log(path: str | os.PathLike[str]) -> PowerLog:
    """A log that `meters.replay.save_samples` wrote with Unix time in `time_s`.

    Raises BadInputError where it is not whole, goes back in time, or has another clock's times.
    """
    found = load_samples(path)
    log = merged(found.time_s, found.energy_j, found.power_w)
    if len(log.unix_s) and not _UNIX_LEAST_S < log.unix_s[0] <= log.unix_s[-1] < _UNIX_MOST_S:
        raise BadInputError(
            path,
            f"begins at {log.unix_s[0]:g}, which is not Unix time in seconds",
            field="time_s",
            hint="keep time.time() with each sample",
        )
    if (log.power_w < 0).any() or np.isinf(log.power_w).any():
        raise BadInputError(path, "has watts below 0 or without end", field="power_w")
    return log


def moment(unix_s: float) -> str:
    """A Unix time as people write it, in UTC."""
    try:
        found = datetime.datetime.fromtimestamp(unix_s, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return f"{unix_s:g}"
    return found.strftime("%Y-%m-%d %H:%M:%SZ")
