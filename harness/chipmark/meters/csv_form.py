"""A log's CSV as the user describes it, and its header: which field holds what, in which unit."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chipmark.errors import BadInputError, UnknownNameError, UsageError, nearest_names
from chipmark.meters.log_time import TimeForm, time_form
from chipmark_models.plain_text import one_line

COLUMN_OPTIONS = (
    "time", "power", "energy", "unit", "energy_unit", "zone", "format", "decimal", "encoding",
    "offset",
)  # fmt: skip
POWER_UNITS = {"W": 1.0, "mW": 1e-3, "kW": 1e3}
ENERGY_UNITS = {"J": 1.0, "kJ": 1e3, "Wh": 3600.0, "kWh": 3.6e6}
ENCODINGS = ("utf-8", "gb18030", "latin-1")
DELIMITERS = (",", ";", "\t", "|")
HEADER_LINES = 64
"""Lines that are looked at for the header: loggers write their own name and settings first."""

_IN_BRACKETS = re.compile(r"[(\[]\s*([A-Za-z]{1,3})\s*[)\]]\s*$")
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class CsvForm:
    """The options of a log's CSV. `time` may be two columns, `Date+Time`. Units "" are those that
    the header has in brackets, else W; a counter's must be known. `offset_s`: seconds to be added
    to the log's times, at the start and at the end of what is measured."""

    time: str
    power: str = ""
    energy: str = ""
    unit: str = ""
    energy_unit: str = ""
    times: TimeForm = field(default_factory=TimeForm)
    decimal: str = ""
    encoding: str = "utf-8"
    offset_s: tuple[float, float] = (0.0, 0.0)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        return tuple(name for name in (self.time, self.power, self.energy) if name)


@dataclass(frozen=True, slots=True)
class Header:
    """Where a CSV's fields are: `names` of all columns, and indices of those that are read."""

    line: int
    delimiter: str
    names: tuple[str, ...]
    time_at: tuple[int, ...]
    power_at: int | None
    energy_at: int | None
    power_unit: str
    energy_unit: str


def csv_form(options: Mapping[str, str]) -> CsvForm:
    """The form of options as `--meter csv:FILE,...` has them; UsageError or UnknownNameError."""
    form = CsvForm(
        time=options.get("time", "").strip(),
        power=options.get("power", "").strip(),
        energy=options.get("energy", "").strip(),
        unit=_one_of("unit", options, tuple(POWER_UNITS)),
        energy_unit=_one_of("energy_unit", options, tuple(ENERGY_UNITS)),
        times=time_form(options.get("format", ""), options.get("zone", "")),
        decimal=_one_of("decimal", options, (".", ",")),
        encoding=_one_of("encoding", options, ENCODINGS) or "utf-8",
        offset_s=offset_of(options.get("offset", "0")),
    )
    if not form.time or not (form.power or form.energy):
        lacks = "time=COLUMN" if not form.time else "power=COLUMN or energy=COLUMN"
        raise UsageError(f"a power log needs {lacks}", "for example time=Time and power=Watts")
    return form


def offset_of(text: str) -> tuple[float, float]:
    """`SECONDS`, or `START..END` of a clock that drifts; UsageError."""
    first, dots, last = text.partition("..")
    try:
        found = float(first), float(last if dots else first)
    except ValueError:
        found = (math.nan, math.nan)
    if not all(map(math.isfinite, found)):
        raise UsageError(
            f"offset={one_line(text, 40)} is not a number of seconds",
            "offset=-28800, or START..END such as offset=-3.2..-4.1 for a clock that drifts",
        )
    return found


def find_header(path: Path, lines: Sequence[str], form: CsvForm) -> Header:
    """The first line that has every column. BadInputError with near names where none has."""
    best: tuple[str, ...] = ()
    for number, line in enumerate(lines[:HEADER_LINES], start=1):
        for delimiter in DELIMITERS:
            names = fields_of(line, delimiter)
            if names is None:
                continue
            found = _header(path, number, delimiter, names, form)
            if found is not None:
                return found
            if len(names) > len(best):
                best = names
    raise _no_header(path, best, form)


def fields_of(line: str, delimiter: str) -> tuple[str, ...] | None:
    """The stripped fields of a line; None where its quotes do not close."""
    if '"' not in line:
        return tuple(field.strip() for field in line.split(delimiter))
    try:
        row = next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return None
    return tuple(field.strip() for field in row)


def _header(
    path: Path, line: int, delimiter: str, names: tuple[str, ...], form: CsvForm
) -> Header | None:
    # A name that holds a plus is itself first: "Date+Time" may be one column.
    parts = (form.time,) if form.time in names else tuple(map(str.strip, form.time.split("+")))
    wanted = (*parts, *(name for name in (form.power, form.energy) if name))
    if not set(wanted) <= set(names):
        return None
    for name in wanted:
        if names.count(name) > 1:
            raise BadInputError(
                path, f"has {names.count(name)} such columns", line=line, field=name
            )
    return Header(
        line=line,
        delimiter=delimiter,
        names=names,
        time_at=tuple(map(names.index, parts)),
        power_at=names.index(form.power) if form.power else None,
        energy_at=names.index(form.energy) if form.energy else None,
        power_unit=_unit(path, line, form.power, form.unit, POWER_UNITS, "unit", "W"),
        energy_unit=_unit(path, line, form.energy, form.energy_unit, ENERGY_UNITS, "energy_unit"),
    )


def _unit(
    path: Path,
    line: int,
    column: str,
    given: str,
    units: Mapping[str, float],
    option: str,
    usual: str = "",
) -> str:
    """The unit of a column: what the user says, what the header says, which must not differ."""
    match = _IN_BRACKETS.search(column)
    printed = match[1] if match and match[1] in units else ""
    if given and printed and given != printed:
        raise BadInputError(
            path,
            f"is in {printed} by its name, not in {given}",
            line=line,
            field=column,
            hint=f"leave {option}= out",
        )
    found = given or printed or usual
    if column and not found:
        raise BadInputError(
            path,
            "does not say its unit",
            line=line,
            field=column,
            hint=f"give {option}=, one of {', '.join(units)}",
        )
    return found


def _no_header(path: Path, names: tuple[str, ...], form: CsvForm) -> BadInputError:
    parts = form.time.split("+") if "+" in form.time and form.time not in names else [form.time]
    wanted = [name.strip() for name in (*parts, form.power, form.energy) if name]
    lacking = [name for name in wanted if name not in names] or wanted
    shown = [one_line(name, 40) for name in names if name]
    near = nearest_names(lacking[0], shown)
    listed = ", ".join(shown[:_SHOWN]) + (", ..." if len(shown) > _SHOWN else "")
    hint = f"did you mean {' or '.join(near)}?" if near else f"columns: {listed or 'none'}"
    return BadInputError(path, "is missing", field=", ".join(lacking), hint=hint)


def _one_of(option: str, options: Mapping[str, str], valid: tuple[str, ...]) -> str:
    given = options.get(option, "")
    if given and given not in valid:
        raise UnknownNameError(f"{option} of a power log", given, valid)
    return given
