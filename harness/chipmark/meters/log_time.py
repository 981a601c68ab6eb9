"""Times as loggers write them: ISO 8601, Unix time in s, ms, us or ns, or a pattern of the user's.

A time without a zone is of the zone that the user gives, else UTC: what another zone's clock says
is refused with the offset that was found (`clock_alignment`).
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from chipmark.errors import UsageError
from chipmark_models.plain_text import one_line

_EPOCHS = {"epoch_s": 1.0, "epoch_ms": 1e-3, "epoch_us": 1e-6, "epoch_ns": 1e-9}
FORMATS = ("iso", *_EPOCHS)
_RANGES = ((1e8, 1e10, 1.0), (1e11, 1e13, 1e-3), (1e14, 1e16, 1e-6), (1e17, 1e19, 1e-9))
"""Seconds since 1970, from 1973 to 2286, by the size of the number."""

_NUMBER = re.compile(r"\d{1,19}(?:[.,]\d{0,9})?")
_ZONE = re.compile(r"([+-])(\d{1,2})(?::?(\d{2}))?")
_MOST_ZONE_S = 14 * 3600
_SHORT = re.compile(r"(\d{4})[/-](\d{1,2})[/-](\d{1,2})[ T](\d{1,2}):(.*)", re.DOTALL)
"""ISO 8601 but for slashes and for digits that were left out."""
_EXAMPLE = "for example zone=+08:00 or zone=Asia/Shanghai"


@dataclass(frozen=True, slots=True)
class TimeForm:
    """How a time column is read. `pattern`: one of FORMATS, a strptime pattern, or "" to tell by
    what stands there. `zone`: of times without one."""

    pattern: str = ""
    zone: datetime.tzinfo = datetime.UTC

    def unix_s(self, text: str) -> float:
        """Seconds since 1970; ValueError with what is wrong, for people."""
        text = text.strip()
        if self.pattern in _EPOCHS:
            return _epoch(text, _EPOCHS[self.pattern])
        if self.pattern == "" and _NUMBER.fullmatch(text):
            return _epoch(text, None)
        return self._of_date(text).timestamp()

    def is_naive(self, text: str) -> bool:
        """Whether a time that `unix_s` reads has no zone of its own, so that `zone` decides."""
        text = text.strip()
        if self.pattern in _EPOCHS or (self.pattern == "" and _NUMBER.fullmatch(text)):
            return False
        return self._parsed(text).tzinfo is None

    def _of_date(self, text: str) -> datetime.datetime:
        found = self._parsed(text)
        return found.replace(tzinfo=self.zone) if found.tzinfo is None else found

    def _parsed(self, text: str) -> datetime.datetime:
        shown = one_line(text, 40)
        if self.pattern not in ("", "iso"):
            try:
                found = datetime.datetime.strptime(text, self.pattern)
            except (ValueError, re.error):
                raise ValueError(f"{shown!r} is not of the format {self.pattern!r}") from None
            if found.year < 1970:
                raise ValueError(f"the format {self.pattern!r} has no year") from None
            return found
        if short := _SHORT.fullmatch(text):
            year, month, day, hour, rest = short.groups()
            text = f"{year}-{month:0>2}-{day:0>2} {hour:0>2}:{rest}"
        try:
            if ":" not in text and "T" not in text.upper():
                raise ValueError
            return datetime.datetime.fromisoformat(text.replace(",", "."))
        except (ValueError, OverflowError):
            raise ValueError(
                f"{shown!r} is neither ISO 8601 nor Unix time; format=%d.%m.%Y %H:%M:%S, or as its "
                "pattern is, would read it"
            ) from None


def time_form(pattern: str, zone: str) -> TimeForm:
    """A form of the options `format` and `zone`, "" where they are not given. UsageError."""
    if pattern not in ("", *FORMATS) and "%" not in pattern:
        raise UsageError(
            f"format={one_line(pattern, 60)} is not a format of times",
            f"{', '.join(FORMATS)}, or a pattern such as %d.%m.%Y %H:%M:%S",
        )
    return TimeForm(pattern, zone_of(zone) if zone else datetime.UTC)


def zone_of(text: str) -> datetime.tzinfo:
    """`+08:00`, `-0530`, `Z`, `UTC` or a name of the tz database. UsageError."""
    if text in ("Z", "UTC"):
        return datetime.UTC
    if match := _ZONE.fullmatch(text):
        sign, hours, minutes = match.groups()
        seconds = (int(hours) * 3600 + int(minutes or 0) * 60) * (-1 if sign == "-" else 1)
        if abs(seconds) <= _MOST_ZONE_S:
            return datetime.timezone(datetime.timedelta(seconds=seconds))
        raise UsageError(f"zone={text} is over 14 hours", _EXAMPLE)
    try:
        return ZoneInfo(text)
    except (KeyError, ValueError, OSError):  # what ZoneInfo raises for a name that is none
        raise UsageError(f"zone={one_line(text, 40)} is not a zone", _EXAMPLE) from None


def zone_text(seconds: float) -> str:
    """An offset from UTC as the option `zone` takes it."""
    minutes = round(abs(seconds) / 60)
    return f"{'-' if seconds < 0 else '+'}{minutes // 60:02d}:{minutes % 60:02d}"


def _epoch(text: str, factor: float | None) -> float:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{one_line(text, 40)!r} is not a number of seconds since 1970")
    value = float(text.replace(",", "."))
    if factor is None:
        factor = next((unit for low, high, unit in _RANGES if low <= value < high), None)
    if factor is None:
        raise ValueError(
            f"{one_line(text, 40)!r} is not Unix time; a clock that began with the log needs "
            "format=epoch_s and offset=, the Unix time at its zero"
        )
    return value * factor
