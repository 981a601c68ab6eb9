"""Single fields of a suite's file, checked as the command line's are; BadInputError names each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from chipmark.cell.given import UNIT, check_idle_s, replicas_given, slo_of
from chipmark.errors import BadInputError, UnknownNameError, UsageError
from chipmark.meters.choice import MeterChoice, parse_choice
from chipmark.results.manifest import Slo

MIN_LIMIT_S = 1.0
"""The least `limit_s` of a suite and of the command line."""

Checked = TypeVar("Checked")


def slo_field(path: Path, where: str, table: Mapping[str, Any]) -> Slo | None:
    """The table `slo`; None where it is not given."""
    given = table.get("slo")
    if given is None:
        return None
    if not isinstance(given, dict):
        raise BadInputError(path, "must be a table", field=f"{where}.slo")
    return _checked(path, f"{where}.slo", slo_of, given)


def idle_field(path: Path, where: str, table: Mapping[str, Any]) -> float | None:
    """`idle_s`; None where it is not given."""
    given = table.get("idle_s")
    if given is None:
        return None
    field = f"{where}.idle_s"
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise BadInputError(path, f"{given!r} is not seconds", field=field)
    return _checked(path, field, check_idle_s, given)


def limit_field(path: Path, where: str, table: Mapping[str, Any]) -> float | None:
    """`limit_s`; None where it is not given."""
    given = table.get("limit_s")
    if given is None:
        return None
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if not number or not MIN_LIMIT_S <= given < math.inf:
        problem = f"{given!r} is not seconds of at least {MIN_LIMIT_S:g}"
        raise BadInputError(path, problem, field=f"{where}.limit_s")
    return float(given)


def meters_field(path: Path, where: str, table: Mapping[str, Any]) -> tuple[MeterChoice, ...]:
    """`meters`, a list of texts as `--meter` takes them; none where it is not given."""
    given = table.get("meters", [])
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise BadInputError(path, f"{given!r} is not a list of meters", field=f"{where}.meters")
    return tuple(_checked(path, f"{where}.meters", parse_choice, text) for text in given)


def estimate_field(path: Path, where: str, table: Mapping[str, Any]) -> float:
    """`estimate_s` of a block of cells, seconds of each; 0 where it is not given."""
    given = table.get("estimate_s", 0.0)
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if not number or not 0 <= given < math.inf:
        raise BadInputError(path, f"{given!r} is not seconds", field=f"{where}.estimate_s")
    return float(given)


def absent_modules(path: Path, where: str, table: Mapping[str, Any]) -> list[str]:
    """Of `needs`, modules without which a block's cells are left out, those that are not here."""
    given = table.get("needs", [])
    if not isinstance(given, list) or not all(isinstance(n, str) and n for n in given):
        raise BadInputError(path, f"{given!r} is not a list of modules", field=f"{where}.needs")
    return [name for name in given if find_spec(name.partition(".")[0]) is None]


def flag_field(path: Path, where: str, table: Mapping[str, Any], name: str) -> bool:
    """A field that is true or false; false where it is not given."""
    given = table.get(name, False)
    if not isinstance(given, bool):
        raise BadInputError(path, f"{given!r} is not true or false", field=f"{where}.{name}")
    return given


def replicas_field(path: Path, where: str, table: Mapping[str, Any]) -> int:
    """`replicas`, 0 for one on each device of the unit, which is the default."""
    return _checked(path, f"{where}.replicas", replicas_given, table.get("replicas", UNIT))


def _checked(path: Path, field: str, check: Callable[[Any], Checked], given: object) -> Checked:
    """What a check that the command line shares makes of a file's field."""
    try:
        return check(given)
    except (UsageError, UnknownNameError) as error:
        raise BadInputError(path, error.message, field=field, hint=error.hint) from error
