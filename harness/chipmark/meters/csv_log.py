"""The rows of a power log's CSV, to which its logger may add while it is read.

A line without its end is not written yet and is left out. What is wrong with a line is a
BadInputError that names line and field; a row whose field says that there was not a reading, or
0 W, which no powered machine draws, is missing.
"""

from __future__ import annotations

import codecs
import math
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chipmark.errors import BadInputError
from chipmark.meters.csv_form import (
    ENERGY_UNITS,
    HEADER_LINES,
    POWER_UNITS,
    CsvForm,
    Header,
    fields_of,
    find_header,
)
from chipmark.meters.power_log import PowerLog, merged, moment
from chipmark.meters.tools.reading import Missing
from chipmark.meters.tools.values import Unit, quantity
from chipmark_models.foreign_file import DATA_BYTES, open_foreign, size_of
from chipmark_models.plain_text import one_line

MOST_LINE = 16384
"""Bytes of a line."""

_HEAD_BYTES = HEADER_LINES * MOST_LINE
_BLOCK = 1 << 20
_TAIL_BYTES = 4096
"""Read again before a mark, for the last row before it."""

_WATTS = Unit({name.lower(): factor for name, factor in POWER_UNITS.items()}, 0.0, 1e6, False)
_JOULES = Unit({name.lower(): factor for name, factor in ENERGY_UNITS.items()}, 0.0, 1e15)
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+")
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,2})?)(.*)")
_OTHERS = ((codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16"))


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the file: the byte at which a line begins, and the line's number."""

    byte: int
    line: int


class CsvLog:
    """A CSV of readings. The header is read once; the rows whenever they are asked for."""

    def __init__(self, path: Path, form: CsvForm) -> None:
        """Raises BadInputError where the file or its header is not as `form` says."""
        self.path, self.form = path, form
        with open_foreign(path) as file:
            head = file.read(_HEAD_BYTES)
        for bom, name in _OTHERS:
            if head.startswith(bom):
                raise BadInputError(path, f"is {name}", hint="save it as UTF-8")
        start = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
        ends = [match.end() for match in re.finditer(rb"\n", head)][:HEADER_LINES]
        lines = [
            self._decoded(head[a:b], number)
            for number, (a, b) in enumerate(zip([start, *ends], ends, strict=False), start=1)
        ]
        if not lines:
            what = "has no whole line" if head else "is empty"
            raise BadInputError(path, what, hint="start the logger before the run")
        self.header: Header = find_header(path, lines, form)
        self.first = Mark(ends[self.header.line - 1], self.header.line + 1)
        self._known = self.first

    def mark(self) -> Mark:
        """A place shortly before the end, so that at least one row before now is read from it."""
        with open_foreign(self.path) as file:
            size = size_of(file)
            if size < self._known.byte:
                raise BadInputError(
                    self.path, "became shorter while it was read", hint="do not rotate the log"
                )
            line, at, found = self._known.line, self._known.byte, self._known
            file.seek(at)
            while at < size - _TAIL_BYTES:
                block = file.read(min(_BLOCK, size - _TAIL_BYTES - at))
                if not block:
                    break
                line += block.count(b"\n")
                last = block.rfind(b"\n")
                if last >= 0:
                    found = Mark(at + last + 1, line)
                at += len(block)
        self._known = found
        return found

    def read(self, since: Mark | None = None) -> PowerLog:
        """The rows from a mark on, all without one. Raises BadInputError with line and field."""
        unix_s, energy_j, power_w = array("d"), array("d"), array("d")
        for number, line in self._lines(since or self.first):
            fields = self._fields(number, line)
            if fields is None:
                continue
            now = self._time(number, fields)
            if unix_s and now < unix_s[-1]:
                raise BadInputError(
                    self.path,
                    f"goes back by {unix_s[-1] - now:g} s, from {moment(unix_s[-1])}",
                    line=number,
                    field=self.form.time,
                    hint="a clock that was set, or the end of summer time: keep the rows of one "
                    "clock, with its zone in each time or in zone=",
                )
            unix_s.append(now)
            power_w.append(self._value(number, fields, self.header.power_at, "power"))
            energy_j.append(self._value(number, fields, self.header.energy_at, "energy"))
        return merged(unix_s, energy_j, power_w)

    def naive(self) -> bool:
        """Whether the first row's time has no zone of its own; False where there is no row."""
        for number, line in self._lines(self.first):
            fields = self._fields(number, line)
            if fields is not None:
                self._time(number, fields)
                return self.form.times.is_naive(self._time_text(fields))
        return False

    def _lines(self, since: Mark) -> Iterator[tuple[int, bytes]]:
        with open_foreign(self.path) as file:
            size = size_of(file)
            if size > DATA_BYTES:
                text = f"has {size:,} bytes; at most {DATA_BYTES:,} are read"
                raise BadInputError(self.path, text, hint="cut the rows of the run out of it")
            file.seek(since.byte)
            number = since.line
            while line := file.readline(MOST_LINE + 1):
                if len(line) > MOST_LINE:
                    raise self._fault(
                        number, self._column_at(line), f"has over {MOST_LINE:,} bytes in its line"
                    )
                if not line.endswith(b"\n"):
                    return  # not written yet
                yield number, line
                number += 1

    def _fields(self, number: int, line: bytes) -> tuple[str, ...] | None:
        """The fields of a line; None for a blank one and for the header once more."""
        if b"\0" in line:
            raise self._fault(number, self._column_at(line[: line.index(b"\0")]), "has a zero byte")
        text = self._decoded(line, number).rstrip("\r\n")
        if not text.strip():
            return None
        fields = fields_of(text, self.header.delimiter)
        if fields is None:
            raise BadInputError(self.path, "has a quote that does not close", line=number)
        if fields == self.header.names:
            return None
        wanted = (*self.header.time_at, self.header.power_at, self.header.energy_at)
        most = max(at for at in wanted if at is not None)
        if len(fields) <= most:
            lacking = self.header.names[most]
            of = len(self.header.names)
            text = f"is missing: the line has {len(fields)} fields, the header {of}"
            raise self._fault(number, lacking, text)
        return fields

    def _time_text(self, fields: tuple[str, ...]) -> str:
        return " ".join(fields[at] for at in self.header.time_at)

    def _time(self, number: int, fields: tuple[str, ...]) -> float:
        try:
            return self.form.times.unix_s(self._time_text(fields))
        except (ValueError, OverflowError) as error:
            raise self._fault(number, self.form.time, str(error)) from None

    def _value(self, number: int, fields: tuple[str, ...], at: int | None, kind: str) -> float:
        """Watts or joules of a field; NaN where it says that there is none."""
        if at is None:
            return math.nan
        name, unit = self.header.names[at], self.header.power_unit
        known = _WATTS
        if kind == "energy":
            unit, known = self.header.energy_unit, _JOULES
        value, why = quantity(self._number(number, name, fields[at], unit), known)
        if value is not None:
            return value
        if why in (Missing.NOT_AVAILABLE, Missing.ZERO):
            return math.nan
        shown = repr(one_line(fields[at], 40))
        problem = "is out of range" if why is Missing.OUT_OF_RANGE else f"is not a number in {unit}"
        raise self._fault(number, name, f"{shown} {problem}")

    def _number(self, number: int, name: str, text: str, unit: str) -> str:
        """A field in the form that `quantity` reads: decimal point, no exponent, nine decimals at
        most, its unit."""
        if "," in text:
            if self.form.decimal == "." or (not self.form.decimal and "." in text):
                raise self._fault(number, name, f"{one_line(text, 40)!r} has a comma and a point")
            if not self.form.decimal and _THOUSANDS.fullmatch(text.strip()):
                raise BadInputError(
                    self.path,
                    f"{one_line(text, 40)!r} may be thousands or a fraction",
                    line=number,
                    field=name,
                    hint="give decimal=, where the comma is the decimal sign",
                )
            text = text.replace(",", ".")
        if match := _NUMBER.fullmatch(text.strip()):
            text = f"{float(match[1]):.9f}{match[2]}"
        return f"{text} {unit}" if text[-1:].isdigit() or text.endswith(".") else text

    def _decoded(self, line: bytes, number: int) -> str:
        try:
            return line.decode(self.form.encoding)
        except UnicodeDecodeError as error:
            raise BadInputError(
                self.path,
                f"is not {self.form.encoding} at byte {error.start} of the line",
                line=number,
                hint="give encoding=gb18030 or encoding=latin-1",
            ) from None

    def _column_at(self, before: bytes) -> str:
        """The name of the column in which a line has come this far."""
        at = before.count(self.header.delimiter.encode())
        names = self.header.names
        return names[at] if at < len(names) else f"column {at + 1}"

    def _fault(self, line: int, field: str, problem: str) -> BadInputError:
        return BadInputError(self.path, problem, line=line, field=field)
