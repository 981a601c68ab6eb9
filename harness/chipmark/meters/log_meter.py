"""A log that a logger of its own writes while the run lasts: a wall meter's CSV, as a rule.

It is read when the run ends, from where it was when the run began, and its Unix times are put on
this machine's monotonic clock.
"""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, overload

import numpy as np

from chipmark.errors import ChipmarkError, UnknownNameError, UsageError
from chipmark.meters.choice import MeterChoice
from chipmark.meters.clock_alignment import Flags
from chipmark.meters.contract import MeterInfo, PowerSamples, Scope
from chipmark.meters.csv_form import COLUMN_OPTIONS, csv_form, offset_of
from chipmark.meters.csv_log import CsvLog, Mark
from chipmark.meters.power_log import PowerLog, moment, stored_log
from chipmark.meters.request import MeterRequest
from chipmark_models.plain_text import one_line

LOG_OPTIONS = ("scope", "error", "averaging", "cap", "wait", "covers")
"""Of every log, apart from how its file is read."""

SCOPES: tuple[Scope, ...] = ("wall", "node_dc", "board")
ERROR_REL = 0.01
"""Of a meter whose error the user does not give: what those sold for the purpose state."""

ROW = "row"
"""`averaging=row`: each row is the mean since the row before."""

STALE_S = 300.0
"""A log that was written to longer ago has no logger; loggers hold back rows for a minute or two.
"""

MOST_WAIT_S = 20.0
"""Within what a cell gives a meter to stop."""

CLOCK_S = 2.0
"""By how much the newest row may differ from the moment at which it was written, on top of two
periods."""

_NO_BOUND = (
    "nothing says what happened between its rows, so watts have no error bound: averaging=row "
    "where each is a mean since the last, or cap=WATTS"
)
_STEP_S = 0.1
_POLL_S = 0.1
_EDGE_PERIODS = 2.0  # that are kept at each end, and by which a log may end early without a word
_LEAST_ROWS = 3
_PERIOD_S = 1.0  # of a log that has no rows yet
_NOTHING = PowerSamples(np.zeros(0), np.zeros(0), np.zeros(0))


class LogSource(Protocol):
    """A log's file, read again and again."""

    @property
    def path(self) -> Path:
        """Of the file."""
        ...

    def mark(self) -> Mark | None:
        """A place shortly before the end."""
        ...

    def read(self, since: Mark | None = None) -> PowerLog:
        """Rows from there on; all without it."""
        ...

    def naive(self) -> bool:
        """Whether its times have no zone of their own."""
        ...


@dataclass(frozen=True, slots=True)
class StoredLog:
    """An `.npz` of samples by Unix time, which is written whole."""

    path: Path

    def mark(self) -> Mark | None:
        """It has no rows that could be read alone."""
        return None

    def read(self, since: Mark | None = None) -> PowerLog:
        """All of it."""
        return stored_log(self.path)

    def naive(self) -> bool:
        """Its times are Unix time."""
        return False


@dataclass(frozen=True, slots=True)
class LogTerms:
    """What the user says of a log, apart from how it is read."""

    scope: Scope = "wall"
    error_rel: float = ERROR_REL
    error_given: bool = False
    averaging_s: float | None = None
    """What each row is a mean over; inf for the time since the row before."""
    cap_w: float | None = None
    wait_s: float = 5.0
    covers: str = ""
    clock_s: float | None = None
    """By how much the clock of a log that is attached may differ; of one in a run it is seen."""

    def rows_of(self, log: PowerLog) -> PowerLog:
        """A log's rows as they are integrated: means since the row before are a counter."""
        return log.integrated() if self.averaging_s == math.inf else log


@dataclass(frozen=True, slots=True)
class Clocks:
    """Both clocks at one moment. Defaults read this machine's; tests give others."""

    unix: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep

    def ahead_s(self) -> float:
        """Unix time minus the monotonic clock."""
        before = self.monotonic()
        unix = self.unix()
        return unix - (before + self.monotonic()) / 2


def log_terms(options: Mapping[str, str]) -> LogTerms:
    """What options say of a log; UsageError or UnknownNameError."""
    said = options.get("scope", "wall")
    scope = next((known for known in SCOPES if known == said), None)
    if scope is None:
        raise UnknownNameError("scope of a power log", said, SCOPES)
    return LogTerms(
        scope=scope,
        error_rel=_number("error", options, ERROR_REL, 0.0, 0.5),
        error_given="error" in options,
        averaging_s=math.inf
        if options.get("averaging") == ROW
        else _number("averaging", options, None, 1e-3, 3600.0),
        cap_w=_number("cap", options, None, 1.0, 1e6),
        wait_s=_number("wait", options, 5.0, 0.0, MOST_WAIT_S),
        covers=one_line(options.get("covers", ""), 120),
        clock_s=_number("clock", options, None, 0.0, 3600.0),
    )


def log_info(
    name: str, path: Path, log: PowerLog, terms: LogTerms, what: str, clock_s: float | None = None
) -> MeterInfo:
    """What a log's samples are. Its rows are the sensor's updates: each is a new reading. clock_s:
    by how much its clock may differ from this machine's, None where that is not known."""
    period, file = log.period_s, one_line(path.name, 80)
    update_s = period or _PERIOD_S
    averaging_s = update_s if terms.averaging_s == math.inf else terms.averaging_s
    error = f"its error of {terms.error_rel:.3g} is the user's figure"
    if not terms.error_given:
        error = (
            f"its error is taken to be {terms.error_rel:.3g} of 1: give the meter's own as error="
        )
    counts = bool(np.isfinite(log.energy_j).any()) and terms.averaging_s != math.inf
    return MeterInfo(
        name=name,
        source="wall" if terms.scope == "wall" else "counter" if counts else "polled",
        scope=terms.scope,
        method=f"{what} {file}, aligned by Unix time",
        update_period_s=update_s,
        averaging_s=averaging_s,
        error_rel=terms.error_rel,
        covers=terms.covers or f"what the {terms.scope} meter of {file} is connected to",
        notes=(error,) if averaging_s or terms.cap_w else (error, _NO_BOUND),
        # A counter's steps may be coarser than its rows.
        period_known=period is not None and not counts,
        reading_period_s=period,
        cap_w=terms.cap_w,
        resolution_w=log.resolution_w,
        clock_s=clock_s,
    )


class LogMeter:
    """A source that is read at the end from where it was at the start."""

    def __init__(
        self,
        source: LogSource,
        info: MeterInfo,
        *,
        offset_s: float = 0.0,
        terms: LogTerms | None = None,
        clocks: Clocks | None = None,
    ) -> None:
        self.info = info
        self._source, self._offset_s, self._terms = source, offset_s, terms or LogTerms()
        self._clocks = clocks or Clocks()
        self._mark: Mark | None = None
        self._start_s = self._ahead_s = math.nan

    def start(self) -> None:
        """Note where the log is; ChipmarkError where it cannot be read."""
        self._mark = self._source.mark()
        self._start_s = self._clocks.monotonic()
        self._ahead_s = self._clocks.ahead_s()

    def stop(self) -> PowerSamples:
        """The rows since `start` on the monotonic clock, with two periods and what the clocks may
        differ by more at each end: what a counter held at an edge is known from the readings around
        it.

        Waits until the log has them, at most `wait_s`. A log that cannot be read any longer
        gives none, with the reason in the remarks.
        """
        end_s, ahead_s = self._clocks.monotonic(), self._clocks.ahead_s()
        edge_s, remarks = _EDGE_PERIODS * self.info.update_period_s + (self.info.clock_s or 0.0), []
        if abs(ahead_s - self._ahead_s) > _STEP_S:
            remarks.append(
                f"this machine's clock was set by {ahead_s - self._ahead_s:+.3g} s in the run; the "
                "log is aligned by its state at the end"
            )
        try:
            log = self._terms.rows_of(self._rows_until(end_s + ahead_s + edge_s, end_s))
        except ChipmarkError as error:
            return replace(_NOTHING, remarks=(error.message,))
        if log.missing:
            remarks.append(f"{log.missing} rows have no reading")
        late_s = end_s + ahead_s - (float(log.unix_s[-1]) if len(log.unix_s) else math.inf)
        if late_s > edge_s:
            said = f"ends {late_s:.3g} s before the run" if math.isfinite(late_s) else "has no row"
            remarks.append(f"the log {said} did; a logger that holds back rows needs wait=SECONDS")
        cut = log.within(self._start_s + ahead_s - edge_s, end_s + ahead_s + edge_s)
        return replace(cut.samples(ahead_s), remarks=tuple(remarks))

    def _rows_until(self, unix_s: float, stopped_s: float) -> PowerLog:
        while True:
            log = self._source.read(self._mark).moved(self._offset_s)
            reached = len(log.unix_s) > 0 and log.unix_s[-1] >= unix_s
            if reached or self._clocks.monotonic() - stopped_s >= self._terms.wait_s:
                return log
            self._clocks.sleep(_POLL_S)


class CsvMeter(LogMeter):
    """`--meter csv:FILE,time=COLUMN,power=COLUMN`."""

    @classmethod
    def for_request(cls, request: MeterRequest) -> CsvMeter | None:
        """The log that the user names; None where none is named. Raises ChipmarkError where it is
        not as described, or its clock is not this machine's."""
        choice = request.choice("csv")
        if choice is None:
            return None
        choice.check_options((*COLUMN_OPTIONS, *LOG_OPTIONS))
        path, form, terms = _file(choice), csv_form(choice.options), log_terms(choice.options)
        source = CsvLog(path, form)
        offset_s = _constant(form.offset_s)
        log = source.read(source.mark()).moved(offset_s)
        clock_s = check_live(source, log, zone_ahead_s(form.times.zone, log), offset_s)
        info = log_info("csv", source.path, log, terms, "rows of", clock_s)
        return cls(source, info, offset_s=offset_s, terms=terms)


class StoredLogMeter(LogMeter):
    """`--meter log:FILE.npz`."""

    @classmethod
    def for_request(cls, request: MeterRequest) -> StoredLogMeter | None:
        """As `CsvMeter.for_request`, of an `.npz` by Unix time."""
        choice = request.choice("log")
        if choice is None:
            return None
        choice.check_options(("offset", *LOG_OPTIONS))
        terms = log_terms(choice.options)
        offset_s = _constant(offset_of(choice.options.get("offset", "0")))
        source = StoredLog(_file(choice))
        log = source.read().moved(offset_s)
        clock_s = check_live(source, log, 0.0, offset_s)
        info = log_info("log", source.path, log, terms, "samples of", clock_s)
        return cls(source, info, offset_s=offset_s, terms=terms)


def check_live(source: LogSource, log: PowerLog, zone_s: float, offset_s: float) -> float | None:
    """By how many seconds a log's clock may differ from this machine's; None where it has too few
    rows to tell. Raises UsageError where the clock is another one, with the offset that was found,
    and where no one writes to the log any longer.

    The newest row was written when the file last changed, up to a period after its time, so that
    the file's own time tells the clock of the logger whatever zone it has.
    """
    if len(log.unix_s) < _LEAST_ROWS:
        return None
    written_s = source.path.stat().st_mtime
    period = log.period_s or _PERIOD_S
    newest = float(log.unix_s[-1])
    ahead_s = newest - written_s
    # A row is written after its time, by up to a period and what the logger holds back.
    if ahead_s > 2 * period + CLOCK_S or ahead_s < -(2 * period + CLOCK_S):
        raise UsageError(
            f"{source.path}: its newest row is of {moment(newest)} and was written at "
            f"{moment(written_s)}, so its clock is ahead by {ahead_s:.0f} s",
            Flags(source.naive(), zone_s, (offset_s, offset_s)).against(ahead_s),
        )
    if (age_s := time.time() - written_s) > max(STALE_S, 3 * period):
        raise UsageError(
            f"{source.path} was last written {age_s:.0f} s ago: no logger writes to it",
            "start the logger before the run, or attach the log afterwards: chipmark power attach",
        )
    return abs(ahead_s) + period


def zone_ahead_s(zone: datetime.tzinfo, log: PowerLog) -> float:
    """Seconds by which a zone is ahead of UTC at a log's end."""
    at = float(log.unix_s[-1]) if len(log.unix_s) else 0.0
    found = zone.utcoffset(datetime.datetime.fromtimestamp(at, datetime.UTC).replace(tzinfo=None))
    return 0.0 if found is None else found.total_seconds()


def _constant(offset_s: tuple[float, float]) -> float:
    if offset_s[0] != offset_s[1]:
        raise UsageError(
            "offset=START..END is of a log that was attached; a run in progress takes one offset",
            "offset=SECONDS",
        )
    return offset_s[0]


def _file(choice: MeterChoice) -> Path:
    if not choice.target:
        raise UsageError(f"--meter {choice.name} names no file", f"--meter {choice.name}:FILE,...")
    return Path(choice.target)


@overload
def _number(
    option: str, options: Mapping[str, str], usual: float, least: float, most: float
) -> float: ...


@overload
def _number(
    option: str, options: Mapping[str, str], usual: None, least: float, most: float
) -> float | None: ...


def _number(
    option: str, options: Mapping[str, str], usual: float | None, least: float, most: float
) -> float | None:
    text = options.get(option)
    if text is None:
        return usual
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise UsageError(
            f"{option}={one_line(text, 40)} of a power log is not a number from {least:g} to "
            f"{most:g}",
            f"for example {option}={least if usual is None else usual:g}",
        )
    return value
